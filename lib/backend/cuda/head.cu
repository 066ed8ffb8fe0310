/*
 * The head: loss with its gradient, KL between two inputs, and logits compared. Logits exist a
 * chunk of the vocabulary at a time: one pass for the sums of the softmax, and for the gradient a
 * second that makes the logits again.
 */
#include "backend/cuda/cuda.cuh"

enum { SHAPE_BLOCKS = 1056 };
static const int64_t chunk_logits = (int64_t)8 << 20; /* of all rows */

/* What the chunks so far know of one row: sum of exp(z - top), and of exp(z - top) * moved. */
struct partial {
    double top, sum, moved;
};

struct head_rows {
    struct partial *parts; /* [rows] */
    float *target_logit;
    double *log_sum;
};

static int64_t chunk_width(const struct backend_tile *t, int64_t vocab)
{
    int64_t width = chunk_logits / t->rows / 256 * 256;
    width = width < 256 ? 256 : width;
    return width < vocab ? width : vocab;
}

__device__ static double block_largest(double v)
{
    __shared__ double part[THREADS];
    __syncthreads();
    part[threadIdx.x] = v;
    __syncthreads();
    for (unsigned k = THREADS / 2; k > 0; k /= 2) {
        if (threadIdx.x < k && part[threadIdx.x + k] > part[threadIdx.x])
            part[threadIdx.x] = part[threadIdx.x + k];
        __syncthreads();
    }
    double all = part[0];
    __syncthreads();
    return all;
}

__device__ static double row_top(const float *z, int64_t n)
{
    double top = -INFINITY;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        top = z[i] > top ? z[i] : top;
    return block_largest(top);
}

/* Merges two running log-sum-exps; each is stored relative to its own maximum. */
__device__ static void merge(struct partial *a, const struct partial &b)
{
    if (b.top > a->top) {
        double f = exp(a->top - b.top);
        *a = partial{b.top, a->sum * f + b.sum, a->moved * f + b.moved};
    } else {
        double f = exp(b.top - a->top);
        a->sum += b.sum * f;
        a->moved += b.moved * f;
    }
}

__device__ static void keep(struct partial *all, const struct partial &chunk, int64_t at)
{
    if (threadIdx.x != 0)
        return;
    if (at == 0)
        *all = chunk;
    else
        merge(all, chunk);
}

/* ---- loss ---- */

__global__ static void sums_kernel(struct head_rows rows, const float *z, int64_t at, int64_t cols,
                                   const int32_t *targets)
{
    int64_t row = blockIdx.x, target = targets[row] - at;
    if (targets[row] < 0)
        return;
    z += row * cols;
    if (target >= 0 && target < cols && threadIdx.x == 0)
        rows.target_logit[row] = z[target];
    double top = row_top(z, cols), sum = 0;
    for (int64_t i = threadIdx.x; i < cols; i += blockDim.x)
        sum += expf((float)(z[i] - top));
    sum = block_sum(sum);
    keep(&rows.parts[row], partial{top, sum, 0}, at);
}

/* One thread a sample: its rows in order. */
__global__ static void losses_kernel(double *loss, struct head_rows rows, const int32_t *first,
                                     const int32_t *targets, int32_t samples)
{
    int32_t s = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x);
    if (s >= samples)
        return;
    double sum = 0;
    for (int32_t r = first[s]; r < first[s + 1]; r++) {
        if (targets[r] < 0)
            continue;
        rows.log_sum[r] = rows.parts[r].top + log(rows.parts[r].sum);
        sum += rows.log_sum[r] - rows.target_logit[r];
    }
    loss[s] = sum;
}

/* How logits come from the products of the head. */
struct shape {
    float divisor, cap; /* cap 0: none */
};

/* z (rows x columns, n in all), products of the head, become logits */
__global__ static void shape_kernel(float *z, int64_t n, struct shape shape)
{
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        float v = z[i] / shape.divisor;
        z[i] = shape.cap > 0 ? shape.cap * tanhf(v / shape.cap) : v;
    }
}

/*
 * dz, the gradient at the products of the head, from the logits z: (softmax - [target]) times
 * d(logit) / d(product); in the compute type. It may be in the place of z if that is fp32.
 */
__global__ static void slope_kernel(void *dz, int is_bf16, const float *z, struct head_rows rows,
                                    int64_t at, int64_t cols, const int32_t *targets,
                                    struct shape shape)
{
    int64_t row = blockIdx.x, target = targets[row];
    for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) {
        float d = 0;
        if (target >= 0) {
            float logit = z[row * cols + i], u = shape.cap > 0 ? logit / shape.cap : 0;
            d = expf((float)(logit - rows.log_sum[row]));
            d -= at + i == target ? 1 : 0;
            d = d * (1 - u * u) / shape.divisor;
        }
        if (is_bf16)
            ((bf16 *)dz)[row * cols + i] = __float2bfloat16_rn(d);
        else
            ((float *)dz)[row * cols + i] = d;
    }
}

struct head_run {
    struct cuda_backend *c;
    const struct backend_weight *w; /* (vocabulary, hidden) */
    struct shape shape;
    int64_t rows, width; /* of the tile, of a chunk of logits */
};

static struct head_run head_of(struct cuda_backend *c, const struct backend_tile *t,
                               const struct backend_head *head)
{
    struct head_run d = {c, head->w, {head->divisor, head->cap}, t->rows};
    d.width = chunk_width(t, head->w->rows);
    return d;
}

static int64_t chunk_cols(const struct head_run *d, int64_t at)
{
    return d->w->rows - at < d->width ? d->w->rows - at : d->width;
}

/* z (rows, cols of the chunk) = h W' */
static void logits(const struct head_run *d, const void *h, int64_t at, float *z)
{
    struct gemm g = {d->rows, chunk_cols(d, at), d->w->cols, d->rows, h};
    g.b = cuda_weight_typed(d->c, d->w, at, g.n);
    g.c = z;
    g.b_transposed = true;
    g.is_bf16 = d->c->config.bf16;
    gemm_run(d->c, &g);
    if (cuda_good(d->c) && (d->shape.divisor != 1 || d->shape.cap > 0))
        shape_kernel<<<SHAPE_BLOCKS, THREADS, 0, d->c->stream>>>(z, g.m * g.n, d->shape);
}

/* dh (rows, hidden) (+)= dz W */
static void slope_back(const struct head_run *d, const void *dz, int64_t at, void *dh)
{
    struct gemm g = {d->rows, d->w->cols, chunk_cols(d, at), d->rows, dz};
    g.b = cuda_weight_typed(d->c, d->w, at, g.k);
    g.c = (float *)dh;
    g.is_bf16 = d->c->config.bf16;
    g.accumulate = at > 0;
    gemm_run(d->c, &g);
}

void cuda_loss(struct backend *b, const struct backend_tile *t, double *loss, void *dh,
               const void *h, const struct backend_head *head)
{
    struct cuda_backend *c = cuda_of(b);
    const struct backend_weight *w = head->w;
    struct head_run d = head_of(c, t, head);
    size_t rows = (size_t)t->rows, part = rows * sizeof(struct partial);
    char *room =
        (char *)cuda_scratch(c, SCRATCH_HEAD, part + rows * (sizeof(double) + sizeof(float)));
    float *z =
        (float *)cuda_scratch(c, SCRATCH_Z, rows * (size_t)d.width * (c->config.bf16 ? 6 : 4));
    const void *x = gemm_input(c, h, t->rows * w->cols);
    if (!room || !z || !x)
        return;
    struct head_rows r = {(struct partial *)room, (float *)(room + part + rows * sizeof(double)),
                          (double *)(room + part)};
    void *dz = c->config.bf16 ? (void *)(z + rows * (size_t)d.width) : z;
    for (int64_t at = 0; at < w->rows; at += d.width) {
        logits(&d, x, at, z);
        if (!cuda_good(c))
            return;
        sums_kernel<<<t->rows, THREADS, 0, c->stream>>>(r, z, at, chunk_cols(&d, at), t->target);
    }
    losses_kernel<<<(unsigned)(t->samples + THREADS - 1) / THREADS, THREADS, 0, c->stream>>>(
        loss, r, t->first, t->target, t->samples);
    for (int64_t at = 0; at < w->rows; at += d.width) {
        logits(&d, x, at, z);
        if (!cuda_launched(c, "loss"))
            return;
        slope_kernel<<<t->rows, THREADS, 0, c->stream>>>(dz, c->config.bf16, z, r, at,
                                                         chunk_cols(&d, at), t->target, d.shape);
        slope_back(&d, dz, at, dh);
    }
    (void)cuda_launched(c, "gradient of the loss");
}

/* ---- KL ---- */

/*
 * KL = sum p (z - zq) + log_sum(zq) - log_sum(z). Both sums run over the same chunks, and the
 * weights exp(z) in double: KL is a small difference of large terms.
 */
__global__ static void kl_kernel(struct partial *p, struct partial *q, const float *z,
                                 const float *zq, int64_t at, int64_t cols)
{
    int64_t row = blockIdx.x;
    z += row * cols;
    zq += row * cols;
    double top = row_top(z, cols), topq = row_top(zq, cols);
    double sum = 0, moved = 0, sumq = 0;
    for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) {
        double e = exp(z[i] - top);
        sum += e;
        moved += e * ((double)z[i] - zq[i]);
        sumq += exp(zq[i] - topq);
    }
    sum = block_sum(sum);
    moved = block_sum(moved);
    sumq = block_sum(sumq);
    keep(&p[row], partial{top, sum, moved}, at);
    keep(&q[row], partial{topq, sumq, 0}, at);
}

__global__ static void kl_result_kernel(double *kl, const struct partial *p,
                                        const struct partial *q, const int32_t *sample_of,
                                        int32_t rows)
{
    int32_t r = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x);
    if (r >= rows)
        return;
    double value = p[r].moved / p[r].sum + (q[r].top + log(q[r].sum)) - (p[r].top + log(p[r].sum));
    kl[r] = sample_of[r] < 0 ? 0 : value;
}

void cuda_kl(struct backend *b, const struct backend_tile *t, double *const *kl, const void *h,
             const void *const *hq, int count, const struct backend_head *head,
             struct backend_logits *kept)
{
    struct cuda_backend *c = cuda_of(b);
    const struct backend_weight *w = head->w;
    struct head_run d = head_of(c, t, head);
    size_t rows = (size_t)t->rows, hidden = rows * (size_t)w->cols, block = rows * (size_t)d.width;
    float *z = (float *)cuda_scratch(c, SCRATCH_Z, 2 * block * sizeof(float));
    struct partial *parts = (struct partial *)cuda_scratch(
        c, SCRATCH_HEAD, 2 * (size_t)count * rows * sizeof(struct partial));
    const bool made = kept && kept->made;
    /* every input once, in the compute type */
    size_t size = c->config.bf16 ? sizeof(bf16) : 0;
    char *typed = (char *)cuda_scratch(c, SCRATCH_PARTS, (size_t)(count + 1) * hidden * size);
    std::vector<const void *> x((size_t)count + 1);
    for (int k = made ? 1 : 0; k <= count && typed && z && parts; k++) {
        const void *from = gemm_input(c, k ? hq[k - 1] : h, (int64_t)hidden);
        x[(size_t)k] = size ? typed + (size_t)k * hidden * size : from;
        if (size && from)
            (void)cuda_check(c,
                             cudaMemcpyAsync(typed + (size_t)k * hidden * size, from, hidden * size,
                                             cudaMemcpyDeviceToDevice, c->stream),
                             "copying");
    }
    for (int64_t at = 0; at < w->rows && cuda_good(c); at += d.width) {
        float *reference = kept ? (float *)kept->z + (int64_t)rows * at : z;
        if (!made)
            logits(&d, x[0], at, reference);
        for (int k = 0; k < count; k++) {
            logits(&d, x[(size_t)k + 1], at, z + block);
            kl_kernel<<<t->rows, THREADS, 0, c->stream>>>(
                parts + (size_t)(2 * k) * rows, parts + (size_t)(2 * k + 1) * rows, reference,
                z + block, at, chunk_cols(&d, at));
        }
    }
    for (int k = 0; k < count && cuda_good(c); k++)
        kl_result_kernel<<<(unsigned)(t->rows + THREADS - 1) / THREADS, THREADS, 0, c->stream>>>(
            kl[k], parts + (size_t)(2 * k) * rows, parts + (size_t)(2 * k + 1) * rows, t->sample_of,
            t->rows);
    if (cuda_launched(c, "KL") && kept)
        kept->made = 1;
}

/* ---- logits ---- */

void cuda_logits(struct backend *b, const struct backend_tile *t, void *z, const void *h,
                 const struct backend_head *head)
{
    struct cuda_backend *c = cuda_of(b);
    struct head_run d = head_of(c, t, head);
    d.width = head->w->rows; /* the whole vocabulary is one chunk */
    const void *x = gemm_input(c, h, t->rows * head->w->cols);
    if (!x)
        return;
    logits(&d, x, 0, (float *)z);
    (void)cuda_launched(c, "logits");
}

/* ---- two distributions compared ---- */

struct place {
    double z;
    int64_t id;
};

/* The larger logit, of equal ones the lower id. */
__device__ static struct place better(const struct place &a, const struct place &b)
{
    return b.z > a.z || (b.z == a.z && b.id < a.id) ? b : a;
}

/* The same for the whole block, whatever the order; all threads get it. */
__device__ static struct place row_best(const float *z, int64_t n)
{
    __shared__ struct place part[THREADS];
    struct place best = {-INFINITY, n};
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        best = better(best, place{z[i], i});
    __syncthreads(); /* an earlier result may still be read */
    part[threadIdx.x] = best;
    __syncthreads();
    for (unsigned k = THREADS / 2; k > 0; k /= 2) {
        if (threadIdx.x < k)
            part[threadIdx.x] = better(part[threadIdx.x], part[threadIdx.x + k]);
        __syncthreads();
    }
    return part[0];
}

/* moved sums differences, which do not change with the top. */
__device__ static void join_side(struct backend_side *all, const struct backend_side &slice)
{
    if (slice.top > all->top) {
        double f = exp(all->top - slice.top);
        all->sum = all->sum * f + slice.sum;
        all->moved = all->moved * f + slice.moved;
        all->top = slice.top;
        all->best = slice.best;
    } else {
        double f = exp(slice.top - all->top);
        all->sum += slice.sum * f;
        all->moved += slice.moved * f;
    }
}

/* One block a row: z and zq (rows, ids), sides [rows][2]. */
__global__ static void compare_kernel(struct backend_side *sides, const float *z, const float *zq,
                                      int64_t at, int64_t ids, const int32_t *targets)
{
    int64_t row = blockIdx.x, target = targets[row] - at;
    if (targets[row] < 0)
        return;
    z += row * ids;
    zq += row * ids;
    sides += row * 2;
    const struct place best = row_best(z, ids), bestq = row_best(zq, ids);
    double sum = 0, moved = 0, sumq = 0, movedq = 0;
    for (int64_t i = threadIdx.x; i < ids; i += blockDim.x) {
        double away = (double)z[i] - zq[i], e = exp(z[i] - best.z), eq = exp(zq[i] - bestq.z);
        sum += e;
        moved += e * away;
        sumq += eq;
        movedq -= eq * away;
    }
    const struct backend_side p = {best.z, block_sum(sum), block_sum(moved), at + best.id, 0};
    const struct backend_side q = {bestq.z, block_sum(sumq), block_sum(movedq), at + bestq.id, 0};
    if (threadIdx.x != 0)
        return;
    if (at == 0) {
        sides[0] = p;
        sides[1] = q;
    } else {
        join_side(&sides[0], p);
        join_side(&sides[1], q);
    }
    if (target >= 0 && target < ids) {
        sides[0].target = z[target];
        sides[1].target = zq[target];
    }
}

void cuda_compare(struct backend *b, const struct backend_tile *t, struct backend_side *sides,
                  const void *z, const void *zq, int64_t at, int64_t ids)
{
    struct cuda_backend *c = cuda_of(b);
    if (!cuda_good(c))
        return;
    compare_kernel<<<t->rows, THREADS, 0, c->stream>>>(sides, (const float *)z, (const float *)zq,
                                                       at, ids, t->target);
    (void)cuda_launched(c, "comparing");
}
