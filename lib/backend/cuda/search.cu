/*
 * Ranges and block scales of weights by the squared error of their elements, as lib/quant/search.c
 * finds them, with its sums in its order.
 */
#include "backend/cuda/quantize.cuh"

#include "quant/multiples.h"

/* ---- ranges by multiples of their largest magnitudes: a thread has a trial of a range ---- */

enum { TRIALS = (QUANT_MULTIPLES + WARP - 1) / WARP * WARP }; /* threads of a block */

struct multiplying {
    const void *w; /* (rows, cols) */
    int is_bf16;
    int64_t rows, cols, each; /* each: rows of a range */
    struct device_step s;
    uint32_t *cells; /* [ranges] */
    double *sums;    /* [rows][trials], of ranges over whole rows; NULL: none */
    int trials;
    float multiple[QUANT_MULTIPLES];
};

/* The range becomes the first multiple with the least error; a thread of the block has each. */
__device__ static void keep_least(const struct multiplying &j, int64_t cell, double loss)
{
    __shared__ double least[TRIALS / WARP];
    __shared__ int at[TRIALS / WARP];
    int k = (int)threadIdx.x, lane = k % WARP, warp = k / WARP;
    if (k >= j.trials)
        loss = INFINITY;
    for (int step = WARP / 2; step > 0; step /= 2) {
        double other = __shfl_down_sync(0xffffffffu, loss, step);
        int from = __shfl_down_sync(0xffffffffu, k, step);
        if (lane + step < WARP && (other < loss || (other == loss && from < k))) {
            loss = other;
            k = from;
        }
    }
    if (lane == 0) {
        least[warp] = loss;
        at[warp] = k;
    }
    __syncthreads();
    if (threadIdx.x)
        return;
    int best = 0;
    for (int i = 1; i < TRIALS / WARP; i++)
        if (least[i] < least[best])
            best = i;
    j.cells[cell] = __float_as_uint(bits_magnitude(j.cells[cell]) * j.multiple[at[best]]);
}

/* A block of threads has a range; where there are sums, a row, whose error is kept there. */
__global__ static void multiples_kernel(struct multiplying j)
{
    __shared__ float some[TRIALS];
    __shared__ double exact[TRIALS];
    const struct device_step &s = j.s;
    const int64_t unit = blockIdx.x, each = j.sums ? 1 : j.each;
    const int64_t row = unit / s.grid_cols * each, first = unit % s.grid_cols * s.block;
    const int64_t cell = j.sums ? row / j.each : unit;
    const int64_t width = j.cols - first < s.block ? j.cols - first : s.block;
    const int64_t all = width * (j.rows - row < each ? j.rows - row : each);
    const int k = (int)threadIdx.x;
    float mul, back;
    double loss = 0, sum = 0;
    range_scales(s, bits_magnitude(j.cells[cell]) * j.multiple[k < j.trials ? k : 0], &mul, &back);
    for (int64_t from = 0, at = 0; from < all; from += TRIALS) {
        __syncthreads();
        if (from + k < all) {
            const int64_t i = from + k;
            some[k] = load_weight(j.w, j.is_bf16, (row + i / width) * j.cols + first + i % width);
            exact[k] = (double)some[k];
        }
        __syncthreads();
        const int count = (int)(all - from < TRIALS ? all - from : TRIALS);
        for (int i = 0; i < count; i++) {
            double e = (double)value_of(s, code_of(s, some[i], mul, back), back) - exact[i];
            sum += e * e;
            if (++at == width) { /* a row's errors come together first */
                loss += sum;
                sum = 0;
                at = 0;
            }
        }
    }
    if (!j.sums)
        keep_least(j, cell, loss);
    else if (k < j.trials)
        j.sums[unit * j.trials + k] = loss;
}

/* The rows' errors of a range in their order. */
__global__ static void rows_kernel(struct multiplying j)
{
    const int64_t from = blockIdx.x * j.each;
    const int64_t to = from + j.each < j.rows ? from + j.each : j.rows;
    double loss = 0;
    for (int64_t r = from; r < to && (int)threadIdx.x < j.trials; r++)
        loss += j.sums[r * j.trials + (int)threadIdx.x];
    keep_least(j, blockIdx.x, loss);
}

bool search_ranges(struct cuda_backend *c, uint32_t *cells, const struct sources *m,
                   const struct device_step *s)
{
    struct multiplying j = {m->at[0], m->is_bf16, m->rows, m->cols};
    j.each = s->groups == CELL_ALL_ROWS ? m->rows : s->rows_each;
    j.s = *s;
    j.cells = cells;
    j.trials = quant_multiples(s->search == SEARCH_MODELOPT, j.multiple);
    if (s->grid_cols > 1 || j.each == 1) {
        multiples_kernel<<<(unsigned)s->cells, TRIALS, 0, c->stream>>>(j);
        return cuda_launched(c, "a search of ranges");
    }
    j.sums = (double *)cuda_scratch(c, SCRATCH_PARTS,
                                    (size_t)(m->rows * j.trials) * sizeof *j.sums);
    if (!j.sums)
        return false;
    multiples_kernel<<<(unsigned)m->rows, TRIALS, 0, c->stream>>>(j);
    rows_kernel<<<(unsigned)s->cells, TRIALS, 0, c->stream>>>(j);
    return cuda_launched(c, "a search of ranges");
}

/* ---- NVFP4: sweep and four over six; a thread has a block ---- */

enum { E4M3_SCALES = 126, USUAL = 16 /* elements of a block */ };

struct searching {
    const void *w; /* (rows, cols) */
    int is_bf16;
    float *to; /* (rows, cols) */
    int64_t rows, cols, block, grid_cols;
    enum quant_choice choice;
    struct num_format format;
    int to_bf16;         /* round what comes back */
    float given;         /* the largest magnitude of all members of a group, or 0: */
    const uint32_t *top; /* the weight's own, as bits */
    int32_t *bad, number;
};

/* The k-th scale that is tried; of a block that rounds to nothing it is 1. */
__device__ static float tried_scale(const struct searching &j, int k, float second, float most)
{
    float scale = j.choice == QUANT_SWEEP ? num_from_e4m3((uint8_t)(k + 1)) * second
                                          : num_round(most * (k ? 1.5F : 1.0F) / (6 * second),
                                                      num_format{3, -6, 448.0F, 1}) *
                                                second;
    return scale > 0 ? scale : 1;
}

__device__ static float value_under(const struct searching &j, float x, float scale)
{
    float q = fabsf(num_round(fabsf(x) / scale, j.format));
    return (x >= 0 ? q : -q) * scale;
}

/* n: elements of every block, kept in registers; 0: any number. */
template <int n> __global__ static void search_kernel(struct searching j)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int64_t row = i / j.grid_cols, first = i % j.grid_cols * j.block,
                  at = row * j.cols + first;
    if (row >= j.rows)
        return;
    const int count = n ? n : (int)(j.cols - first < j.block ? j.cols - first : j.block);
    const int trials = j.choice == QUANT_SWEEP ? E4M3_SCALES : 2;
    const float amax = j.given > 0 ? j.given : bits_magnitude(*j.top);
    const float levels = j.choice == QUANT_SWEEP ? 2688 : 1536; /* 6 * 448, 6 * 256 */
    const float second = amax / levels > 0 ? amax / levels : 1e-12F;
    float x[n ? n : 1], most = 0, found = 0;
    double least = 0;
    for (int k = 0; k < count; k++) {
        float one = load_weight(j.w, j.is_bf16, at + k);
        if (n)
            x[n ? k : 0] = one;
        if (!isfinite(one))
            atomicMin(j.bad, j.number);
        most = fabsf(one) > most ? fabsf(one) : most;
    }
    for (int t = 0; t < trials; t++) {
        const float scale = tried_scale(j, t, second, most);
        double sum = 0;
#pragma unroll
        for (int k = 0; k < count; k++) {
            const float one = n ? x[n ? k : 0] : load_weight(j.w, j.is_bf16, at + k);
            const double e = (double)value_under(j, one, scale) - (double)one;
            sum += e * e;
        }
        if (t == 0 || sum < least) {
            least = sum;
            found = scale;
        }
    }
    for (int k = 0; k < count; k++) {
        const float y =
            value_under(j, n ? x[n ? k : 0] : load_weight(j.w, j.is_bf16, at + k), found);
        j.to[at + k] = j.to_bf16 ? round_bf16(y) : y;
    }
}

bool search_nvfp4(struct cuda_backend *c, const struct sources *m, const struct quant_spec *spec,
                  bool to_bf16, float *to, int32_t number)
{
    const struct device_step s = step_of(&spec->step[0], 1, m->rows, m->cols, 1);
    struct quant_step tensor = spec->step[0];
    tensor.scope = QUANT_TENSOR;
    const struct device_step whole = step_of(&tensor, 1, m->rows, m->cols, 1);
    uint32_t *top = (uint32_t *)cuda_scratch(c, SCRATCH_RANGES, sizeof *top);
    if (!top || !step_ranges(c, top, m, &whole))
        return false;
    struct searching j = {m->at[0], m->is_bf16, to, m->rows, m->cols, s.block, s.grid_cols};
    j.choice = spec->methods.choice;
    j.format = s.format;
    j.to_bf16 = to_bf16;
    j.given = m->range[0];
    j.top = top;
    j.bad = c->bad;
    j.number = number;
    const unsigned blocks = (unsigned)((m->rows * s.grid_cols + THREADS - 1) / THREADS);
    if (s.block == USUAL && m->cols % USUAL == 0)
        search_kernel<USUAL><<<blocks, THREADS, 0, c->stream>>>(j);
    else
        search_kernel<0><<<blocks, THREADS, 0, c->stream>>>(j);
    return cuda_launched(c, "a search of block scales");
}
