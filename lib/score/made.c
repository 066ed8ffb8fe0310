#include "score/made.h"

#include "base/mem.h"
#include "base/num.h"
#include "nn/experts.h"

#include <stdlib.h>
#include <string.h>

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
    const struct quant_matrix from = {w->host, w->dtype, w->rows, cols, w->name, w->lower};
    size_t n = (size_t)((r1 - r0) * cols);
    float *to = j->to + r0 * cols;
    (void)worker;
    for (int64_t r = r0; r < r1; r++)
        num_widen(quant_matrix_row(&from, r), w->dtype, (size_t)cols, to + (r - r0) * cols);
    for (size_t i = 0; i < n && j->b->weights_bf16 && w->dtype != NUM_BF16 && !w->exact; i++)
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

/* Where a matrix's numbers are in solved.safetensors. */
struct solved_place {
    const char *id;
    size_t group;
    int module;
    int64_t expert, experts; /* one of them, which are one after the other; 0 and 1: no experts */
};

static const float *ranges_at(const struct made_from *from, const struct quant_grid *grid,
                              const struct solved_place *at, struct aq_err *err)
{
    int64_t n = grid->grid_rows * grid->grid_cols;
    const float *all =
        solved_ranges(from->solved, at->id, at->group, at->module, at->experts * n, err);
    return all ? all + at->expert * n : NULL;
}

static const uint8_t *codes_at(const struct made_from *from, int64_t rows, int64_t row_bytes,
                               const struct solved_place *at, struct aq_err *err)
{
    const uint8_t *all = solved_codes(from->solved, at->id, at->group, at->module,
                                      at->experts * rows, row_bytes, err);
    return all ? all + at->expert * rows * row_bytes : NULL;
}

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
    const float *ranges = ranges_at(from, &grid, at, err);
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
    j.ranges = ranges_at(from, &j.grid, at, err);
    j.codes = j.ranges ? codes_at(from, rows, j.row_bytes, at, err) : NULL;
    if (!j.codes)
        return -1;
    run_rows(from->pool, rows, decode_unit, &j);
    return 0;
}

/* From the scaled weight in `values`, (rows, cols), to what the choice makes of it, in place. */
static int choose(const struct made_from *from, const struct quant_spec *spec,
                  const struct backend_weight *w, int64_t rows, const struct solved_place *at,
                  float *values, struct aq_err *err)
{
    const struct quant_matrix m = {values, NUM_F32, rows, w->cols, w->name};
    switch (spec->methods.choice) {
    case QUANT_NEAREST:
        return 0;
    case QUANT_CLIP:
        return clip(from, spec, &m, at, values, err);
    case QUANT_GPTQ:
        return decode(from, spec, rows, w->cols, at, values, err);
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

/* Searches that the backend makes itself. */
static bool by_backend(const struct backend *b, const struct quant_spec *spec)
{
    enum quant_choice choice = spec->methods.choice;
    return b->searches && (choice == QUANT_MSE || choice == QUANT_SWEEP || choice == QUANT_4O6);
}

/* Does the backend take the loaded weight as it is? */
static bool takes_weight(const struct backend *b, const struct quant_spec *spec)
{
    return !spec->methods.scaling && (spec->methods.choice == QUANT_NEAREST || by_backend(b, spec));
}

/* Brings the values to the device, as (rows, cols) of w. rest: what was to be done, with the choice
   done, unless it is the backend's. */
static int load_values(const struct made_from *from, struct made *made,
                       const struct backend_weight *w, const struct quant_spec *rest,
                       struct aq_err *err)
{
    made->rest = *rest;
    if (!by_backend(from->b, rest)) {
        if (rest->methods.choice != QUANT_NEAREST)
            made->rest = (struct quant_spec){0};
        made->rest.methods = (struct quant_methods){0};
    }
    struct backend_weight *made_w = &made->w;
    *made_w = (struct backend_weight){.host = made->values,
                                      .dtype = NUM_F32,
                                      .rows = w->rows,
                                      .cols = w->cols,
                                      .name = w->name,
                                      .version = made->w.version + 1,
                                      .exact = 1};
    return from->b->ops->weights_load(from->b, &made_w, 1, err);
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
    if (takes_weight(from->b, spec)) {
        if (nn_group_spec(from->model, layer, group, spec, &rest, err) < 0)
            return -1;
        from->b->ops->quantize_weight(from->b, op, w, &rest);
        return 0;
    }
    const struct solved_place at = {id, from->groups->first[layer] + (size_t)group,
                                    linear - m->groups[group].first, 0, 1};
    rest = *spec;
    if (spec->methods.scaling) {
        size_t input = from->groups->first_input[layer] + (size_t)m->linears[linear].input;
        scale = spec->methods.own
                    ? solved_own_scale(from->solved, id, at.group, at.module, w->cols, err)
                    : solved_scale(from->solved, id, input, w->cols, err);
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
    if (!by_backend(from->b, &rest) && choose(from, &rest, w, w->rows, &at, values, err) < 0)
        return aq_err_prefix(err, "layers.%lld", (long long)layer);
    if (load_values(from, made, w, &rest, err) < 0)
        return -1;
    from->b->ops->quantize_weight(from->b, op, &made->w, &made->rest);
    return 0;
}

/* ---- experts ---- */

/* What a place holds. */
struct made_place {
    struct made made;
    const struct nn_model *model; /* NULL: nothing */
    int64_t layer;
    int expert;
    char id[TREATMENT_ID];
};

uint64_t made_experts_bytes(const struct lm_arch *a, const struct backend *b)
{
    uint64_t each = 3 * (uint64_t)a->moe_intermediate_size * (uint64_t)a->hidden_size;
    return a->experts ? each * sizeof(float) * (uint64_t)nn_experts_at_once(a, b) : 0;
}

void made_experts_release(struct made_experts *m)
{
    for (int i = 0; i < m->at_once * EXPERT_HALVES; i++)
        made_release(m->from.b, &m->places[i].made);
    free(m->places);
    *m = (struct made_experts){.at_once = 0};
}

/* The factors of a scaled candidate's columns. */
static const float *column_scale(const struct made_experts *m, int64_t layer, int half,
                                 int64_t cols, struct aq_err *err)
{
    const struct made_from *from = &m->from;
    const struct model_layer *shape = nn_layer(from->model, layer);
    size_t input = from->groups->first_input[layer] + (size_t)shape->experts_input[half];
    return solved_scale(from->solved, m->id[half], input, cols, err);
}

/* The lower half of the rows, those of up, divide down's input by its scale. */
static int scale_up(const struct made_experts *m, int64_t layer, const struct backend_weight *w,
                    float *values, struct aq_err *err)
{
    const struct made_from *from = &m->from;
    const struct model_layer *shape = nn_layer(from->model, layer);
    size_t input = from->groups->first_input[layer] + (size_t)shape->experts_input[EXPERT_DOWN];
    int64_t up = w->rows / 2;
    const float *rows = solved_factor(from->solved, m->id[EXPERT_GATE_UP], input, up, err);
    for (int64_t r = 0; rows && r < up; r++)
        for (int64_t c = 0; c < w->cols; c++)
            values[(up + r) * w->cols + c] *= rows[r];
    return rows ? 0 : -1;
}

/* The group of the layer that has this half of its experts. */
static size_t group_of_half(const struct made_from *from, int64_t layer, int half)
{
    const struct model_layer *shape = nn_layer(from->model, layer);
    int g = shape->experts_group;
    while (!shape->groups[g].half[half])
        g++;
    return from->groups->first[layer] + (size_t)g;
}

static int make_expert(const struct made_experts *m, struct made_place *p,
                       const struct quant_spec *spec, int64_t layer, int expert, int half,
                       struct aq_err *err)
{
    const struct made_from *from = &m->from;
    const struct backend_weight *w = nn_expert_weight(from->model, layer, expert, half);
    struct quant_spec rest = *spec;
    struct solved_place at = {m->id[half], group_of_half(from, layer, half), 0, expert,
                              nn_arch(from->model)->experts};
    drop_device(from->b, &p->made);
    float *values = take_values(&p->made, (size_t)(w->rows * w->cols));
    const float *cols = NULL;
    if (spec->methods.scaling && !(cols = column_scale(m, layer, half, w->cols, err)))
        return -1;
    if (spec->methods.choice != QUANT_GPTQ) /* whose codes are there */
        made_widen(from->pool, from->b, w, cols, values);
    if (spec->methods.scaling && spec->methods.choice != QUANT_GPTQ && half == EXPERT_GATE_UP &&
        scale_up(m, layer, w, values, err) < 0)
        return -1;
    rest.methods.scaling = QUANT_NO_SCALING;
    rest.group = 0; /* an expert's gate and up are one matrix with a range */
    int first, count = 1;
    int64_t rows = w->rows;
    if (quant_is_solved(&rest)) { /* by the checkpoint's own matrices */
        count = model_group_half(&from->groups->items[at.group], half, &first);
        at.module = first;
        rows /= count;
    }
    if (by_backend(from->b, &rest))
        count = 0;
    for (int k = 0; k < count; k++, at.module++)
        if (choose(from, &rest, w, rows, &at, values + k * rows * w->cols, err) < 0)
            return -1;
    return load_values(from, &p->made, w, &rest, err);
}

int made_expert(void *arg, struct backend_operand *op, const struct quant_spec *spec, int64_t layer,
                int expert, int half, struct aq_err *err)
{
    struct made_experts *m = arg;
    struct backend *b = m->from.b;
    struct nn_model *model = m->from.model;
    if (takes_weight(b, spec)) {
        struct quant_spec own = *spec;
        own.group = 0;
        b->ops->quantize_weight(b, op, nn_expert_weight(model, layer, expert, half), &own);
        return 0;
    }
    if (!m->places) {
        m->at_once = nn_experts_at_once(nn_arch(model), b);
        m->places = xcalloc((size_t)m->at_once * EXPERT_HALVES, sizeof *m->places);
    }
    struct made_place *p = &m->places[expert % m->at_once * EXPERT_HALVES + half];
    if (p->model != model || p->layer != layer || p->expert != expert ||
        strcmp(p->id, m->id[half]) != 0) {
        p->model = NULL;
        if (make_expert(m, p, spec, layer, expert, half, err) < 0)
            return aq_err_prefix(err, "layers.%lld: expert %d", (long long)layer, expert);
        p->model = model;
        p->layer = layer;
        p->expert = expert;
        memcpy(p->id, m->id[half], sizeof p->id);
    }
    b->ops->quantize_weight(b, op, &p->made.w, &p->made.rest);
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
