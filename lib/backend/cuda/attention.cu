/*
 * Causal attention within each sample, for many short samples: one warp per row and head, which
 * keeps a number for each key in shared memory. The backward pass first makes dq that way and
 * stores the probabilities and the gradients at the scores of some heads at a time; a second
 * kernel, one block per row and key head, then adds up dk and dv over later rows in ascending
 * order, so that no two blocks add to the same number and the bits do not depend on timing.
 */
#include "backend/cuda/cuda.cuh"

enum { MOST_WARPS = 4, KEY_THREADS = 128 };
static const size_t matrices_bytes = (size_t)256 << 20, usual_shared = (size_t)48 << 10;

struct attention {
    const int32_t *sample_of, *first;
    const uint8_t *pad;
    const int64_t *square_at;
    int64_t squares;
    const float *q, *d_o; /* (rows, heads x dim) */
    const float *k, *v;   /* (rows, kv_heads x dim) */
    float *o, *dq;        /* as q */
    float *dk, *dv;       /* as k */
    float *p, *ds;        /* [heads of the turn][squares]: of a sample (n, n), row by row */
    int heads, kv_heads, dim;
    int kv_from, end_head; /* of the turn */
    int longest;           /* sample */
    float scale, cap;      /* cap 0: none */
    int window;            /* 0: none */
    int round;
};

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

__device__ static float warp_max(float v)
{
    for (int k = WARP / 2; k > 0; k /= 2) {
        float other = __shfl_xor_sync(0xffffffffu, v, k);
        v = other > v || isnan(other) ? other : v;
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

/* The first key that the row sees. */
__device__ static int64_t first_seen(const struct attention &a, const struct row_span &sp)
{
    return a.window > 0 && sp.at >= a.window ? sp.at - a.window + 1 : 0;
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
    int64_t first = first_seen(a, sp), begin = first + (WARP + threadIdx.x - first % WARP) % WARP;
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
            top = z > top || isnan(z) ? z : top;
        }
    }
    top = warp_max(top);
    double sum = 0;
    for (int64_t s = begin; s <= sp.at; s += WARP) {
        p[s] = expf(p[s] - top);
        sum += p[s];
    }
    float inverse = (float)(1 / warp_sum(sum));
    for (int64_t s = begin; s <= sp.at; s += WARP)
        p[s] *= inverse;
    __syncwarp();
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
    float *p = shared + threadIdx.y * a.longest;
    probabilities<n>(a, sp, a.q + at, kv, p, NULL);
    gather<n>(a.o + at, p, a.v + sp.first * ld + kv * a.dim, ld, first_seen(a, sp), sp, a.dim,
              a.round);
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
    int64_t first = first_seen(a, sp), begin = first + (WARP + threadIdx.x - first % WARP) % WARP;
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

static struct launch launch_of(const struct backend_tile *t, const struct attention *a, int heads,
                               int arrays)
{
    size_t each = (size_t)t->longest * sizeof(float) * (size_t)arrays;
    size_t fit = usual_shared / (each ? each : 1);
    unsigned warps = fit < 1 ? 1 : fit > MOST_WARPS ? MOST_WARPS : (unsigned)fit;
    struct launch l;
    l.grid = dim3((unsigned)t->rows, ((unsigned)heads + warps - 1) / warps);
    l.block = dim3(WARP, warps);
    l.shared = each * warps;
    l.quads = a->dim % 4 == 0 && aligned(a->q) && aligned(a->k) && aligned(a->v) && aligned(a->o) &&
              aligned(a->d_o) && aligned(a->dq);
    return l;
}

/* Shared memory beyond what every launch may have must be asked for. */
static bool allow(struct cuda_backend *c, const void *kernel, size_t bytes)
{
    if (bytes <= usual_shared)
        return true;
    cudaError_t e =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    return cuda_check(c, e, "attention over a sample this long");
}

void cuda_attention_forward(struct backend *b, const struct backend_tile *t, void *o, const void *q,
                            const void *k, const void *v, const struct backend_attention *as)
{
    struct cuda_backend *c = cuda_of(b);
    struct attention a = attention_of(t, q, k, v, as);
    a.o = (float *)o;
    a.round = c->config.bf16;
    struct launch l = launch_of(t, &a, as->heads, 1);
    auto kernel = l.quads ? forward_kernel<4> : forward_kernel<1>;
    if (!cuda_good(c) || !allow(c, (const void *)kernel, l.shared))
        return;
    kernel<<<l.grid, l.block, l.shared, c->stream>>>(a);
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
        struct launch l = launch_of(t, &a, now * per, as->cap > 0 ? 3 : 2);
        auto kernel = l.quads ? backward_query_kernel<4> : backward_query_kernel<1>;
        a.end_head = (a.kv_from + now) * per;
        if (!allow(c, (const void *)kernel, l.shared))
            return;
        kernel<<<l.grid, l.block, l.shared, c->stream>>>(a);
        backward_key_kernel<<<dim3((unsigned)t->rows, (unsigned)now), KEY_THREADS, 0, c->stream>>>(
            a);
    }
    (void)cuda_launched(c, "attention backward");
}
