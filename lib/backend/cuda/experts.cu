/*
 * A mixture of experts: which experts a token goes to, and rows on their way to an expert and back.
 * One warp routes a row, one block moves a row. What the experts make of a row is added by one
 * thread for each number, one expert after another: no sum depends on timing.
 */
#include "backend/cuda/cuda.cuh"

enum { ROUTED = THREADS / WARP }; /* rows of a block */

struct routing {
    float *p, *w; /* (rows, experts); (rows, per_token) */
    int32_t *sel; /* (rows, per_token) */
    const float *logits, *q;
    float *dlogits;
    const int32_t *sample_of;
    int32_t rows;
    int experts, per_token, normed;
};

/* ---- the router ---- */

/* An expert's place in the order of falling p; of equal ones the lower number comes first. A row
   with a NaN has no other p, and takes the first experts. */
struct place {
    float p;
    int e;
};

__device__ static bool before(const struct place &a, const struct place &b)
{
    return a.p > b.p || (a.p == b.p && a.e < b.e);
}

__device__ static struct place place_of(const float *p, int e)
{
    return place{p[e] == p[e] ? p[e] : -1.0F, e};
}

/* The first after `last`, of all lanes' experts. */
__device__ static struct place next_place(const float *p, int experts, const struct place &last)
{
    struct place best = {-2, experts};
    for (int e = (int)(threadIdx.x % WARP); e < experts; e += WARP) {
        struct place one = place_of(p, e);
        if (before(last, one) && before(one, best))
            best = one;
    }
    for (int k = WARP / 2; k > 0; k /= 2) {
        struct place other = {__shfl_xor_sync(0xffffffffu, best.p, k),
                              __shfl_xor_sync(0xffffffffu, best.e, k)};
        if (before(other, best))
            best = other;
    }
    return best;
}

/* p = softmax(l), in fp32 and relative to the largest. */
__device__ static void softmax_row(float *p, const float *l, int experts)
{
    int lane = (int)(threadIdx.x % WARP);
    float top = -INFINITY, sum = 0;
    bool nan = false;
    for (int e = lane; e < experts; e += WARP) {
        top = fmaxf(top, l[e]);
        nan |= isnan(l[e]);
    }
    for (int k = WARP / 2; k > 0; k /= 2)
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, k));
    if (__any_sync(0xffffffffu, nan))
        top = NAN;
    for (int e = lane; e < experts; e += WARP) {
        p[e] = expf(l[e] - top);
        sum += p[e];
    }
    sum = warp_sum(sum);
    for (int e = lane; e < experts; e += WARP)
        p[e] /= sum;
    __syncwarp();
}

/* The experts up to `last`, by rising number. */
__device__ static void take_chosen(int32_t *sel, const float *p, int experts,
                                   const struct place &last)
{
    unsigned lane = threadIdx.x % WARP;
    int count = 0;
    for (int from = 0; from < experts; from += WARP) {
        int e = from + (int)lane;
        bool chosen = e < experts && !before(last, place_of(p, e));
        unsigned all = __ballot_sync(0xffffffffu, chosen);
        if (chosen)
            sel[count + __popc(all & ((1u << lane) - 1))] = e;
        count += __popc(all);
    }
    __syncwarp();
}

__global__ static void route_kernel(struct routing r)
{
    int64_t row = (int64_t)blockIdx.x * ROUTED + threadIdx.x / WARP;
    int lane = (int)(threadIdx.x % WARP), k = r.per_token;
    if (row >= r.rows)
        return;
    float *p = r.p + row * r.experts, *w = r.w + row * k, sum = 0;
    int32_t *sel = r.sel + row * k;
    if (r.sample_of[row] < 0) {
        for (int e = lane; e < r.experts; e += WARP)
            p[e] = 0;
        for (int i = lane; i < k; i += WARP) {
            sel[i] = -1;
            w[i] = 0;
        }
        return;
    }
    softmax_row(p, r.logits + row * r.experts, r.experts);
    struct place last = {INFINITY, -1};
    for (int i = 0; i < k; i++)
        last = next_place(p, r.experts, last);
    take_chosen(sel, p, r.experts, last);
    for (int i = 0; i < k; i++)
        sum += p[sel[i]];
    for (int i = lane; i < k; i += WARP)
        w[i] = r.normed ? p[sel[i]] / sum : p[sel[i]];
}

/* The choice has no gradient; the weights have, and through the softmax all logits of the row. */
__global__ static void route_backward_kernel(struct routing r)
{
    int64_t row = (int64_t)blockIdx.x * ROUTED + threadIdx.x / WARP;
    int lane = (int)(threadIdx.x % WARP), k = r.per_token;
    if (row >= r.rows)
        return;
    const float *p = r.p + row * r.experts, *w = r.w + row * k, *q = r.q + row * k;
    const int32_t *sel = r.sel + row * k;
    float *dl = r.dlogits + row * r.experts;
    if (r.sample_of[row] < 0) {
        for (int e = lane; e < r.experts; e += WARP)
            dl[e] = 0;
        return;
    }
    double sum = 0, mean = 0, all = 0; /* all: sum of p dp, in which only the chosen have a dp */
    for (int i = 0; i < k; i++) {
        sum += p[sel[i]];
        mean += (double)w[i] * q[i];
    }
    for (int i = 0; i < k; i++)
        all += p[sel[i]] * (r.normed ? (q[i] - mean) / sum : (double)q[i]);
    for (int e = lane; e < r.experts; e += WARP)
        dl[e] = (float)(p[e] * -all);
    __syncwarp();
    for (int i = lane; i < k; i += WARP) {
        double dp = r.normed ? (q[i] - mean) / sum : (double)q[i];
        dl[sel[i]] = (float)(p[sel[i]] * ((float)dp - all));
    }
}

static unsigned route_blocks(const struct backend_tile *t)
{
    return (unsigned)((t->rows + ROUTED - 1) / ROUTED);
}

void cuda_route(struct backend *b, const struct backend_tile *t, float *p, int32_t *sel, float *w,
                const void *logits, int experts, int per_token, int normed)
{
    struct cuda_backend *c = cuda_of(b);
    struct routing r = {p,    w,           sel,     (const float *)logits, NULL, NULL, t->sample_of,
                        t->rows, experts, per_token, normed};
    if (!cuda_good(c))
        return;
    route_kernel<<<route_blocks(t), THREADS, 0, c->stream>>>(r);
    (void)cuda_launched(c, "routing");
}

void cuda_route_backward(struct backend *b, const struct backend_tile *t, void *dlogits,
                         const float *p, const int32_t *sel, const float *w, const float *q,
                         int experts, int per_token, int normed)
{
    struct cuda_backend *c = cuda_of(b);
    struct routing r = {(float *)p, (float *)w,   (int32_t *)sel, NULL, q,
                        (float *)dlogits, t->sample_of, t->rows, experts, per_token, normed};
    if (!cuda_good(c))
        return;
    route_backward_kernel<<<route_blocks(t), THREADS, 0, c->stream>>>(r);
    (void)cuda_launched(c, "routing backward");
}

/* ---- rows of a part; x and y as in backend.h ---- */

struct part_rows {
    const int32_t *slots; /* [rows]; -1: no token */
    int per_token;
    int64_t cols;
    const float *w; /* [slots]; NULL: 1 */
};

__device__ static float slot_weight(const struct part_rows &p, int32_t slot)
{
    return p.w ? p.w[slot] : 1;
}

__global__ static void take_kernel(struct part_rows p, float *y, const float *x)
{
    int32_t slot = p.slots[blockIdx.x];
    y += blockIdx.x * p.cols;
    x += (int64_t)(slot / p.per_token) * p.cols;
    for (int64_t i = threadIdx.x; i < p.cols; i += THREADS)
        y[i] = slot < 0 ? 0 : slot_weight(p, slot) * x[i];
}

/* A block has a row of the tile, and adds what its experts made of it, one after the other: places
   among a row's experts rise with their numbers. */
__global__ static void add_kernel(struct part_rows p, const int32_t *row_of, float *y,
                                  const float *x)
{
    int32_t first = (int32_t)blockIdx.x * p.per_token;
    y += blockIdx.x * p.cols;
    for (int64_t i = threadIdx.x; i < p.cols; i += THREADS) {
        float sum = y[i];
        for (int k = 0; k < p.per_token; k++) {
            int32_t row = row_of[first + k];
            if (row >= 0)
                sum += slot_weight(p, first + k) * x[row * p.cols + i];
        }
        y[i] = sum;
    }
}

__global__ static void put_kernel(struct part_rows p, float *y, const float *x)
{
    int32_t slot = p.slots[blockIdx.x];
    if (slot < 0)
        return;
    y += slot * p.cols;
    x += blockIdx.x * p.cols;
    for (int64_t i = threadIdx.x; i < p.cols; i += THREADS)
        y[i] = x[i];
}

__global__ static void dot_kernel(struct part_rows p, float *q, const float *g, const float *f)
{
    int32_t slot = p.slots[blockIdx.x];
    if (slot < 0)
        return;
    double sum = 0;
    g += (int64_t)(slot / p.per_token) * p.cols;
    f += blockIdx.x * p.cols;
    for (int64_t i = threadIdx.x; i < p.cols; i += THREADS)
        sum += (double)g[i] * f[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        q[slot] = (float)sum;
}

typedef void part_kernel(struct part_rows p, float *y, const float *x);

static void run_part(struct backend *b, const struct backend_tile *part, part_kernel *kernel,
                     void *y, const void *x, int64_t cols, const float *w)
{
    struct cuda_backend *c = cuda_of(b);
    struct part_rows p = {part->slots, part->per_token, cols, w};
    if (!cuda_good(c))
        return;
    kernel<<<(unsigned)part->rows, THREADS, 0, c->stream>>>(p, (float *)y, (const float *)x);
    (void)cuda_launched(c, "rows of an expert");
}

void cuda_part_take(struct backend *b, const struct backend_tile *part, void *y, const void *x,
                    int64_t cols, const float *w)
{
    run_part(b, part, take_kernel, y, x, cols, w);
}

void cuda_part_add(struct backend *b, const struct backend_tile *part, void *y, const void *x,
                   int64_t cols, const float *w)
{
    struct cuda_backend *c = cuda_of(b);
    struct part_rows p = {part->slots, part->per_token, cols, w};
    if (!cuda_good(c))
        return;
    add_kernel<<<(unsigned)part->tile_rows, THREADS, 0, c->stream>>>(p, part->row_of, (float *)y,
                                                                     (const float *)x);
    (void)cuda_launched(c, "sum over experts");
}

void cuda_part_put(struct backend *b, const struct backend_tile *part, void *y, const void *x,
                   int64_t cols)
{
    run_part(b, part, put_kernel, y, x, cols, NULL);
}

void cuda_part_dot(struct backend *b, const struct backend_tile *part, float *q, const void *g,
                   const void *f, int64_t cols)
{
    struct cuda_backend *c = cuda_of(b);
    struct part_rows p = {part->slots, part->per_token, cols, NULL};
    if (!cuda_good(c))
        return;
    dot_kernel<<<(unsigned)part->rows, THREADS, 0, c->stream>>>(p, q, (const float *)g,
                                                                (const float *)f);
    (void)cuda_launched(c, "gradients of the weights of experts");
}

/* ---- products of a part ---- */

static void part_product(struct cuda_backend *c, const struct backend_tile *part, void *y,
                         const void *x, const struct backend_weight *const *w, bool transposed)
{
    const struct backend_weight *used[MOST_EXPERTS] = {};
    const void *at[MOST_EXPERTS];
    const struct backend_weight *any = NULL;
    for (int e = 0; e < part->experts; e++)
        if ((*part->has)[(size_t)e])
            any = used[e] = w[e];
    if (!any || !cuda_weights_typed(c, used, part->experts, at))
        return;
    struct gemm g = {part->rows, transposed ? any->rows : any->cols,
                     transposed ? any->cols : any->rows, part->chunk};
    g.a = gemm_input(c, x, g.m * g.k);
    g.c = (float *)y;
    g.b_transposed = transposed;
    g.is_bf16 = c->config.bf16;
    g.expert_of = part->expert_of;
    g.weights = at;
    g.experts = part->experts;
    gemm_run(c, &g);
}

void cuda_experts_forward(struct backend *b, const struct backend_tile *part, void *y,
                          const void *x, const struct backend_weight *const *w)
{
    part_product(cuda_of(b), part, y, x, w, true);
}

void cuda_experts_backward(struct backend *b, const struct backend_tile *part, void *dx,
                           const void *dy, const struct backend_weight *const *w)
{
    part_product(cuda_of(b), part, dx, dy, w, false);
}
