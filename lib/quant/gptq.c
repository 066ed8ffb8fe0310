#include "quant/gptq.h"

#include "base/mem.h"
#include "base/num.h"
#include "quant/dense.h"
#include "quant/plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the factor ---- */

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

static int find_order(struct gptq_factor *f, const double *moments, const float *scale,
                      bool plain_order, struct aq_err *err)
{
    struct diagonal *d = xcalloc((size_t)f->n, sizeof *d);
    int r = 0;
    for (int64_t i = 0; i < f->n && r == 0; i++) {
        d[i] = (struct diagonal){moment(moments, f->n, scale, i, i), i};
        if (!isfinite(d[i].value) || d[i].value < 0)
            r = aq_err_set(err, AQ_ERUN, "the second moment of column %lld is %g", (long long)i,
                           d[i].value);
    }
    if (r == 0 && !plain_order)
        qsort(d, (size_t)f->n, sizeof *d, by_value);
    for (int64_t i = 0; i < f->n; i++)
        f->order[i] = d[i].column;
    free(d);
    return r;
}

/*
 * U with U'U = H^-1 is the inverse of R, upper triangular with RR' = H: and that is the Cholesky
 * factor of H with rows and columns from the last to the first, read in the same way. So the lower
 * triangle of the reversed H is factored and inverted, and U is that inverse reversed.
 */
static int try_factor(struct gptq_factor *f, struct aq_pool *pool, const double *moments,
                      const float *scale, double damp)
{
    int64_t n = f->n;
    double mean = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t at = f->order[n - 1 - i];
        for (int64_t j = 0; j < i; j++)
            f->u[i * n + j] = moment(moments, n, scale, at, f->order[n - 1 - j]);
        double own = moment(moments, n, scale, at, at);
        f->u[i * n + i] = own > 0 ? own : 1;
        mean += f->u[i * n + i] / (double)n;
    }
    for (int64_t i = 0; i < n; i++)
        f->u[i * n + i] += damp * mean;
    if (dense_cholesky(pool, f->u, n) >= 0)
        return -1;
    dense_invert_lower(pool, f->u, n);
    for (int64_t i = 0; i < n * n / 2; i++) {
        double x = f->u[i];
        f->u[i] = f->u[n * n - 1 - i];
        f->u[n * n - 1 - i] = x;
    }
    for (int64_t i = 0; i < n; i++)
        if (!(f->u[i * n + i] > 0) || !isfinite(f->u[i * n + i]))
            return -1;
    return 0;
}

int gptq_factor(struct gptq_factor *f, struct aq_pool *pool, const double *moments, int64_t n,
                const float *scale, const struct quant_methods *methods, double *damp,
                struct aq_err *err)
{
    enum { TRIALS = 4 };
    *f = (struct gptq_factor){.n = n, .order = xcalloc((size_t)n, sizeof *f->order)};
    f->u = malloc((size_t)n * (size_t)n * sizeof *f->u);
    if (!f->u)
        return aq_err_set(err, AQ_ERUN, "no memory for the factor of %lld columns", (long long)n);
    if (find_order(f, moments, scale, methods->plain_order, err) < 0)
        return -1;
    *damp = methods->damp;
    for (int i = 0; i < TRIALS; i++, *damp *= 10)
        if (try_factor(f, pool, moments, scale, *damp) == 0)
            return 0;
    return aq_err_set(err, AQ_ERUN,
                      "the second moments have no factor, though %g of their mean was added",
                      *damp / 10);
}

void gptq_factor_release(struct gptq_factor *f)
{
    free(f->order);
    free(f->u);
    *f = (struct gptq_factor){0};
}

/* ---- codes ---- */

struct job {
    const struct gptq_factor *f;
    const struct plan_step *step;
    const struct quant_grid *grid;
    const float *ranges;
    double *w;      /* (rows, n), columns in the order */
    double *errors; /* (rows, block) */
    int8_t *codes;
    int64_t rows, block, first, width; /* columns first to first + width are at work */
};

enum { UNIT_ROWS = 16 };

/* One row through the columns of the block. */
static void row_codes(const struct job *j, int64_t r)
{
    const int64_t n = j->f->n;
    double *w = j->w + r * n + j->first, *errors = j->errors + r * j->block;
    const float *range = j->ranges + r / j->grid->rows_each * j->grid->grid_cols;
    int8_t *codes = j->codes + r * n;
    for (int64_t c = 0; c < j->width; c++) {
        const double *u = j->f->u + (j->first + c) * n + j->first;
        int64_t column = j->f->order[j->first + c];
        float mul, back;
        plan_scales(j->step, range[column / j->grid->block], &mul, &back);
        double q = rint(w[c] * (double)mul);
        q = q < (double)j->step->lo   ? (double)j->step->lo
            : q > (double)j->step->hi ? (double)j->step->hi
                                      : q;
        codes[column] = (int8_t)q;
        double e = (w[c] - q / (double)back) / u[c];
        errors[c] = e;
        for (int64_t k = c; k < j->width; k++)
            w[k] -= e * u[k];
    }
}

static void block_unit(void *arg, int64_t unit, int worker)
{
    const struct job *j = arg;
    int64_t end = (unit + 1) * UNIT_ROWS < j->rows ? (unit + 1) * UNIT_ROWS : j->rows;
    (void)worker;
    for (int64_t r = unit * UNIT_ROWS; r < end; r++)
        row_codes(j, r);
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
        for (int64_t c = 0; c < cols; c++, w++) {
            float *a = &ranges[r / grid->rows_each * grid->grid_cols + c / grid->block];
            *a = fabsf(*w) > *a ? fabsf(*w) : *a;
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
    struct job j = {.f = f,
                    .step = &step,
                    .grid = &grid,
                    .ranges = ranges,
                    .codes = codes,
                    .rows = rows,
                    .block = spec->methods.block < n ? spec->methods.block : n};
    j.w = malloc((size_t)(rows * n) * sizeof *j.w);
    j.errors = malloc((size_t)(rows * j.block) * sizeof *j.errors);
    if (!j.w || !j.errors) {
        free(j.w);
        free(j.errors);
        return aq_err_set(err, AQ_ERUN, "no memory for a weight of %lld x %lld", (long long)rows,
                          (long long)n);
    }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < n; c++)
            j.w[r * n + c] = (double)w[r * n + f->order[c]];
    for (j.first = 0; j.first < n; j.first += j.block) {
        j.width = n - j.first < j.block ? n - j.first : j.block;
        aq_pool_run(pool, (rows + UNIT_ROWS - 1) / UNIT_ROWS, block_unit, &j);
        int64_t rest = j.first + j.width;
        const struct dense_product pass_on = {.m = rows,
                                              .n = n - rest,
                                              .k = j.width,
                                              .a = {j.errors, j.block, 1},
                                              .b = {f->u + j.first * n + rest, n, 1},
                                              .c = j.w + rest,
                                              .ld = n,
                                              .sign = -1};
        dense_multiply(pool, &pass_on);
    }
    free(j.w);
    free(j.errors);
    return 0;
}

/* ---- errors of outputs ---- */

double moments_error(struct aq_pool *pool, const double *moments, int64_t n, const float *a,
                     const float *b, int64_t rows)
{
    double *d = xmalloc((size_t)(rows * n) * sizeof *d);
    double *through = xcalloc((size_t)(rows * n), sizeof *through);
    for (int64_t i = 0; i < rows * n; i++)
        d[i] = (double)a[i] - (double)b[i];
    const struct dense_product p = {.m = rows,
                                    .n = n,
                                    .k = n,
                                    .a = {d, n, 1},
                                    .b = {moments, n, 1},
                                    .c = through,
                                    .ld = n,
                                    .sign = 1};
    dense_multiply(pool, &p);
    double sum = 0;
    for (int64_t i = 0; i < rows * n; i++)
        sum += d[i] * through[i];
    free(d);
    free(through);
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
    double *block; /* [workers]: moments of a block */
};

/* sum over the tokens of (d x)^2, d the error of one row's block under a range. */
static double block_error(const struct clipping *j, const float *w, const double *moments,
                          int64_t width, float range)
{
    double d[QUANT_CLIP_MAX], sum = 0;
    float mul, back;
    plan_scales(j->step, range, &mul, &back);
    for (int64_t c = 0; c < width; c++) {
        float q = rintf(w[c] * mul);
        q = q < j->step->lo ? j->step->lo : q > j->step->hi ? j->step->hi : q;
        d[c] = (double)(q / back) - (double)w[c];
    }
    for (int64_t i = 0; i < width; i++) {
        double part = 0;
        for (int64_t k = 0; k < width; k++)
            part += moments[i * width + k] * d[k];
        sum += d[i] * part;
    }
    return sum;
}

/* A block of columns, all rows. */
static void clip_unit(void *arg, int64_t unit, int worker)
{
    const struct clipping *j = arg;
    int64_t from = unit * j->grid->block, width = j->n - from;
    width = width < j->grid->block ? width : j->grid->block;
    double *moments = j->block + (size_t)worker * QUANT_CLIP_MAX * QUANT_CLIP_MAX;
    for (int64_t i = 0; i < width; i++)
        for (int64_t k = 0; k < width; k++)
            moments[i * width + k] = moment(j->moments, j->n, j->scale, from + i, from + k);
    for (int64_t r = 0; r < j->rows; r++) {
        float *range = &j->ranges[r * j->grid->grid_cols + unit], most = *range;
        double best = INFINITY;
        for (int t = 0; t < CLIP_TRIALS; t++) {
            float trial = most * ((float)(10 + t) / 20);
            double e = block_error(j, j->w + r * j->n + from, moments, width, trial);
            if (e < best) {
                best = e;
                *range = trial;
            }
        }
    }
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
    j.block =
        xmalloc((size_t)aq_pool_threads(pool) * QUANT_CLIP_MAX * QUANT_CLIP_MAX * sizeof *j.block);
    aq_pool_run(pool, grid.grid_cols, clip_unit, &j);
    free(j.block);
    return 0;
}
