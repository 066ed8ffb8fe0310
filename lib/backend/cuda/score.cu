/*
 * Products of quantized operands, and scores made from them. Tiles that share a weight go through
 * one product; the kernel behind it scales a result, compares it with the reference and sums.
 */
#include "backend/cuda/operand.cuh"

static const size_t results_bytes = (size_t)128 << 20; /* of the products of one turn */

/* Of a product cuBLAS makes blocks of this size, as many at a time as there are multiprocessors. */
enum { BLOCK_ROWS = 128, BLOCK_COLS = 256 };

/* z (count, rows, out) = sum of the products of x's and w's planes, smallest first. */
static void multiply(struct cuda_backend *c, const struct planes *x, const struct planes *w,
                     const struct gemm *shape, int count)
{
    size_t size = c->config.bf16 ? sizeof(bf16) : sizeof(float);
    size_t x_plane = (size_t)(count * shape->m * shape->k) * size;
    size_t w_plane = (size_t)(shape->n * shape->k) * size;
    struct gemm g = *shape;
    g.b_transposed = true;
    g.is_bf16 = c->config.bf16;
    g.batch = count;
    /* a third term times a second is below the last bit of a result */
    for (int order = 2; order >= 0; order--) {
        for (int i = 0; i <= order; i++) {
            if (i >= x->terms || order - i >= w->terms)
                continue;
            g.a = (const char *)x->data + (size_t)i * x_plane;
            g.b = (const char *)w->data + (size_t)(order - i) * w_plane;
            gemm_run(c, &g);
            g.accumulate = true;
        }
    }
}

/* ---- a quantized linear ---- */

__global__ static void scale_kernel(float *y, int64_t n, const float *row_scale,
                                    const float *col_scale)
{
    int64_t row = blockIdx.x;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) {
        float v = y[row * n + i];
        v = row_scale ? v * row_scale[row] : v;
        y[row * n + i] = col_scale ? v * col_scale[i] : v;
    }
}

void cuda_linear_quantized(struct backend *b, const struct backend_tile *t, void *y,
                           const struct backend_operand *x, const struct backend_operand *w)
{
    struct cuda_backend *c = cuda_of(b);
    struct backend_operand *one = const_cast<backend_operand *>(x);
    struct planes xp, wp;
    if (!operand_acts(c, &one, 1, &xp) || !operand_weight(c, w, &wp))
        return;
    struct gemm shape = {t->rows, w->w->rows, w->w->cols};
    shape.c = (float *)y;
    multiply(c, &xp, &wp, &shape, 1);
    if (!cuda_good(c) || (!xp.row_scale && !wp.row_scale))
        return;
    scale_kernel<<<t->rows, THREADS, 0, c->stream>>>((float *)y, shape.n, xp.row_scale,
                                                     wp.row_scale);
    (void)cuda_launched(c, "scaling a product");
}

/* ---- scores ---- */

struct score_jobs {
    const float *y[BATCH], *dy[BATCH];
    double *sums[BATCH];
    const int32_t *first[BATCH];
    int32_t samples[BATCH], used[BATCH];
    int64_t rows, out;
    const float *z, *row_scale, *col_scale;
    double *parts; /* (jobs, rows) */
};

__device__ static double square(float z, float scale, float y, float dy)
{
    double d = (double)(z * scale - y) * (double)dy;
    return d * d;
}

template <int n> struct alignas(n * sizeof(float)) floats {
    float e[n];
};

/* A block has a row. */
template <int n> __global__ static void score_kernel(struct score_jobs j)
{
    typedef struct floats<n> pack;
    int job = (int)blockIdx.y;
    int64_t row = blockIdx.x, all = job * j.rows + row;
    if (row >= j.used[job])
        return;
    const pack *z = (const pack *)(j.z + all * j.out);
    const pack *y = (const pack *)(j.y[job] + row * j.out);
    const pack *dy = (const pack *)(j.dy[job] + row * j.out);
    float row_scale = j.row_scale ? j.row_scale[all] : 1;
    double sum = 0;
    for (unsigned i = threadIdx.x; i < (unsigned)j.out / n; i += THREADS) {
        pack a = z[i], b = y[i], g = dy[i];
        for (int k = 0; k < n; k++) {
            float v = j.col_scale ? a.e[k] * j.col_scale[i * n + k] : a.e[k];
            sum += square(v, row_scale, b.e[k], g.e[k]);
        }
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        j.parts[all] = sum;
}

/* A thread has a sample: its rows in order. */
__global__ static void sums_kernel(struct score_jobs j)
{
    int job = (int)blockIdx.y;
    int32_t s = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    if (s >= j.samples[job])
        return;
    double sum = 0;
    for (int32_t r = j.first[job][s]; r < j.first[job][s + 1]; r++)
        sum += j.parts[job * j.rows + r];
    j.sums[job][s] += sum;
}

static bool quads(const struct score_jobs *j, int count)
{
    for (int i = 0; i < count; i++)
        if ((uintptr_t)j->y[i] % 16 || (uintptr_t)j->dy[i] % 16)
            return false;
    return j->out % 4 == 0;
}

static void compare(struct cuda_backend *c, struct score_jobs *j,
                    const struct backend_score_job *jobs, int count)
{
    int32_t most = 0;
    for (int i = 0; i < count; i++) {
        const struct backend_tile *t = jobs[i].tile;
        j->y[i] = (const float *)jobs[i].y;
        j->dy[i] = (const float *)jobs[i].dy;
        j->sums[i] = jobs[i].sums;
        j->first[i] = t->first;
        j->samples[i] = t->samples;
        j->used[i] = t->used;
        most = t->samples > most ? t->samples : most;
    }
    dim3 rows((unsigned)j->rows, (unsigned)count);
    dim3 samples((unsigned)((most + THREADS - 1) / THREADS), (unsigned)count);
    if (quads(j, count))
        score_kernel<4><<<rows, THREADS, 0, c->stream>>>(*j);
    else
        score_kernel<1><<<rows, THREADS, 0, c->stream>>>(*j);
    sums_kernel<<<samples, THREADS, 0, c->stream>>>(*j);
    (void)cuda_launched(c, "scores");
}

static void score_turn(struct cuda_backend *c, const struct backend_operand *w,
                       const struct backend_score_job *jobs, int count)
{
    struct backend_operand *x[BATCH];
    struct planes xp, wp;
    for (int i = 0; i < count; i++)
        x[i] = const_cast<backend_operand *>(jobs[i].x);
    if (!operand_acts(c, x, count, &xp) || !operand_weight(c, w, &wp))
        return;
    struct score_jobs j = {};
    j.rows = jobs[0].tile->rows;
    j.out = w->w->rows;
    size_t results = (size_t)(count * j.rows * j.out) * sizeof(float);
    float *z = (float *)cuda_scratch(c, SCRATCH_Z, results);
    j.parts = (double *)cuda_scratch(c, SCRATCH_PARTS, (size_t)(count * j.rows) * sizeof(double));
    if (!z || !j.parts)
        return;
    struct gemm shape = {j.rows, j.out, w->w->cols};
    shape.c = z;
    multiply(c, &xp, &wp, &shape, count);
    if (!cuda_good(c))
        return;
    j.z = z;
    j.row_scale = xp.row_scale;
    j.col_scale = wp.row_scale;
    compare(c, &j, jobs, count);
}

static int64_t rounds_of(const struct cuda_backend *c, int64_t rows, int64_t out, int jobs)
{
    int64_t blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS * ((out + BLOCK_COLS - 1) / BLOCK_COLS);
    return (blocks * jobs + c->multiprocessors - 1) / c->multiprocessors;
}

/* How many jobs to a turn: the fewest rounds over the multiprocessors, then the fewest turns. */
static int turn_size(const struct cuda_backend *c, const struct backend_operand *w, int64_t rows,
                     int count)
{
    int64_t least = INT64_MAX;
    int best = 1, most = count < BATCH ? count : BATCH;
    for (int n = 1; n <= most; n++) {
        if (n > 1 && (size_t)(n * rows * w->w->rows) * sizeof(float) > results_bytes)
            break;
        int64_t all = count / n * rounds_of(c, rows, w->w->rows, n) +
                      rounds_of(c, rows, w->w->rows, count % n);
        if (all <= least) {
            least = all;
            best = n;
        }
    }
    return best;
}

void cuda_score(struct backend *b, const struct backend_operand *w,
                const struct backend_score_job *jobs, int count)
{
    struct cuda_backend *c = cuda_of(b);
    if (!cuda_good(c) || !w->w || count == 0)
        return;
    int turn = turn_size(c, w, jobs[0].tile->rows, count);
    for (int at = 0; at < count;) {
        int n = 1;
        while (n < turn && at + n < count && operand_alike(jobs[at].x, jobs[at + n].x))
            n++;
        score_turn(c, w, jobs + at, n);
        at += n;
    }
}
