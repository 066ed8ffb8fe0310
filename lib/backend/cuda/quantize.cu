#include "backend/cuda/quantize.cuh"

#include <float.h>

/* ---- which cells ---- */

static struct num_format format_of(enum quant_number number)
{
    switch (number) {
    case QUANT_E5M2:
        return NUM_E5M2;
    case QUANT_E2M1:
        return NUM_E2M1;
    case QUANT_E3M2:
        return NUM_E3M2;
    case QUANT_E2M3:
        return NUM_E2M3;
    default:
        return NUM_E4M3; /* not read for integers */
    }
}

struct device_step step_of(const struct quant_step *t, int is_weight, int64_t rows, int64_t cols,
                           int32_t samples)
{
    struct device_step s = {};
    s.t = *t;
    s.op = t->scope == QUANT_NVFP4 ? STEP_RATIO : t->number == QUANT_INT ? STEP_INT : STEP_FLOAT;
    s.format = format_of(t->number);
    s.hi = (float)((1 << (t->bits - 1)) - 1);
    s.lo = t->scope == QUANT_MX ? -s.hi : -s.hi - 1;
    s.groups = CELL_BLOCKS;
    s.rows_each = 1;
    s.block = cols;
    switch (t->scope) {
    case QUANT_TENSOR:
        s.groups = !is_weight && t->dynamic ? CELL_SAMPLES : CELL_ALL_ROWS;
        break;
    case QUANT_AXIS1:
    case QUANT_HIDDEN:
        s.groups = CELL_ALL_ROWS;
        s.block = 1;
        break;
    case QUANT_BLOCK:
        s.rows_each = t->block_rows < rows ? t->block_rows : rows;
        s.block = t->block_cols < cols ? t->block_cols : cols;
        break;
    case QUANT_NVFP4:
    case QUANT_MX:
        s.block = t->block_cols < cols ? t->block_cols : cols;
        break;
    case QUANT_AXIS0:
    case QUANT_TOKEN:
        break;
    }
    s.grid_cols = (cols + s.block - 1) / s.block;
    int64_t groups = s.groups == CELL_ALL_ROWS  ? 1
                     : s.groups == CELL_SAMPLES ? samples
                                                : (rows + s.rows_each - 1) / s.rows_each;
    s.cells = groups * s.grid_cols;
    return s;
}

/* Is the row one of those that are taken? */
__device__ static bool row_taken(const struct sources &m, int job, int64_t row)
{
    return m.taken[job] == 0 || row < m.taken[job];
}

/* The row's first cell; -1: the row holds no token. */
__device__ static int64_t row_cell(const struct sources &m, const struct device_step &s, int job,
                                   int64_t row)
{
    int32_t sample = m.sample_of[job] ? m.sample_of[job][row] : 0;
    if (sample < 0)
        return -1;
    int64_t group = s.groups == CELL_ALL_ROWS  ? 0
                    : s.groups == CELL_SAMPLES ? sample
                                               : row / s.rows_each;
    return job * s.cells + group * s.grid_cols;
}

template <typename T> __device__ static float fetch(const T *x, int64_t i);
template <> __device__ float fetch(const float *x, int64_t i)
{
    return x[i];
}
template <> __device__ float fetch(const bf16 *x, int64_t i)
{
    return __bfloat162float(x[i]);
}

/* `n` neighbours from element i on, which is a multiple of n where n > 1 and the base is aligned.
 */
template <typename T, int n> __device__ static void fetch_some(float (&v)[n], const T *x, int64_t i)
{
    struct alignas(n * sizeof(T)) pack {
        T e[n];
    };
    struct pack p = *(const struct pack *)(x + i);
    for (int k = 0; k < n; k++)
        v[k] = fetch(p.e, k);
}

/* Are the scales computed from the row itself, block by block? */
static bool scales_in_blocks(const struct quant_step *t)
{
    return t->scope == QUANT_NVFP4 || t->scope == QUANT_MX ||
           (t->scope == QUANT_BLOCK && t->dynamic);
}

/* ---- largest magnitudes, as bits; the order of maxima does not matter ---- */

/* One cell a row and group of rows: a block has a row. */
template <typename T, int n>
__global__ static void row_ranges(uint32_t *cells, struct sources m, struct device_step s)
{
    int job = (int)blockIdx.y;
    int64_t row = blockIdx.x, cell = row_cell(m, s, job, row);
    if (cell < 0 || !row_taken(m, job, row))
        return;
    const T *x = (const T *)m.at[job] + row * m.cols;
    uint32_t top = 0;
    for (int64_t i = threadIdx.x * n; i < m.cols; i += THREADS * n) {
        float v[n];
        fetch_some<T, n>(v, x, i);
        for (int k = 0; k < n; k++)
            top = max(top, magnitude_bits(v[k]));
    }
    top = block_max(top);
    if (threadIdx.x == 0)
        atomicMax(&cells[cell], top);
}

/* Several cells a row: a warp has a cell. Blocks of activations pass over NaN. */
template <typename T>
__global__ static void block_ranges(uint32_t *cells, struct sources m, struct device_step s,
                                    int skip_nan)
{
    int job = (int)blockIdx.y, lane = (int)threadIdx.x % WARP;
    int64_t row = blockIdx.x, cell = row_cell(m, s, job, row);
    if (cell < 0 || !row_taken(m, job, row))
        return;
    const T *x = (const T *)m.at[job] + row * m.cols;
    for (int64_t k = threadIdx.x / WARP; k < s.grid_cols; k += THREADS / WARP) {
        int64_t from = k * s.block, to = min(from + s.block, m.cols);
        uint32_t top = 0;
        for (int64_t i = from + lane; i < to; i += WARP) {
            uint32_t u = magnitude_bits(fetch(x, i));
            top = skip_nan && u > 0x7f800000u ? top : max(top, u);
        }
        top = __reduce_max_sync(0xffffffffu, top);
        if (lane == 0)
            atomicMax(&cells[cell + k], top);
    }
}

/* The same where `lanes` threads with n neighbours each have a cell. */
template <typename T, int n>
__global__ static void group_ranges(uint32_t *cells, struct sources m, struct device_step s,
                                    int skip_nan, int lanes)
{
    int job = (int)blockIdx.y;
    int64_t row = blockIdx.x, cell = row_cell(m, s, job, row);
    if (cell < 0 || !row_taken(m, job, row))
        return;
    const T *x = (const T *)m.at[job] + row * m.cols;
    unsigned packs = (unsigned)m.cols / n;
    for (unsigned first = threadIdx.x / WARP * WARP; first < packs; first += THREADS) {
        unsigned at = first + threadIdx.x % WARP;
        uint32_t top = 0;
        if (at < packs) {
            float v[n];
            fetch_some<T, n>(v, x, (int64_t)at * n);
            for (int k = 0; k < n; k++) {
                uint32_t u = magnitude_bits(v[k]);
                top = skip_nan && u > 0x7f800000u ? top : max(top, u);
            }
        }
        for (int k = lanes / 2; k > 0; k /= 2)
            top = max(top, __shfl_xor_sync(0xffffffffu, top, k));
        if (at >= packs || at % (unsigned)lanes)
            continue;
        if (s.groups == CELL_BLOCKS && s.rows_each == 1)
            cells[cell + at / (unsigned)lanes] = top;
        else
            atomicMax(&cells[cell + at / (unsigned)lanes], top);
    }
}

enum { STRIP = 64 }; /* rows of a block of the next kernel */

/* A cell a column. */
template <typename T> __global__ static void column_ranges(uint32_t *cells, struct sources m)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, from = (int64_t)blockIdx.y * STRIP;
    if (i >= m.cols)
        return;
    uint32_t top = 0;
    for (int64_t r = from; r < min(from + STRIP, m.rows); r++)
        top = max(top, magnitude_bits(fetch((const T *)m.at[0], r * m.cols + i)));
    atomicMax(&cells[i], top);
}

static bool aligned(const struct sources *m, int64_t block, int64_t n)
{
    size_t bytes = (size_t)n * (m->is_bf16 ? sizeof(bf16) : sizeof(float));
    for (int i = 0; i < m->count; i++)
        if ((uintptr_t)m->at[i] % bytes)
            return false;
    return m->cols % n == 0 && block % n == 0;
}

template <typename T>
static void launch_ranges(struct cuda_backend *c, uint32_t *cells, const struct sources *m,
                          const struct device_step *s)
{
    enum { MANY = 16 / sizeof(T) };
    dim3 rows((unsigned)m->rows, (unsigned)m->count);
    if (s->block == 1 && s->grid_cols > 1) {
        dim3 grid((unsigned)((m->cols + THREADS - 1) / THREADS),
                  (unsigned)((m->rows + STRIP - 1) / STRIP));
        column_ranges<T><<<grid, THREADS, 0, c->stream>>>(cells, *m);
    } else if (s->grid_cols > 1) {
        int skip_nan = !m->is_weight && scales_in_blocks(&s->t);
        int64_t lanes = s->block / MANY;
        if (aligned(m, s->block, MANY) && lanes <= WARP && (lanes & (lanes - 1)) == 0)
            group_ranges<T, MANY>
                <<<rows, THREADS, 0, c->stream>>>(cells, *m, *s, skip_nan, (int)lanes);
        else
            block_ranges<T><<<rows, THREADS, 0, c->stream>>>(cells, *m, *s, skip_nan);
    } else if (aligned(m, s->block, MANY)) {
        row_ranges<T, MANY><<<rows, THREADS, 0, c->stream>>>(cells, *m, *s);
    } else {
        row_ranges<T, 1><<<rows, THREADS, 0, c->stream>>>(cells, *m, *s);
    }
}

bool step_ranges(struct cuda_backend *c, uint32_t *cells, const struct sources *m,
                 const struct device_step *s)
{
    size_t bytes = (size_t)(m->count * s->cells) * sizeof *cells;
    if (!cuda_check(c, cudaMemsetAsync(cells, 0, bytes, c->stream), "zeroing ranges"))
        return false;
    if (m->is_bf16)
        launch_ranges<bf16>(c, cells, m, s);
    else
        launch_ranges<float>(c, cells, m, s);
    return cuda_launched(c, "ranges");
}

/* ---- scales ---- */

/* A block's scale is e4m3 x whole; of it, and of the two apart. */
struct nvfp4 {
    float scale, e4m3, whole;
};

/*
 * From the block's largest, under the second-level range g. A scale that counts as zero is 1, which
 * is no e4m3 number times the whole: then `e4m3` is what it takes, and rounded with the codes. Codes
 * are zero there unless g is beyond 1e5, since m is below 6e-5 or below g / 450,000.
 */
__device__ static struct nvfp4 nvfp4_scale(float m, float g, bool calibrated)
{
    struct num_format format = {3, -6, 448.0F, 1};
    struct nvfp4 r;
    if (calibrated) {
        float recip = 1 / (g / 6 <= tiny_amax ? 1 : g / 6), mul = recip * format.max;
        r.e4m3 = num_round(m / 6 * mul, format);
        r.whole = 1 / mul;
        r.scale = r.e4m3 * r.whole;
        return r;
    }
    float gs = g / 2688; /* 6 * 448 */
    r.whole = gs > 0 ? gs : 1e-12F;
    r.e4m3 = num_round(m / (6 * r.whole), format);
    r.scale = r.e4m3 * r.whole;
    if (r.scale < 1e-5F) {
        r.scale = 1;
        r.e4m3 = 1 / r.whole;
    }
    return r;
}

__device__ static void mx_scales(const struct device_step &s, float m, float *mul, float *back)
{
    float max = s.op == STEP_INT ? s.hi : s.format.max;
    int e = m == 0 ? 0 : num_ceil_log2((m < FLT_MAX ? m : FLT_MAX) / max);
    *mul = num_from_e8m0((uint8_t)(127 - e));
    *back = s.op == STEP_INT ? *mul : num_from_e8m0((uint8_t)(127 + e));
}

struct scale_job {
    const uint32_t *cells; /* [count][cells]; NULL: the sources' own ranges */
    const uint32_t *top;   /* [count][tops]: second level of NVFP4; NULL: likewise */
    int64_t tops;
    float *mul, *back, *whole;
    int32_t *bad, number;
};

__device__ static float second_level(const struct scale_job &j, const struct sources &m,
                                     const struct device_step &s, int job, int64_t cell)
{
    if (!j.top)
        return m.range[job];
    int32_t group = m.sample_of[job] ? m.sample_of[job][cell / s.grid_cols] : 0;
    return group < 0 ? 0 : bits_magnitude(j.top[job * j.tops + group]);
}

__global__ static void scales_kernel(struct scale_job j, struct sources m, struct device_step s)
{
    int job = (int)blockIdx.y;
    int64_t cell = (int64_t)blockIdx.x * THREADS + threadIdx.x, at = job * s.cells + cell;
    if (cell >= s.cells)
        return;
    float amax = j.cells         ? bits_magnitude(j.cells[at])
                 : m.hidden[job] ? m.hidden[job][cell]
                                 : m.range[job];
    float g = s.t.scope == QUANT_NVFP4 ? second_level(j, m, s, job, cell) : amax;
    float mul = NAN, back = NAN;
    if (j.bad && !isfinite(amax))
        atomicMin(j.bad, j.number);
    if (s.t.scope == QUANT_MX)
        mx_scales(s, amax, &mul, &back);
    else if (isfinite(g) && s.t.scope == QUANT_NVFP4) {
        struct nvfp4 r = nvfp4_scale(amax, g, m.is_weight && !s.t.dynamic);
        mul = r.e4m3;
        back = r.scale;
        if (cell % s.grid_cols == 0)
            j.whole[job * m.rows + cell / s.grid_cols] = r.whole;
    } else if (isfinite(g))
        range_scales(s, amax, &mul, &back);
    if (s.t.scope == QUANT_NVFP4 && cell % s.grid_cols == 0 && !isfinite(g))
        j.whole[job * m.rows + cell / s.grid_cols] = NAN;
    j.mul[at] = mul;
    j.back[at] = back;
}

static int64_t most_tops(int64_t count, int32_t samples)
{
    return count * (samples > 1 ? samples : 1);
}

/* The rows of the matrices, where their scales have a part in common. */
static int64_t wholes(const struct device_step *s)
{
    return s->t.scope == QUANT_NVFP4 ? s->cells / s->grid_cols : 0;
}

size_t step_room(const struct device_step *s, int64_t count, int32_t samples)
{
    return (size_t)(count * (3 * s->cells + wholes(s)) + most_tops(count, samples)) * sizeof(float);
}

bool step_scales(struct cuda_backend *c, const struct sources *m, const struct device_step *s,
                 struct scales *out, int32_t *bad, int32_t number)
{
    int64_t cells = m->count * s->cells;
    float *mul = (float *)cuda_scratch(c, SCRATCH_RANGES, step_room(s, m->count, m->samples));
    uint32_t *bits = (uint32_t *)mul + 2 * cells, *top = bits + cells;
    float *whole = (float *)(top + most_tops(m->count, m->samples));
    struct scale_job j = {NULL, NULL, 1, mul, mul + cells, whole, bad, number};
    bool blocks = scales_in_blocks(&s->t);
    if (!mul)
        return false;
    if (m->is_weight || s->t.dynamic || blocks) {
        if (!step_ranges(c, bits, m, s) || (s->search && !search_ranges(c, bits, m, s)))
            return false;
        j.cells = bits;
    }
    bool given = m->is_weight && m->range[0] > 0; /* that of all members of a group */
    if (s->t.scope == QUANT_NVFP4 && (m->is_weight || s->t.dynamic) && !given) {
        struct quant_step tensor = s->t;
        tensor.scope = QUANT_TENSOR;
        tensor.dynamic = !m->is_weight;
        struct device_step whole = step_of(&tensor, m->is_weight, m->rows, m->cols, m->samples);
        if (!step_ranges(c, top, m, &whole))
            return false;
        j.top = top;
        j.tops = whole.cells;
    }
    dim3 grid((unsigned)((s->cells + THREADS - 1) / THREADS), (unsigned)m->count);
    scales_kernel<<<grid, THREADS, 0, c->stream>>>(j, *m, *s);
    *out = scales{mul, mul + cells, whole};
    return cuda_launched(c, "scales");
}

/* ---- elements ---- */

/* Beyond the last code by more than its rounding. */
__device__ static bool is_clipped(const struct device_step &s, float x, float mul, float back,
                                  float limit)
{
    if (!isfinite(x))
        return false;
    if (s.op == STEP_INT) {
        float q = rintf(x * mul);
        return q < s.lo || q > s.hi;
    }
    return fabsf(s.op == STEP_RATIO ? x / back : x * mul) > limit;
}

/* Half a step above the largest number. */
static float clip_limit(const struct device_step *s)
{
    int e = (int)(num_bits(s->format.max) >> 23) - 127;
    return s->format.max + num_pow2(e - s->format.man - 1);
}

/* n neighbours as bf16, or as the terms whose sum they are. */
template <int form, int n>
__device__ static void put_bf16(bf16 *to, int64_t plane, int64_t i, const float (&v)[n])
{
    struct alignas(n * sizeof(bf16)) pack {
        bf16 e[n];
    } p;
    float rest[n];
    for (int k = 0; k < n; k++)
        rest[k] = v[k];
    for (int term = 0; term < (form == FORM_TERMS ? 3 : 1); term++) {
        for (int k = 0; k < n; k++) {
            p.e[k] = __float2bfloat16_rn(rest[k]);
            rest[k] -= __bfloat162float(p.e[k]);
        }
        *(struct pack *)(to + term * plane + i) = p;
    }
}

__device__ static constexpr bool keeps_codes(int form)
{
    return form == FORM_CODES || form == FORM_BLOCKS;
}

template <int form, int n>
__device__ static void put(void *to, int64_t plane, int64_t i, const float (&code)[n],
                           const float (&value)[n])
{
    if constexpr (form == FORM_F32 || form == FORM_F32_VIA_BF16) {
        for (int k = 0; k < n; k++)
            ((float *)to)[i + k] = form == FORM_F32 ? value[k] : round_bf16(value[k]);
    } else {
        put_bf16<form, n>((bf16 *)to, plane, i, keeps_codes(form) ? code : value);
    }
}

/* A block has a row; a thread takes n neighbours, which share a cell. */
template <typename T, int form, int n, bool count_clipped>
__global__ static void apply_kernel(struct sources m, struct device_step s, struct scales scales,
                                    struct quantized q, float limit)
{
    int job = (int)blockIdx.y;
    int64_t row = blockIdx.x, all = m.base[job] + row;
    if (!row_taken(m, job, row))
        return;
    int64_t cell = row_cell(m, s, job, row);
    const T *x = (const T *)m.at[job] + row * m.cols;
    uint32_t clipped = 0;
    for (unsigned i = threadIdx.x * n; i < (unsigned)m.cols; i += THREADS * n) {
        float v[n] = {}, code[n] = {}, value[n] = {};
        if (cell >= 0) {
            int64_t at = cell + (s.grid_cols == 1 ? 0 : i / (unsigned)s.block);
            float mul = s.op == STEP_COPY ? 0 : scales.mul[at];
            float back = s.op == STEP_COPY ? 0 : scales.back[at];
            fetch_some<T, n>(v, x, i);
            for (int k = 0; k < n; k++) {
                code[k] = code_of(s, v[k], mul, back);
                value[k] = keeps_codes(form) ? 0 : value_of(s, code[k], back);
                if (form == FORM_CODES && s.op == STEP_RATIO)
                    code[k] *= mul;
                if (count_clipped)
                    clipped += is_clipped(s, v[k], mul, back, limit);
            }
        }
        put<form, n>(q.to, q.plane, all * m.cols + i, code, value);
    }
    if (form == FORM_CODES && threadIdx.x == 0) {
        float back = cell < 0 ? 0 : s.op == STEP_RATIO ? scales.whole[job * m.rows + row]
                                                       : scales.back[cell];
        q.row_scale[all] = cell >= 0 && s.op == STEP_INT ? 1 / back : back;
    }
    if (count_clipped) {
        double sum = block_sum((double)clipped);
        if (threadIdx.x == 0)
            q.clipped[all] = (uint32_t)sum;
    }
}

template <typename T, int form, int n>
static void launch_apply(struct cuda_backend *c, const struct sources *m,
                         const struct device_step *s, const struct scales *k,
                         const struct quantized *q)
{
    dim3 grid((unsigned)m->rows, (unsigned)m->count);
    if (q->clipped)
        apply_kernel<T, form, n, true>
            <<<grid, THREADS, 0, c->stream>>>(*m, *s, *k, *q, clip_limit(s));
    else
        apply_kernel<T, form, n, false><<<grid, THREADS, 0, c->stream>>>(*m, *s, *k, *q, 0);
}

/* A thread has a row. */
__global__ static void ratios_kernel(struct sources m, struct device_step s, struct scales scales,
                                     struct quantized q)
{
    int job = (int)blockIdx.y;
    int64_t row = (int64_t)blockIdx.x * THREADS + threadIdx.x, all = m.base[job] + row;
    if (row >= m.rows || !row_taken(m, job, row))
        return;
    int64_t cell = row_cell(m, s, job, row);
    float before = 1;
    for (int64_t b = 0; b < s.grid_cols; b++) {
        float back = cell < 0 ? 1 : scales.back[cell + b];
        q.ratio[b * q.stride + all] = s.op == STEP_INT ? back / before : before / back;
        before = back;
    }
    q.row_scale[all] = s.op == STEP_INT ? 1 / before : before;
}

static void launch_ratios(struct cuda_backend *c, const struct sources *m,
                          const struct device_step *s, const struct scales *k,
                          const struct quantized *q)
{
    dim3 grid((unsigned)((m->rows + THREADS - 1) / THREADS), (unsigned)m->count);
    ratios_kernel<<<grid, THREADS, 0, c->stream>>>(*m, *s, *k, *q);
}

template <typename T, int n>
static void choose_form(struct cuda_backend *c, const struct sources *m,
                        const struct device_step *s, const struct scales *k,
                        const struct quantized *q)
{
    switch (q->form) {
    case FORM_F32:
        return launch_apply<T, FORM_F32, n>(c, m, s, k, q);
    case FORM_F32_VIA_BF16:
        return launch_apply<T, FORM_F32_VIA_BF16, n>(c, m, s, k, q);
    case FORM_BF16:
        return launch_apply<T, FORM_BF16, n>(c, m, s, k, q);
    case FORM_CODES:
        return launch_apply<T, FORM_CODES, n>(c, m, s, k, q);
    case FORM_BLOCKS:
        launch_apply<T, FORM_BLOCKS, n>(c, m, s, k, q);
        return launch_ratios(c, m, s, k, q);
    case FORM_TERMS:
        return launch_apply<T, FORM_TERMS, n>(c, m, s, k, q);
    }
}

void step_apply(struct cuda_backend *c, const struct sources *m, const struct device_step *s,
                const struct scales *scales, const struct quantized *q)
{
    enum { MANY = 4 };
    bool many = aligned(m, s->block, MANY);
    if (!cuda_good(c))
        return;
    if (m->is_bf16 && many)
        choose_form<bf16, MANY>(c, m, s, scales, q);
    else if (m->is_bf16)
        choose_form<bf16, 1>(c, m, s, scales, q);
    else if (many)
        choose_form<float, MANY>(c, m, s, scales, q);
    else
        choose_form<float, 1>(c, m, s, scales, q);
    (void)cuda_launched(c, "quantizing");
}
