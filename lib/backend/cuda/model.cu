/*
 * Embedding, residuals, norms, rotation, MLP and ranges. Activations are fp32, (rows, cols). In a
 * kernel over rows a block owns one row (or one head of a row), so that its sum, in double, is made
 * by one block in a fixed order. Elementwise kernels stride over all elements with a fixed grid.
 */
#include "backend/cuda/cuda.cuh"

#include <math.h>
#include <string.h>

enum { MANY_BLOCKS = 2112 }; /* for loops over all elements */

/* h (rows, cols) = factor * table (vocabulary, cols)[ids] */
__global__ static void embed_kernel(float *h, const int32_t *ids, const void *table, int is_bf16,
                                    int64_t cols, float factor)
{
    int64_t row = blockIdx.x, id = ids[row];
    for (int64_t i = threadIdx.x; i < cols; i += blockDim.x)
        h[row * cols + i] = id < 0 ? 0 : load_weight(table, is_bf16, id * cols + i) * factor;
}

void cuda_embed(struct backend *b, const struct backend_tile *t, void *h,
                const struct backend_weight *table, float factor)
{
    struct cuda_backend *c = cuda_of(b);
    const void *w = cuda_weight(c, table);
    if (!w)
        return;
    embed_kernel<<<t->rows, THREADS, 0, c->stream>>>(
        (float *)h, t->ids, w, cuda_weight_is_bf16(c, table), table->cols, factor);
    (void)cuda_launched(c, "embed");
}

/* w numbers at a time */
template <int w>
__global__ static void add_kernel(float *y, const float *x, int64_t n, float factor)
{
    typedef struct floats<w> pack;
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n / w; i += step) {
        pack a = ((pack *)y)[i], b = ((const pack *)x)[i];
        for (int k = 0; k < w; k++)
            a.e[k] += b.e[k] * factor;
        ((pack *)y)[i] = a;
    }
}

void cuda_add(struct backend *b, const struct backend_tile *t, void *y, const void *x, int64_t cols,
              float factor)
{
    struct cuda_backend *c = cuda_of(b);
    if (!cuda_good(c))
        return;
    auto kernel = in_quads(t->rows * cols, y, x, NULL) ? add_kernel<4> : add_kernel<1>;
    kernel<<<MANY_BLOCKS, THREADS, 0, c->stream>>>((float *)y, (const float *)x, t->rows * cols,
                                                   factor);
    (void)cuda_launched(c, "add");
}

__global__ static void scale_kernel(float *y, const float *x, int64_t n, float factor)
{
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)
        y[i] = x[i] * factor;
}

void cuda_scale(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                int64_t cols, float factor)
{
    struct cuda_backend *c = cuda_of(b);
    if (!cuda_good(c))
        return;
    scale_kernel<<<MANY_BLOCKS, THREADS, 0, c->stream>>>((float *)y, (const float *)x,
                                                         t->rows * cols, factor);
    (void)cuda_launched(c, "scale");
}

/* Rows without a token are zero and stay zero. */
__global__ static void bias_kernel(float *y, const float *x, const void *bias, int is_bf16,
                                   int64_t cols, const int32_t *sample_of)
{
    int64_t row = blockIdx.x;
    bool used = sample_of[row] >= 0;
    for (int64_t i = threadIdx.x; i < cols; i += blockDim.x)
        y[row * cols + i] = x[row * cols + i] + (used ? load_weight(bias, is_bf16, i) : 0);
}

void cuda_bias_add(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                   const struct backend_weight *bias)
{
    struct cuda_backend *c = cuda_of(b);
    const void *w = cuda_weight(c, bias);
    if (!w)
        return;
    bias_kernel<<<t->rows, THREADS, 0, c->stream>>>(
        (float *)y, (const float *)x, w, cuda_weight_is_bf16(c, bias), bias->cols, t->sample_of);
    (void)cuda_launched(c, "bias");
}

void cuda_cols_copy(struct backend *b, const struct backend_tile *t, void *y, int64_t y_cols,
                    int64_t y_at, const void *x, int64_t x_cols, int64_t x_at, int64_t cols)
{
    struct cuda_backend *c = cuda_of(b);
    const size_t size = sizeof(float);
    if (!cuda_good(c))
        return;
    (void)cuda_check(c,
                     cudaMemcpy2DAsync((float *)y + y_at, (size_t)y_cols * size,
                                       (const float *)x + x_at, (size_t)x_cols * size,
                                       (size_t)cols * size, (size_t)t->rows,
                                       cudaMemcpyDeviceToDevice, c->stream),
                     "copying columns");
}

/* ---- norms ---- */

/* A norm as kernels take it. */
struct norm_args {
    const void *w; /* [n]; NULL: no norm */
    int is_bf16;
    float plus; /* added to the weight: 0 or 1 */
    int64_t n;
    double eps;
    int round; /* the result, to bf16 */
};

__device__ static float norm_weight(const struct norm_args &p, int64_t i)
{
    return load_weight(p.w, p.is_bf16, i) + p.plus;
}

/* 1 / sqrt(mean(x^2) + eps) */
__device__ static double inverse_rms(const float *x, int64_t n, double eps)
{
    double sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        sum += (double)x[i] * x[i];
    return 1 / sqrt(block_sum(sum) / (double)n + eps);
}

__global__ static void norm_forward_kernel(float *y, const float *x, struct norm_args p)
{
    x += blockIdx.x * p.n;
    y += blockIdx.x * p.n;
    float r = (float)inverse_rms(x, p.n, p.eps);
    for (int64_t i = threadIdx.x; i < p.n; i += blockDim.x) {
        float v = norm_weight(p, i) * (x[i] * r);
        y[i] = p.round ? round_bf16(v) : v;
    }
}

/* dx += r u - x r^3 (sum u x) / n with u = dy w */
__global__ static void norm_backward_kernel(float *dx, const float *dy, const float *x,
                                            struct norm_args p)
{
    x += blockIdx.x * p.n;
    dy += blockIdx.x * p.n;
    dx += blockIdx.x * p.n;
    double r = inverse_rms(x, p.n, p.eps), dot = 0;
    for (int64_t i = threadIdx.x; i < p.n; i += blockDim.x)
        dot += (double)dy[i] * norm_weight(p, i) * x[i];
    dot = block_sum(dot);
    float scale = (float)r, slope = (float)(r * r * r * dot / (double)p.n);
    for (int64_t i = threadIdx.x; i < p.n; i += blockDim.x)
        dx[i] += scale * (dy[i] * norm_weight(p, i)) - x[i] * slope;
}

/* False after a failure. norm: NULL for none. */
static bool norm_args_of(struct cuda_backend *c, const struct backend_norm *norm,
                         struct norm_args *out)
{
    *out = norm_args{};
    if (!norm)
        return cuda_good(c);
    *out = norm_args{cuda_weight(c, norm->w),
                     cuda_weight_is_bf16(c, norm->w),
                     norm->one_plus ? 1.0F : 0.0F,
                     norm->w->cols,
                     norm->eps,
                     norm->to_product && c->config.bf16};
    return out->w != NULL;
}

void cuda_rmsnorm_forward(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                          const struct backend_norm *norm)
{
    struct cuda_backend *c = cuda_of(b);
    struct norm_args p;
    if (!norm_args_of(c, norm, &p))
        return;
    norm_forward_kernel<<<t->rows, THREADS, 0, c->stream>>>((float *)y, (const float *)x, p);
    (void)cuda_launched(c, "rmsnorm");
}

void cuda_rmsnorm_backward(struct backend *b, const struct backend_tile *t, void *dx,
                           const void *dy, const void *x, const struct backend_norm *norm)
{
    struct cuda_backend *c = cuda_of(b);
    struct norm_args p;
    if (!norm_args_of(c, norm, &p))
        return;
    norm_backward_kernel<<<t->rows, THREADS, 0, c->stream>>>((float *)dx, (const float *)dy,
                                                             (const float *)x, p);
    (void)cuda_launched(c, "rmsnorm backward");
}

/* ---- norm and rotation of heads ---- */

/* Each head of `dim` elements: pairs (k, k + half), and what is beyond them. */
struct rope_args {
    const float *frequency; /* device, [half] */
    const int32_t *pos;     /* [rows] */
    int heads, dim, half;   /* half 0: no rotation */
    float factor;
};

__device__ static void angle_of(const struct rope_args &rope, int64_t row, int k, float *c,
                                float *s)
{
    float angle = (float)rope.pos[row] * rope.frequency[k];
    *c = cosf(angle) * rope.factor;
    *s = sinf(angle) * rope.factor;
}

__global__ static void rope_forward_kernel(float *y, const float *x, struct norm_args p,
                                           struct rope_args rope)
{
    extern __shared__ float v[]; /* [dim], after the norm */
    int64_t at = (int64_t)blockIdx.x * rope.dim;
    float r = p.w ? (float)inverse_rms(x + at, p.n, p.eps) : 1;
    for (int i = threadIdx.x; i < rope.dim; i += blockDim.x)
        v[i] = p.w ? norm_weight(p, i) * (x[at + i] * r) : x[at + i];
    __syncthreads();
    for (int k = threadIdx.x; k < rope.half; k += blockDim.x) {
        float c, s, a = v[k], e = v[k + rope.half];
        angle_of(rope, blockIdx.x / rope.heads, k, &c, &s);
        y[at + k] = a * c - e * s;
        y[at + k + rope.half] = e * c + a * s;
    }
    for (int i = 2 * rope.half + threadIdx.x; i < rope.dim; i += blockDim.x)
        y[at + i] = v[i];
}

/*
 * The same for heads of 32 x parts numbers that are rotated whole or not at all: a block has a row,
 * a warp one head after another, a lane numbers lane, lane + 32, ... The sum of squares has the
 * order that block_sum makes of one number a thread.
 */
template <int parts>
__global__ static void rope_warps_kernel(float *y, const float *x, struct norm_args p,
                                         struct rope_args rope)
{
    enum { HALF = parts / 2 };
    int lane = (int)threadIdx.x % WARP;
    float c[HALF], s[HALF], w[parts];
#pragma unroll
    for (int k = 0; k < HALF; k++)
        if (rope.half)
            angle_of(rope, blockIdx.x, k * WARP + lane, &c[k], &s[k]);
#pragma unroll
    for (int k = 0; k < parts; k++)
        w[k] = p.w ? norm_weight(p, k * WARP + lane) : 1;
    for (int head = (int)threadIdx.x / WARP; head < rope.heads; head += THREADS / WARP) {
        int64_t at = ((int64_t)blockIdx.x * rope.heads + head) * rope.dim + lane;
        float v[parts];
#pragma unroll
        for (int k = 0; k < parts; k++)
            v[k] = x[at + k * WARP];
        if (p.w) {
            double sum = 0;
#pragma unroll
            for (int k = 0; k < parts; k++)
                sum += warp_sum((double)v[k] * v[k]);
            float r = (float)(1 / sqrt(sum / (double)p.n + p.eps));
#pragma unroll
            for (int k = 0; k < parts; k++)
                v[k] = w[k] * (v[k] * r);
        }
#pragma unroll
        for (int k = 0; k < HALF; k++)
            if (rope.half) {
                float a = v[k], e = v[k + HALF];
                v[k] = a * c[k] - e * s[k];
                v[k + HALF] = e * c[k] + a * s[k];
            }
#pragma unroll
        for (int k = 0; k < parts; k++)
            y[at + k * WARP] = v[k];
    }
}

typedef void rope_kernel(float *y, const float *x, struct norm_args p, struct rope_args rope);

/* NULL: not for these heads. */
static rope_kernel *rope_warps_of(const struct rope_args *r)
{
    if (r->half && r->half != r->dim / 2)
        return NULL;
    return r->dim == 64    ? rope_warps_kernel<2>
           : r->dim == 128 ? rope_warps_kernel<4>
           : r->dim == 256 ? rope_warps_kernel<8>
                           : NULL;
}

__global__ static void rope_backward_kernel(float *dx, const float *dy, const float *x,
                                            struct norm_args p, struct rope_args rope)
{
    extern __shared__ float g[]; /* [dim], the gradient before the rotation, times the weight */
    int64_t at = (int64_t)blockIdx.x * rope.dim;
    for (int k = threadIdx.x; k < rope.half; k += blockDim.x) {
        float c, s, a = dy[at + k], e = dy[at + k + rope.half];
        angle_of(rope, blockIdx.x / rope.heads, k, &c, &s);
        g[k] = a * c + e * s;
        g[k + rope.half] = e * c - a * s;
        if (p.w) {
            g[k] *= norm_weight(p, k);
            g[k + rope.half] *= norm_weight(p, k + rope.half);
        }
    }
    for (int i = 2 * rope.half + threadIdx.x; i < rope.dim; i += blockDim.x)
        g[i] = p.w ? dy[at + i] * norm_weight(p, i) : dy[at + i];
    if (!p.w) {
        __syncthreads();
        for (int i = threadIdx.x; i < rope.dim; i += blockDim.x)
            dx[at + i] = g[i];
        return;
    }
    double r = inverse_rms(x + at, p.n, p.eps), dot = 0; /* its barriers show g to all */
    for (int64_t i = threadIdx.x; i < p.n; i += blockDim.x)
        dot += (double)g[i] * x[at + i];
    dot = block_sum(dot);
    float scale = (float)r, slope = (float)(r * r * r * dot / (double)p.n);
    for (int64_t i = threadIdx.x; i < p.n; i += blockDim.x)
        dx[at + i] = scale * g[i] - x[at + i] * slope;
}

/* The device's copy of a table; one for each that the model has. */
static const float *frequencies(struct cuda_backend *c, const struct backend_rope *rope)
{
    std::vector<float> key(rope->inv_freq, rope->inv_freq + rope->dim / 2);
    float *&table = (*c->frequencies)[key];
    if (table || !cuda_good(c))
        return table;
    size_t bytes = key.size() * sizeof(float);
    if (cuda_check(c, cudaMalloc((void **)&table, bytes), "a table of frequencies"))
        (void)cuda_check(
            c, cudaMemcpyAsync(table, key.data(), bytes, cudaMemcpyHostToDevice, c->stream),
            "upload of frequencies");
    return table;
}

static struct rope_args rope_args_of(struct cuda_backend *c, const struct backend_tile *t,
                                     int heads, int dim, const struct backend_rope *rope)
{
    struct rope_args r = {NULL, t->pos, heads, dim, 0, 1};
    if (rope && rope->dim > 0) {
        r.frequency = frequencies(c, rope);
        r.half = rope->dim / 2;
        r.factor = rope->factor;
    }
    return r;
}

static int rope_threads(int dim)
{
    int threads = (dim + WARP - 1) / WARP * WARP;
    return threads < THREADS ? threads : THREADS;
}

void cuda_norm_rope_forward(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                            int heads, int dim, const struct backend_norm *norm,
                            const struct backend_rope *rope)
{
    struct cuda_backend *c = cuda_of(b);
    struct norm_args p;
    struct rope_args r = rope_args_of(c, t, heads, dim, rope);
    if (!norm_args_of(c, norm, &p) || !cuda_good(c))
        return;
    rope_kernel *warps = rope_warps_of(&r);
    if (warps)
        warps<<<(unsigned)t->rows, THREADS, 0, c->stream>>>((float *)y, (const float *)x, p, r);
    else
        rope_forward_kernel<<<t->rows * heads, rope_threads(dim), (size_t)dim * sizeof(float),
                              c->stream>>>((float *)y, (const float *)x, p, r);
    (void)cuda_launched(c, "rotation");
}

void cuda_norm_rope_backward(struct backend *b, const struct backend_tile *t, void *dx,
                             const void *dy, const void *x, int heads, int dim,
                             const struct backend_norm *norm, const struct backend_rope *rope)
{
    struct cuda_backend *c = cuda_of(b);
    struct norm_args p;
    struct rope_args r = rope_args_of(c, t, heads, dim, rope);
    if (!norm_args_of(c, norm, &p) || !cuda_good(c))
        return;
    rope_backward_kernel<<<t->rows * heads, rope_threads(dim), (size_t)dim * sizeof(float),
                           c->stream>>>((float *)dx, (const float *)dy, (const float *)x, p, r);
    (void)cuda_launched(c, "rotation backward");
}

/* ---- MLP ---- */

/* tanh of gelu's argument, sqrt(2 / pi) (a + 0.044715 a^3) */
__device__ static float gelu_tanh(float a)
{
    return tanhf(0.7978845608F * (a + 0.044715F * (a * a * a)));
}

template <int act> __device__ static float glu(float a, float up, int round)
{
    float v = act == BACKEND_SILU ? a / (1 + expf(-a)) * up : 0.5F * a * (1 + gelu_tanh(a)) * up;
    return round ? round_bf16(v) : v;
}

/* y = act(gate) * up, all (rows, cols), w numbers at a time */
template <int act, int w>
__global__ static void glu_forward_kernel(float *y, const float *gate, const float *up, int64_t n,
                                          int round)
{
    typedef struct floats<w> pack;
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n / w; i += step) {
        pack a = ((const pack *)gate)[i], b = ((const pack *)up)[i];
        for (int k = 0; k < w; k++)
            a.e[k] = glu<act>(a.e[k], b.e[k], round);
        ((pack *)y)[i] = a;
    }
}

/* A block has a row; gate_up (rows, 2 x cols). */
template <int act>
__global__ static void glu_pair_kernel(float *y, const float *gate_up, int64_t cols, int round)
{
    const float *gate = gate_up + 2 * blockIdx.x * cols;
    y += blockIdx.x * cols;
    for (int64_t i = threadIdx.x; i < cols; i += THREADS)
        y[i] = glu<act>(gate[i], gate[cols + i], round);
}

template <int act>
__global__ static void glu_backward_kernel(float *dgate, float *dup, const float *dy,
                                           const float *gate, const float *up, int64_t n)
{
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        float a = gate[i], d = dy[i];
        if (act == BACKEND_SILU) {
            float s = 1 / (1 + expf(-a));
            dgate[i] = d * up[i] * s * (1 + a * (1 - s));
            dup[i] = d * a * s;
        } else {
            float t = gelu_tanh(a), inner = 0.7978845608F * (1 + 3 * 0.044715F * (a * a));
            dgate[i] = d * up[i] * (0.5F * (1 + t) + 0.5F * a * (1 - t * t) * inner);
            dup[i] = d * (0.5F * a * (1 + t));
        }
    }
}

void cuda_glu_forward(struct backend *b, const struct backend_tile *t, void *y, const void *gate,
                      const void *up, int64_t cols, enum backend_act act)
{
    struct cuda_backend *c = cuda_of(b);
    bool silu = act == BACKEND_SILU;
    auto one =
        silu ? glu_forward_kernel<BACKEND_SILU, 1> : glu_forward_kernel<BACKEND_GELU_TANH, 1>;
    auto four =
        silu ? glu_forward_kernel<BACKEND_SILU, 4> : glu_forward_kernel<BACKEND_GELU_TANH, 4>;
    auto kernel = in_quads(t->rows * cols, y, gate, up) ? four : one;
    if (!cuda_good(c))
        return;
    kernel<<<MANY_BLOCKS, THREADS, 0, c->stream>>>(
        (float *)y, (const float *)gate, (const float *)up, t->rows * cols, c->config.bf16);
    (void)cuda_launched(c, "gated activation");
}

void cuda_glu_pair_forward(struct backend *b, const struct backend_tile *t, void *y,
                           const void *gate_up, int64_t cols, enum backend_act act)
{
    struct cuda_backend *c = cuda_of(b);
    auto kernel =
        act == BACKEND_SILU ? glu_pair_kernel<BACKEND_SILU> : glu_pair_kernel<BACKEND_GELU_TANH>;
    if (!cuda_good(c))
        return;
    kernel<<<(unsigned)t->rows, THREADS, 0, c->stream>>>((float *)y, (const float *)gate_up, cols,
                                                         c->config.bf16);
    (void)cuda_launched(c, "gated activation");
}

void cuda_glu_backward(struct backend *b, const struct backend_tile *t, void *dgate, void *dup,
                       const void *dy, const void *gate, const void *up, int64_t cols,
                       enum backend_act act)
{
    struct cuda_backend *c = cuda_of(b);
    auto kernel = act == BACKEND_SILU ? glu_backward_kernel<BACKEND_SILU>
                                      : glu_backward_kernel<BACKEND_GELU_TANH>;
    if (!cuda_good(c))
        return;
    kernel<<<MANY_BLOCKS, THREADS, 0, c->stream>>>((float *)dgate, (float *)dup, (const float *)dy,
                                                   (const float *)gate, (const float *)up,
                                                   t->rows * cols);
    (void)cuda_launched(c, "gated activation backward");
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
