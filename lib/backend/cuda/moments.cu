/*
 * Sums of magnitudes and second moments of activations in double. Second moments: rows of text in
 * double, then a product that adds to what is there. A tile has one shape, so that equal tiles give
 * equal bits in equal order.
 */
#include "backend/cuda/cuda.cuh"

/* to (rows, cols) = x, 0 in pad rows; rows without a token are 0 already. */
__global__ static void widen_rows(double *to, const float *x, int64_t cols,
                                  const int32_t *sample_of, const int32_t *first,
                                  const uint8_t *pad)
{
    int32_t row = (int32_t)blockIdx.x, s = sample_of[row];
    bool text = s >= 0 && !(pad[s] && first[s] == row);
    for (int64_t i = threadIdx.x; i < cols; i += THREADS)
        to[row * cols + i] = text ? (double)x[row * cols + i] : 0;
}

enum { NARROW = 64, AT_ONCE = 8 };

/* sums [cols] += |x|, a thread a column, rows in their order; several are fetched at once. */
__global__ static void add_magnitudes(double *sums, const float *x, int64_t cols,
                                      const int32_t *sample_of, const int32_t *first,
                                      const uint8_t *pad, int32_t from, int32_t to)
{
    const int64_t i = (int64_t)blockIdx.x * NARROW + threadIdx.x, end = first[to];
    if (i >= cols)
        return;
    double sum = sums[i];
    for (int64_t r = first[from]; r < end; r += AT_ONCE) {
        float v[AT_ONCE];
        for (int k = 0; k < AT_ONCE; k++)
            v[k] = r + k < end && !pad[sample_of[r + k]] ? x[(r + k) * cols + i] : 0;
        for (int k = 0; k < AT_ONCE; k++)
            sum += fabs((double)v[k]);
    }
    sums[i] = sum;
}

void cuda_magnitudes(struct backend *b, const struct backend_tile *t, const void *x, int64_t cols,
                     int32_t from, int32_t to, double *sums)
{
    struct cuda_backend *c = cuda_of(b);
    if (!cuda_good(c) || from >= to)
        return;
    add_magnitudes<<<(unsigned)((cols + NARROW - 1) / NARROW), NARROW, 0, c->stream>>>(
        sums, (const float *)x, cols, t->sample_of, t->first, t->pad, from, to);
    (void)cuda_launched(c, "magnitudes");
}

void cuda_moments(struct backend *b, const struct backend_tile *t, double *square, const void *x,
                  int64_t cols)
{
    struct cuda_backend *c = cuda_of(b);
    double *wide = (double *)cuda_scratch(c, SCRATCH_X, (size_t)(t->rows * cols) * sizeof *wide);
    if (!wide)
        return;
    widen_rows<<<(unsigned)t->rows, THREADS, 0, c->stream>>>(wide, (const float *)x, cols,
                                                             t->sample_of, t->first, t->pad);
    if (!cuda_launched(c, "rows of text"))
        return;
    struct doubles p = {cols, cols, t->rows, wide, cols, true, wide, cols, false, square, cols};
    p.alpha = p.beta = 1;
    doubles_run(c, &p);
}

/* Blocks of 32 x 32 elements of the upper triangle, each from the one below the diagonal. */
__global__ static void mirror_kernel(double *s, int64_t n)
{
    __shared__ double part[WARP][WARP + 1];
    int64_t col = (int64_t)blockIdx.x * WARP, row = (int64_t)blockIdx.y * WARP;
    int x = (int)threadIdx.x, y = (int)threadIdx.y;
    if (row > col)
        return;
    if (col + y < n && row + x < n)
        part[y][x] = s[(col + y) * n + row + x];
    __syncthreads();
    if (row + y < n && col + x < n && row + y < col + x)
        s[(row + y) * n + col + x] = part[x][y];
}

__global__ static void diagonal_kernel(double *to, const double *s, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n)
        to[i] = s[i * n + i];
}

int cuda_moments_end(struct backend *b, double *square, int64_t n, double *diagonal,
                     struct aq_err *err)
{
    struct cuda_backend *c = cuda_of(b);
    size_t bytes = (size_t)n * sizeof *diagonal;
    double *device = (double *)cuda_scratch(c, SCRATCH_SOLVE, bytes);
    unsigned blocks = (unsigned)((n + WARP - 1) / WARP);
    if (device) {
        mirror_kernel<<<dim3(blocks, blocks), dim3(WARP, WARP), 0, c->stream>>>(square, n);
        diagonal_kernel<<<(unsigned)((n + THREADS - 1) / THREADS), THREADS, 0, c->stream>>>(
            device, square, n);
        (void)cuda_launched(c, "moments");
    }
    return b->ops->download(b, diagonal, device, bytes, err);
}
