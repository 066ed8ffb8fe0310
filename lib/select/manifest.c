#include "select/manifest.h"
#include "base/fmt.h"
#include "base/mem.h"
#include "base/names.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char bits_mark[] = "effective-bits:";
static const char recipe_suffix[] = ".quant_recipe";

/* The number in "NAME(effective-bits: 8.0)"; NAN if there is none. */
static double format_bits(const char *format)
{
    const char *at = strstr(format, bits_mark);
    if (!at)
        return NAN;
    at += sizeof bits_mark - 1;
    at += strspn(at, " ");
    size_t len = strcspn(at, ")");
    if (at[len] != ')')
        return NAN;
    char *text = xstrndup(at, len);
    double bits;
    if (!aq_parse_double(text, &bits))
        bits = NAN;
    free(text);
    return bits;
}

char *manifest_format_label(const char *format)
{
    return xstrndup(format, strcspn(format, "("));
}

double manifest_group_weights(const struct manifest_group *g)
{
    double weights = NAN;
    for (size_t i = 0; i < g->count; i++) {
        const struct manifest_option *o = &g->options[i];
        if (o->bits > 0 && (isnan(weights) || o->none))
            weights = o->cost * 16 / (o->bits * g->share);
    }
    return weights;
}

static size_t candidate_length(const struct manifest_option *o)
{
    return o->name ? strlen(o->name) : strcspn(o->format, "(");
}

char *manifest_candidate(const struct manifest_option *o)
{
    return xstrndup(o->name ? o->name : o->format, candidate_length(o));
}

bool manifest_same_candidate(const struct manifest_option *a, const struct manifest_option *b)
{
    size_t n = candidate_length(a);
    return n == candidate_length(b) &&
           strncmp(a->name ? a->name : a->format, b->name ? b->name : b->format, n) == 0;
}

/* ---- one entry of the table ---- */

static int list_of(const struct jref *entry, const char *key, size_t count, struct jref *list,
                   struct aq_err *err)
{
    if (jref_get(entry, key, JSON_ARRAY, list, err) < 0)
        return -1;
    size_t found = json_size(list->v);
    if (found != count)
        return jref_fail(list, err, "expected %zu values, one for each format, found %zu", count,
                         found);
    return 0;
}

static int read_formats(struct manifest_group *g, const struct jref *list, struct aq_err *err)
{
    size_t i = 0;
    for (const struct json *v = json_first(list->v); v; v = json_next(v), i++) {
        struct jref at = jref_child(list, v, i);
        struct manifest_option *o = &g->options[i];
        if (jref_is(&at, JSON_STRING, err) < 0)
            return -1;
        o->format = json_string(v);
        o->bits = format_bits(o->format);
        o->none = strncmp(o->format, "NONE(", 5) == 0;
        o->per_batch_mean = o->error = o->storage_bits = NAN;
        o->weight_only = o->activation_only = NAN;
        o->per_token = o->per_token_dot = o->first_position = o->range_ratio = NAN;
        for (size_t j = 0; j < i; j++)
            if (strcmp(g->options[j].format, o->format) == 0)
                return jref_fail(&at, err, "format '%s' appears twice", aq_show(o->format));
    }
    return 0;
}

static int read_scores_and_costs(struct manifest_group *g, const struct jref *entry,
                                 struct aq_err *err)
{
    struct jref scores, costs;
    if (list_of(entry, "scores", g->count, &scores, err) < 0 ||
        list_of(entry, "costs", g->count, &costs, err) < 0)
        return -1;
    const struct json *s = json_first(scores.v), *c = json_first(costs.v);
    for (size_t i = 0; i < g->count; i++, s = json_next(s), c = json_next(c)) {
        struct manifest_option *o = &g->options[i];
        struct jref score = jref_child(&scores, s, i), cost = jref_child(&costs, c, i);
        o->score_value = s;
        o->cost_value = c;
        if (jref_number(&score, &o->score, err) < 0 || jref_number(&cost, &o->cost, err) < 0)
            return -1;
        if (o->cost < 0)
            return jref_fail(&cost, err, "a cost cannot be negative");
    }
    return 0;
}

/* An optional list of numbers beside the scores; null is allowed and reads as NAN. */
static int read_extra(struct manifest_group *g, const struct jref *entry, const char *key,
                      size_t offset, struct aq_err *err)
{
    struct jref list;
    if (!jref_has(entry, key, &list))
        return 0;
    if (list_of(entry, key, g->count, &list, err) < 0)
        return -1;
    size_t i = 0;
    for (const struct json *v = json_first(list.v); v; v = json_next(v), i++) {
        struct jref at = jref_child(&list, v, i);
        double *out = (void *)((char *)&g->options[i] + offset);
        if (json_type(v) != JSON_NULL && jref_number(&at, out, err) < 0)
            return -1;
    }
    return 0;
}

int manifest_read_flat(const struct jref *at, const char **out, struct aq_err *err)
{
    static const char *const words[] = {"zero", "weights", "activations", "both"};
    const char *found = json_type(at->v) == JSON_STRING ? json_string(at->v) : "";
    for (size_t i = 0; i < AQ_COUNT(words); i++)
        if (strcmp(found, words[i]) == 0) {
            *out = words[i];
            return 0;
        }
    return jref_fail(at, err, "expected one of: zero, weights, activations, both");
}

static int read_flat(struct manifest_group *g, const struct jref *entry, struct aq_err *err)
{
    struct jref list;
    if (!jref_has(entry, "flat", &list))
        return 0;
    if (list_of(entry, "flat", g->count, &list, err) < 0)
        return -1;
    size_t i = 0;
    for (const struct json *v = json_first(list.v); v; v = json_next(v), i++) {
        struct jref at = jref_child(&list, v, i);
        if (json_type(v) != JSON_NULL && manifest_read_flat(&at, &g->options[i].flat, err) < 0)
            return -1;
    }
    return 0;
}

static int read_candidates(struct manifest_group *g, const struct jref *entry, struct aq_err *err)
{
    struct jref list;
    if (!jref_has(entry, "candidates", &list))
        return 0;
    if (list_of(entry, "candidates", g->count, &list, err) < 0)
        return -1;
    size_t i = 0;
    for (const struct json *v = json_first(list.v); v; v = json_next(v), i++) {
        struct jref at = jref_child(&list, v, i);
        if (jref_is(&at, JSON_STRING, err) < 0)
            return -1;
        g->options[i].name = json_string(v);
    }
    return 0;
}

static char *without_suffix(const char *handle)
{
    size_t n = strlen(handle), s = sizeof recipe_suffix - 1;
    if (n > s && strcmp(handle + n - s, recipe_suffix) == 0)
        n -= s;
    return xstrndup(handle, n);
}

static int read_importance(struct manifest_group *g, const struct jref *entry, struct aq_err *err)
{
    double largest = 0;
    for (size_t i = 0; i < g->count; i++)
        largest = i == 0 ? g->options[i].score : fmax(largest, g->options[i].score);
    g->importance = largest;
    struct jref at;
    if (!jref_has(entry, "importance", &at))
        return 0;
    double found;
    char a[AQ_FMT_MAX], b[AQ_FMT_MAX];
    if (jref_number(&at, &found, err) < 0)
        return -1;
    if (found != largest)
        return jref_fail(&at, err, "is %s, but the largest score is %s", aq_fmt_double(found, a),
                         aq_fmt_double(largest, b));
    return 0;
}

/* One number for all formats. */
static int read_ratio(struct manifest_group *g, const struct jref *entry, struct aq_err *err)
{
    struct jref at;
    double ratio;
    if (!jref_has(entry, "range_ratio", &at))
        return 0;
    if (jref_number(&at, &ratio, err) < 0)
        return -1;
    for (size_t i = 0; i < g->count; i++)
        if (!g->options[i].none)
            g->options[i].range_ratio = ratio;
    return 0;
}

static int read_group(struct manifest *m, struct manifest_group *g, const struct jref *entry,
                      struct aq_err *err)
{
    struct jref formats;
    g->handle = json_key(entry->v);
    g->layer = without_suffix(g->handle);
    g->chosen = -1;
    if (jref_get(entry, "formats", JSON_ARRAY, &formats, err) < 0)
        return -1;
    g->count = json_size(formats.v);
    g->options = m->options + m->option_count;
    m->option_count += g->count;
    if (read_formats(g, &formats, err) < 0 || read_scores_and_costs(g, entry, err) < 0 ||
        read_candidates(g, entry, err) < 0 || read_importance(g, entry, err) < 0 ||
        read_flat(g, entry, err) < 0)
        return -1;
#define EXTRA(key, field) read_extra(g, entry, key, offsetof(struct manifest_option, field), err)
    if (EXTRA("scores_per_batch_mean", per_batch_mean) < 0 || EXTRA("stderr", error) < 0 ||
        EXTRA("storage_bits", storage_bits) < 0 || EXTRA("weight_only", weight_only) < 0 ||
        EXTRA("activation_only", activation_only) < 0 || EXTRA("scores_per_token", per_token) < 0 ||
        EXTRA("per_token_dot", per_token_dot) < 0 || EXTRA("first_position", first_position) < 0)
        return -1;
#undef EXTRA
    return read_ratio(g, entry, err) < 0 ? -1 : routed_read(entry, "routed", &g->routed, err);
}

/* Formats of all entries together, so that the options are one block. */
static size_t count_options(const struct json *table)
{
    size_t n = 0;
    for (const struct json *e = json_first(table); e; e = json_next(e)) {
        const struct json *f = json_type(e) == JSON_OBJECT ? json_get(e, "formats") : NULL;
        if (f && json_type(f) == JSON_ARRAY)
            n += json_size(f);
    }
    return n;
}

static int read_table(struct manifest *m, const struct jref *table, struct aq_err *err)
{
    size_t n = json_size(table->v);
    m->groups = xcalloc(n + 1, sizeof *m->groups);
    m->options = xcalloc(count_options(table->v) + 1, sizeof *m->options);
    for (const struct json *e = json_first(table->v); e; e = json_next(e)) {
        struct jref entry = jref_child(table, e, m->count);
        if (read_group(m, &m->groups[m->count++], &entry, err) < 0)
            return -1;
    }
    return 0;
}

/* ---- ranks ---- */

static int by_importance(const void *a, const void *b)
{
    const struct manifest_group *x = *(const struct manifest_group *const *)a;
    const struct manifest_group *y = *(const struct manifest_group *const *)b;
    if (x->importance != y->importance)
        return x->importance < y->importance ? -1 : 1;
    return x < y ? -1 : x > y;
}

static int check_ranking(const struct jref *root, struct manifest_group **order, size_t n,
                         struct aq_err *err)
{
    struct jref list;
    if (!jref_has(root, "sensitivity_ranking", &list))
        return 0;
    if (jref_get(root, "sensitivity_ranking", JSON_ARRAY, &list, err) < 0)
        return -1;
    size_t i = 0;
    for (const struct json *v = json_first(list.v); v; v = json_next(v), i++) {
        struct jref at = jref_child(&list, v, i);
        const char *name;
        double importance;
        if (jref_string(&at, "name", &name, err) < 0 ||
            jref_double(&at, "importance", &importance, err) < 0)
            return -1;
        if (i >= n || strcmp(name, order[i]->handle) != 0 || importance != order[i]->importance)
            return jref_fail(&at, err, "disagrees with the table: expected '%s' at this place",
                             i < n ? aq_show(order[i]->handle) : "nothing");
    }
    if (i != n)
        return jref_fail(&list, err, "expected %zu entries as in the table, found %zu", n, i);
    return 0;
}

static int rank_groups(struct manifest *m, const struct jref *root, const struct jref *table,
                       struct aq_err *err)
{
    struct manifest_group **order = xcalloc(m->count + 1, sizeof *order);
    for (size_t i = 0; i < m->count; i++)
        order[i] = &m->groups[i];
    qsort(order, m->count, sizeof(struct manifest_group *), by_importance);
    for (size_t i = 0; i < m->count; i++)
        order[i]->rank = i + 1;
    int r = check_ranking(root, order, m->count, err);
    free(order);
    size_t i = 0;
    for (const struct json *e = json_first(table->v); e && r == 0; e = json_next(e), i++) {
        struct jref entry = jref_child(table, e, i), at;
        int64_t rank;
        if (!jref_has(&entry, "rank", &at))
            continue;
        r = jref_int(&entry, "rank", 1, INT64_MAX, &rank, err);
        if (r == 0 && (size_t)rank != m->groups[i].rank)
            r = jref_fail(&at, err, "is %lld, expected %zu by ascending importance",
                          (long long)rank, m->groups[i].rank);
    }
    return r;
}

/* ---- what was chosen ---- */

static int read_members(struct manifest_group *g, const struct jref *at, struct aq_err *err)
{
    struct jref members;
    if (!jref_has(at, "members", &members))
        return 0;
    if (jref_get(at, "members", JSON_ARRAY, &members, err) < 0)
        return -1;
    size_t i = 0;
    for (const struct json *v = json_first(members.v); v; v = json_next(v), i++) {
        struct jref member = jref_child(&members, v, i);
        if (jref_is(&member, JSON_STRING, err) < 0)
            return -1;
    }
    g->members = members.v;
    return 0;
}

static int chosen_option(struct manifest_group *g, const struct jref *at, struct aq_err *err)
{
    const char *name;
    if (jref_string(at, "candidate", &name, err) < 0)
        return -1;
    for (size_t i = 0; i < g->count; i++) {
        const struct manifest_option *o = &g->options[i];
        if (o->name ? strcmp(o->name, name) == 0 : o->none && strcmp(name, "NONE") == 0)
            g->chosen = (ptrdiff_t)i;
    }
    if (g->chosen < 0)
        return jref_fail(at, err, "candidate '%s' is not in the table", aq_show(name));
    return read_members(g, at, err);
}

static int read_recipe(struct manifest *m, const struct jref *root, struct aq_err *err)
{
    struct jref selection, recipe;
    if (!m->selection)
        return 0;
    if (jref_get(root, "selection", JSON_OBJECT, &selection, err) < 0 ||
        jref_get(&selection, "recipe", JSON_OBJECT, &recipe, err) < 0)
        return -1;
    struct aq_names names = AQ_NAMES_INIT;
    for (size_t i = 0; i < m->count; i++)
        aq_names_add(&names, m->groups[i].handle);
    (void)aq_names_sort(&names); /* keys of an object: no duplicates */
    int r = 0;
    size_t found = 0;
    for (const struct json *v = json_first(recipe.v); v && r == 0; v = json_next(v), found++) {
        struct jref at = jref_child(&recipe, v, found);
        ptrdiff_t i = aq_names_find(&names, json_key(v));
        if (i < 0)
            r = jref_fail(&at, err, "the table has no such layer");
        else
            r = chosen_option(&m->groups[i], &at, err);
    }
    if (r == 0 && found != m->count)
        r = jref_fail(&recipe, err, "expected %zu layers as in the table, found %zu", m->count,
                      found);
    aq_names_release(&names);
    return r;
}

static int read_cost_model(struct manifest *m, const struct jref *root, struct aq_err *err)
{
    struct jref selection, at;
    for (size_t i = 0; i < m->count; i++)
        m->groups[i].share = 1;
    if (!m->selection)
        return 0;
    selection = jref_child(root, m->selection, 0);
    return jref_has(&selection, "cost_model", &at) ? manifest_cost_model(&at, &m->active, err) : 0;
}

int manifest_cost_model(const struct jref *at, bool *active, struct aq_err *err)
{
    const char *name = json_type(at->v) == JSON_STRING ? json_string(at->v) : "";
    *active = strcmp(name, "active") == 0;
    return *active || strcmp(name, "weight") == 0
               ? 0
               : jref_fail(at, err, "expected one of: weight, active");
}

int manifest_cost_weight(const struct jref *group, double *out, struct aq_err *err)
{
    struct jref at;
    if (jref_double(group, "cost_weight", out, err) < 0)
        return -1;
    if (*out > 0 && *out <= 1)
        return 0;
    (void)jref_has(group, "cost_weight", &at);
    return jref_fail(&at, err, "is outside (0, 1]");
}

/* The groups of the model: entries of the table by their name. */
static int read_groups(struct manifest *m, const struct jref *root, struct aq_err *err)
{
    struct jref list;
    if (!jref_has(root, "groups", &list))
        return m->active ? jref_fail(root, err,
                                     "costs are those of active weights, and key "
                                     "'groups', which says their share, is missing")
                         : 0;
    if (jref_get(root, "groups", JSON_ARRAY, &list, err) < 0)
        return -1;
    size_t i = 0;
    for (const struct json *v = json_first(list.v); v; v = json_next(v), i++) {
        struct jref at = jref_child(&list, v, i);
        const char *name;
        if (jref_string(&at, "name", &name, err) < 0)
            return -1;
        if (i >= m->count || strcmp(name, m->groups[i].layer) != 0)
            return jref_fail(&at, err, "is '%s', expected '%s' as in the table", aq_show(name),
                             i < m->count ? aq_show(m->groups[i].layer) : "nothing");
        m->groups[i].model = v;
        if (read_members(&m->groups[i], &at, err) < 0 ||
            (m->active && manifest_cost_weight(&at, &m->groups[i].share, err) < 0))
            return -1;
    }
    return i == m->count ? 0
                         : jref_fail(&list, err, "expected %zu entries as in the table, found %zu",
                                     m->count, i);
}

/* ---- the rest ---- */

static int optional_object(const struct jref *root, const char *key, const struct json **out,
                           struct aq_err *err)
{
    struct jref at;
    if (!jref_has(root, key, &at))
        return 0;
    if (jref_get(root, key, JSON_OBJECT, &at, err) < 0)
        return -1;
    *out = at.v;
    return 0;
}

static int nullable_number(const struct jref *object, const char *key, double *out,
                           struct aq_err *err)
{
    *out = NAN;
    return jref_maybe_double(object, key, out, err);
}

static int read_state(struct manifest *m, const struct jref *root, struct aq_err *err)
{
    struct jref state, constraints, at;
    if (jref_get(root, "autoquant_state", JSON_OBJECT, &state, err) < 0)
        return -1;
    m->state = state.v;
    m->effective_bits = NAN;
    if (jref_has(&state, "constraints", &at) &&
        (jref_get(&state, "constraints", JSON_OBJECT, &constraints, err) < 0 ||
         nullable_number(&constraints, "effective_bits", &m->effective_bits, err) < 0))
        return -1;
    if (nullable_number(&state, "score", &m->score, err) < 0)
        return -1;
    return jref_maybe_bool(&state, "is_satisfied", &m->satisfied, err);
}

static int read_head(struct manifest *m, const struct jref *root, struct aq_err *err)
{
    struct jref scheme, model;
    if (optional_object(root, "scheme", &m->scheme, err) < 0 ||
        optional_object(root, "model", &m->model, err) < 0 ||
        optional_object(root, "dataset", &m->dataset, err) < 0 ||
        optional_object(root, "quantization", &m->quantization, err) < 0 ||
        optional_object(root, "run_config", &m->run_config, err) < 0 ||
        optional_object(root, "selection", &m->selection, err) < 0 ||
        optional_object(root, "aq", &m->aq, err) < 0)
        return -1;
    if (!m->scheme)
        return jref_fail(root, err, "key 'scheme' is missing");
    if (m->aq) {
        struct jref aq = jref_child(root, m->aq, 0);
        const char *schema;
        if (jref_string(&aq, "schema", &schema, err) < 0)
            return -1;
        if (strcmp(schema, MANIFEST_SCHEMA) != 0) {
            jref_fail(&aq, err, "schema is '%s', expected '%s'", aq_show(schema), MANIFEST_SCHEMA);
            return aq_err_hint(err, "make it again with aq-select");
        }
    }
    scheme = jref_child(root, m->scheme, 0);
    if (jref_maybe_string(&scheme, "name", &m->scheme_name, err) < 0)
        return -1;
    if (!m->model)
        return 0;
    model = jref_child(root, m->model, 0);
    if (jref_maybe_string(&model, "id", &m->model_id, err) < 0)
        return -1;
    return jref_maybe_string(&model, "name", &m->model_name, err);
}

int manifest_load(struct manifest *m, struct json *root, const char *path, struct aq_err *err)
{
    *m = (struct manifest){.path = xstrdup(path), .root = root};
    struct jref at = jref_root(root, m->path), table;
    int r = 0;
    if (json_type(root) != JSON_OBJECT)
        r = jref_fail(&at, err, "expected a manifest, an object, found %s",
                      json_type_name(json_type(root)));
    else if (json_get(root, "schema") || !json_get(root, "layer_sensitivity") ||
             !json_get(root, "autoquant_state"))
        r = jref_fail(&at, err,
                      "not a quantization manifest: expected the keys 'layer_sensitivity' and "
                      "'autoquant_state'");
    if (r < 0 || read_head(m, &at, err) < 0 || read_state(m, &at, err) < 0 ||
        jref_get(&at, "layer_sensitivity", JSON_OBJECT, &table, err) < 0 ||
        read_table(m, &table, err) < 0 || rank_groups(m, &at, &table, err) < 0 ||
        read_recipe(m, &at, err) < 0 || read_cost_model(m, &at, err) < 0 ||
        read_groups(m, &at, err) < 0) {
        manifest_release(m);
        return -1;
    }
    return 0;
}

int manifest_read(struct manifest *m, const char *path, struct aq_err *err)
{
    *m = (struct manifest){0};
    struct json *root = json_read(path, err);
    return root ? manifest_load(m, root, path, err) : -1;
}

void manifest_release(struct manifest *m)
{
    for (size_t i = 0; i < m->count; i++)
        free(m->groups[i].layer);
    free(m->groups);
    free(m->options);
    free(m->path);
    json_free(m->root);
    *m = (struct manifest){0};
}

/* ---- the recipe ---- */

static int lacks(const struct manifest *m, const char *what, struct aq_err *err)
{
    aq_err_set(err, AQ_EINPUT, "%s %s", aq_show(m->path), what);
    return aq_err_hint(err, "make it again with aq-select");
}

int manifest_choice(const struct manifest *m, const char *group, struct manifest_choice *out,
                    struct aq_err *err)
{
    struct jref root = jref_root(m->root, m->path), selection, recipe, entry, all, facts;
    if (!jref_has(&root, "selection", &selection))
        return lacks(m, "holds no recipe", err);
    if (!jref_has(&selection, "candidates", &all))
        return lacks(m, "does not say what its candidates do", err);
    *out = (struct manifest_choice){.weight = "none", .act = "none"};
    char *handle = xasprintf("%s.quant_recipe", group);
    int r = jref_get(&selection, "recipe", JSON_OBJECT, &recipe, err) < 0 ||
                    jref_get(&recipe, handle, JSON_OBJECT, &entry, err) < 0 ||
                    jref_string(&entry, "candidate", &out->candidate, err) < 0
                ? -1
                : 0;
    free(handle);
    if (r < 0 || strcmp(out->candidate, "NONE") == 0)
        return r;
    return jref_get(&selection, "candidates", JSON_OBJECT, &all, err) < 0 ||
                   jref_get(&all, out->candidate, JSON_OBJECT, &facts, err) < 0 ||
                   jref_string(&facts, "w", &out->weight, err) < 0 ||
                   jref_string(&facts, "a", &out->act, err) < 0
               ? -1
               : 0;
}

int manifest_is_of(const struct manifest *m, const char *digest, size_t groups, const char *lm,
                   struct aq_err *err)
{
    const char *own = json_find_string(json_find(m->aq, "identity"), "lm");
    if (own && strcmp(own, digest) != 0)
        return aq_err_set(err, AQ_EINPUT, "%s was made from another checkpoint than %s",
                          aq_show(m->path), aq_show(lm));
    if (m->count != groups)
        return aq_err_set(err, AQ_EINPUT, "%s has %zu groups, the model %zu", aq_show(m->path),
                          m->count, groups);
    return 0;
}
