/*
 * Causal attention within each sample, for many short samples: one warp per row and head, which
 * keeps a number for each key in shared memory. The backward pass first makes dq that way and
 * stores the probabilities and the gradients at the scores of some heads at a time; a second
 * kernel, one block per row and key head, then adds up dk and dv over later rows in ascending
 * order, so that no two blocks add to the same number and the bits do not depend on timing.
 *
 * Of longer samples a block makes TILE_ROWS rows of a head, which read keys and values through
 * shared memory together. All sums have the terms and the order that they have in a warp of its
 * own, so that a row's bits do not depend on which kernel makes it.
 */
#include "backend/cuda/attention.cuh"

enum { MOST_WARPS = 4, KEY_THREADS = 128 };
static const size_t matrices_bytes = (size_t)256 << 20, usual_shared = (size_t)48 << 10;

/* A row's sample without its pad row; n = 0: the row sees nothing. */
struct row_span {
    int64_t first, at, n; /* at: of the row within it */
    int64_t square;
};

__device__ static struct row_span span_of(const struct attention &a, int64_t row)
{
    int32_t s = a.sample_of[row];
    if (s < 0)
        return row_span{0, 0, 0, 0};
    int64_t first = a.first[s] + (a.pad[s] ? 1 : 0);
    if (row < first)
        return row_span{0, 0, 0, 0};
    return row_span{first, row - first, a.first[s + 1] - first, a.square_at[s]};
}

/* One warp per row of one head; what it keeps for each key is in shared memory. */
__device__ static int64_t warp_head(const struct attention &a)
{
    return a.kv_from * (a.heads / a.kv_heads) + (int64_t)blockIdx.y * blockDim.y + threadIdx.y;
}

__device__ static float larger(float top, float z)
{
    return z > top || isnan(z) ? z : top;
}

__device__ static float warp_max(float v)
{
    for (int k = WARP / 2; k > 0; k /= 2) {
        float other = __shfl_xor_sync(0xffffffffu, v, k);
        v = larger(v, other);
    }
    return v;
}

template <int n> __device__ static float warp_dot(const float *x, const float *y, int dim)
{
    float sum = 0;
    for (int i = threadIdx.x; i < dim / n; i += WARP) {
        struct floats<n> a = ((const struct floats<n> *)x)[i], b = ((const struct floats<n> *)y)[i];
        for (int k = 0; k < n; k++)
            sum += a.e[k] * b.e[k];
    }
    return warp_sum(sum);
}

/* Where a lane that begins at or after `first` does. */
__device__ static int64_t lane_begin(int64_t first, int lane)
{
    return first + (WARP + lane - first % WARP) % WARP;
}

/* p[s], first <= s <= at, become exp(p[s] - top) over their sum; top: of the lane. By a warp. */
__device__ static void softmax(float *p, float top, int64_t first, int64_t at, int lane)
{
    int64_t begin = lane_begin(first, lane);
    top = warp_max(top);
    double sum = 0;
    for (int64_t s = begin; s <= at; s += WARP) {
        p[s] = expf(p[s] - top);
        sum += p[s];
    }
    float inverse = (float)(1 / warp_sum(sum));
    for (int64_t s = begin; s <= at; s += WARP)
        p[s] *= inverse;
    __syncwarp();
}

/* p[s] for every s that the row sees: softmax of scale q . k_s, capped where there is a cap; then
   slope[s], unless NULL, is d(capped score) / d(score). */
template <int n>
__device__ static void probabilities(const struct attention &a, const struct row_span &sp,
                                     const float *q, int64_t kv, float *p, float *slope)
{
    int64_t ld = (int64_t)a.kv_heads * a.dim;
    const float *k = a.k + sp.first * ld + kv * a.dim;
    float top = -INFINITY;
    int64_t first = first_seen(a, sp.at);
    for (int64_t s = first; s <= sp.at; s++) {
        float z = warp_dot<n>(q, k + s * ld, a.dim) * a.scale;
        if (threadIdx.x == s % WARP) {
            if (a.cap > 0) {
                float t = tanhf(z / a.cap);
                z = a.cap * t;
                if (slope)
                    slope[s] = 1 - t * t;
            }
            p[s] = z;
            top = larger(top, z);
        }
    }
    softmax(p, top, first, sp.at, (int)threadIdx.x);
}

/* out[i] = sum over first <= s <= at of p[s] x[s][i]; x: (rows of the sample, ld apart) */
template <int n>
__device__ static void gather(float *out, const float *p, const float *x, int64_t ld, int64_t first,
                              const struct row_span &sp, int dim, int round)
{
    for (int i = threadIdx.x; i < dim / n; i += WARP) {
        struct floats<n> sum = {
        };
        for (int64_t s = first; s <= sp.at; s++) {
            struct floats<n> v = ((const struct floats<n> *)(x + s * ld))[i];
            for (int k = 0; k < n; k++)
                sum.e[k] += p[s] * v.e[k];
        }
        for (int k = 0; round && k < n; k++)
            sum.e[k] = round_bf16(sum.e[k]);
        ((struct floats<n> *)out)[i] = sum;
    }
}

__device__ static void clear(float *out, int n)
{
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        out[i] = 0;
}

template <int n> __global__ static void forward_kernel(struct attention a)
{
    extern __shared__ float shared[]; /* [warp][key] */
    int64_t row = blockIdx.x, head = warp_head(a), kv = head / (a.heads / a.kv_heads);
    int64_t at = (row * a.heads + head) * a.dim, ld = (int64_t)a.kv_heads * a.dim;
    if (head >= a.end_head)
        return;
    struct row_span sp = span_of(a, row);
    if (sp.n == 0) {
        clear(a.o + at, a.dim);
        return;
    }
    if (sp.n >= a.by_matrices)
        return;
    float *p = shared + threadIdx.y * a.longest;
    probabilities<n>(a, sp, a.q + at, kv, p, NULL);
    gather<n>(a.o + at, p, a.v + sp.first * ld + kv * a.dim, ld, first_seen(a, sp.at), sp, a.dim,
              a.round);
}

/* ---- rows that share keys ---- */

enum { TILE_ROWS = 32, TILE_KEYS = 64, TILE_THREADS = 128, SIDE = 4, APART = TILE_KEYS / SIDE };
/* Shorter samples leave most of a tile empty. */
enum { LEAST_TILED = 48 };

typedef struct floats<SIDE> quad;

/* n rows of x, ld apart, into `to` (rows, dim), the rest zeros. Swizzled: the quads of a row are
   where rows one after another do not use the same banks. */
template <int dim, int rows, bool swizzled>
__device__ static void load_tile(quad *to, const float *x, int64_t ld, int64_t n)
{
    enum { COLUMNS = dim / SIDE };
#pragma unroll 8
    for (int i = (int)threadIdx.x; i < rows * COLUMNS; i += TILE_THREADS) {
        int r = i / COLUMNS, c = i % COLUMNS;
        quad none = {};
        to[r * COLUMNS + (swizzled ? c ^ (r % 8) : c)] =
            r < n ? ((const quad *)(x + r * ld))[c] : none;
    }
}

__device__ static constexpr int reversed(int leaf) /* of three bits */
{
    return leaf % 2 * 4 + leaf / 2 % 2 * 2 + leaf / 4;
}

/*
 * The part of SIDE x SIDE dots that lanes 4 k + t of a warp make, 0 <= k < 8, added up as warp_sum
 * would: k in the order of reversed bits, from `leaf` on. q: the first row at quad t; k: the first
 * key at quads t and t + 4 in their swizzled places.
 */
template <int dim, int leaf, int leaves>
__device__ static void add_lanes(float (&sum)[SIDE][SIDE], const quad *q, const quad *const (&k)[2])
{
    enum { COLUMNS = dim / SIDE, C = reversed(leaf) * 4 };
    if constexpr (leaves == 1) {
#pragma unroll
        for (int more = 0; more < COLUMNS; more += WARP) {
            quad x[SIDE], y[SIDE];
#pragma unroll
            for (int r = 0; r < SIDE; r++) {
                x[r] = q[r * COLUMNS + C + more];
                y[r] = k[C / 4 % 2][r * APART * COLUMNS + C / 8 * 8 + more];
            }
#pragma unroll
            for (int r = 0; r < SIDE; r++)
#pragma unroll
                for (int j = 0; j < SIDE; j++) {
                    float s = x[r].e[0] * y[j].e[0];
                    s = more ? sum[r][j] + s : s;
#pragma unroll
                    for (int e = 1; e < SIDE; e++)
                        s += x[r].e[e] * y[j].e[e];
                    sum[r][j] = s;
                }
        }
    } else {
        enum { OTHER = leaf + leaves / 2 };
        add_lanes<dim, leaf, leaves / 2>(sum, q, k);
        if constexpr (reversed(OTHER) * 4 < COLUMNS) {
            float other[SIDE][SIDE];
            add_lanes<dim, OTHER, leaves / 2>(other, q, k);
#pragma unroll
            for (int r = 0; r < SIDE; r++)
#pragma unroll
                for (int j = 0; j < SIDE; j++)
                    sum[r][j] += other[r][j];
        }
    }
}

__device__ static void add_to(float (&sum)[SIDE][SIDE], const float (&x)[SIDE][SIDE], bool first)
{
#pragma unroll
    for (int r = 0; r < SIDE; r++)
#pragma unroll
        for (int j = 0; j < SIDE; j++)
            sum[r][j] = first ? x[r][j] : sum[r][j] + x[r][j];
}

/* sum[r][j] = q_(row + r) . k_(key + APART j), in warp_dot's order of sums. */
template <int dim>
__device__ static void tile_dots(float (&sum)[SIDE][SIDE], const quad *q, const quad *k, int row,
                                 int key)
{
    enum { COLUMNS = dim / SIDE };
    float half[SIDE][SIDE];
#pragma unroll 1
    for (int turn = 0; turn < 4; turn++) {
        int t = turn % 2 * 2 + turn / 2, at = t ^ (key % 8);
        const quad *from = k + key * COLUMNS;
        const quad *const places[2] = {from + at, from + (at ^ 4)};
        float part[SIDE][SIDE];
        add_lanes<dim, 0, 8>(part, q + row * COLUMNS + t, places);
        add_to(half, part, turn % 2 == 0);
        if (turn % 2 == 1)
            add_to(sum, half, turn == 1);
    }
}

/* What a block works on: rows begin <= at < end of a sample, which see keys from `from` on. */
struct row_tile {
    int64_t start, begin, end, from;
    int width; /* of p */
};

/* p (TILE_ROWS, width) = scores of all keys that are seen, key `from` first */
template <int dim>
__device__ static void tile_scores(const struct attention &a, const struct row_tile &t,
                                   const float *k, int64_t ld, const quad *q, quad *room, float *p)
{
    int row = (int)threadIdx.x / APART * SIDE, column = (int)threadIdx.x % APART;
    for (int64_t at = t.from; at < t.end; at += TILE_KEYS) {
        __syncthreads();
        load_tile<dim, TILE_KEYS, true>(room, k + (t.start + at) * ld, ld, t.end - at);
        __syncthreads();
        float z[SIDE][SIDE];
        tile_dots<dim>(z, q, room, row, column);
        for (int r = 0; r < SIDE; r++)
            for (int j = 0; j < SIDE; j++) {
                int64_t key = at + column + j * APART, reader = t.begin + row + r;
                if (key > reader || reader >= t.end)
                    continue;
                float score = z[r][j] * a.scale;
                p[(row + r) * t.width + (key - t.from)] =
                    a.cap > 0 ? a.cap * tanhf(score / a.cap) : score;
            }
    }
    __syncthreads();
}

/* A warp after the other takes a row; what it does not see becomes 0. */
__device__ static void tile_softmax(const struct attention &a, const struct row_tile &t, float *p)
{
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    for (int64_t at = t.begin + warp; at < t.end; at += TILE_THREADS / WARP) {
        float *row = p + (at - t.begin) * t.width - t.from, top = -INFINITY;
        int64_t first = first_seen(a, at);
        for (int64_t s = lane_begin(first, lane); s <= at; s += WARP)
            top = larger(top, row[s]);
        softmax(row, top, first, at, lane);
        for (int64_t s = t.from + lane; s < t.from + t.width; s += WARP)
            if (s < first || s > at)
                row[s] = 0;
    }
}

template <int dim>
__device__ static void tile_outputs(const struct attention &a, const struct row_tile &t,
                                    const float *v, int64_t ld, const float *p, quad *room,
                                    float *o, int64_t o_ld)
{
    enum { COLUMNS = dim / SIDE, EACH = TILE_ROWS * COLUMNS / TILE_THREADS };
    int column = (int)threadIdx.x % COLUMNS, row = (int)threadIdx.x / COLUMNS * EACH;
    quad sum[EACH] = {};
    for (int64_t at = t.from; at < t.end; at += TILE_KEYS) {
        int n = (int)(t.end - at < TILE_KEYS ? t.end - at : TILE_KEYS);
        __syncthreads();
        load_tile<dim, TILE_KEYS, false>(room, v + (t.start + at) * ld, ld, n);
        __syncthreads();
        for (int s = 0; s < n; s += SIDE) {
            quad x[SIDE];
#pragma unroll
            for (int i = 0; i < SIDE; i++)
                x[i] = room[(s + i) * COLUMNS + column];
#pragma unroll
            for (int r = 0; r < EACH; r++) {
                quad w = *(const quad *)(p + (row + r) * t.width + (at - t.from) + s);
#pragma unroll
                for (int i = 0; i < SIDE; i++)
#pragma unroll
                    for (int e = 0; e < SIDE; e++)
                        sum[r].e[e] += w.e[i] * x[i].e[e];
            }
        }
    }
    for (int r = 0; r < EACH && t.begin + row + r < t.end; r++) {
        for (int e = 0; a.round && e < SIDE; e++)
            sum[r].e[e] = round_bf16(sum[r].e[e]);
        ((quad *)(o + (t.start + t.begin + row + r) * o_ld))[column] = sum[r];
    }
}

/* Block x: a tile of rows of a sample, the last, which see most, first; `tiles` for each sample,
   and as many for what follows the last one. */
template <int dim>
__global__ static void __launch_bounds__(TILE_THREADS, 2)
    forward_tile_kernel(struct attention a, int tiles, int width)
{
    extern __shared__ float shared[]; /* q (TILE_ROWS, dim), keys or values (TILE_KEYS, dim), p */
    quad *q = (quad *)shared, *room = q + TILE_ROWS * dim / SIDE;
    float *p = shared + (TILE_ROWS + TILE_KEYS) * dim;
    int64_t head = blockIdx.y, kv = head / (a.heads / a.kv_heads);
    int64_t o_ld = (int64_t)a.heads * dim, ld = (int64_t)a.kv_heads * dim;
    int sample = (int)blockIdx.x / tiles, tile = tiles - 1 - (int)blockIdx.x % tiles;
    float *o = a.o + head * dim;
    if (sample == a.samples) {
        for (int64_t row = a.first[sample] + tile; row < a.rows; row += tiles)
            clear(o + row * o_ld, dim);
        return;
    }
    int64_t first = a.first[sample], pad = a.pad[sample] ? 1 : 0,
            n = a.first[sample + 1] - first - pad;
    struct row_tile t = {first + pad, (int64_t)tile * TILE_ROWS};
    if (tile == 0 && pad)
        clear(o + first * o_ld, dim);
    if (t.begin >= n)
        return;
    t.end = t.begin + TILE_ROWS < n ? t.begin + TILE_ROWS : n;
    t.from = first_seen(a, t.begin);
    t.width = width;
    load_tile<dim, TILE_ROWS, false>(q, a.q + (t.start + t.begin) * o_ld + head * dim, o_ld,
                                     t.end - t.begin);
    tile_scores<dim>(a, t, a.k + kv * dim, ld, q, room, p);
    tile_softmax(a, t, p);
    tile_outputs<dim>(a, t, a.v + kv * dim, ld, p, room, o, o_ld);
}

/* dq of a row and head; its rows of p and ds for the second kernel. */
template <int n> __global__ static void backward_query_kernel(struct attention a)
{
    extern __shared__ float shared[]; /* [warp]: p [key], ds [key], with a cap slope [key] */
    int64_t per = a.heads / a.kv_heads, row = blockIdx.x, head = warp_head(a), kv = head / per;
    int64_t at = (row * a.heads + head) * a.dim, ld = (int64_t)a.kv_heads * a.dim;
    if (head >= a.end_head)
        return;
    struct row_span sp = span_of(a, row);
    if (sp.n == 0) {
        clear(a.dq + at, a.dim);
        return;
    }
    float *p = shared + (a.cap > 0 ? 3 : 2) * threadIdx.y * a.longest, *ds = p + a.longest;
    float *slope = a.cap > 0 ? ds + a.longest : NULL;
    int64_t first = first_seen(a, sp.at), begin = lane_begin(first, (int)threadIdx.x);
    probabilities<n>(a, sp, a.q + at, kv, p, slope);
    const float *v = a.v + sp.first * ld + kv * a.dim, *k = a.k + sp.first * ld + kv * a.dim;
    double sum = 0;
    for (int64_t s = first; s <= sp.at; s++) {
        float dp = warp_dot<n>(a.d_o + at, v + s * ld, a.dim);
        if (threadIdx.x == s % WARP) {
            ds[s] = dp;
            sum += (double)p[s] * dp;
        }
    }
    float mean = (float)warp_sum(sum);
    int64_t base = (head - a.kv_from * per) * a.squares + sp.square + sp.at * sp.n;
    for (int64_t s = begin; s <= sp.at; s += WARP) {
        ds[s] = p[s] * (ds[s] - mean) * a.scale;
        if (slope)
            ds[s] *= slope[s];
        a.p[base + s] = p[s];
        a.ds[base + s] = ds[s];
    }
    __syncwarp();
    gather<n>(a.dq + at, ds, k, ld, first, sp, a.dim, 0);
}

/* dk and dv of a row and key head, over its group's heads and the later rows that see it. */
__global__ static void backward_key_kernel(struct attention a)
{
    int64_t per = a.heads / a.kv_heads, row = blockIdx.x, kv = a.kv_from + (int64_t)blockIdx.y;
    int64_t at = (row * a.kv_heads + kv) * a.dim, ld = (int64_t)a.heads * a.dim;
    struct row_span sp = span_of(a, row);
    if (sp.n == 0) {
        clear(a.dk + at, a.dim);
        clear(a.dv + at, a.dim);
        return;
    }
    int64_t end = a.window > 0 && sp.at + a.window < sp.n ? sp.at + a.window : sp.n;
    for (int i = threadIdx.x; i < a.dim; i += blockDim.x) {
        float dk = 0, dv = 0;
        for (int64_t g = 0; g < per; g++) {
            int64_t base = (blockIdx.y * per + g) * a.squares + sp.square + sp.at;
            int64_t head = sp.first * ld + (kv * per + g) * a.dim + i;
            for (int64_t t = sp.at; t < end; t++) {
                dk += a.ds[base + t * sp.n] * a.q[head + t * ld];
                dv += a.p[base + t * sp.n] * a.d_o[head + t * ld];
            }
        }
        a.dk[at + i] = dk;
        a.dv[at + i] = dv;
    }
}

static struct attention attention_of(const struct backend_tile *t, const void *q, const void *k,
                                     const void *v, const struct backend_attention *as)
{
    struct attention a = {t->sample_of, t->first, t->pad, t->square_at, t->squares};
    a.q = (const float *)q;
    a.k = (const float *)k;
    a.v = (const float *)v;
    a.heads = as->heads;
    a.kv_heads = as->kv_heads;
    a.dim = as->dim;
    a.end_head = as->heads;
    a.longest = t->longest;
    a.by_matrices = INT_MAX;
    a.samples = t->samples;
    a.rows = t->rows;
    a.scale = as->scale;
    a.cap = as->cap;
    a.window = as->window;
    return a;
}

/* Rows of one head, a warp each; as many to a block as shared memory holds well. */
struct launch {
    dim3 grid, block;
    size_t shared;
    bool quads; /* rows can be read four numbers at a time */
};

static bool aligned(const void *p)
{
    return (uintptr_t)p % (4 * sizeof(float)) == 0;
}

static struct launch launch_of(const struct attention *a, int heads, int arrays)
{
    size_t each = (size_t)a->longest * sizeof(float) * (size_t)arrays;
    size_t fit = usual_shared / (each ? each : 1);
    unsigned warps = fit < 1 ? 1 : fit > MOST_WARPS ? MOST_WARPS : (unsigned)fit;
    struct launch l;
    l.grid = dim3((unsigned)a->rows, ((unsigned)heads + warps - 1) / warps);
    l.block = dim3(WARP, warps);
    l.shared = each * warps;
    l.quads = a->dim % 4 == 0 && aligned(a->q) && aligned(a->k) && aligned(a->v) && aligned(a->o) &&
              aligned(a->d_o) && aligned(a->dq);
    return l;
}

bool attention_allow(struct cuda_backend *c, const void *kernel, size_t bytes)
{
    if (bytes <= usual_shared)
        return true;
    cudaError_t e =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    return cuda_check(c, e, "attention over a sample this long");
}

typedef void tile_kernel(struct attention a, int tiles, int width);

static tile_kernel *tile_kernel_of(int dim)
{
    return dim == 64    ? forward_tile_kernel<64>
           : dim == 128 ? forward_tile_kernel<128>
           : dim == 256 ? forward_tile_kernel<256>
                        : NULL;
}

/* False: these samples are not for tiles, or there is a failure. */
static bool forward_in_tiles(struct cuda_backend *c, const struct backend_tile *t,
                             const struct attention *a)
{
    tile_kernel *kernel = tile_kernel_of(a->dim);
    int tiles = (t->longest + TILE_ROWS - 1) / TILE_ROWS, seen = t->longest, most = 0;
    if (a->window > 0 && a->window < seen - (TILE_ROWS - 1))
        seen = a->window + TILE_ROWS - 1;
    int width = (seen + SIDE - 1) / SIDE * SIDE;
    size_t bytes =
        ((size_t)(TILE_ROWS + TILE_KEYS) * (size_t)a->dim + (size_t)TILE_ROWS * (size_t)width) *
        sizeof(float);
    (void)cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, c->config.device);
    if (!kernel || t->longest < LEAST_TILED || bytes > (size_t)most ||
        !attention_allow(c, (const void *)kernel, bytes))
        return false;
    (void)cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                               cudaSharedmemCarveoutMaxShared);
    kernel<<<dim3((unsigned)(tiles * (t->samples + 1)), (unsigned)a->heads), TILE_THREADS, bytes,
             c->stream>>>(*a, tiles, width);
    return true;
}

/* Has the tile a sample of fewer rows, its pad row not counted? */
static bool has_shorter(const struct backend_tile *t, int rows)
{
    for (int32_t i = 0; i < t->samples; i++)
        if (t->ends[(size_t)i + 1] - t->ends[(size_t)i] <= rows)
            return true;
    return t->longest < rows;
}

static void forward(struct cuda_backend *c, const struct backend_tile *t, struct attention *a)
{
    const bool quads = launch_of(a, a->heads, 1).quads;
    if (quads)
        a->by_matrices = attention_by_matrices(c, a);
    if (!cuda_good(c) || (quads && a->by_matrices == INT_MAX && forward_in_tiles(c, t, a)) ||
        !has_shorter(t, a->by_matrices))
        return;
    a->longest = a->longest < a->by_matrices ? a->longest : a->by_matrices;
    const struct launch l = launch_of(a, a->heads, 1);
    auto kernel = quads ? forward_kernel<4> : forward_kernel<1>;
    if (cuda_good(c) && attention_allow(c, (const void *)kernel, l.shared))
        kernel<<<l.grid, l.block, l.shared, c->stream>>>(*a);
}

void cuda_attention_forward(struct backend *b, const struct backend_tile *t, void *o, const void *q,
                            const void *k, const void *v, const struct backend_attention *as)
{
    struct cuda_backend *c = cuda_of(b);
    struct attention a = attention_of(t, q, k, v, as);
    a.o = (float *)o;
    a.round = c->config.bf16;
    if (cuda_good(c))
        forward(c, t, &a);
    (void)cuda_launched(c, "attention");
}

void cuda_attention_backward(struct backend *b, const struct backend_tile *t, void *dq, void *dk,
                             void *dv, const void *d_o, const void *q, const void *k, const void *v,
                             const struct backend_attention *as)
{
    struct cuda_backend *c = cuda_of(b);
    struct attention a = attention_of(t, q, k, v, as);
    int kv_heads = as->kv_heads, per = as->heads / kv_heads;
    size_t each = (size_t)(t->squares * per) * 2 * sizeof(float); /* of a key head */
    int turn = each ? (int)(matrices_bytes / each) : kv_heads;
    turn = turn < 1 ? 1 : turn > kv_heads ? kv_heads : turn;
    a.p = (float *)cuda_scratch(c, SCRATCH_ATTENTION, each * (size_t)turn);
    if (!a.p)
        return;
    a.ds = a.p + t->squares * per * turn;
    a.d_o = (const float *)d_o;
    a.dq = (float *)dq;
    a.dk = (float *)dk;
    a.dv = (float *)dv;
    for (a.kv_from = 0; a.kv_from < kv_heads; a.kv_from += turn) {
        int now = kv_heads - a.kv_from < turn ? kv_heads - a.kv_from : turn;
        struct launch l = launch_of(&a, now * per, as->cap > 0 ? 3 : 2);
        auto kernel = l.quads ? backward_query_kernel<4> : backward_query_kernel<1>;
        a.end_head = (a.kv_from + now) * per;
        if (!attention_allow(c, (const void *)kernel, l.shared))
            return;
        kernel<<<l.grid, l.block, l.shared, c->stream>>>(a);
        backward_key_kernel<<<dim3((unsigned)t->rows, (unsigned)now), KEY_THREADS, 0, c->stream>>>(
            a);
    }
    (void)cuda_launched(c, "attention backward");
}
