#include "score/made.h"

#include "base/mem.h"
#include "base/num.h"

#include <stdlib.h>
#include <string.h>

int made_check(const struct lm_arch *a, const char *treatment, struct aq_err *err)
{
    if (a->experts)
        return aq_err_set(err, AQ_EINPUT, "treatment '%s' is not computed for mixtures of experts",
                          treatment);
    return 0;
}

/* ---- rows, by several threads ---- */

enum { ROWS = 64 }; /* of a unit */

static void run_rows(struct aq_pool *pool, int64_t rows, aq_pool_fn *fn, void *arg)
{
    int64_t units = (rows + ROWS - 1) / ROWS;
    for (int64_t u = 0; u < units && !pool; u++)
        fn(arg, u, 0);
    if (pool)
        aq_pool_run(pool, units, fn, arg);
}

static int64_t end_row(int64_t unit, int64_t rows)
{
    return (unit + 1) * ROWS < rows ? (unit + 1) * ROWS : rows;
}

/* ---- the weight in fp32 ---- */

struct widening {
    const struct backend *b;
    const struct backend_weight *w;
    const float *scale;
    float *to;
};

static void widen_unit(void *arg, int64_t unit, int worker)
{
    const struct widening *j = arg;
    const struct backend_weight *w = j->w;
    int64_t cols = w->cols, r0 = unit * ROWS, r1 = end_row(unit, w->rows);
    size_t n = (size_t)((r1 - r0) * cols), row_bytes = (size_t)cols * num_bytes(w->dtype);
    float *to = j->to + r0 * cols;
    (void)worker;
    num_widen((const char *)w->host + (size_t)r0 * row_bytes, w->dtype, n, to);
    for (size_t i = 0; i < n && j->b->weights_bf16 && w->dtype != NUM_BF16; i++)
        to[i] = num_from_bf16(num_to_bf16(to[i]));
    for (int64_t r = r0; r < r1 && j->scale; r++, to += cols)
        for (int64_t c = 0; c < cols; c++)
            to[c] *= j->scale[c];
}

void made_widen(struct aq_pool *pool, const struct backend *b, const struct backend_weight *w,
                const float *scale, float *to)
{
    struct widening j = {b, w, scale, to};
    run_rows(pool, w->rows, widen_unit, &j);
}

/* The largest magnitude of all members of a group after the scaling. */
static int group_amax(const struct made_from *from, int64_t layer, int group, const float *scale,
                      float *out, struct aq_err *err)
{
    const struct model_layer *m = nn_layer(from->model, layer);
    int first = m->groups[group].first, end = first + m->groups[group].linears;
    *out = 0;
    for (int l = first; l < end; l++) {
        const struct backend_weight *w = nn_weight(from->model, layer, l);
        float *wide = xmalloc((size_t)(w->rows * w->cols) * sizeof *wide), own;
        made_widen(from->pool, from->b, w, scale, wide);
        const struct quant_matrix x = {wide, NUM_F32, w->rows, w->cols, w->name};
        int r = quant_weight_amax(&x, &own, err);
        free(wide);
        if (r < 0)
            return -1;
        *out = own > *out ? own : *out;
    }
    return 0;
}

/* ---- methods that leave values ---- */

/* Where a linear's numbers are in solved.safetensors. */
struct solved_place {
    const char *id;
    size_t group;
    int module;
};

/* A weight that becomes what a plan makes of it: of the whole, or of each unit's rows by itself. */
struct applying {
    const struct quant_spec *spec;
    const struct quant_matrix *w;
    const struct quant_plan *plan; /* NULL: one for each unit */
    enum quant_rounding rounding;
    float *to;
    struct aq_err *errors; /* [units]; without a plan */
};

static void apply_unit(void *arg, int64_t unit, int worker)
{
    const struct applying *j = arg;
    const struct quant_matrix *w = j->w;
    int64_t r0 = unit * ROWS, r1 = end_row(unit, w->rows);
    float *to = j->to + r0 * w->cols;
    (void)worker;
    if (j->plan) {
        quant_apply(j->plan, w, r0, r1, to, NUM_F32, NULL);
        return;
    }
    struct quant_plan *plan = NULL;
    const struct quant_matrix part = {(const float *)w->data + r0 * w->cols, NUM_F32, r1 - r0,
                                      w->cols, w->name};
    if (quant_plan_weight(&plan, j->spec, &part, j->rounding, &j->errors[unit]) < 0)
        return;
    quant_apply(plan, &part, 0, r1 - r0, to, NUM_F32, NULL);
    quant_plan_free(plan);
}

/* Do rows have ranges of their own, the second level apart? */
static bool by_rows(const struct quant_spec *spec)
{
    const struct quant_step *s = &spec->step[0];
    return spec->steps == 1 && (s->scope == QUANT_AXIS0 || s->scope == QUANT_NVFP4 ||
                                (s->scope == QUANT_BLOCK && s->block_rows <= 1));
}

static int search(const struct made_from *from, const struct quant_spec *spec,
                  const struct quant_matrix *w, float *to, struct aq_err *err)
{
    struct quant_spec whole = *spec;
    struct quant_plan *plan = NULL;
    struct applying j = {.spec = &whole,
                         .w = w,
                         .rounding = from->to_bf16 ? QUANT_TO_BF16 : QUANT_UNROUNDED,
                         .to = to};
    size_t units = (size_t)((w->rows + ROWS - 1) / ROWS);
    int r = 0;
    if (!by_rows(spec)) {
        if (quant_plan_weight(&plan, spec, w, j.rounding, err) < 0)
            return -1;
        j.plan = plan;
        run_rows(from->pool, w->rows, apply_unit, &j);
        quant_plan_free(plan);
        return 0;
    }
    if (spec->step[0].scope == QUANT_NVFP4 && !(spec->group_amax > 0) &&
        quant_weight_amax(w, &whole.group_amax, err) < 0)
        return -1;
    j.errors = xcalloc(units, sizeof *j.errors);
    run_rows(from->pool, w->rows, apply_unit, &j);
    for (size_t u = 0; u < units && r == 0; u++)
        if (j.errors[u].code) {
            *err = j.errors[u];
            r = -1;
        }
    free(j.errors);
    return r;
}

static int clip(const struct made_from *from, const struct quant_spec *spec,
                const struct quant_matrix *w, const struct solved_place *at, float *to,
                struct aq_err *err)
{
    struct quant_plan *plan = NULL;
    struct quant_grid grid;
    enum quant_rounding rounding = from->to_bf16 ? QUANT_TO_BF16 : QUANT_UNROUNDED;
    (void)quant_weight_grid(spec, w->rows, w->cols, &grid);
    const float *ranges = solved_ranges(from->solved, at->id, at->group, at->module,
                                        grid.grid_rows * grid.grid_cols, err);
    if (!ranges || quant_plan_weight_ranges(&plan, spec, w, ranges, rounding, err) < 0)
        return -1;
    struct applying j = {.w = w, .plan = plan, .to = to};
    run_rows(from->pool, w->rows, apply_unit, &j);
    quant_plan_free(plan);
    return 0;
}

struct decoding {
    const struct made_from *from;
    const struct quant_spec *spec;
    struct quant_grid grid;
    const float *ranges;
    const uint8_t *codes;
    int64_t rows, cols, row_bytes;
    float *to;
};

static void decode_unit(void *arg, int64_t unit, int worker)
{
    const struct decoding *j = arg;
    int64_t cols = j->cols;
    int8_t *row = xmalloc((size_t)cols);
    (void)worker;
    for (int64_t r = unit * ROWS; r < end_row(unit, j->rows); r++) {
        float *out = j->to + r * cols;
        quant_unpack_codes(j->spec, j->codes + r * j->row_bytes, cols, row);
        quant_decode(j->spec, &j->grid, j->ranges, row, r, r + 1, cols, out);
        for (int64_t c = 0; j->from->to_bf16 && c < cols; c++)
            out[c] = num_from_bf16(num_to_bf16(out[c]));
    }
    free(row);
}

static int decode(const struct made_from *from, const struct quant_spec *spec, int64_t rows,
                  int64_t cols, const struct solved_place *at, float *to, struct aq_err *err)
{
    struct decoding j = {.from = from,
                         .spec = spec,
                         .rows = rows,
                         .cols = cols,
                         .row_bytes = quant_code_row_bytes(spec, cols),
                         .to = to};
    (void)quant_weight_grid(spec, rows, cols, &j.grid);
    j.ranges = solved_ranges(from->solved, at->id, at->group, at->module,
                             j.grid.grid_rows * j.grid.grid_cols, err);
    j.codes =
        j.ranges ? solved_codes(from->solved, at->id, at->group, at->module, rows, j.row_bytes, err)
                 : NULL;
    if (!j.codes)
        return -1;
    run_rows(from->pool, rows, decode_unit, &j);
    return 0;
}

/* From the scaled weight in `values` to what the choice makes of it, in place. */
static int choose(const struct made_from *from, const struct quant_spec *spec,
                  const struct backend_weight *w, const struct solved_place *at, float *values,
                  struct aq_err *err)
{
    const struct quant_matrix m = {values, NUM_F32, w->rows, w->cols, w->name};
    switch (spec->methods.choice) {
    case QUANT_NEAREST:
        return 0;
    case QUANT_CLIP:
        return clip(from, spec, &m, at, values, err);
    case QUANT_GPTQ:
        return decode(from, spec, w->rows, w->cols, at, values, err);
    case QUANT_MSE:
    case QUANT_SWEEP:
    case QUANT_4O6:
        break;
    }
    return search(from, spec, &m, values, err);
}

/* ---- the operand ---- */

static void drop_device(struct backend *b, struct made *made)
{
    struct backend_weight *w = &made->w;
    if (w->dev)
        b->ops->weights_release(b, &w, 1);
}

void made_release(struct backend *b, struct made *made)
{
    drop_device(b, made);
    free(made->values);
    *made = (struct made){0};
}

static float *take_values(struct made *made, size_t elements)
{
    if (elements > made->elements) {
        free(made->values);
        made->values = xmalloc(elements * sizeof *made->values);
        made->elements = elements;
    }
    return made->values;
}

int made_quantize(const struct made_from *from, struct made *made, struct backend_operand *op,
                  int64_t layer, int linear, const struct quant_spec *spec, const char *id,
                  struct aq_err *err)
{
    const struct model_layer *m = nn_layer(from->model, layer);
    const struct backend_weight *w = nn_weight(from->model, layer, linear);
    int group = m->linears[linear].group;
    struct quant_spec rest;
    const float *scale = NULL;
    if (!quant_has_method(spec)) {
        if (nn_group_spec(from->model, layer, group, spec, &rest, err) < 0)
            return -1;
        from->b->ops->quantize_weight(from->b, op, w, &rest);
        return 0;
    }
    const struct solved_place at = {id, from->groups->first[layer] + (size_t)group,
                                    linear - m->groups[group].first};
    rest = *spec;
    if (spec->methods.scaling) {
        size_t input = from->groups->first_input[layer] + (size_t)m->linears[linear].input;
        scale = solved_scale(from->solved, id, input, w->cols, err);
        if (!scale)
            return -1;
        rest.methods.scaling = QUANT_NO_SCALING;
    }
    if (spec->group && group_amax(from, layer, group, scale, &rest.group_amax, err) < 0)
        return -1;
    drop_device(from->b, made);
    float *values = take_values(made, (size_t)(w->rows * w->cols));
    if (rest.methods.choice != QUANT_GPTQ) /* whose codes are there */
        made_widen(from->pool, from->b, w, scale, values);
    if (choose(from, &rest, w, &at, values, err) < 0)
        return aq_err_prefix(err, "layers.%lld", (long long)layer);
    if (rest.methods.choice != QUANT_NEAREST)
        rest = (struct quant_spec){0};
    rest.methods = (struct quant_methods){0};
    struct backend_weight *made_w = &made->w;
    *made_w = (struct backend_weight){.host = values,
                                      .dtype = NUM_F32,
                                      .rows = w->rows,
                                      .cols = w->cols,
                                      .name = w->name,
                                      .version = made->w.version + 1,
                                      .exact = 1};
    if (from->b->ops->weights_load(from->b, &made_w, 1, err) < 0)
        return -1;
    from->b->ops->quantize_weight(from->b, op, made_w, &rest);
    return 0;
}

/* ---- inputs ---- */

void made_scale_range(struct quant_range *out, const struct quant_range *range, const float *factor,
                      int64_t cols, float *hidden)
{
    *out = (struct quant_range){.factor = factor};
    if (!range)
        return;
    for (int64_t c = 0; c < cols; c++) {
        hidden[c] = range->hidden[c] * factor[c];
        out->amax = hidden[c] > out->amax ? hidden[c] : out->amax;
    }
    out->hidden = hidden;
}
