#include "eval/operand.h"

#include "base/file.h"
#include "base/mem.h"
#include "eval/file.h"
#include "score/made.h"
#include "select/manifest.h"
#include "store/candidate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const eval_kind_names[] = {"manifest", "lm", "checkpoint", "gguf"};

/* ---- linears ---- */

void eval_operand_take_linears(struct eval_operand *o, const struct lm_arch *arch)
{
    o->layers = arch->num_hidden_layers;
    o->linears = xcalloc((size_t)(o->layers * MODEL_LINEARS) + 1, sizeof *o->linears);
    o->experts = xcalloc((size_t)(o->layers * EXPERT_HALVES) + 1, sizeof *o->experts);
    for (int64_t i = 0; i < o->layers * MODEL_LINEARS; i++)
        o->linears[i].same_as = -1;
}

const struct eval_linear *eval_operand_linear(const struct eval_operand *o, int64_t layer,
                                              int linear)
{
    return &o->linears[layer * MODEL_LINEARS + linear];
}

/* Ranges of channels are compared by where they are: those that share one were given it. */
static bool same_act(const struct eval_linear *a, const struct eval_linear *b)
{
    if (!a->swapped || !b->swapped || !quant_same(&a->a, &b->a))
        return false;
    if (a->range.factor != b->range.factor)
        return false;
    if (!a->ranged || !b->ranged)
        return a->ranged == b->ranged;
    return a->range.amax == b->range.amax && a->range.hidden == b->range.hidden;
}

void eval_operand_share_layer(struct eval_operand *o, int64_t layer)
{
    struct eval_linear *all = &o->linears[layer * MODEL_LINEARS];
    struct model_layer shape;
    model_layer_describe(&shape, o->arch, layer);
    for (int l = 0; l < shape.linear_count; l++) {
        all[l].same_as = -1;
        for (int k = 0; k < l && all[l].same_as < 0; k++)
            if (shape.linears[k].input == shape.linears[l].input && all[k].same_as < 0 &&
                same_act(&all[k], &all[l]))
                all[l].same_as = k;
    }
}

void eval_operand_share(struct eval_operand *o)
{
    for (int64_t layer = 0; layer < o->layers; layer++)
        eval_operand_share_layer(o, layer);
}

/* ---- a manifest ---- */

/* What a calibrated candidate multiplies its input by; the range becomes that of the result. */
static int take_factor(struct eval_linear *l, const struct eval_reference *ref, int64_t input,
                       int64_t cols, struct aq_err *err)
{
    struct quant_range plain = l->range;
    l->range.hidden = NULL; /* it was the file's */
    const float *factor = solved_factor(ref->solved, l->id, (size_t)input, cols, err);
    if (!factor)
        return -1;
    float *hidden = xcalloc((size_t)cols, sizeof *hidden);
    made_scale_range(&l->range, l->ranged ? &plain : NULL, factor, cols, hidden);
    if (l->ranged && l->a.step[0].scope == QUANT_HIDDEN)
        return 0; /* hidden stays with the range */
    l->range.hidden = NULL;
    free(hidden);
    return 0;
}

static int take_range(struct eval_linear *l, const struct eval_reference *ref, int64_t prefix,
                      int64_t input, int64_t cols, struct aq_err *err)
{
    int position = range_file_prefix(ref->ranges, prefix, err);
    if (position < 0)
        return -1;
    range_file_get(ref->ranges, input, position, &l->range);
    l->ranged = true;
    if (l->w.methods.scaling) /* the ranges of channels are wanted once more */
        return 0;
    if (!l->range.hidden || l->a.step[0].scope != QUANT_HIDDEN) {
        l->range.hidden = NULL;
        return 0;
    }
    float *copy = xmalloc((size_t)cols * sizeof *copy); /* of the group's first linear */
    memcpy(copy, l->range.hidden, (size_t)cols * sizeof *copy);
    l->range.hidden = copy;
    return 0;
}

/* What a calibrated candidate is made of must be there. */
static int check_solved(const struct eval_operand *o, const struct eval_reference *ref,
                        const struct quant_spec *w, const char *id, const char *group,
                        struct aq_err *err)
{
    char digest[AQ_SHA256_HEX];
    if (!quant_is_solved(w))
        return 0;
    if (!ref->solved)
        return aq_err_set(err, AQ_EUSAGE,
                          "'%s' has a calibrated candidate in %s: --solved is needed",
                          aq_show(o->path), aq_show(group));
    if (solved_digest(ref->solved, id, digest, err) < 0)
        return aq_err_prefix(err, "%s", aq_show(o->path));
    return 0;
}

/* One half of a layer's experts under a candidate; input: what it reads. */
static int apply_half(struct eval_operand *o, const struct eval_reference *ref,
                      const struct manifest_choice *c, int64_t prefix, const char *group,
                      int64_t input, struct eval_linear *x, struct aq_err *err)
{
    int64_t cols = ref->lm->groups.inputs[input].cols;
    if (quant_parse(c->weight, &x->w, err) < 0 || quant_parse_act(c->act, &x->a, err) < 0)
        return aq_err_prefix(err, "%s: candidate '%s'", aq_show(o->path), aq_show(c->candidate));
    x->w.group = 0; /* each expert's gate and up are one matrix */
    x->swapped = x->w.steps > 0 || x->a.steps > 0;
    treatment_id(c->weight, c->act, x->id);
    if (check_solved(o, ref, &x->w, x->id, group, err) < 0)
        return -1;
    if (treatment_ranged(&x->a)) {
        if (!ref->ranges)
            return aq_err_set(err, AQ_EUSAGE,
                              "'%s' has a static activation range in %s: --ranges is needed",
                              aq_show(o->path), aq_show(group));
        if (take_range(x, ref, prefix, input, cols, err) < 0)
            return -1;
    }
    return x->w.methods.scaling ? take_factor(x, ref, input, cols, err) : 0;
}

static int apply_experts(struct eval_operand *o, const struct eval_reference *ref,
                         const struct manifest_choice *c, int64_t prefix,
                         const struct model_group *g, const struct model_layer *shape, int of_layer,
                         struct aq_err *err)
{
    struct eval_linear *x = &o->experts[g->layer * EXPERT_HALVES];
    if (strcmp(c->candidate, "NONE") == 0)
        return 0;
    for (int h = 0; h < EXPERT_HALVES; h++) {
        int64_t input = (int64_t)ref->lm->groups.first_input[g->layer] + shape->experts_input[h];
        if (shape->groups[of_layer].half[h] &&
            apply_half(o, ref, c, prefix, g->name, input, &x[h], err) < 0)
            return -1;
    }
    x[EXPERT_DOWN].range.factor = NULL; /* the rows of up are divided by that scale */
    return 0;
}

/* The group's linears in `shape` are neighbours, and all read one input. */
int eval_operand_apply(struct eval_operand *o, const struct eval_reference *ref,
                       const struct manifest_choice *c, int64_t prefix, size_t group,
                       struct aq_err *err)
{
    const struct model_groups *groups = &ref->lm->groups;
    const struct model_group *g = &groups->items[group];
    struct model_layer shape;
    model_layer_describe(&shape, &ref->lm->arch, g->layer);
    int of_layer = (int)(group - groups->first[g->layer]);
    if (g->experts)
        return apply_experts(o, ref, c, prefix, g, &shape, of_layer, err);
    int first = shape.groups[of_layer].first, count = shape.groups[of_layer].linears;
    struct eval_linear *all = &o->linears[g->layer * MODEL_LINEARS], *lead = &all[first];
    int64_t cols = groups->inputs[g->inputs[0]].cols;
    struct quant_plan *plan = NULL;
    if (strcmp(c->candidate, "NONE") == 0)
        return 0;
    if (quant_parse(c->weight, &lead->w, err) < 0 || quant_parse_act(c->act, &lead->a, err) < 0)
        return aq_err_prefix(err, "%s: candidate '%s'", aq_show(o->path), aq_show(c->candidate));
    treatment_id(c->weight, c->act, lead->id);
    if (lead->w.methods.own)
        return aq_err_set(err, AQ_EINPUT,
                          "'%s': %s: scales of each linear's own are there to compare scores with "
                          "ModelOpt's; what is served has one for all (autoquant.awq_shared joint)",
                          aq_show(o->path), aq_show(g->name));
    if (check_solved(o, ref, &lead->w, lead->id, g->name, err) < 0)
        return -1;
    lead->swapped = lead->w.steps > 0 || lead->a.steps > 0;
    if (treatment_ranged(&lead->a)) {
        if (!ref->ranges)
            return aq_err_set(err, AQ_EUSAGE,
                              "'%s' has a static activation range in %s: --ranges is needed",
                              aq_show(o->path), aq_show(g->name));
        if (take_range(lead, ref, prefix, g->inputs[0], cols, err) < 0)
            return -1;
    }
    if (lead->w.methods.scaling && take_factor(lead, ref, g->inputs[0], cols, err) < 0)
        return -1;
    if (quant_plan_act(&plan, &lead->a, cols, lead->ranged ? &lead->range : NULL, QUANT_UNROUNDED,
                       err) < 0)
        return aq_err_prefix(err, "%s: %s", aq_show(o->path), aq_show(g->name));
    quant_plan_free(plan);
    for (int l = first; l < first + count; l++) {
        const struct quant_matrix m = {.rows = shape.linears[l].rows,
                                       .cols = shape.linears[l].cols,
                                       .name = shape.linears[l].name};
        all[l] = *lead;
        if (quant_fits_weight(&lead->w, &m, err) < 0)
            return aq_err_prefix(err, "%s: layer %lld", aq_show(o->path), (long long)g->layer);
    }
    return 0;
}

static void read_facts(struct eval_operand *o, const struct manifest *m)
{
    const struct json *p = json_find(m->selection, "predicted_kl");
    o->bits = json_find_number(m->selection, "effective_bits");
    o->predicted = json_find_number(p, "nats");
    o->low = json_find_number(p, "low");
    o->high = json_find_number(p, "high");
}

/* What one second level for all members of a group does to its weights, where it is quantized so.
 */
static int add_sharing(struct eval_operand *o, const struct eval_reference *ref, size_t group,
                       struct aq_err *err)
{
    const struct model_group *g = &ref->lm->groups.items[group];
    struct quant_matrix members[MODEL_LINEARS];
    float amax[MODEL_LINEARS];
    struct model_layer shape;
    if (g->experts)
        return 0;
    model_layer_describe(&shape, o->arch, g->layer);
    int first = shape.groups[group - ref->lm->groups.first[g->layer]].first;
    const struct quant_spec *w = &eval_operand_linear(o, g->layer, first)->w;
    if (!w->group || g->member_count < 2 || g->member_count != g->module_count ||
        quant_has_method(w))
        return 0;
    for (int i = 0; i < g->member_count; i++) {
        char *name = xasprintf("%s.weight", g->members[i]);
        const struct lm_tensor *t = lm_find(ref->lm, name);
        free(name);
        if (!t) /* a piece of a larger tensor, whose range is its own */
            return 0;
        members[i] = (struct quant_matrix){t->data, st_num_type(t->dtype), g->modules[i].rows,
                                           g->modules[i].cols, g->members[i]};
        if (quant_weight_amax(&members[i], &amax[i], err) < 0)
            return -1;
    }
    return sharing_add(&o->sharing, w, members, amax, g->member_count, err);
}

static int read_recipe(struct eval_operand *o, const struct manifest *m,
                       const struct eval_reference *ref, struct aq_err *err)
{
    const struct model_groups *groups = &ref->lm->groups;
    double prefix = json_find_number(json_find(m->aq, "identity"), "prefix");
    if (manifest_is_of(m, ref->lm->digest, groups->count, ref->path, err) < 0)
        return -1;
    if (isnan(prefix) && ref->ranges) /* a manifest that says nothing: the whole data set */
        prefix = (double)ref->ranges->prefixes[ref->ranges->prefix_count - 1];
    o->arch = &ref->lm->arch;
    o->groups = &ref->lm->groups;
    o->solved = ref->solved;
    eval_operand_take_linears(o, o->arch);
    for (size_t i = 0; i < groups->count; i++) {
        struct manifest_choice c;
        if (manifest_choice(m, groups->items[i].name, &c, err) < 0 ||
            served_group(&ref->served, ref->lm, &groups->items[i], c.weight, &c.act, err) < 0 ||
            eval_operand_apply(o, ref, &c, isnan(prefix) ? 0 : (int64_t)prefix, i, err) < 0 ||
            add_sharing(o, ref, i, err) < 0)
            return -1;
    }
    eval_operand_share(o);
    read_facts(o, m);
    return 0;
}

static int open_manifest(struct eval_operand *o, struct json *root,
                         const struct eval_reference *ref, struct aq_err *err)
{
    struct manifest m;
    o->kind = EVAL_MANIFEST;
    int r = manifest_load(&m, root, o->path, err);
    if (r == 0)
        r = read_recipe(o, &m, ref, err);
    manifest_release(&m);
    return r;
}

/* ---- lm.json ---- */

static int open_lm(struct eval_operand *o, struct aq_err *err)
{
    o->kind = EVAL_LM;
    o->own = xcalloc(1, sizeof *o->own);
    if (lm_open(o->own, o->path, err) < 0)
        return -1;
    o->arch = &o->own->arch;
    o->source = nn_source_of_lm(o->own);
    o->has_source = true;
    memcpy(o->digest, o->own->digest, sizeof o->digest);
    return 0;
}

/* ---- which is it ---- */

static int open_json(struct eval_operand *o, const struct eval_reference *ref, struct aq_err *err)
{
    struct aq_buf text = AQ_BUF_INIT;
    struct json *root = NULL;
    const char *schema;
    int r = aq_read_file(o->path, (size_t)1 << 30, &text, err);
    if (r == 0) {
        aq_sha256_of(text.data, text.len, o->digest);
        root = json_parse(text.data, text.len, o->path, err);
        r = root ? 0 : -1;
    }
    aq_buf_release(&text);
    if (r < 0)
        return -1;
    schema = json_find_string(root, "schema");
    if (schema && strncmp(schema, "aq.lm/", 6) == 0) {
        json_free(root);
        return open_lm(o, err);
    }
    if (json_find(root, "autoquant_state") || json_find(root, "selection"))
        return open_manifest(o, root, ref, err);
    json_free(root);
    aq_err_set(err, AQ_EINPUT, "'%s' is neither a manifest nor an lm.json", aq_show(o->path));
    return aq_err_hint(err, "operands are: a manifest of aq-select, an lm.json of "
                            "aq-extract-lm, a checkpoint directory, a GGUF file");
}

int eval_operand_open(struct eval_operand *o, const char *path, const struct eval_reference *ref,
                      struct aq_err *err)
{
    *o = (struct eval_operand){.path = path,
                               .bits = NAN,
                               .predicted = NAN,
                               .low = NAN,
                               .high = NAN,
                               .sharing = SHARING_INIT};
    int file = eval_file_kind(path);
    return file < 0 ? open_json(o, ref, err) : eval_file_open(o, (enum eval_kind)file, ref, err);
}

static void free_ranges(struct eval_operand *o)
{
    for (int64_t i = 0; o->linears && i < o->layers * MODEL_LINEARS; i++) {
        const float *hidden = o->linears[i].range.hidden;
        for (int64_t k = i; hidden && k < o->layers * MODEL_LINEARS; k++)
            if (o->linears[k].range.hidden == hidden) /* one for all linears of a group */
                o->linears[k].range.hidden = NULL;
        free((void *)hidden);
    }
    for (int64_t i = 0; o->experts && i < o->layers * EXPERT_HALVES; i++)
        free((void *)o->experts[i].range.hidden);
    free(o->experts);
}

void eval_operand_close(struct eval_operand *o)
{
    free_ranges(o);
    free(o->linears);
    if (o->own) {
        lm_close(o->own);
        free(o->own);
    }
    eval_file_close(o->file);
    *o = (struct eval_operand){0};
}
