/* Embedding, residuals, norms, rotation, MLP and ranges. A block works on a row; sums in double. */
#include "backend/cuda/cuda.cuh"

#include <math.h>

enum { MANY_BLOCKS = 2112 }; /* for loops over all elements */

__global__ static void embed_kernel(float *h, const int32_t *ids, const void *table, int is_bf16,
                                    int64_t cols)
{
    int64_t row = blockIdx.x, id = ids[row];
    for (int64_t i = threadIdx.x; i < cols; i += blockDim.x)
        h[row * cols + i] = id < 0 ? 0 : load_weight(table, is_bf16, id * cols + i);
}

void cuda_embed(struct backend *b, const struct backend_tile *t, void *h,
                const struct backend_weight *table)
{
    struct cuda_backend *c = cuda_of(b);
    const void *w = cuda_weight(c, table);
    if (!w)
        return;
    embed_kernel<<<t->rows, THREADS, 0, c->stream>>>((float *)h, t->ids, w,
                                                     table->dtype == BACKEND_BF16, table->cols);
    (void)cuda_launched(c, "embed");
}

__global__ static void add_kernel(float *y, const float *x, int64_t n)
{
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)
        y[i] += x[i];
}

void cuda_add(struct backend *b, const struct backend_tile *t, void *y, const void *x, int64_t cols)
{
    struct cuda_backend *c = cuda_of(b);
    if (!cuda_good(c))
        return;
    add_kernel<<<MANY_BLOCKS, THREADS, 0, c->stream>>>((float *)y, (const float *)x,
                                                       t->rows * cols);
    (void)cuda_launched(c, "add");
}

/* ---- norms ---- */

/* A norm's weight. */
struct norm_weight {
    const void *w;
    int is_bf16;
    int64_t n;
    double eps;
    int round; /* the result, to bf16 */
};

/* 1 / sqrt(mean(x^2) + eps) */
__device__ static double inverse_rms(const float *x, int64_t n, double eps)
{
    double sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        sum += (double)x[i] * x[i];
    return 1 / sqrt(block_sum(sum) / (double)n + eps);
}

__global__ static void norm_forward_kernel(float *y, const float *x, struct norm_weight p)
{
    x += blockIdx.x * p.n;
    y += blockIdx.x * p.n;
    float r = (float)inverse_rms(x, p.n, p.eps);
    for (int64_t i = threadIdx.x; i < p.n; i += blockDim.x) {
        float v = load_weight(p.w, p.is_bf16, i) * (x[i] * r);
        y[i] = p.round ? round_bf16(v) : v;
    }
}

/* dx += r u - x r^3 (sum u x) / n with u = dy w */
__global__ static void norm_backward_kernel(float *dx, const float *dy, const float *x,
                                            struct norm_weight p)
{
    x += blockIdx.x * p.n;
    dy += blockIdx.x * p.n;
    dx += blockIdx.x * p.n;
    double r = inverse_rms(x, p.n, p.eps), dot = 0;
    for (int64_t i = threadIdx.x; i < p.n; i += blockDim.x)
        dot += (double)dy[i] * load_weight(p.w, p.is_bf16, i) * x[i];
    dot = block_sum(dot);
    float scale = (float)r, slope = (float)(r * r * r * dot / (double)p.n);
    for (int64_t i = threadIdx.x; i < p.n; i += blockDim.x)
        dx[i] += scale * (dy[i] * load_weight(p.w, p.is_bf16, i)) - x[i] * slope;
}

static struct norm_weight norm_of(struct cuda_backend *c, const struct backend_weight *w,
                                  double eps)
{
    return norm_weight{cuda_weight(c, w), w->dtype == BACKEND_BF16, w->cols, eps, 0};
}

void cuda_rmsnorm_forward(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                          const struct backend_weight *w, double eps)
{
    struct cuda_backend *c = cuda_of(b);
    struct norm_weight p = norm_of(c, w, eps);
    if (!p.w)
        return;
    p.round = c->config.bf16;
    norm_forward_kernel<<<t->rows, THREADS, 0, c->stream>>>((float *)y, (const float *)x, p);
    (void)cuda_launched(c, "rmsnorm");
}

void cuda_rmsnorm_backward(struct backend *b, const struct backend_tile *t, void *dx,
                           const void *dy, const void *x, const struct backend_weight *w,
                           double eps)
{
    struct cuda_backend *c = cuda_of(b);
    struct norm_weight p = norm_of(c, w, eps);
    if (!p.w)
        return;
    norm_backward_kernel<<<t->rows, THREADS, 0, c->stream>>>((float *)dx, (const float *)dy,
                                                             (const float *)x, p);
    (void)cuda_launched(c, "rmsnorm backward");
}

/* ---- norm and rotation of heads: a block has a row and head ---- */

struct rope {
    const float *frequency; /* [n / 2] */
    const int32_t *pos;
    int heads;
};

__global__ static void rope_forward_kernel(float *y, const float *x, struct norm_weight p,
                                           struct rope rope)
{
    extern __shared__ float v[]; /* [n], after the norm */
    int64_t half = p.n / 2, at = (int64_t)blockIdx.x * p.n;
    float r = (float)inverse_rms(x + at, p.n, p.eps);
    for (int64_t i = threadIdx.x; i < p.n; i += blockDim.x)
        v[i] = load_weight(p.w, p.is_bf16, i) * (x[at + i] * r);
    __syncthreads();
    for (int64_t k = threadIdx.x; k < half; k += blockDim.x) {
        float angle = (float)rope.pos[blockIdx.x / rope.heads] * rope.frequency[k];
        float c = cosf(angle), s = sinf(angle), a = v[k], e = v[k + half];
        y[at + k] = a * c - e * s;
        y[at + k + half] = e * c + a * s;
    }
}

__global__ static void rope_backward_kernel(float *dx, const float *dy, const float *x,
                                            struct norm_weight p, struct rope rope)
{
    extern __shared__ float g[]; /* [n], the gradient before the rotation, times the weight */
    int64_t half = p.n / 2, at = (int64_t)blockIdx.x * p.n;
    for (int64_t k = threadIdx.x; k < half; k += blockDim.x) {
        float angle = (float)rope.pos[blockIdx.x / rope.heads] * rope.frequency[k];
        float c = cosf(angle), s = sinf(angle), a = dy[at + k], e = dy[at + k + half];
        g[k] = (a * c + e * s) * load_weight(p.w, p.is_bf16, k);
        g[k + half] = (e * c - a * s) * load_weight(p.w, p.is_bf16, k + half);
    }
    double r = inverse_rms(x + at, p.n, p.eps), dot = 0; /* its barriers show g to all */
    for (int64_t i = threadIdx.x; i < p.n; i += blockDim.x)
        dot += (double)g[i] * x[at + i];
    dot = block_sum(dot);
    float scale = (float)r, slope = (float)(r * r * r * dot / (double)p.n);
    for (int64_t i = threadIdx.x; i < p.n; i += blockDim.x)
        dx[at + i] = scale * g[i] - x[at + i] * slope;
}

/* Position times an fp32 frequency, as the model computes it; one table per model. */
static const float *frequencies(struct cuda_backend *c, double theta, int64_t n)
{
    float *&table = (*c->frequencies)[std::make_pair(theta, n)];
    if (table || !cuda_good(c))
        return table;
    std::vector<float> f((size_t)n / 2);
    for (int64_t k = 0; k < n / 2; k++)
        f[(size_t)k] = 1.0F / powf((float)theta, (float)(2 * k) / (float)n);
    size_t bytes = f.size() * sizeof(float);
    if (cuda_check(c, cudaMalloc((void **)&table, bytes), "a table of frequencies"))
        (void)cuda_check(c,
                         cudaMemcpyAsync(table, f.data(), bytes, cudaMemcpyHostToDevice, c->stream),
                         "upload of frequencies");
    return table;
}

static int rope_threads(int64_t n)
{
    int64_t threads = (n + WARP - 1) / WARP * WARP;
    return threads < THREADS ? (int)threads : THREADS;
}

void cuda_norm_rope_forward(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                            const struct backend_weight *w, int heads, double eps, double theta)
{
    struct cuda_backend *c = cuda_of(b);
    struct norm_weight p = norm_of(c, w, eps);
    struct rope rope = {frequencies(c, theta, p.n), t->pos, heads};
    if (!p.w || !cuda_good(c))
        return;
    rope_forward_kernel<<<t->rows * heads, rope_threads(p.n), (size_t)p.n * sizeof(float),
                          c->stream>>>((float *)y, (const float *)x, p, rope);
    (void)cuda_launched(c, "rotation");
}

void cuda_norm_rope_backward(struct backend *b, const struct backend_tile *t, void *dx,
                             const void *dy, const void *x, const struct backend_weight *w,
                             int heads, double eps, double theta)
{
    struct cuda_backend *c = cuda_of(b);
    struct norm_weight p = norm_of(c, w, eps);
    struct rope rope = {frequencies(c, theta, p.n), t->pos, heads};
    if (!p.w || !cuda_good(c))
        return;
    rope_backward_kernel<<<t->rows * heads, rope_threads(p.n), (size_t)p.n * sizeof(float),
                           c->stream>>>((float *)dx, (const float *)dy, (const float *)x, p, rope);
    (void)cuda_launched(c, "rotation backward");
}

/* ---- MLP ---- */

__global__ static void swiglu_forward_kernel(float *y, const float *gate, const float *up,
                                             int64_t n, int round)
{
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        float v = gate[i] / (1 + expf(-gate[i])) * up[i];
        y[i] = round ? round_bf16(v) : v;
    }
}

__global__ static void swiglu_backward_kernel(float *dgate, float *dup, const float *dy,
                                              const float *gate, const float *up, int64_t n)
{
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        float a = gate[i], s = 1 / (1 + expf(-a)), d = dy[i];
        dgate[i] = d * up[i] * s * (1 + a * (1 - s));
        dup[i] = d * a * s;
    }
}

void cuda_swiglu_forward(struct backend *b, const struct backend_tile *t, void *y, const void *gate,
                         const void *up, int64_t cols)
{
    struct cuda_backend *c = cuda_of(b);
    if (!cuda_good(c))
        return;
    swiglu_forward_kernel<<<MANY_BLOCKS, THREADS, 0, c->stream>>>(
        (float *)y, (const float *)gate, (const float *)up, t->rows * cols, c->config.bf16);
    (void)cuda_launched(c, "swiglu");
}

void cuda_swiglu_backward(struct backend *b, const struct backend_tile *t, void *dgate, void *dup,
                          const void *dy, const void *gate, const void *up, int64_t cols)
{
    struct cuda_backend *c = cuda_of(b);
    if (!cuda_good(c))
        return;
    swiglu_backward_kernel<<<MANY_BLOCKS, THREADS, 0, c->stream>>>(
        (float *)dgate, (float *)dup, (const float *)dy, (const float *)gate, (const float *)up,
        t->rows * cols);
    (void)cuda_launched(c, "swiglu backward");
}

/* ---- largest magnitudes ---- */

__global__ static void amax_channels(float *per_channel, const float *x, int64_t cols,
                                     const int32_t *first, int32_t from, int32_t to)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= cols)
        return;
    uint32_t top = magnitude_bits(per_channel[i]);
    for (int64_t r = first[from]; r < first[to]; r++)
        top = max(top, magnitude_bits(x[r * cols + i]));
    per_channel[i] = bits_magnitude(top);
}

__global__ static void amax_samples(float *per_sample, const float *x, int64_t cols,
                                    const int32_t *first, int32_t from)
{
    int64_t s = from + (int64_t)blockIdx.x;
    uint32_t top = 0;
    for (int64_t i = first[s] * cols + threadIdx.x; i < first[s + 1] * cols; i += blockDim.x)
        top = max(top, magnitude_bits(x[i]));
    top = block_max(top);
    if (threadIdx.x == 0)
        per_sample[s] = bits_magnitude(top);
}

void cuda_amax(struct backend *b, const struct backend_tile *t, const void *x, int64_t cols,
               int32_t from, int32_t to, float *per_sample, float *per_channel)
{
    struct cuda_backend *c = cuda_of(b);
    if (!cuda_good(c) || from >= to)
        return;
    if (per_channel)
        amax_channels<<<(unsigned)((cols + THREADS - 1) / THREADS), THREADS, 0, c->stream>>>(
            per_channel, (const float *)x, cols, t->first, from, to);
    if (per_sample)
        amax_samples<<<to - from, THREADS, 0, c->stream>>>(per_sample, (const float *)x, cols,
                                                           t->first, from);
    (void)cuda_launched(c, "amax");
}
