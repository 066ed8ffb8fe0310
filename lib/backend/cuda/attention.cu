/*
 * Causal attention within each sample, for many short samples: a block has one row of one head. The
 * backward pass keeps the probabilities and the gradients at the scores of some heads at a time,
 * so that keys and values gather theirs in a fixed order.
 */
#include "backend/cuda/cuda.cuh"

enum { ATTENTION_THREADS = 128 };
static const size_t matrices_bytes = (size_t)256 << 20;

struct attention {
    const int32_t *sample_of, *first;
    const uint8_t *pad;
    const int64_t *square_at;
    int64_t squares;
    const float *q, *k, *v, *d_o;
    float *o, *dq, *dk, *dv;
    float *p, *ds; /* [heads of the turn][squares] */
    int heads, kv_heads, dim, kv_from;
    float scale;
    int round;
};

/* A row's sample without its pad row; n = 0: the row sees nothing. */
struct span {
    int64_t first, at, n; /* at: of the row within it */
    int64_t square;
};

__device__ static struct span span_of(const struct attention &a, int64_t row)
{
    int32_t s = a.sample_of[row];
    if (s < 0)
        return span{0, 0, 0, 0};
    int64_t first = a.first[s] + (a.pad[s] ? 1 : 0);
    if (row < first)
        return span{0, 0, 0, 0};
    return span{first, row - first, a.first[s + 1] - first, a.square_at[s]};
}

__device__ static float dot(const float *x, const float *y, int n)
{
    float sum = 0;
    for (int i = 0; i < n; i++)
        sum += x[i] * y[i];
    return sum;
}

/* p[s] for s <= t: softmax of q . k_s / sqrt(dim). q is in shared memory. */
__device__ static void probabilities(const struct attention &a, const struct span &sp,
                                     const float *q, int64_t kv, float *p)
{
    int64_t ld = (int64_t)a.kv_heads * a.dim;
    const float *k = a.k + sp.first * ld + kv * a.dim;
    uint32_t top = 0; /* of the scores, as integers that order like floats */
    for (int64_t s = threadIdx.x; s <= sp.at; s += blockDim.x) {
        float z = dot(q, k + s * ld, a.dim) * a.scale;
        uint32_t u = __float_as_uint(z);
        p[s] = z;
        top = max(top, u & 0x80000000u ? ~u : u | 0x80000000u);
    }
    top = block_max(top);
    float largest = __uint_as_float(top & 0x80000000u ? top & 0x7fffffffu : ~top);
    double sum = 0;
    for (int64_t s = threadIdx.x; s <= sp.at; s += blockDim.x) {
        p[s] = expf(p[s] - largest);
        sum += p[s];
    }
    float inverse = (float)(1 / block_sum(sum));
    for (int64_t s = threadIdx.x; s <= sp.at; s += blockDim.x)
        p[s] *= inverse;
    __syncthreads();
}

__device__ static void fetch(float *to, const float *from, int n)
{
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        to[i] = from[i];
    __syncthreads();
}

/* out[i] = sum over s <= at of p[s] x[s][i] */
__device__ static void gather(float *out, const float *p, const float *x, int64_t ld,
                              const struct span &sp, int dim, int round)
{
    for (int i = threadIdx.x; i < dim; i += blockDim.x) {
        float sum = 0;
        for (int64_t s = 0; s <= sp.at; s++)
            sum += p[s] * x[s * ld + i];
        out[i] = round ? round_bf16(sum) : sum;
    }
}

__device__ static void clear(float *out, int n)
{
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        out[i] = 0;
}

__global__ static void forward_kernel(struct attention a)
{
    extern __shared__ float shared[]; /* q [dim], p [n] */
    int64_t row = blockIdx.x, head = blockIdx.y, kv = head / (a.heads / a.kv_heads);
    int64_t at = (row * a.heads + head) * a.dim, ld = (int64_t)a.kv_heads * a.dim;
    struct span sp = span_of(a, row);
    if (sp.n == 0) {
        clear(a.o + at, a.dim);
        return;
    }
    float *p = shared + a.dim;
    fetch(shared, a.q + at, a.dim);
    probabilities(a, sp, shared, kv, p);
    gather(a.o + at, p, a.v + sp.first * ld + kv * a.dim, ld, sp, a.dim, a.round);
}

/* dq of a row and head; its rows of p and ds for the second kernel. */
__global__ static void backward_query_kernel(struct attention a)
{
    extern __shared__ float shared[]; /* q [dim], do [dim], p [n], ds [n] */
    int64_t per = a.heads / a.kv_heads, row = blockIdx.x, head = a.kv_from * per + blockIdx.y;
    int64_t kv = head / per, at = (row * a.heads + head) * a.dim;
    int64_t ld = (int64_t)a.kv_heads * a.dim;
    struct span sp = span_of(a, row);
    if (sp.n == 0) {
        clear(a.dq + at, a.dim);
        return;
    }
    float *q = shared, *d_o = q + a.dim, *p = d_o + a.dim, *ds = p + sp.n;
    fetch(q, a.q + at, a.dim);
    fetch(d_o, a.d_o + at, a.dim);
    probabilities(a, sp, q, kv, p);
    const float *v = a.v + sp.first * ld + kv * a.dim, *k = a.k + sp.first * ld + kv * a.dim;
    double sum = 0;
    for (int64_t s = threadIdx.x; s <= sp.at; s += blockDim.x) {
        ds[s] = dot(d_o, v + s * ld, a.dim);
        sum += (double)p[s] * ds[s];
    }
    float mean = (float)block_sum(sum);
    int64_t base = blockIdx.y * a.squares + sp.square + sp.at * sp.n;
    for (int64_t s = threadIdx.x; s <= sp.at; s += blockDim.x) {
        ds[s] = p[s] * (ds[s] - mean) * a.scale;
        a.p[base + s] = p[s];
        a.ds[base + s] = ds[s];
    }
    __syncthreads();
    gather(a.dq + at, ds, k, ld, sp, a.dim, 0);
}

/* dk and dv of a row and key head, over its group's heads and the later rows. */
__global__ static void backward_key_kernel(struct attention a)
{
    int64_t per = a.heads / a.kv_heads, row = blockIdx.x, kv = a.kv_from + (int64_t)blockIdx.y;
    int64_t at = (row * a.kv_heads + kv) * a.dim, ld = (int64_t)a.heads * a.dim;
    struct span sp = span_of(a, row);
    if (sp.n == 0) {
        clear(a.dk + at, a.dim);
        clear(a.dv + at, a.dim);
        return;
    }
    for (int i = threadIdx.x; i < a.dim; i += blockDim.x) {
        float dk = 0, dv = 0;
        for (int64_t g = 0; g < per; g++) {
            int64_t base = (blockIdx.y * per + g) * a.squares + sp.square + sp.at;
            int64_t head = sp.first * ld + (kv * per + g) * a.dim + i;
            for (int64_t t = sp.at; t < sp.n; t++) {
                dk += a.ds[base + t * sp.n] * a.q[head + t * ld];
                dv += a.p[base + t * sp.n] * a.d_o[head + t * ld];
            }
        }
        a.dk[at + i] = dk;
        a.dv[at + i] = dv;
    }
}

static struct attention attention_of(const struct backend_tile *t, const void *q, const void *k,
                                     const void *v, int heads, int kv_heads, int dim)
{
    struct attention a = {t->sample_of, t->first, t->pad, t->square_at, t->squares};
    a.q = (const float *)q;
    a.k = (const float *)k;
    a.v = (const float *)v;
    a.heads = heads;
    a.kv_heads = kv_heads;
    a.dim = dim;
    a.scale = 1 / sqrtf((float)dim);
    return a;
}

/* Shared memory beyond what every launch may have must be asked for. */
static bool allow(struct cuda_backend *c, const void *kernel, size_t bytes)
{
    if (bytes <= (size_t)48 << 10)
        return true;
    cudaError_t e =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    return cuda_check(c, e, "attention over a sample this long");
}

void cuda_attention_forward(struct backend *b, const struct backend_tile *t, void *o, const void *q,
                            const void *k, const void *v, int heads, int kv_heads, int dim)
{
    struct cuda_backend *c = cuda_of(b);
    struct attention a = attention_of(t, q, k, v, heads, kv_heads, dim);
    size_t shared = (size_t)(dim + t->longest) * sizeof(float);
    a.o = (float *)o;
    a.round = c->config.bf16;
    if (!cuda_good(c) || !allow(c, (const void *)forward_kernel, shared))
        return;
    dim3 grid((unsigned)t->rows, (unsigned)heads);
    forward_kernel<<<grid, ATTENTION_THREADS, shared, c->stream>>>(a);
    (void)cuda_launched(c, "attention");
}

void cuda_attention_backward(struct backend *b, const struct backend_tile *t, void *dq, void *dk,
                             void *dv, const void *d_o, const void *q, const void *k, const void *v,
                             int heads, int kv_heads, int dim)
{
    struct cuda_backend *c = cuda_of(b);
    struct attention a = attention_of(t, q, k, v, heads, kv_heads, dim);
    size_t shared = 2 * (size_t)(dim + t->longest) * sizeof(float);
    int per = heads / kv_heads;
    size_t each = (size_t)(t->squares * per) * 2 * sizeof(float); /* of a key head */
    int turn = each ? (int)(matrices_bytes / each) : kv_heads;
    turn = turn < 1 ? 1 : turn > kv_heads ? kv_heads : turn;
    a.p = (float *)cuda_scratch(c, SCRATCH_ATTENTION, each * (size_t)turn);
    if (!a.p || !allow(c, (const void *)backward_query_kernel, shared))
        return;
    a.ds = a.p + t->squares * per * turn;
    a.d_o = (const float *)d_o;
    a.dq = (float *)dq;
    a.dk = (float *)dk;
    a.dv = (float *)dv;
    for (a.kv_from = 0; a.kv_from < kv_heads; a.kv_from += turn) {
        int now = kv_heads - a.kv_from < turn ? kv_heads - a.kv_from : turn;
        dim3 queries((unsigned)t->rows, (unsigned)(now * per)),
            keys((unsigned)t->rows, (unsigned)now);
        backward_query_kernel<<<queries, ATTENTION_THREADS, shared, c->stream>>>(a);
        backward_key_kernel<<<keys, ATTENTION_THREADS, 0, c->stream>>>(a);
    }
    (void)cuda_launched(c, "attention backward");
}
