#include "quant/gptq.h"

#include "base/mem.h"
#include "base/num.h"
#include "quant/dense.h"
#include "quant/plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the factor ---- */

static size_t factor_bytes(int64_t n)
{
    return (size_t)n * (size_t)n * sizeof(double);
}

struct diagonal {
    double value;
    int64_t column;
};

/* By falling value; equal ones as they come. */
static int by_value(const void *a, const void *b)
{
    const struct diagonal *x = a, *y = b;
    if (x->value != y->value)
        return x->value < y->value ? 1 : -1;
    return (x->column > y->column) - (x->column < y->column);
}

static double moment(const double *moments, int64_t n, const float *scale, int64_t i, int64_t j)
{
    double x = moments[i * n + j];
    return scale ? x / ((double)scale[i] * (double)scale[j]) : x;
}

static int find_order(const double *diagonal, int64_t n, bool plain_order, int64_t *order,
                      struct aq_err *err)
{
    struct diagonal *d = xcalloc((size_t)n, sizeof *d);
    int r = 0;
    for (int64_t i = 0; i < n && r == 0; i++) {
        d[i] = (struct diagonal){diagonal[i], i};
        if (!isfinite(d[i].value) || d[i].value < 0)
            r = aq_err_set(err, AQ_ERUN, "the second moment of column %lld is %g", (long long)i,
                           d[i].value);
    }
    if (r == 0 && !plain_order)
        qsort(d, (size_t)n, sizeof *d, by_value);
    for (int64_t i = 0; i < n; i++)
        order[i] = d[i].column;
    free(d);
    return r;
}

int gptq_find_factor(const struct gptq_factoring *by, const double *diagonal, int64_t n,
                     const struct quant_methods *methods, int64_t *order, double *damp,
                     struct aq_err *err)
{
    enum { TRIALS = 4 };
    double mean = 0;
    if (find_order(diagonal, n, methods->plain_order, order, err) < 0)
        return -1;
    for (int64_t i = n - 1; i >= 0; i--)
        mean += (diagonal[order[i]] > 0 ? diagonal[order[i]] : 1) / (double)n;
    *damp = methods->damp;
    for (int i = 0; i < TRIALS; i++, *damp *= 10) {
        int r = by->factor(by->arg, order, *damp * mean, err);
        if (r <= 0)
            return r;
    }
    return aq_err_set(err, AQ_ERUN,
                      "the second moments have no factor, though %g of their mean was added",
                      *damp / 10);
}

struct filling {
    struct gptq_factor *f;
    const double *moments;
    const float *scale;
    double added; /* to the diagonal */
};

enum { FILL_ROWS = 16 };

/* Rows of the lower triangle of the moments, columns from the last of the order to the first. */
static void fill_unit(void *arg, int64_t unit, int worker)
{
    const struct filling *j = arg;
    const struct gptq_factor *f = j->f;
    int64_t n = f->n, end = (unit + 1) * FILL_ROWS < n ? (unit + 1) * FILL_ROWS : n;
    (void)worker;
    for (int64_t i = unit * FILL_ROWS; i < end; i++) {
        const int64_t at = f->order[n - 1 - i];
        double *row = f->u + i * n;
        for (int64_t k = 0; k <= i; k++)
            row[k] = moment(j->moments, n, j->scale, at, f->order[n - 1 - k]);
        row[i] = (row[i] > 0 ? row[i] : 1) + j->added;
    }
}

/* Elements from the front with those from the back. */
static void reverse_unit(void *arg, int64_t unit, int worker)
{
    const struct filling *j = arg;
    int64_t n = j->f->n, all = n * n, from = unit * FILL_ROWS * n, end = from + FILL_ROWS * n;
    double *front = j->f->u, *back = front + all - 1;
    (void)worker;
    for (int64_t i = from; i < end && i < all / 2; i++) {
        double x = front[i];
        front[i] = back[-i];
        back[-i] = x;
    }
}

struct attempt {
    struct gptq_factor *f;
    struct aq_pool *pool;
    const double *moments;
    const float *scale;
};

static int try_factor(void *arg, const int64_t *order, double added, struct aq_err *err)
{
    const struct attempt *t = arg;
    struct gptq_factor *f = t->f;
    int64_t n = f->n, units = (n + FILL_ROWS - 1) / FILL_ROWS;
    struct filling fill = {f, t->moments, t->scale, added};
    (void)order; /* the factor's own */
    (void)err;
    aq_pool_run(t->pool, units, fill_unit, &fill);
    if (dense_cholesky(t->pool, f->u, n) >= 0)
        return 1;
    dense_invert_lower(t->pool, f->u, n);
    aq_pool_run(t->pool, units, reverse_unit, &fill);
    for (int64_t i = 0; i < n; i++)
        if (!(f->u[i * n + i] > 0) || !isfinite(f->u[i * n + i]))
            return 1;
    return 0;
}

int gptq_factor(struct gptq_factor *f, struct aq_pool *pool, const double *moments, int64_t n,
                const float *scale, const struct quant_methods *methods, double *damp,
                struct aq_err *err)
{
    struct attempt t = {f, pool, moments, scale};
    const struct gptq_factoring by = {try_factor, &t};
    *f = (struct gptq_factor){.n = n, .order = xcalloc((size_t)n, sizeof *f->order)};
    f->u = aq_big_alloc(factor_bytes(n), "a factor of second moments", err);
    if (!f->u)
        return -1;
    double *diagonal = xmalloc((size_t)n * sizeof *diagonal);
    for (int64_t i = 0; i < n; i++)
        diagonal[i] = moment(moments, n, scale, i, i);
    int r = gptq_find_factor(&by, diagonal, n, methods, f->order, damp, err);
    free(diagonal);
    return r;
}

void gptq_factor_release(struct gptq_factor *f)
{
    free(f->order);
    aq_big_free(f->u, factor_bytes(f->n));
    *f = (struct gptq_factor){0};
}

/* ---- codes ---- */

/* Rows of a weight that are worked on together, a lane of the vector each. */
enum { LANES = 8 };
typedef double lanes __attribute__((vector_size(LANES * sizeof(double)), aligned(8)));

struct job {
    const struct gptq_factor *f;
    const struct plan_step *step;
    const struct quant_grid *grid;
    const float *weight; /* (rows, n) */
    const float *ranges;
    double *w;      /* (n, padded rows): columns in the order */
    double *errors; /* (block, padded rows) */
    double *scales; /* [padded rows / LANES][grid columns][2][LANES]: to codes, and back */
    double *room;   /* [workers][block][LANES] */
    int8_t *codes;  /* (rows, n) */
    int64_t rows, padded, block, first, width; /* columns first to first + width are at work */
};

static int64_t lanes_of(const struct job *j, int64_t unit)
{
    return j->rows - unit * LANES < LANES ? j->rows - unit * LANES : LANES;
}

/* What LANES rows need: their weights in the order, and scales. Rows beyond the last are 0. */
static void load_unit(void *arg, int64_t unit, int worker)
{
    const struct job *j = arg;
    const int64_t n = j->f->n, rows = lanes_of(j, unit), r0 = unit * LANES;
    double *scales = j->scales + r0 * j->grid->grid_cols * 2;
    (void)worker;
    for (int64_t c = 0; c < n; c++) {
        const float *from = j->weight + r0 * n + j->f->order[c];
        double *to = j->w + c * j->padded + r0;
        for (int64_t i = 0; i < LANES; i++)
            to[i] = i < rows ? (double)from[i * n] : 0;
    }
    for (int64_t b = 0; b < j->grid->grid_cols; b++, scales += (size_t)2 * LANES)
        for (int64_t i = 0; i < LANES; i++) {
            float mul = 0, back = 1;
            if (i < rows)
                plan_scales(j->step,
                            j->ranges[(r0 + i) / j->grid->rows_each * j->grid->grid_cols + b], &mul,
                            &back);
            scales[i] = (double)mul;
            scales[LANES + i] = (double)back;
        }
}

/* LANES rows through the columns of the block. */
static inline __attribute__((always_inline)) void block_codes(const struct job *j, int64_t unit,
                                                              lanes *w)
{
    const int64_t n = j->f->n, rows = lanes_of(j, unit), r0 = unit * LANES;
    const double *scales = j->scales + r0 * j->grid->grid_cols * 2;
    const double lo = (double)j->step->lo, hi = (double)j->step->hi;
    for (int64_t c = 0; c < j->width; c++)
        w[c] = *(const lanes *)(j->w + (j->first + c) * j->padded + r0);
    for (int64_t c = 0; c < j->width; c++) {
        const double *u = j->f->u + (j->first + c) * n + j->first;
        int64_t column = j->f->order[j->first + c];
        const double *scale = scales + column / j->grid->block * 2 * LANES;
        lanes q = w[c] * *(const lanes *)scale;
        for (int i = 0; i < LANES; i++) {
            q[i] = __builtin_rint(q[i]);
            q[i] = q[i] < lo ? lo : q[i] > hi ? hi : q[i];
        }
        for (int64_t i = 0; i < rows; i++)
            j->codes[(r0 + i) * n + column] = (int8_t)q[i];
        lanes e = (w[c] - q / *(const lanes *)(scale + LANES)) / u[c];
        *(lanes *)(j->errors + c * j->padded + r0) = e;
        for (int64_t k = c + 1; k < j->width; k++)
            w[k] -= e * u[k];
    }
}

/* gcc uses half registers unless it is told otherwise; clang uses those that a type fills, and has
 * no such word. */
#if defined(__clang__)
#define WHOLE_REGISTERS ""
#else
#define WHOLE_REGISTERS ",prefer-vector-width=512"
#endif

typedef void block_fn(const struct job *j, int64_t unit, lanes *w);

static void block_plain(const struct job *j, int64_t unit, lanes *w)
{
    block_codes(j, unit, w);
}

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512dq" WHOLE_REGISTERS))) static void
block_avx512(const struct job *j, int64_t unit, lanes *w)
{
    block_codes(j, unit, w);
}

__attribute__((target("avx2"))) static void block_avx2(const struct job *j, int64_t unit, lanes *w)
{
    block_codes(j, unit, w);
}
#endif

/* The kernel of three that fills the machine's widest registers: 0 plain, 1 AVX2, 2 AVX-512. */
static int widest(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        return 2;
    if (__builtin_cpu_supports("avx2"))
        return 1;
#endif
    return 0;
}

static block_fn *const block_kernels[] = {
    block_plain,
#if defined(__x86_64__)
    block_avx2,
    block_avx512,
#endif
};

static void block_unit(void *arg, int64_t unit, int worker)
{
    const struct job *j = arg;
    block_kernels[widest()](j, unit, (lanes *)(j->room + worker * j->block * LANES));
}

float quant_stored_range(const struct quant_spec *spec, float range)
{
    float hi = (float)((1 << (spec->step[0].bits - 1)) - 1);
    float stored = num_from_bf16(num_to_bf16(range / hi)) * hi; /* 8 bits times at most 7: exact */
    return spec->step[0].number == QUANT_INT && stored > 0 && isfinite(stored) ? stored : range;
}

/* The largest magnitude of every range. */
static void find_ranges(const struct quant_grid *grid, const float *w, int64_t rows, int64_t cols,
                        float *ranges)
{
    memset(ranges, 0, (size_t)(grid->grid_rows * grid->grid_cols) * sizeof *ranges);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t b = 0; b < grid->grid_cols; b++) {
            float *a = &ranges[r / grid->rows_each * grid->grid_cols + b];
            int64_t from = b * grid->block, left = cols - from;
            float most = quant_absmax(w + r * cols + from, NUM_F32,
                                      (size_t)(left < grid->block ? left : grid->block));
            *a = most > *a ? most : *a;
        }
}

void gptq_ranges(const struct quant_spec *spec, const float *w, int64_t rows, int64_t n,
                 float *ranges)
{
    struct quant_grid grid;
    (void)quant_weight_grid(spec, rows, n, &grid);
    find_ranges(&grid, w, rows, n, ranges);
    for (int64_t i = 0; !spec->methods.plain_order && i < grid.grid_rows * grid.grid_cols; i++)
        ranges[i] = quant_stored_range(spec, ranges[i]);
}

int gptq_codes(struct aq_pool *pool, const struct gptq_factor *f, const struct quant_spec *spec,
               const float *w, int64_t rows, const float *ranges, int8_t *codes, struct aq_err *err)
{
    struct quant_grid grid;
    struct plan_step step;
    const int64_t n = f->n;
    plan_step_init(&step, &spec->step[0]);
    (void)quant_weight_grid(spec, rows, n, &grid);
    const int64_t padded = aq_round_up(rows, LANES), block = aq_least(spec->methods.block, n);
    struct job j = {.f = f,
                    .step = &step,
                    .grid = &grid,
                    .weight = w,
                    .ranges = ranges,
                    .codes = codes,
                    .rows = rows,
                    .padded = padded,
                    .block = block};
    size_t parts[] = {(size_t)(padded * n), (size_t)(padded * block),
                      (size_t)(padded * grid.grid_cols * 2),
                      (size_t)(aq_pool_threads(pool) * block * LANES)};
    size_t bytes = (parts[0] + parts[1] + parts[2] + parts[3]) * sizeof *j.w;
    j.w = aq_big_alloc(bytes, "a weight whose codes are solved", err);
    if (!j.w)
        return -1;
    j.errors = j.w + parts[0];
    j.scales = j.errors + parts[1];
    j.room = j.scales + parts[2];
    aq_pool_run(pool, padded / LANES, load_unit, &j);
    for (j.first = 0; j.first < n; j.first += block) {
        j.width = aq_least(n - j.first, block);
        aq_pool_run(pool, padded / LANES, block_unit, &j);
        int64_t rest = j.first + j.width;
        const struct dense_product pass_on = {.m = n - rest,
                                              .n = padded,
                                              .k = j.width,
                                              .a = {f->u + j.first * n + rest, 1, n},
                                              .b = {j.errors, padded, 1},
                                              .c = j.w + rest * padded,
                                              .ld = padded,
                                              .sign = -1};
        dense_multiply(pool, &pass_on);
    }
    aq_big_free(j.w, bytes);
    return 0;
}

/* ---- errors of outputs ---- */

struct difference {
    const float *a, *b;         /* (rows, n) */
    double *d, *through, *sums; /* (rows, n) twice; [rows] */
    int64_t n;
};

static void subtract_unit(void *arg, int64_t row, int worker)
{
    const struct difference *j = arg;
    (void)worker;
    for (int64_t i = row * j->n; i < (row + 1) * j->n; i++) {
        j->d[i] = (double)j->a[i] - (double)j->b[i];
        j->through[i] = 0;
    }
}

static void dot_unit(void *arg, int64_t row, int worker)
{
    const struct difference *j = arg;
    double sum = 0;
    (void)worker;
    for (int64_t i = row * j->n; i < (row + 1) * j->n; i++)
        sum += j->d[i] * j->through[i];
    j->sums[row] = sum;
}

double moments_error(struct aq_pool *pool, const double *moments, int64_t n, const float *a,
                     const float *b, int64_t rows)
{
    struct difference j = {.a = a, .b = b, .n = n};
    j.d = xmalloc((size_t)((2 * n + 1) * rows) * sizeof *j.d);
    j.through = j.d + rows * n;
    j.sums = j.through + rows * n;
    aq_pool_run(pool, rows, subtract_unit, &j);
    const struct dense_product p = {.m = rows,
                                    .n = n,
                                    .k = n,
                                    .a = {j.d, n, 1},
                                    .b = {moments, n, 1},
                                    .c = j.through,
                                    .ld = n,
                                    .sign = 1};
    dense_multiply(pool, &p);
    aq_pool_run(pool, rows, dot_unit, &j);
    double sum = 0;
    for (int64_t r = 0; r < rows; r++)
        sum += j.sums[r];
    free(j.d);
    return sum;
}

/* ---- clip ---- */

enum { CLIP_TRIALS = 11 };

struct clipping {
    const double *moments;
    const float *scale, *w;
    const struct plan_step *step;
    const struct quant_grid *grid;
    int64_t rows, n;
    float *ranges;
    double *block; /* [workers]: moments of a block, then LANES rows' errors */
};

enum { CLIP_ROOM = QUANT_CLIP_MAX * (QUANT_CLIP_MAX + LANES) };

/*
 * sum over the tokens of (d x)^2 for LANES rows, d the errors of their blocks: moments are the same
 * on both sides of the diagonal, so that one side is enough.
 */
static inline __attribute__((always_inline)) void
square_errors(const double *moments, int64_t width, const lanes *d, lanes *sum)
{
    lanes all = {0};
    for (int64_t i = 0; i < width; i++) {
        const double *row = moments + i * width;
        lanes part = {0};
        for (int64_t k = 0; k < i; k++)
            part += d[k] * row[k];
        all += d[i] * (part + part + d[i] * row[i]);
    }
    *sum = all;
}

/* The error of one row's block under a range, into lane i. */
static inline __attribute__((always_inline)) void
clip_errors(const struct clipping *j, const float *w, int64_t width, float range, double *d)
{
    float mul, back;
    plan_scales(j->step, range, &mul, &back);
    for (int64_t c = 0; c < width; c++) {
        float q = __builtin_rintf(w[c] * mul);
        q = q < j->step->lo ? j->step->lo : q > j->step->hi ? j->step->hi : q;
        d[c * LANES] = (double)(q / back) - (double)w[c];
    }
}

/* LANES rows of a block of columns. */
static inline __attribute__((always_inline)) void
clip_lanes(const struct clipping *j, int64_t block, int64_t r0, const double *moments, double *d)
{
    int64_t from = block * j->grid->block, width = aq_least(j->n - from, j->grid->block);
    int64_t count = aq_least(LANES, j->rows - r0);
    float most[LANES], found[LANES];
    double best[LANES];
    memset(d, 0, (size_t)(width * LANES) * sizeof *d);
    for (int64_t i = 0; i < count; i++) {
        most[i] = found[i] = j->ranges[(r0 + i) * j->grid->grid_cols + block];
        best[i] = INFINITY;
    }
    for (int t = 0; t < CLIP_TRIALS; t++) {
        lanes sum;
        for (int64_t i = 0; i < count; i++)
            clip_errors(j, j->w + (r0 + i) * j->n + from, width, most[i] * ((float)(10 + t) / 20),
                        d + i);
        square_errors(moments, width, (const lanes *)d, &sum);
        for (int64_t i = 0; i < count; i++)
            if (sum[i] < best[i]) {
                best[i] = sum[i];
                found[i] = most[i] * ((float)(10 + t) / 20);
            }
    }
    for (int64_t i = 0; i < count; i++)
        j->ranges[(r0 + i) * j->grid->grid_cols + block] = found[i];
}

typedef void clip_fn(const struct clipping *j, int64_t block, int64_t r0, const double *moments,
                     double *d);

static void clip_plain(const struct clipping *j, int64_t block, int64_t r0, const double *moments,
                       double *d)
{
    clip_lanes(j, block, r0, moments, d);
}

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512dq" WHOLE_REGISTERS))) static void
clip_avx512(const struct clipping *j, int64_t block, int64_t r0, const double *moments, double *d)
{
    clip_lanes(j, block, r0, moments, d);
}

__attribute__((target("avx2"))) static void clip_avx2(const struct clipping *j, int64_t block,
                                                      int64_t r0, const double *moments, double *d)
{
    clip_lanes(j, block, r0, moments, d);
}
#endif

static clip_fn *const clip_kernels[] = {
    clip_plain,
#if defined(__x86_64__)
    clip_avx2,
    clip_avx512,
#endif
};

enum { CLIP_ROWS = 512 };

/* A block of columns, CLIP_ROWS rows. */
static void clip_unit(void *arg, int64_t unit, int worker)
{
    const struct clipping *j = arg;
    int64_t block = unit % j->grid->grid_cols, first = unit / j->grid->grid_cols * CLIP_ROWS;
    int64_t from = block * j->grid->block, width = aq_least(j->n - from, j->grid->block);
    double *moments = j->block + (size_t)worker * CLIP_ROOM;
    clip_fn *clip = clip_kernels[widest()];
    for (int64_t i = 0; i < width; i++)
        for (int64_t k = 0; k < width; k++)
            moments[i * width + k] = moment(j->moments, j->n, j->scale, from + i, from + k);
    for (int64_t r = first; r < aq_least(first + CLIP_ROWS, j->rows); r += LANES)
        clip(j, block, r, moments, moments + (ptrdiff_t)QUANT_CLIP_MAX * QUANT_CLIP_MAX);
}

int clip_ranges(struct aq_pool *pool, const double *moments, const float *scale,
                const struct quant_spec *spec, const float *w, int64_t rows, int64_t n,
                float *ranges, struct aq_err *err)
{
    struct quant_grid grid;
    struct plan_step step;
    plan_step_init(&step, &spec->step[0]);
    (void)quant_weight_grid(spec, rows, n, &grid);
    if (grid.block > QUANT_CLIP_MAX)
        return aq_err_set(err, AQ_EINPUT, "clip takes blocks of at most %d columns, not %lld",
                          QUANT_CLIP_MAX, (long long)grid.block);
    find_ranges(&grid, w, rows, n, ranges);
    struct clipping j = {.moments = moments,
                         .scale = scale,
                         .w = w,
                         .step = &step,
                         .grid = &grid,
                         .rows = rows,
                         .n = n,
                         .ranges = ranges};
    j.block = xmalloc((size_t)aq_pool_threads(pool) * CLIP_ROOM * sizeof *j.block);
    aq_pool_run(pool, grid.grid_cols * ((rows + CLIP_ROWS - 1) / CLIP_ROWS), clip_unit, &j);
    free(j.block);
    return 0;
}
