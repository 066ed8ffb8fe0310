/* A manifest as input: of an earlier selection, or of a tool that knows nothing of ours. */
#include "base/mem.h"
#include "select/select_read.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a candidate is called: by its own name, or "<pair>" or "<pair>/<label>" after the scheme. */
static char *candidate_name(const struct manifest *m, const char *label, bool only)
{
    static const char ending[] = "_autoquant_lm";
    const char *scheme = m->scheme_name ? m->scheme_name : "manifest";
    const char *at = strstr(scheme, ending);
    int len = at && at != scheme ? (int)(at - scheme) : (int)strlen(scheme);
    return only ? xasprintf("%.*s", len, scheme) : xasprintf("%.*s/%s", len, scheme, label);
}

/* The candidate that an option belongs to: by name if the manifest has names, else by label. */
static size_t find_candidate(const struct sel_cell *c, const struct manifest_option *o)
{
    size_t label_len = strcspn(o->format, "(");
    for (size_t i = 0; i < c->candidate_count; i++) {
        const struct sel_candidate *known = &c->candidates[i];
        if (o->name ? known->name && strcmp(known->name, o->name) == 0
                    : !known->name && strlen(known->label) == label_len &&
                          strncmp(known->label, o->format, label_len) == 0)
            return i;
    }
    return c->candidate_count;
}

/* The distinct candidates of all groups, in order of appearance. */
static void collect_candidates(struct sel_cell *c)
{
    const struct manifest *m = &c->manifest;
    size_t cap = 0;
    for (size_t i = 0; i < m->option_count; i++) {
        const struct manifest_option *o = &m->options[i];
        if (o->none || find_candidate(c, o) < c->candidate_count)
            continue;
        AQ_GROW(c->candidates, c->candidate_count, cap);
        c->candidates[c->candidate_count++] =
            (struct sel_candidate){.name = o->name ? xstrdup(o->name) : NULL,
                                   .label = manifest_format_label(o->format),
                                   .quantization = m->quantization};
    }
}

/* In the order, and with the quantization, that a selection over several cells wrote down. */
static void order_candidates(struct sel_cell *c)
{
    const struct json *list = json_find(c->quantization, "candidates");
    size_t at = 0;
    if (!list || json_type(list) != JSON_OBJECT)
        return;
    for (const struct json *v = json_first(list); v; v = json_next(v))
        for (size_t i = at; i < c->candidate_count; i++) {
            struct sel_candidate found = c->candidates[i];
            if (!found.name || strcmp(found.name, json_key(v)) != 0)
                continue;
            found.quantization = v;
            found.format = json_find_string(v, "base_format_name");
            memmove(c->candidates + at + 1, c->candidates + at, (i - at) * sizeof found);
            c->candidates[at++] = found;
            break;
        }
}

/* Only once all values are read: until then a missing name says "by label". */
static void name_candidates(struct sel_cell *c)
{
    for (size_t i = 0; i < c->candidate_count; i++)
        if (!c->candidates[i].name)
            c->candidates[i].name =
                candidate_name(&c->manifest, c->candidates[i].label, c->candidate_count == 1);
}

/* What an earlier selection wrote down of each candidate. */
static void find_facts(struct sel_cell *c)
{
    const struct json *all = json_find(c->manifest.selection, "candidates");
    for (size_t i = 0; i < c->candidate_count; i++) {
        const struct json *facts = json_find(all, c->candidates[i].name);
        if (facts && json_type(facts) == JSON_OBJECT)
            c->candidates[i].facts = facts;
    }
}

static int read_weights(struct sel_cell *c, size_t i, struct aq_err *err)
{
    const struct manifest_group *from = &c->manifest.groups[i];
    struct sel_group *g = &c->groups[i];
    double weights = manifest_group_weights(from);
    if (!(weights >= 1 && weights <= 0x1p50))
        return aq_err_set(
            err, AQ_EINPUT,
            "%s: layer_sensitivity.%s: the costs do not say how many weights there are",
            aq_show(c->path), aq_show(from->handle));
    g->name = from->layer;
    g->members = from->members;
    g->model = from->model;
    g->routed = from->routed;
    g->weights = weights;
    return 0;
}

static int read_values(struct sel_cell *c, size_t i, struct aq_err *err)
{
    const struct manifest_group *from = &c->manifest.groups[i];
    const char *method = c->facts[SEL_METHOD];
    for (size_t j = 0; j < from->count; j++) {
        const struct manifest_option *o = &from->options[j];
        if (o->score < 0 && (!method || strcmp(method, "kl_div") != 0))
            return aq_err_set(err, AQ_EINPUT,
                              "%s: layer_sensitivity.%s.scores[%zu]: a gradient score is a sum of "
                              "squares and cannot be negative",
                              aq_show(c->path), aq_show(from->handle), j);
        if (o->none)
            continue;
        struct sel_value *v = sel_value_at(c, i, find_candidate(c, o));
        if (v->present)
            return aq_err_set(err, AQ_EINPUT, "%s: layer_sensitivity.%s: a candidate appears twice",
                              aq_show(c->path), aq_show(from->handle));
        *v = (struct sel_value){.present = true,
                                .flat = o->flat,
                                .score = o->score,
                                .per_batch_mean = o->per_batch_mean,
                                .error = o->error,
                                .weight_only = o->weight_only,
                                .activation_only = o->activation_only,
                                .per_token = o->per_token,
                                .per_token_dot = o->per_token_dot,
                                .first_position = o->first_position,
                                .range_ratio = o->range_ratio,
                                .bits = {NAN, NAN, NAN},
                                .cost = {NAN, NAN, NAN}};
        v->bits[SEL_COST_STORAGE] = o->storage_bits;
        v->cost[SEL_COST_STORAGE] = c->groups[i].weights * o->storage_bits / 16;
        v->bits[c->cost] =
            isnan(o->bits) ? o->cost * 16 / (c->groups[i].weights * from->share) : o->bits;
        v->cost[c->cost] = o->cost / from->share;
    }
    return 0;
}

/* Parts of the model: what the groups' names say, unless the manifest is one of ours. */
static int read_parts(struct sel_cell *c, const struct jref *root, struct aq_err *err)
{
    struct jref aq, weights;
    if (!c->manifest.aq) {
        for (size_t i = 0; i < c->group_count; i++)
            c->lm_weights += c->groups[i].weights;
        return 0;
    }
    if (jref_get(root, "aq", JSON_OBJECT, &aq, err) < 0 ||
        jref_get(&aq, "weights", JSON_OBJECT, &weights, err) < 0)
        return -1;
    if (jref_double(&weights, "lm", &c->lm_weights, err) < 0 ||
        jref_double(&weights, "head", &c->head_weights, err) < 0)
        return -1;
    return jref_double(&weights, "vision", &c->vision_weights, err);
}

static int read_own(struct sel_cell *c, const struct jref *root, struct aq_err *err)
{
    struct jref aq, identity, selection, at;
    if (c->manifest.aq) {
        if (jref_get(root, "aq", JSON_OBJECT, &aq, err) < 0 ||
            jref_get(&aq, "identity", JSON_OBJECT, &identity, err) < 0)
            return -1;
        c->identity = identity.v;
        for (int f = 0; f < SEL_FACTS; f++)
            c->facts[f] = sel_fact_text(identity.v, sel_fact_names[f]);
        free(c->facts[SEL_NORMALIZATION]);
        c->facts[SEL_NORMALIZATION] = sel_fact_text(aq.v, "normalization");
    }
    if (c->manifest.dataset && !c->facts[SEL_PADDING])
        c->facts[SEL_PADDING] = sel_fact_text(c->manifest.dataset, "padding");
    if (!c->facts[SEL_METHOD])
        c->facts[SEL_METHOD] = sel_fact_text(c->scheme, "auto_quantize_method");
    if (!c->manifest.selection)
        return 0;
    const char *denominator;
    if (jref_get(root, "selection", JSON_OBJECT, &selection, err) < 0)
        return -1;
    if (jref_has(&selection, "cost", &at) && sel_cost_named(&at, &c->cost, err) < 0)
        return -1;
    if (jref_has(&selection, "denominator", &at)) {
        if (jref_string(&selection, "denominator", &denominator, err) < 0)
            return -1;
        c->count_vision = strstr(denominator, "+vision") != NULL;
    }
    return 0;
}

int sel_read_manifest(struct sel_cell *c, struct json *root, struct aq_err *err)
{
    if (manifest_load(&c->manifest, root, c->path, err) < 0)
        return -1;
    const struct manifest *m = &c->manifest;
    struct jref at = jref_root(m->root, c->path), scheme;
    if (m->count == 0)
        return aq_err_set(err, AQ_EINPUT, "%s: layer_sensitivity: there is no group",
                          aq_show(c->path));
    c->scheme = m->scheme;
    c->model = m->model;
    c->dataset = m->dataset;
    c->quantization = m->quantization;
    const struct json *layers = json_get(m->root, "layers");
    c->layers = layers && json_type(layers) == JSON_OBJECT ? layers : NULL;
    c->active = m->active;
    c->cost = SEL_COST_MODELOPT40; /* what tools that do not say so charge */
    scheme = jref_child(&at, m->scheme, 0);
    if (jref_double(&scheme, "auto_quantize_bits", &c->effective_bits, err) < 0 ||
        read_own(c, &at, err) < 0)
        return -1;
    collect_candidates(c);
    order_candidates(c);
    c->group_count = m->count;
    c->groups = xcalloc(m->count, sizeof *c->groups);
    c->values = xcalloc(m->count * c->candidate_count + 1, sizeof *c->values);
    for (size_t i = 0; i < m->count; i++)
        if (read_weights(c, i, err) < 0 || read_values(c, i, err) < 0)
            return -1;
    name_candidates(c);
    find_facts(c);
    return read_parts(c, &at, err);
}
