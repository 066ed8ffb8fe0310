/* scores.json, the product of aq-score collect: every type and range is checked here. */
#include "base/mem.h"
#include "base/names.h"
#include "io/product.h"
#include "select/select_read.h"
#include "store/collect.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const int64_t max_weights = INT64_C(1) << 50; /* of one group: exact in a double */

char *sel_fact_text(const struct json *object, const char *key)
{
    const struct json *v = json_get(object, key);
    if (!v || json_type(v) == JSON_NULL)
        return NULL;
    if (json_type(v) == JSON_STRING)
        return xstrdup(json_string(v));
    struct aq_buf text = AQ_BUF_INIT;
    if (json_write(&text, v, JSON_COMPACT | JSON_SORT_KEYS, NULL) < 0)
        aq_buf_adds(&text, "?");
    return aq_buf_detach(&text);
}

int sel_cost_named(const struct jref *at, enum sel_cost *cost, struct aq_err *err)
{
    const char *name = json_type(at->v) == JSON_STRING ? json_string(at->v) : "";
    for (int i = 0; i < SEL_COSTS; i++)
        if (strcmp(name, sel_cost_names[i]) == 0) {
            *cost = (enum sel_cost)i;
            return 0;
        }
    return jref_fail(at, err, "expected one of: storage, modelopt40, modelopt47");
}

/* A number or null; the key must be there unless it is optional. */
static int nullable(const struct jref *object, const char *key, double *out, struct aq_err *err)
{
    *out = NAN;
    return jref_maybe_double(object, key, out, err);
}

/* ---- metadata ---- */

static int read_autoquant(struct sel_cell *c, const struct jref *run, struct aq_err *err)
{
    struct jref autoquant, at;
    if (jref_get(run, "autoquant", JSON_OBJECT, &autoquant, err) < 0)
        return -1;
    c->autoquant = autoquant.v;
    if (jref_double(&autoquant, "effective_bits", &c->effective_bits, err) < 0)
        return -1;
    if (jref_has(&autoquant, "cost", &at) && sel_cost_named(&at, &c->cost, err) < 0)
        return -1;
    if (jref_has(&autoquant, "cost_model", &at) && manifest_cost_model(&at, &c->active, err) < 0)
        return -1;
    if (jref_maybe_bool(&autoquant, "count_vision", &c->count_vision, err) < 0)
        return -1;
    const char *normalization;
    if (jref_string(&autoquant, "normalization", &normalization, err) < 0)
        return -1;
    if (strcmp(normalization, "per_token") != 0 && strcmp(normalization, "per_batch_mean") != 0) {
        jref_has(&autoquant, "normalization", &at);
        return jref_fail(&at, err, "expected one of: per_token, per_batch_mean");
    }
    c->facts[SEL_NORMALIZATION] = xstrdup(normalization);
    return 0;
}

static int read_run(struct sel_cell *c, const struct jref *root, struct aq_err *err)
{
    struct jref run, scheme, model, dataset, quantization;
    if (jref_get(root, "run", JSON_OBJECT, &run, err) < 0 ||
        jref_get(&run, "scheme", JSON_OBJECT, &scheme, err) < 0 ||
        jref_get(&run, "model", JSON_OBJECT, &model, err) < 0 ||
        jref_get(&run, "dataset", JSON_OBJECT, &dataset, err) < 0 ||
        jref_get(&run, "quantization", JSON_OBJECT, &quantization, err) < 0)
        return -1;
    c->scheme = scheme.v;
    c->model = model.v;
    c->dataset = dataset.v;
    c->quantization = quantization.v;
    c->facts[SEL_PADDING] = sel_fact_text(dataset.v, "padding");
    return read_autoquant(c, &run, err);
}

static int read_identity(struct sel_cell *c, const struct jref *root, struct aq_err *err)
{
    static const enum sel_fact needed[] = {SEL_LM, SEL_TOKENS, SEL_METHOD, SEL_PREFIX,
                                           SEL_SCORE_SAMPLES};
    struct jref identity;
    if (jref_get(root, "identity", JSON_OBJECT, &identity, err) < 0)
        return -1;
    c->identity = identity.v;
    for (int f = 0; f < SEL_FACTS; f++)
        if (!c->facts[f])
            c->facts[f] = sel_fact_text(identity.v, sel_fact_names[f]);
    for (size_t i = 0; i < AQ_COUNT(needed); i++)
        if (!c->facts[needed[i]])
            return jref_fail(&identity, err, "key '%s' is missing", sel_fact_names[needed[i]]);
    return 0;
}

static int read_candidate(struct sel_cell *c, const struct jref *root, double *bits,
                          struct aq_err *err)
{
    struct jref candidate, rules, treatment, num_bits;
    const char *name, *label;
    c->candidates = xcalloc(1, sizeof *c->candidates);
    c->candidate_count = 1;
    struct sel_candidate *own = &c->candidates[0];
    if (jref_get(root, "candidate", JSON_OBJECT, &candidate, err) < 0 ||
        jref_string(&candidate, "name", &name, err) < 0 ||
        jref_string(&candidate, "treatment_id", &own->treatment, err) < 0 ||
        jref_string(&candidate, "label", &label, err) < 0 ||
        jref_get(&candidate, "bits", JSON_OBJECT, &rules, err) < 0 ||
        jref_get(&candidate, "treatment", JSON_OBJECT, &treatment, err) < 0 ||
        jref_get(&candidate, "num_bits", JSON_OBJECT, &num_bits, err) < 0)
        return -1;
    if (!*name || strcmp(name, "NONE") == 0)
        return jref_fail(&candidate, err, "a candidate cannot be named '%s'", name);
    own->name = xstrdup(name);
    own->label = xstrdup(label);
    own->quantization = c->quantization;
    own->own_facts = json_copy(treatment.v);
    own->facts = own->own_facts;
    json_add_string(own->own_facts, "treatment_id", own->treatment);
    json_add(own->own_facts, "num_bits", json_copy(num_bits.v));
    if (json_get(candidate.v, "tokens")) /* that a calibrated one was solved over */
        json_add(own->own_facts, "tokens", json_copy(json_get(candidate.v, "tokens")));
    const struct json *format = json_get(c->quantization, "base_format_name");
    own->format = format && json_type(format) == JSON_STRING ? json_string(format) : NULL;
    for (int rule = 0; rule < SEL_COSTS; rule++) {
        if (jref_double(&rules, sel_cost_names[rule], &bits[rule], err) < 0)
            return -1;
        if (!(bits[rule] > 0 && bits[rule] <= 16))
            return jref_fail(&rules, err, "'%s' is outside (0, 16]", sel_cost_names[rule]);
    }
    return 0;
}

static int read_weights(struct sel_cell *c, const struct jref *root, struct aq_err *err)
{
    struct jref weights;
    int64_t lm, head, vision;
    if (jref_get(root, "weights", JSON_OBJECT, &weights, err) < 0 ||
        jref_int(&weights, "lm", 0, max_weights, &lm, err) < 0 ||
        jref_int(&weights, "head", 0, max_weights, &head, err) < 0 ||
        jref_int(&weights, "vision", 0, max_weights, &vision, err) < 0)
        return -1;
    c->lm_weights = (double)lm;
    c->head_weights = (double)head;
    c->vision_weights = (double)vision;
    return 0;
}

/* ---- groups ---- */

static int read_members(struct sel_group *g, const struct jref *at, struct aq_names *modules,
                        struct aq_err *err)
{
    struct jref list;
    if (jref_get(at, "members", JSON_ARRAY, &list, err) < 0)
        return -1;
    g->members = list.v;
    size_t i = 0;
    for (const struct json *v = json_first(list.v); v; v = json_next(v), i++) {
        struct jref member = jref_child(&list, v, i);
        if (jref_is(&member, JSON_STRING, err) < 0)
            return -1;
        aq_names_add(modules, json_string(v));
    }
    const struct json *first = json_first(list.v);
    if (!first || strcmp(json_string(first), g->name) != 0)
        return jref_fail(&list, err, "the first member must be the group's name, '%s'",
                         aq_show(g->name));
    return 0;
}

static int read_score(const struct sel_cell *c, struct sel_value *v, const struct jref *at,
                      struct aq_err *err)
{
    double sum, per_token_error, per_batch_error;
    if (jref_double(at, "sum", &sum, err) < 0 ||
        jref_double(at, "per_token", &v->per_token, err) < 0 ||
        jref_double(at, "per_batch_mean", &v->per_batch_mean, err) < 0 ||
        nullable(at, "per_token_se", &per_token_error, err) < 0 ||
        nullable(at, "per_batch_mean_se", &per_batch_error, err) < 0 ||
        nullable(at, "per_token_dot", &v->per_token_dot, err) < 0 ||
        nullable(at, "first_position", &v->first_position, err) < 0 ||
        nullable(at, "range_ratio", &v->range_ratio, err) < 0 ||
        nullable(at, "weight_only", &v->weight_only, err) < 0 ||
        nullable(at, "activation_only", &v->activation_only, err) < 0)
        return -1;
    struct jref flat;
    if (jref_has(at, "flat", &flat) && manifest_read_flat(&flat, &v->flat, err) < 0)
        return -1;
    bool per_batch = strcmp(c->facts[SEL_NORMALIZATION], "per_batch_mean") == 0;
    v->score = per_batch ? v->per_batch_mean : v->per_token;
    v->error = per_batch ? per_batch_error : per_token_error;
    if (v->error < 0)
        return jref_fail(at, err, "a standard error cannot be negative");
    if (strcmp(c->facts[SEL_METHOD], "gradient") == 0 &&
        (sum < 0 || v->per_token < 0 || v->per_token_dot < 0 || v->per_batch_mean < 0))
        return jref_fail(at, err, "a gradient score is a sum of squares and cannot be negative");
    return 0;
}

static int read_group(struct sel_cell *c, size_t i, const struct jref *at, const double *bits,
                      struct aq_names *modules, struct aq_err *err)
{
    struct sel_group *g = &c->groups[i];
    struct sel_value *v = sel_value_at(c, i, 0);
    int64_t weights;
    g->model = at->v;
    if (jref_string(at, "name", &g->name, err) < 0 || read_members(g, at, modules, err) < 0 ||
        jref_int(at, "weights", 1, max_weights, &weights, err) < 0 || read_score(c, v, at, err) < 0)
        return -1;
    if (routed_read(at, "routed", &g->routed, err) < 0)
        return -1;
    v->present = true;
    g->weights = (double)weights;
    for (int rule = 0; rule < SEL_COSTS; rule++) {
        v->bits[rule] = bits[rule];
        v->cost[rule] = g->weights * bits[rule] / 16;
    }
    return 0;
}

static int read_groups(struct sel_cell *c, const struct jref *root, const double *bits,
                       struct aq_err *err)
{
    struct jref list;
    if (jref_get(root, "groups", JSON_ARRAY, &list, err) < 0)
        return -1;
    size_t n = json_size(list.v), i = 0;
    if (n == 0)
        return jref_fail(&list, err, "there is no group");
    c->groups = xcalloc(n, sizeof *c->groups);
    c->values = xcalloc(n, sizeof *c->values);
    struct aq_names modules = AQ_NAMES_INIT;
    int r = 0;
    for (const struct json *v = json_first(list.v); v && r == 0; v = json_next(v), i++) {
        struct jref at = jref_child(&list, v, i);
        r = read_group(c, i, &at, bits, &modules, err);
    }
    c->group_count = i;
    ptrdiff_t twice = r == 0 ? aq_names_sort(&modules) : -1;
    if (twice >= 0)
        r = jref_fail(&list, err, "module '%s' appears twice", aq_show(modules.items[twice]));
    aq_names_release(&modules);
    return r;
}

int sel_read_scores(struct sel_cell *c, struct aq_err *err)
{
    struct jref root = jref_root(c->root, c->path);
    double bits[SEL_COSTS];
    if (product_check(&root, SCORES_SCHEMA, err) < 0 || read_run(c, &root, err) < 0 ||
        read_identity(c, &root, err) < 0 || read_candidate(c, &root, bits, err) < 0 ||
        read_weights(c, &root, err) < 0)
        return -1;
    return read_groups(c, &root, bits, err);
}
