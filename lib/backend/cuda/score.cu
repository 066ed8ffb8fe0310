/*
 * Products of quantized operands, and scores made from them. Tiles that share a weight go through
 * one product, each with the chunks of rows that hold wanted samples; the kernel after it scales a
 * result, compares it with the reference and sums. One warp owns a row of up to SHARING jobs with
 * one reference; its sums, in double, are made in a fixed order, and a second kernel adds up each
 * sample's rows.
 */
#include "backend/cuda/blocks.cuh"
#include "backend/cuda/operand.cuh"

#include <algorithm>
#include <functional>

/* cuBLAS computes a product in blocks of this size, one per multiprocessor at a time. */
enum { BLOCK_ROWS = 128, BLOCK_COLS = 256 };

static struct blocks_side side_of(const struct planes *p, int64_t rows)
{
    return blocks_side{p->data, p->terms, p->plane, rows, p->block, p->ratio, p->stride};
}

/* z (rows, out) = sum of the products of x's and w's planes, smallest first. w->data is the first
   expert's where the shape lists the weights of experts, which have alike planes. */
static void multiply(struct cuda_backend *c, const struct planes *x, const struct planes *w,
                     const struct gemm *shape)
{
    size_t size = c->config.bf16 ? sizeof(bf16) : sizeof(float);
    size_t x_plane = (size_t)x->plane * size;
    size_t w_plane = (size_t)w->plane * size;
    const void *planes[MOST_EXPERTS];
    struct gemm g = *shape;
    if (x->block || w->block) {
        struct blocks_side a = side_of(x, g.m), b = side_of(w, g.n);
        struct blocks_experts experts = {g.expert_of, g.experts, g.weights, g.ratios};
        blocks_run(c, &a, &b, g.expert_of ? &experts : NULL, g.k, g.c);
        return;
    }
    g.b_transposed = true;
    g.is_bf16 = c->config.bf16;
    g.weights = shape->expert_of ? planes : NULL;
    /* a third term times a second is below the last bit of a result */
    for (int order = 2; order >= 0; order--) {
        for (int i = 0; i <= order; i++) {
            if (i >= x->terms || order - i >= w->terms)
                continue;
            g.a = (const char *)x->data + (size_t)i * x_plane;
            g.b = (const char *)w->data + (size_t)(order - i) * w_plane;
            for (int e = 0; g.expert_of && e < g.experts; e++)
                planes[e] = shape->weights[e]
                                ? (const char *)shape->weights[e] + (size_t)(order - i) * w_plane
                                : NULL;
            gemm_run(c, &g);
            g.accumulate = true;
        }
    }
}

/* ---- a quantized linear ---- */

/* A block has a row, w numbers at a time. */
template <int w>
__global__ static void scale_kernel(float *y, int64_t n, const float *row_scale,
                                    const float *col_scale)
{
    typedef struct floats<w> pack;
    const float of_row = row_scale ? row_scale[blockIdx.x] : 1;
    y += blockIdx.x * n;
    for (int64_t i = threadIdx.x; i < n / w; i += THREADS) {
        pack v = ((pack *)y)[i], scale = {};
        if (col_scale)
            scale = ((const pack *)col_scale)[i];
        for (int k = 0; k < w; k++) {
            v.e[k] *= of_row;
            v.e[k] = col_scale ? v.e[k] * scale.e[k] : v.e[k];
        }
        ((pack *)y)[i] = v;
    }
}

void cuda_linear_quantized(struct backend *b, const struct backend_tile *t, void *y,
                           const struct backend_operand *x, const struct backend_operand *w)
{
    struct cuda_backend *c = cuda_of(b);
    struct backend_operand *one = const_cast<backend_operand *>(x);
    struct planes xp, wp;
    int64_t rows = t->rows;
    if (!operand_acts(c, &one, &rows, 1, &xp) || !operand_weight(c, w, &wp))
        return;
    struct gemm shape = {t->rows, w->w->rows, w->w->cols, t->chunk};
    shape.c = (float *)y;
    multiply(c, &xp, &wp, &shape);
    if (!cuda_good(c) || (!xp.row_scale && !wp.row_scale))
        return;
    auto kernel = in_quads(shape.n, y, wp.row_scale, NULL) ? scale_kernel<4> : scale_kernel<1>;
    kernel<<<t->rows, THREADS, 0, c->stream>>>((float *)y, shape.n, xp.row_scale, wp.row_scale);
    (void)cuda_launched(c, "scaling a product");
}

/* Rows of a part: column scales are those of each chunk's expert. */
__global__ static void scale_part_kernel(float *y, int64_t n, const float *row_scale,
                                         struct expert_addresses col_scale,
                                         const int32_t *expert_of, int32_t chunk)
{
    int64_t row = blockIdx.x;
    const float *cols = (const float *)col_scale.at[expert_of[row / chunk]];
    for (int64_t i = threadIdx.x; i < n; i += THREADS) {
        float v = y[row * n + i];
        v = row_scale ? v * row_scale[row] : v;
        y[row * n + i] = cols ? v * cols[i] : v;
    }
}

/* The planes of the experts that have rows: all alike, so that `out` is the last one's, but for
   addresses and scales. Weights as they are may be converted, into one room for all. */
static bool expert_planes(struct cuda_backend *c, const struct backend_tile *part,
                          const struct backend_operand *const *w, struct planes *out,
                          const void **at, const float **ratios, struct expert_addresses *col_scale)
{
    const struct backend_weight *plain[MOST_EXPERTS] = {};
    bool any_plain = false, any = false;
    for (int e = 0; e < part->experts; e++) {
        at[e] = col_scale->at[e] = NULL;
        ratios[e] = NULL;
        if (!(*part->has)[(size_t)e])
            continue;
        any = true;
        if (w[e]->w && !operand_has_planes(c, w[e])) {
            plain[e] = w[e]->w;
            any_plain = true;
            continue;
        }
        if (!operand_weight(c, w[e], out))
            return false;
        at[e] = out->data;
        col_scale->at[e] = out->row_scale;
        ratios[e] = out->ratio;
    }
    if (any_plain) {
        *out = planes{NULL, 1, 0};
        return cuda_good(c) && cuda_weights_typed(c, plain, part->experts, at);
    }
    return any;
}

void cuda_experts_quantized(struct backend *b, const struct backend_tile *part, void *y,
                            const struct backend_operand *x, const struct backend_operand *const *w)
{
    struct cuda_backend *c = cuda_of(b);
    struct backend_operand *one = const_cast<backend_operand *>(x);
    struct planes xp, wp;
    struct expert_addresses col_scale = {};
    const void *at[MOST_EXPERTS];
    const float *ratios[MOST_EXPERTS];
    int64_t rows = part->rows;
    if (!operand_acts(c, &one, &rows, 1, &xp) ||
        !expert_planes(c, part, w, &wp, at, ratios, &col_scale))
        return;
    int first = 0;
    while (!(*part->has)[(size_t)first])
        first++;
    struct gemm shape = {part->rows, w[first]->w->rows, w[first]->w->cols, part->chunk};
    shape.c = (float *)y;
    shape.expert_of = part->expert_of;
    shape.weights = at;
    shape.ratios = ratios;
    shape.experts = part->experts;
    multiply(c, &xp, &wp, &shape);
    if (!cuda_good(c) || (!xp.row_scale && !wp.row_scale))
        return;
    scale_part_kernel<<<(unsigned)part->rows, THREADS, 0, c->stream>>>(
        (float *)y, shape.n, xp.row_scale, col_scale, part->expert_of, part->chunk);
    (void)cuda_launched(c, "scaling a product");
}

/* ---- scores ---- */

enum { SHARING = 4 }; /* results compared with one reference at a time */

/* Jobs in the order of their results; those of a tile are neighbours. */
struct score_jobs {
    const float *y[BATCH], *dy[BATCH];   /* (rows, out) */
    double *sums[BATCH], *firsts[BATCH]; /* [samples]; firsts may be NULL */
    double *dots[BATCH];                 /* [rows]; NULL: not wanted */
    const int32_t *first[BATCH];         /* [samples + 1] */
    int32_t samples[BATCH], used[BATCH]; /* wanted, and rows up to their end */
    int64_t base[BATCH];                 /* the job's first row among the results */
    int64_t out;
    const float *z;                     /* (rows, out): the products */
    const float *row_scale, *col_scale; /* [rows], [out]; NULL: 1 */
    double *parts;                      /* [rows] */
};

/* Jobs from `first` on that have one reference and as many rows; in a kernel's arguments. */
struct score_groups {
    int8_t first[BATCH], count[BATCH];
    int groups;
};

/* The first-order effect on the loss of one output's error. */
__device__ static double effect(float z, float scale, float y, float dy)
{
    return (double)(z * scale - y) * (double)dy;
}

/* A power of two that is at least n, of up to 8. */
__device__ static constexpr int room_for(int n)
{
    return n > 4 ? 8 : n > 2 ? 4 : n;
}

/*
 * Sums of `values` numbers over a warp, a power of two of them. At each of the first steps a lane
 * gives away half of its numbers for its partner's share of the other half, so that lane
 * i * (32 / values) ends with the sum of number i, added up as warp_sum adds.
 */
template <int values> __device__ static double warp_sums(double (&v)[values])
{
    int lane = (int)(threadIdx.x % WARP), k = WARP / 2;
#pragma unroll
    for (int half = values / 2; half > 0; half /= 2, k /= 2) {
        bool upper = lane & k;
#pragma unroll
        for (int i = 0; i < half; i++) {
            double given = upper ? v[i] : v[i + half], kept = upper ? v[i + half] : v[i];
            v[i] = kept + __shfl_xor_sync(0xffffffffu, given, k);
        }
    }
    for (; k > 0; k /= 2)
        v[0] += __shfl_xor_sync(0xffffffffu, v[0], k);
    return v[0];
}

/* A row of `jobs` jobs that share the reference, which is read once; lane i takes packs i, i + 32,
   ... dots: any of the jobs wants its dot form. */
template <int n, int jobs, bool dots>
__device__ static void score_row(const struct score_jobs &j, int job, int64_t row)
{
    typedef struct floats<n> pack;
    enum { VALUES = room_for(jobs) * (dots ? 2 : 1) };
    const pack *z[jobs];
    const pack *y = (const pack *)(j.y[job] + row * j.out);
    const pack *dy = (const pack *)(j.dy[job] + row * j.out);
    unsigned packs = (unsigned)j.out / n, lane = threadIdx.x % WARP;
    float row_scale[jobs];
    double sum[VALUES] = {}; /* of each job; from the middle on, their dots */
    for (int i = 0; i < jobs; i++) {
        int64_t all = j.base[job + i] + row;
        z[i] = (const pack *)(j.z + all * j.out);
        row_scale[i] = j.row_scale ? j.row_scale[all] : 1;
    }
#pragma unroll 2
    for (unsigned at = lane; at < packs; at += WARP) {
        pack b = y[at], g = dy[at], scale, a[jobs];
#pragma unroll
        for (int i = 0; i < jobs; i++)
            a[i] = z[i][at];
        for (int k = 0; k < n; k++)
            scale.e[k] = j.col_scale ? j.col_scale[at * n + k] : 1;
#pragma unroll
        for (int i = 0; i < jobs; i++) {
            for (int k = 0; k < n; k++) {
                double d = effect(a[i].e[k] * scale.e[k], row_scale[i], b.e[k], g.e[k]);
                sum[i] += d * d;
                if (dots)
                    sum[VALUES / 2 + i] += d;
            }
        }
    }
    double own = warp_sums<VALUES>(sum);
    int value = (int)(lane / (WARP / VALUES)), of = dots ? value % (VALUES / 2) : value;
    if (lane % (WARP / VALUES) || of >= jobs)
        return;
    if (value == of)
        j.parts[j.base[job + of] + row] = own;
    else if (j.dots[job + of])
        j.dots[job + of][row] += own;
}

/* One warp per row of a group. */
template <int n, bool dots>
__global__ static void score_kernel(const __grid_constant__ struct score_jobs j,
                                    const __grid_constant__ struct score_groups g)
{
    int job = g.first[blockIdx.y];
    int64_t row = (int64_t)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    if (row >= j.used[job])
        return;
    switch (g.count[blockIdx.y]) {
    case 1:
        return score_row<n, 1, dots>(j, job, row);
    case 2:
        return score_row<n, 2, dots>(j, job, row);
    case 3:
        return score_row<n, 3, dots>(j, job, row);
    default:
        return score_row<n, SHARING, dots>(j, job, row);
    }
}

/* One warp per sample; lane i takes rows i, i + 32, ... */
__global__ static void sums_kernel(struct score_jobs j)
{
    int job = (int)blockIdx.y;
    int32_t s = (int32_t)((blockIdx.x * THREADS + threadIdx.x) / WARP);
    if (s >= j.samples[job])
        return;
    double sum = 0;
    for (int32_t r = j.first[job][s] + (int32_t)(threadIdx.x % WARP); r < j.first[job][s + 1];
         r += WARP)
        sum += j.parts[j.base[job] + r];
    sum = warp_sum(sum);
    if (threadIdx.x % WARP != 0)
        return;
    j.sums[job][s] += sum;
    if (j.firsts[job] && j.first[job][s] < j.first[job][s + 1])
        j.firsts[job][s] += j.parts[j.base[job] + j.first[job][s]];
}

static bool quads(const struct score_jobs *j, int count)
{
    for (int i = 0; i < count; i++)
        if ((uintptr_t)j->y[i] % 16 || (uintptr_t)j->dy[i] % 16)
            return false;
    return j->out % 4 == 0 && (uintptr_t)j->z % 16 == 0;
}

static struct score_groups groups_of(const struct score_jobs *j, int count)
{
    struct score_groups g = {};
    for (int i = 0; i < count; i++) {
        int last = g.groups - 1;
        if (i > 0 && j->y[i] == j->y[i - 1] && j->dy[i] == j->dy[i - 1] &&
            j->used[i] == j->used[i - 1] && g.count[last] < SHARING) {
            g.count[last]++;
        } else {
            g.first[g.groups] = (int8_t)i;
            g.count[g.groups++] = 1;
        }
    }
    return g;
}

/* A job, and what of its tile is wanted. */
struct wanted {
    const struct backend_score_job *job;
    int32_t samples, used; /* used: rows up to their end */
    int64_t rows;          /* the chunks that hold them */
};

static struct wanted wanted_of(const struct backend_score_job *job)
{
    const struct backend_tile *t = job->tile;
    struct wanted w = {job, t->samples, t->used, t->rows};
    int64_t chunk = t->chunk;
    if (job->samples && job->samples < t->samples) {
        w.samples = job->samples;
        w.used = t->ends[job->samples];
    }
    w.rows = (w.used + chunk - 1) / chunk * chunk;
    w.rows = w.rows ? w.rows : chunk; /* a product of nothing is an error of cuBLAS */
    return w;
}

static void compare(struct cuda_backend *c, struct score_jobs *j, const struct wanted *jobs,
                    int count)
{
    enum { SAMPLES = THREADS / WARP }; /* of a block, or rows */
    int32_t most = 0;
    int64_t longest = 0, base = 0;
    bool dots = false;
    for (int i = 0; i < count; base += jobs[i++].rows) {
        const struct backend_score_job *job = jobs[i].job;
        j->y[i] = (const float *)job->y;
        j->dy[i] = (const float *)job->dy;
        j->sums[i] = job->sums;
        j->firsts[i] = job->firsts;
        j->dots[i] = job->dots;
        dots |= job->dots != NULL;
        j->first[i] = job->tile->first;
        j->samples[i] = jobs[i].samples;
        j->used[i] = jobs[i].used;
        j->base[i] = base;
        most = std::max(most, jobs[i].samples);
        longest = std::max(longest, jobs[i].rows);
    }
    struct score_groups g = groups_of(j, count);
    dim3 rows((unsigned)((longest + SAMPLES - 1) / SAMPLES), (unsigned)g.groups);
    dim3 samples((unsigned)((most + SAMPLES - 1) / SAMPLES), (unsigned)count);
    auto kernel = quads(j, count) ? (dots ? score_kernel<4, true> : score_kernel<4, false>)
                                  : (dots ? score_kernel<1, true> : score_kernel<1, false>);
    kernel<<<rows, THREADS, 0, c->stream>>>(*j, g);
    sums_kernel<<<samples, THREADS, 0, c->stream>>>(*j);
    (void)cuda_launched(c, "scores");
}

/* Products and scores of `count` jobs, whose inputs x begins with; shape.m: their rows. */
static void score_turn(struct cuda_backend *c, const struct planes *x, const struct planes *w,
                       const struct gemm *shape, const struct wanted *jobs, int count)
{
    struct score_jobs j = {};
    struct gemm product = *shape;
    j.out = shape->n;
    size_t results = (size_t)(shape->m * j.out) * sizeof(float);
    product.c = (float *)cuda_scratch(c, SCRATCH_Z, results);
    j.parts = (double *)cuda_scratch(c, SCRATCH_PARTS, (size_t)shape->m * sizeof(double));
    if (!product.c || !j.parts)
        return;
    multiply(c, x, w, &product);
    if (!cuda_good(c))
        return;
    j.z = product.c;
    j.row_scale = x->row_scale;
    j.col_scale = w->row_scale;
    compare(c, &j, jobs, count);
}

static int64_t rounds_of(const struct cuda_backend *c, int64_t rows, int64_t out)
{
    int64_t blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS * ((out + BLOCK_COLS - 1) / BLOCK_COLS);
    return (blocks + c->multiprocessors - 1) / c->multiprocessors;
}

/* How many jobs to a turn: those whose rounds over the multiprocessors are fullest, and the most of
   these. rows: of these jobs together. */
static int turn_size(const struct cuda_backend *c, const struct wanted *jobs, int count,
                     int64_t out, int64_t *rows)
{
    int64_t sum = 0, best_rounds = 1;
    int best = 0;
    *rows = 0;
    for (int n = 1; n <= count; n++) {
        sum += jobs[n - 1].rows;
        if (n > 1 && (size_t)(sum * out) * sizeof(float) > cuda_turn_bytes)
            break;
        int64_t rounds = rounds_of(c, sum, out);
        if (best == 0 || sum * best_rounds >= *rows * rounds) {
            best = n;
            best_rounds = rounds;
            *rows = sum;
        }
    }
    return best;
}

/* Jobs whose inputs are quantized together. */
static void score_together(struct cuda_backend *c, const struct backend_operand *w,
                           const struct wanted *jobs, int count)
{
    struct backend_operand *inputs[BATCH];
    int64_t rows[BATCH];
    struct planes x, weight;
    for (int i = 0; i < count; i++) {
        inputs[i] = const_cast<backend_operand *>(jobs[i].job->x);
        rows[i] = jobs[i].rows;
    }
    if (!operand_acts_kept(c, inputs, rows, count, &x) || !operand_weight(c, w, &weight))
        return;
    struct gemm shape = {0, w->w->rows, w->w->cols, jobs[0].job->tile->chunk};
    size_t size = c->config.bf16 ? sizeof(bf16) : sizeof(float);
    for (int at = 0, n; at < count; at += n) {
        n = turn_size(c, jobs + at, count - at, shape.n, &shape.m);
        score_turn(c, &x, &weight, &shape, jobs + at, n);
        x.data = (const char *)x.data + (size_t)(shape.m * shape.k) * size;
        x.row_scale = x.row_scale ? x.row_scale + shape.m : NULL;
        x.ratio = x.ratio ? x.ratio + shape.m : NULL;
    }
}

/* How many of the jobs, from the first on, can be quantized together. */
static int jobs_together(const struct cuda_backend *c, const struct wanted *jobs, int count)
{
    size_t each = operand_row_bytes(c, jobs[0].job->x);
    int64_t rows = jobs[0].rows;
    int n = 1;
    for (; n < count && n < BATCH; n++) {
        rows += jobs[n].rows;
        if ((size_t)rows * each > cuda_turn_bytes ||
            !operand_matches(c, jobs[0].job->x, jobs[n].job->x))
            break;
    }
    return n;
}

void cuda_score(struct backend *b, const struct backend_operand *w,
                const struct backend_score_job *jobs, int count)
{
    struct cuda_backend *c = cuda_of(b);
    if (!w->w)
        return;
    std::vector<struct wanted> all;
    for (int i = 0; i < count; i++)
        all.push_back(wanted_of(&jobs[i]));
    for (int at = 0, n; at < count && cuda_good(c); at += n) {
        n = jobs_together(c, &all[(size_t)at], count - at);
        std::stable_sort(all.begin() + at, all.begin() + at + n,
                         [](const struct wanted &p, const struct wanted &q) {
                             if (p.job->tile != q.job->tile) /* the same for all linears */
                                 return std::less<const void *>()(p.job->tile, q.job->tile);
                             if (p.job->y != q.job->y)
                                 return std::less<const void *>()(p.job->y, q.job->y);
                             return p.used < q.used;
                         });
        score_together(c, w, &all[(size_t)at], n);
    }
}

void cuda_score_output(struct backend *b, const struct backend_score_job *job, const void *yq,
                       int64_t cols)
{
    struct cuda_backend *c = cuda_of(b);
    struct wanted all = wanted_of(job);
    struct score_jobs j = {};
    j.out = cols;
    j.z = (const float *)yq;
    j.parts = (double *)cuda_scratch(c, SCRATCH_PARTS, (size_t)all.rows * sizeof(double));
    if (j.parts)
        compare(c, &j, &all, 1);
}

int cuda_products(const struct backend *b, const struct quant_spec *weight,
                  const struct quant_spec *act)
{
    return operand_products((const struct cuda_backend *)b, weight, act);
}

/* ---- the dot form ---- */

/* One warp per sample of one of the (count, rows) dots; lane i takes rows i, i + 32, ... Its rows
   are zero afterwards. */
__global__ static void dots_kernel(double *dots, int64_t rows, double *sums, int64_t stride,
                                   const int32_t *first, int32_t samples)
{
    int32_t s = (int32_t)((blockIdx.x * THREADS + threadIdx.x) / WARP);
    double *own = dots + blockIdx.y * rows, sum = 0;
    if (s >= samples)
        return;
    for (int32_t r = first[s] + (int32_t)(threadIdx.x % WARP); r < first[s + 1]; r += WARP) {
        sum += own[r] * own[r];
        own[r] = 0;
    }
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0)
        sums[blockIdx.y * stride + s] += sum;
}

void cuda_dots_end(struct backend *b, const struct backend_tile *t, double *dots, double *sums,
                   int64_t stride, int count)
{
    struct cuda_backend *c = cuda_of(b);
    const int each = THREADS / WARP, most = 65535; /* samples of a block; blocks along y */
    for (int at = 0; at < count && cuda_good(c); at += most) {
        int now = count - at < most ? count - at : most;
        dim3 grid((unsigned)((t->samples + each - 1) / each), (unsigned)now);
        dots_kernel<<<grid, THREADS, 0, c->stream>>>(dots + (int64_t)at * t->rows, t->rows,
                                                     sums + at * stride, stride, t->first,
                                                     t->samples);
    }
    (void)cuda_launched(c, "dot form");
}
