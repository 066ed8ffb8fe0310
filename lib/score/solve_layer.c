#include "score/solve_layer.h"

#include "base/mem.h"
#include "base/msg.h"
#include "model/fold.h"
#include "score/solve_experts.h"
#include "score/solver.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the product ---- */

void solved_items_add(struct solved_items *s, char *name, enum st_dtype dtype, int64_t depth,
                      int64_t rows, int64_t cols, const void *data)
{
    const int64_t dims[] = {depth, rows, cols};
    AQ_GROW(s->items, s->count, s->cap);
    struct solved_item *item = &s->items[s->count++];
    *item = (struct solved_item){.name = name, .dtype = dtype, .data = data};
    for (size_t k = 0; k < AQ_COUNT(dims); k++)
        if (dims[k])
            item->shape[item->rank++] = (uint64_t)dims[k];
}

void solved_items_release(struct solved_items *s)
{
    for (size_t i = 0; i < s->count; i++) {
        free(s->items[i].name);
        free((void *)s->items[i].data);
    }
    free(s->items);
    *s = (struct solved_items){0};
}

/* ---- scales ---- */

/* The linears of the layer that read an input: *first to before *end. */
struct readers {
    int linear[MODEL_LINEARS];
    int count;
};

static struct readers readers_of(const struct layer_job *job, int input)
{
    const struct model_layer *m = nn_layer(job->model, job->layer);
    struct readers r = {.count = 0};
    for (int l = 0; l < m->linear_count; l++)
        if (m->linears[l].input == input)
            r.linear[r.count++] = l;
    return r;
}

static struct layer_solver solver_of(const struct layer_job *job)
{
    return (struct layer_solver){job->pool, job->backend};
}

/*
 * What was found becomes what files can hold: a norm's weight takes the division in its own type;
 * without a norm, the factor of the input is kept in bf16. So candidates are scored with the very
 * scales that are served.
 */
static void fit_scales(const struct lm *lm, size_t input, int64_t cols, float *scale)
{
    const struct lm_tensor *norm = lm_norm_before(lm, input);
    enum num_type type = norm ? st_num_type(norm->dtype) : NUM_BF16;
    for (int64_t c = 0; c < cols; c++)
        scale[c] = norm ? fold_norm_scale(num_read(norm->data, type, (size_t)c), scale[c],
                                          lm->arch.norm_one_plus, type)
                        : fold_free_scale(scale[c]);
}

/* The scales of one candidate at an input, for all linears that read it. */
static int find_scales(const struct layer_job *job, const struct readers *r,
                       const struct input_stats *in, const struct quant_spec *spec, float *scale,
                       struct aq_err *err)
{
    const struct layer_solver by = solver_of(job);
    const struct backend_weight *w[MODEL_LINEARS];
    bool quarter = spec->methods.quarter;
    const struct scaled_input input = {in->cols, quarter ? in->quarter : in->moments,
                                       quarter ? in->quarter_mean : in->mean, in->amax, false};
    for (int i = 0; i < r->count; i++)
        w[i] = nn_weight(job->model, job->layer, r->linear[i]);
    return solver_scales(&by, &input, w, r->count, spec, scale, err);
}

/* ---- one candidate ---- */

static bool same_factor(const struct quant_methods *a, const struct quant_methods *b)
{
    return a->damp == b->damp && a->plain_order == b->plain_order;
}

/* The factor of an input, kept for the candidates that share it; none that scale do. */
struct kept_factor {
    struct gptq_factor f;
    struct quant_methods of;
    bool there;
};

/* AWQ's scales of an input, kept for the candidates that clip ranges afterwards. */
struct kept_scale {
    float *scale; /* [cols]; NULL: none yet */
    struct quant_spec of;
};

/* Would the same scales be found? What is chosen after the scaling has no part in it. */
static bool same_scales(const struct quant_spec *a, const struct quant_spec *b)
{
    struct quant_spec x = *a, y = *b;
    x.methods = y.methods = (struct quant_methods){0};
    return a->methods.scaling == b->methods.scaling && a->methods.alpha == b->methods.alpha &&
           a->methods.plain_grid == b->methods.plain_grid &&
           a->methods.quarter == b->methods.quarter && quant_same(&x, &y);
}

static int take_scales(const struct layer_job *job, const struct readers *r,
                       const struct input_stats *in, const struct quant_spec *spec,
                       struct kept_scale *kept, float *scale, struct aq_err *err)
{
    size_t bytes = (size_t)in->cols * sizeof *scale;
    if (kept->scale && !spec->methods.own && same_scales(&kept->of, spec)) {
        memcpy(scale, kept->scale, bytes);
        return 0;
    }
    if (find_scales(job, r, in, spec, scale, err) < 0)
        return -1;
    if (spec->methods.scaling != QUANT_AWQ || spec->methods.own)
        return 0;
    if (!kept->scale)
        kept->scale = xmalloc(bytes);
    memcpy(kept->scale, scale, bytes);
    kept->of = *spec;
    return 0;
}

static int take_factor(const struct layer_job *job, const struct input_stats *in, const char *input,
                       const struct quant_methods *m, const float *scale, struct kept_factor *kept,
                       struct aq_err *err)
{
    const struct layer_solver by = solver_of(job);
    double damp;
    if (kept->there && !scale && !kept->of.scaling && same_factor(&kept->of, m))
        return 0;
    solver_factor_release(&by, &kept->f);
    kept->there = false;
    if (solver_factor(&by, &kept->f, in->moments, in->diagonal, in->cols, scale, m, &damp, err) < 0)
        return aq_err_prefix(err, "input '%s'", input);
    if (damp > m->damp)
        aq_warn("input '%s': its second moments had no factor before %g of their mean was added",
                input, damp);
    kept->of = *m;
    kept->there = true;
    return 0;
}

static int solve_linear(const struct layer_job *job, const struct candidate *c, int linear,
                        const struct input_stats *in, const float *scale,
                        const struct gptq_factor *f, struct solved_items *out, struct aq_err *err)
{
    const struct layer_solver by = solver_of(job);
    const struct model_layer *m = nn_layer(job->model, job->layer);
    const struct backend_weight *w = nn_weight(job->model, job->layer, linear);
    int of_layer = m->linears[linear].group;
    size_t group = job->groups->first[job->layer] + (size_t)of_layer;
    int module = linear - m->groups[of_layer].first;
    struct quant_grid grid;
    (void)quant_weight_grid(&c->ws, w->rows, w->cols, &grid);
    float *ranges = xcalloc((size_t)(grid.grid_rows * grid.grid_cols), sizeof *ranges);
    int r;
    if (c->ws.methods.choice == QUANT_CLIP) {
        r = solver_clip(&by, in->moments, w, scale, &c->ws, ranges, err);
    } else {
        int64_t row_bytes = quant_code_row_bytes(&c->ws, w->cols);
        uint8_t *packed = xmalloc((size_t)(w->rows * row_bytes));
        r = solver_codes(&by, f, w, scale, &c->ws, ranges, packed, err);
        solved_items_add(out, xasprintf("codes/%s/%zu.%d", c->id, group, module), ST_U8, 0, w->rows,
                         row_bytes, packed);
    }
    solved_items_add(out, xasprintf("range/%s/%zu.%d", c->id, group, module), ST_F32, 0,
                     grid.grid_rows, grid.grid_cols, ranges);
    return r < 0 ? aq_err_prefix(err, "%s", aq_show(w->name)) : 0;
}

/* What is kept of an input from candidate to candidate. */
struct input_kept {
    struct kept_factor factor;
    struct kept_scale scale;
};

/* "<group>.<module>" of a linear. */
struct linear_name {
    char text[48];
};

static struct linear_name linear_name(const struct layer_job *job, int linear)
{
    const struct model_layer *m = nn_layer(job->model, job->layer);
    int group = m->linears[linear].group;
    struct linear_name n;
    (void)snprintf(n.text, sizeof n.text, "%zu.%d", job->groups->first[job->layer] + (size_t)group,
                   linear - m->groups[group].first);
    return n;
}

/* One candidate on one input and linears that read it: all, or one whose scales are its own. */
static int solve_readers(const struct layer_job *job, const struct candidate *c, int input,
                         const struct readers *r, struct input_kept *kept, struct solved_items *out,
                         struct aq_err *err)
{
    const struct input_stats *in = &job->inputs[input];
    size_t index = job->groups->first_input[job->layer] + (size_t)input;
    const char *name = job->groups->inputs[index].name;
    const struct quant_methods *m = &c->ws.methods;
    float *scale = NULL;
    if (m->scaling) {
        scale = xcalloc((size_t)in->cols, sizeof *scale);
        solved_items_add(out,
                         m->own
                             ? xasprintf("scale/%s/%s", c->id, linear_name(job, r->linear[0]).text)
                             : xasprintf("scale/%s/%zu", c->id, index),
                         ST_F32, 0, 0, in->cols, scale);
        if (take_scales(job, r, in, &c->ws, &kept->scale, scale, err) < 0)
            return aq_err_prefix(err, "input '%s'", name);
        if (!m->own) /* those of its own are served by nobody */
            fit_scales(job->lm, index, in->cols, scale);
    }
    if (m->choice != QUANT_CLIP && m->choice != QUANT_GPTQ)
        return 0;
    if (m->choice == QUANT_GPTQ && take_factor(job, in, name, m, scale, &kept->factor, err) < 0)
        return -1;
    for (int i = 0; i < r->count; i++)
        if (solve_linear(job, c, r->linear[i], in, scale, &kept->factor.f, out, err) < 0)
            return -1;
    return 0;
}

static int solve_input(const struct layer_job *job, const struct candidate *c, int input,
                       struct input_kept *kept, struct solved_items *out, struct aq_err *err)
{
    const struct readers all = readers_of(job, input);
    if (!c->ws.methods.own)
        return solve_readers(job, c, input, &all, kept, out, err);
    for (int i = 0; i < all.count; i++) {
        const struct readers one = {.linear = {all.linear[i]}, .count = 1};
        if (solve_readers(job, c, input, &one, kept, out, err) < 0)
            return -1;
    }
    return 0;
}

int solve_layer(const struct layer_job *job, struct solved_items *out, struct aq_err *err)
{
    const struct layer_solver by = solver_of(job);
    const struct model_layer *m = nn_layer(job->model, job->layer);
    int r = 0;
    for (int i = 0; i < m->input_count && r == 0; i++) {
        if (i == m->experts_input[EXPERT_GATE_UP] || i == m->experts_input[EXPERT_DOWN])
            continue;
        struct input_kept kept = {.factor = {.there = false}};
        for (size_t c = 0; c < job->candidates->count && r == 0; c++)
            if (!job->done[c])
                r = solve_input(job, &job->candidates->items[c], i, &kept, out, err);
        solver_factor_release(&by, &kept.factor.f);
        free(kept.scale.scale);
    }
    if (m->experts && r == 0)
        r = solve_experts(job, out, err);
    return r;
}

/* ---- plans ---- */

bool solve_needs_quarter(const struct candidates *c)
{
    for (size_t i = 0; i < c->count; i++)
        if (c->items[i].ws.methods.quarter)
            return true;
    return false;
}

bool solve_needs_moments(const struct candidates *c)
{
    for (size_t i = 0; i < c->count; i++) {
        const struct quant_methods *m = &c->items[i].ws.methods;
        if ((m->scaling == QUANT_AWQ && !m->quarter) || m->choice == QUANT_GPTQ ||
            m->choice == QUANT_CLIP)
            return true;
    }
    return false;
}

uint64_t solve_layer_bytes(const struct nn_model *m, const struct backend *b,
                           const struct candidates *c)
{
    uint64_t most = solve_experts_bytes(nn_arch(m), b, c);
    for (int64_t layer = 0; layer < nn_layers(m); layer++) {
        const struct model_layer *shape = nn_layer(m, layer);
        for (int l = 0; l < shape->linear_count; l++)
            for (size_t i = 0; i < c->count; i++) {
                uint64_t bytes = solver_bytes(b, &c->items[i].ws, shape->linears[l].rows,
                                              shape->linears[l].cols);
                most = bytes > most ? bytes : most;
            }
    }
    return most;
}
