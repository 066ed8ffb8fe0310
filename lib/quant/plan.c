/* Ranges and scales: from a treatment and a tensor to a plan. */
#include "quant/plan.h"

#include "base/mem.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>

/* Ranges up to this count as zero: the smallest subnormal of fp16. */
#define TINY_AMAX 0x1p-24F

void plan_scales(const struct plan_step *s, float amax, float *mul, float *back)
{
    if (s->op == KERNEL_INT) {
        /* A range of zero quantizes everything to 0. */
        *mul = amax <= TINY_AMAX ? 0 : s->hi / amax;
        *back = amax <= TINY_AMAX ? 1 : *mul;
    } else {
        /* The reciprocal first: number / tensor in PyTorch, and not always 448 / amax. */
        float recip = 1 / (amax <= TINY_AMAX ? 1 : amax);
        *mul = recip * s->format.max;
        *back = 1 / *mul;
    }
}

static struct num_format number_format(enum quant_number number)
{
    switch (number) {
    case QUANT_E4M3:
        return NUM_E4M3;
    case QUANT_E5M2:
        return NUM_E5M2;
    case QUANT_E2M1:
        return NUM_E2M1;
    case QUANT_E3M2:
        return NUM_E3M2;
    case QUANT_E2M3:
        return NUM_E2M3;
    case QUANT_INT:
        break;
    }
    return NUM_E4M3; /* not read for integers */
}

/* The factor that turns all codes into integers of at most 127, if there is one. */
static float code_unit(enum quant_number number)
{
    return number == QUANT_INT ? 1 : number == QUANT_E2M1 ? 2 : number == QUANT_E2M3 ? 8 : 0;
}

void plan_step_init(struct plan_step *s, const struct quant_step *step)
{
    *s = (struct plan_step){.step = *step, .format = number_format(step->number)};
    s->op = step->scope == QUANT_NVFP4  ? KERNEL_RATIO
            : step->number == QUANT_INT ? KERNEL_INT
                                        : KERNEL_FLOAT;
    s->hi = (float)((1 << (step->bits - 1)) - 1);
    s->lo = step->scope == QUANT_MX ? -s->hi : -s->hi - 1;
    s->unit = code_unit(step->number);
}

/* A block that is longer than the matrix is padded with zeros, which change no range: it ends with
   the matrix. */
static int64_t shorter(int64_t block, int64_t size)
{
    return block < size ? block : size;
}

/* Where scales lie. rows: 0 for an activation. */
static void step_grid(struct plan_step *s, int64_t rows, int64_t cols)
{
    const struct quant_step *t = &s->step;
    s->block = cols;
    s->rows_each = rows ? rows : INT64_MAX;
    switch (t->scope) {
    case QUANT_TENSOR:
        break;
    case QUANT_AXIS0:
    case QUANT_TOKEN:
        s->rows_each = 1;
        break;
    case QUANT_AXIS1:
    case QUANT_HIDDEN:
        s->block = 1;
        break;
    case QUANT_BLOCK:
        s->block = shorter(t->block_cols, cols);
        s->rows_each = rows ? shorter(t->block_rows, rows) : t->dynamic ? 1 : INT64_MAX;
        break;
    case QUANT_NVFP4:
    case QUANT_MX:
        s->block = shorter(t->block_cols, cols);
        s->rows_each = 1;
        break;
    }
    s->grid_cols = cols / s->block + (cols % s->block != 0);
    s->grid_rows = rows / s->rows_each + (rows % s->rows_each != 0);
    if (rows == 0)
        s->grid_rows = 1;
}

/* The same, with room for the scales that do not change. */
static int step_layout(struct plan_step *s, int64_t rows, int64_t cols, struct aq_err *err)
{
    step_grid(s, rows, cols);
    if (s->step.dynamic || s->step.scope == QUANT_NVFP4 || s->step.scope == QUANT_MX)
        return 0;
    return plan_take_scales(s, err);
}

int plan_take_scales(struct plan_step *s, struct aq_err *err)
{
    size_t n = (size_t)s->grid_rows * (size_t)s->grid_cols;
    s->mul = calloc(n, sizeof *s->mul);
    s->back = calloc(n, sizeof *s->back);
    if (!s->mul || !s->back)
        return aq_err_set(err, AQ_ERUN, "no memory for %zu scales", n);
    return 0;
}

void plan_grid_scales(struct plan_step *s, const float *amax)
{
    size_t n = (size_t)s->grid_rows * (size_t)s->grid_cols;
    for (size_t i = 0; i < n; i++)
        plan_scales(s, amax[i], &s->mul[i], &s->back[i]);
}

/* ---- what goes with what ---- */

static int refuse(const struct quant_step *t, const char *who, struct aq_err *err, const char *rule,
                  ...) AQ_PRINTF(4, 5);

static int refuse(const struct quant_step *t, const char *who, struct aq_err *err, const char *rule,
                  ...)
{
    char text[QUANT_TEXT_MAX];
    struct quant_spec one = {.steps = 1, .step = {*t}};
    va_list ap;
    quant_print(&one, text);
    va_start(ap, rule);
    aq_err_vset(err, AQ_EINPUT, rule, ap);
    va_end(ap);
    return aq_err_prefix(err, "%s: treatment '%s'", who, text);
}

static int check_weight_step(const struct quant_step *t, const struct quant_matrix *w,
                             struct aq_err *err)
{
    const char *name = aq_show(w->name);
    if (t->scope == QUANT_TOKEN || t->scope == QUANT_HIDDEN)
        return refuse(t, name, err, "a scope of activations, not of a weight");
    if ((t->scope == QUANT_TENSOR || t->scope == QUANT_BLOCK) && t->dynamic)
        return refuse(t, name, err, "a weight's range is its own: write 'static'");
    return 0;
}

static int check_act_step(const struct quant_step *t, int64_t cols, const struct quant_range *range,
                          struct aq_err *err)
{
    const char *who = "activation";
    if (t->scope == QUANT_AXIS0 || t->scope == QUANT_AXIS1)
        return refuse(t, who, err, "a scope of weights, not of an activation");
    if (t->scope == QUANT_BLOCK && !t->dynamic)
        return refuse(t, who, err, "static blocks fit one shape only, and activations have many");
    if (t->dynamic)
        return 0;
    if (!range || (t->scope == QUANT_HIDDEN && !range->hidden))
        return refuse(t, who, err, "static, but no calibrated range");
    int64_t n = t->scope == QUANT_HIDDEN ? cols : 1;
    const float *amax = t->scope == QUANT_HIDDEN ? range->hidden : &range->amax;
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(amax[i]) || amax[i] < 0)
            return refuse(t, who, err, "calibrated range %lld is %g, expected a finite number >= 0",
                          (long long)i, (double)amax[i]);
    return 0;
}

static int check_shape(const char *name, int64_t rows, int64_t cols, struct aq_err *err)
{
    int64_t bytes;
    if (rows < 1 || cols < 1)
        return aq_err_set(err, AQ_EINPUT, "%s: shape (%lld, %lld): nothing to quantize",
                          aq_show(name), (long long)rows, (long long)cols);
    if (__builtin_mul_overflow(rows, cols, &bytes) || __builtin_mul_overflow(bytes, 4, &bytes))
        return aq_err_set(err, AQ_EINPUT, "%s: shape (%lld, %lld) is too large", aq_show(name),
                          (long long)rows, (long long)cols);
    return 0;
}

/* ---- weights ---- */

float *plan_row_room(const struct quant_matrix *x)
{
    return x->dtype == NUM_F16 ? xmalloc((size_t)x->cols * sizeof(float)) : NULL;
}

const void *plan_matrix_row(const struct quant_matrix *x, int64_t r, float *wide, enum num_type *in)
{
    const char *row = quant_matrix_row(x, r);
    *in = x->dtype;
    if (x->dtype != NUM_F16)
        return row;
    num_widen(row, NUM_F16, (size_t)x->cols, wide);
    *in = NUM_F32;
    return wide;
}

/* The first element of the row that is not finite. */
static int report_bad(const struct quant_matrix *w, int64_t r, const char *row, enum num_type in,
                      struct aq_err *err)
{
    for (size_t c = 0; c < (size_t)w->cols; c++) {
        float a = quant_absmax(row + c * num_bytes(in), in, 1);
        if (!isfinite(a))
            return aq_err_set(err, AQ_EINPUT, "%s: element (%lld, %zu) is %s", aq_show(w->name),
                              (long long)r, c, isnan(a) ? "not a number" : "infinite");
    }
    return 0;
}

int quant_weight_amax(const struct quant_matrix *w, float *amax, struct aq_err *err)
{
    float *wide = plan_row_room(w);
    int rc = 0;
    *amax = 0;
    for (int64_t r = 0; r < w->rows && rc == 0; r++) {
        enum num_type in;
        const void *row = plan_matrix_row(w, r, wide, &in);
        float a = quant_absmax(row, in, (size_t)w->cols);
        if (!isfinite(a))
            rc = report_bad(w, r, row, in, err);
        else if (a > *amax)
            *amax = a;
    }
    free(wide);
    return rc;
}

/* Raises the ranges that row r takes part in: one of the grid for every `block` columns. */
static void raise_ranges(const struct plan_step *s, float *grid, const void *row, enum num_type in,
                         int64_t r, int64_t cols)
{
    float *amax = grid + r / s->rows_each * s->grid_cols;
    if (s->block == 1) {
        kernels_active()->absmax_cols(amax, row, in, (size_t)cols);
        return;
    }
    size_t size = num_bytes(in);
    for (int64_t c = 0, i = 0; c < cols; c += s->block, i++) {
        size_t n = (size_t)(cols - c < s->block ? cols - c : s->block);
        float m = quant_absmax((const char *)row + (size_t)c * size, in, n);
        if (!(m <= amax[i]))
            amax[i] = m;
    }
}

/* Is there one range for all of the weight at this step? */
static bool spans_tensor(const struct plan_step *s)
{
    return s->step.scope == QUANT_TENSOR || s->step.scope == QUANT_NVFP4;
}

/* Ranges of step k, from the weight as the steps before it left it; given: see plan_weight. */
static int weight_ranges(struct quant_plan *p, int k, const struct quant_matrix *w,
                         const float *given, struct aq_err *err)
{
    struct plan_step *s = &p->step[k];
    if (given && spans_tensor(s)) {
        if (s->mul)
            plan_grid_scales(s, given);
        s->amax = *given;
        return 0;
    }
    struct plan_step whole = {.block = w->cols, .rows_each = w->rows, .grid_cols = 1};
    const struct plan_step *grid = s->mul ? s : &whole; /* NVFP4: the second level */
    size_t n = s->mul ? (size_t)s->grid_rows * (size_t)s->grid_cols : 1;
    float *amax = calloc(n, sizeof *amax);
    float *before = k ? malloc((size_t)w->cols * sizeof *before) : NULL;
    float *wide = plan_row_room(w);
    enum kernel_out out = p->rounding == QUANT_TO_BF16 ? KERNEL_F32_VIA_BF16 : KERNEL_F32;
    int rc = -1;
    if (!amax || (k && !before)) {
        aq_err_set(err, AQ_ERUN, "%s: no memory for %zu ranges", aq_show(w->name), n);
        goto out;
    }
    for (int64_t r = 0; r < w->rows; r++) {
        enum num_type in;
        const void *row = plan_matrix_row(w, r, wide, &in);
        if (k) {
            struct plan_row pr = {
                .from = row, .in = in, .r = r, .to = before, .out = out, .scratch = before};
            plan_apply_row(p, k, &pr);
        }
        raise_ranges(grid, amax, k ? before : row, k ? NUM_F32 : in, r, w->cols);
    }
    for (size_t i = 0; i < n; i++)
        if (!isfinite(amax[i])) {
            aq_err_set(err, AQ_EINPUT, "%s: not finite after step %d of its treatment",
                       aq_show(w->name), k);
            goto out;
        }
    if (p->methods.choice == QUANT_MSE && plan_search_mse(p, w, amax, err) < 0)
        goto out;
    if (s->mul)
        plan_grid_scales(s, amax);
    s->amax = amax[0];
    rc = 0;
out:
    free(amax);
    free(before);
    free(wide);
    return rc;
}

static struct quant_plan *plan_new(const struct quant_spec *spec, int64_t rows, int64_t cols,
                                   enum quant_rounding rounding)
{
    struct quant_plan *p = xcalloc(1, sizeof *p);
    p->is_weight = rows > 0;
    p->rounding = rounding;
    p->rows = rows;
    p->cols = cols;
    p->methods = spec->methods;
    p->steps = spec->steps;
    for (int k = 0; k < spec->steps; k++)
        plan_step_init(&p->step[k], &spec->step[k]);
    return p;
}

int quant_fits_weight(const struct quant_spec *spec, const struct quant_matrix *w,
                      struct aq_err *err)
{
    if (check_shape(w->name, w->rows, w->cols, err) < 0)
        return -1;
    for (int k = 0; k < spec->steps; k++)
        if (check_weight_step(&spec->step[k], w, err) < 0)
            return -1;
    return 0;
}

/* Solved methods have numbers that a weight does not tell. */
static int check_methods(const struct quant_spec *spec, const char *name, struct aq_err *err)
{
    char text[QUANT_TEXT_MAX];
    if (!quant_is_solved(spec))
        return 0;
    quant_print(spec, text);
    return aq_err_set(err, AQ_EINPUT, "%s: treatment '%s' has numbers that 'aq-calib solve' finds",
                      aq_show(name), text);
}

bool quant_weight_grid(const struct quant_spec *spec, int64_t rows, int64_t cols,
                       struct quant_grid *out)
{
    struct plan_step s;
    plan_step_init(&s, &spec->step[0]);
    step_grid(&s, rows, cols);
    *out = (struct quant_grid){s.rows_each, s.block, s.grid_rows, s.grid_cols};
    return spec->steps == 1 && (spec->step[0].scope == QUANT_NVFP4 || !spec->step[0].dynamic);
}

int quant_plan_weight_ranges(struct quant_plan **out, const struct quant_spec *spec,
                             const struct quant_matrix *w, const float *ranges,
                             enum quant_rounding rounding, struct aq_err *err)
{
    struct quant_spec plain = *spec;
    float own;
    *out = NULL;
    plain.methods = (struct quant_methods){0};
    assert(spec->steps == 1 && !spec->step[0].dynamic);
    if (quant_fits_weight(&plain, w, err) < 0 || quant_weight_amax(w, &own, err) < 0)
        return -1;
    struct quant_plan *p = plan_new(&plain, w->rows, w->cols, rounding);
    if (step_layout(&p->step[0], w->rows, w->cols, err) < 0) {
        quant_plan_free(p);
        return -1;
    }
    plan_grid_scales(&p->step[0], ranges);
    *out = p;
    return 0;
}

/* given: the range over a tensor, if it is not w's own; NULL otherwise. */
static int plan_weight(struct quant_plan **out, const struct quant_spec *spec,
                       const struct quant_matrix *w, const float *given,
                       enum quant_rounding rounding, struct aq_err *err)
{
    float own;
    *out = NULL;
    if (check_methods(spec, w->name, err) < 0 || quant_fits_weight(spec, w, err) < 0 ||
        quant_weight_amax(w, &own, err) < 0)
        return -1;
    if (!given && spec->group_amax > 0)
        given = &spec->group_amax;
    struct quant_plan *p = plan_new(spec, w->rows, w->cols, rounding);
    for (int k = 0; k < spec->steps; k++) {
        if (step_layout(&p->step[k], w->rows, w->cols, err) < 0 ||
            (spec->step[k].scope != QUANT_MX && weight_ranges(p, k, w, given, err) < 0)) {
            quant_plan_free(p);
            return -1;
        }
    }
    if ((p->methods.choice == QUANT_SWEEP || p->methods.choice == QUANT_4O6) &&
        plan_search_nvfp4(p, w, err) < 0) {
        quant_plan_free(p);
        return -1;
    }
    *out = p;
    return 0;
}

int quant_plan_weight(struct quant_plan **out, const struct quant_spec *spec,
                      const struct quant_matrix *w, enum quant_rounding rounding,
                      struct aq_err *err)
{
    return plan_weight(out, spec, w, NULL, rounding, err);
}

int quant_plan_weight_under(struct quant_plan **out, const struct quant_spec *spec,
                            const struct quant_matrix *w, float amax, enum quant_rounding rounding,
                            struct aq_err *err)
{
    assert(isfinite(amax) && amax >= 0);
    return plan_weight(out, spec, w, &amax, rounding, err);
}

/* ---- activations ---- */

int quant_plan_act(struct quant_plan **out, const struct quant_spec *spec, int64_t cols,
                   const struct quant_range *range, enum quant_rounding rounding,
                   struct aq_err *err)
{
    *out = NULL;
    if (check_shape("activation", 1, cols, err) < 0)
        return -1;
    if (spec->steps > 1)
        return refuse(&spec->step[1], "activation", err, "only weights have sequences");
    if (spec->steps && check_act_step(&spec->step[0], cols, range, err) < 0)
        return -1;
    struct quant_plan *p = plan_new(spec, 0, cols, rounding);
    struct plan_step *s = &p->step[0];
    if (spec->steps && step_layout(s, 0, cols, err) < 0) {
        quant_plan_free(p);
        return -1;
    }
    if (s->mul)
        plan_grid_scales(s, s->step.scope == QUANT_HIDDEN ? range->hidden : &range->amax);
    if (spec->steps && s->step.scope == QUANT_NVFP4 && !s->step.dynamic)
        s->amax = range->amax;
    *out = p;
    return 0;
}

void quant_plan_free(struct quant_plan *p)
{
    if (!p)
        return;
    for (int k = 0; k < p->steps; k++) {
        free(p->step[k].mul);
        free(p->step[k].back);
    }
    free(p);
}
