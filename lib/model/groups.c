#include "model/groups.h"

#include "base/mem.h"
#include "io/group_norm.h"
#include "model/family.h"
#include "model/fold.h"
#include "model/lm.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const int64_t max_weights = INT64_C(1) << 50; /* of one group: exact in a double */
enum { MAX_LIST = 1 << 16 };

static void *take(struct model_groups *g, size_t count, size_t size)
{
    return aq_arena_alloc(&g->arena, count * size);
}

static void init(struct model_groups *g, int64_t layers)
{
    g->layers = layers;
    g->first = take(g, (size_t)layers + 1, sizeof *g->first);
    g->first_input = take(g, (size_t)layers + 1, sizeof *g->first_input);
}

/* ---- from a model ---- */

static const char *module_name(struct model_groups *g, const struct lm *lm, const char *member)
{
    if (!lm)
        return member;
    char *name = xasprintf("%s.weight", member);
    const char *source = lm_find(lm, name)->source;
    free(name);
    return aq_arena_strndup(&g->arena, source, strlen(source) - strlen(".weight"));
}

static void make_group(struct model_groups *g, const struct lm *lm, const struct model_layer *l,
                       int64_t layer, int kind)
{
    struct model_group *to = &g->items[g->count++];
    int n = l->groups[kind].linears;
    *to = (struct model_group){.layer = layer,
                               .kind = l->groups[kind].kind,
                               .member_count = n,
                               .module_count = n,
                               .input_count = 1,
                               .cost_weight = 1,
                               .normed = model_layer_norm_before(l, l->groups[kind].input) >= 0};
    to->members = take(g, (size_t)n, sizeof *to->members);
    to->modules = take(g, (size_t)n, sizeof *to->modules);
    to->inputs = take(g, 1, sizeof *to->inputs);
    to->inputs[0] = (int)g->first_input[layer] + l->groups[kind].input;
    for (int i = 0; i < n; i++) {
        const struct model_linear *m = &l->linears[l->groups[kind].first + i];
        to->members[i] = aq_arena_printf(&g->arena, "layers.%" PRId64 ".%s", layer, m->name);
        to->modules[i] =
            (struct model_module){module_name(g, lm, to->members[i]), m->rows, m->cols};
        to->weights += m->rows * m->cols;
    }
    to->name = to->members[0];
}

/* A module of the experts, by its tensor in the family's table. */
static void add_expert_module(struct model_groups *g, const struct lm *lm, const struct lm_arch *a,
                              struct model_group *to, enum model_role role)
{
    const struct model_tensor *t = model_expert_tensor(a, role);
    const struct model_place p = {to->layer, t, t->where == IN_EACH ? 0 : -1};
    const char *relative = t->source && lm ? t->source : t->name, *prefix = "";
    size_t prefix_len = 0, len = strlen(relative), tail = strlen(".weight");
    struct aq_buf name = AQ_BUF_INIT, tail_name = AQ_BUF_INIT;
    if (lm) {
        uint64_t shape[MODEL_RANK];
        int rank;
        model_place_describe(&p, a, &name, &rank, shape);
        prefix = lm_find(lm, name.data)->source;
        model_place_source(&p, &tail_name);
        prefix_len = strlen(prefix) - tail_name.len;
    }
    if (t->where == IN_EACH)
        len -= tail;
    to->modules[to->module_count++] = (struct model_module){
        aq_arena_printf(&g->arena, "%.*slayers.%" PRId64 ".%.*s", (int)prefix_len, prefix,
                        to->layer, (int)len, relative),
        model_dim_size(a, t->out), model_dim_size(a, t->in)};
    to->weights += a->experts * model_dim_size(a, t->out) * model_dim_size(a, t->in);
    aq_buf_release(&name);
    aq_buf_release(&tail_name);
}

/* The modules of one half of the experts. */
static void add_half(struct model_groups *g, const struct lm *lm, const struct lm_arch *a,
                     struct model_group *to, int half)
{
    bool each = arch_layout(a, to->layer) == EXPERTS_EACH;
    if (half == EXPERT_DOWN) {
        add_expert_module(g, lm, a, to, each ? ROLE_EXPERT_DOWN : ROLE_EXPERTS_DOWN);
    } else if (each) {
        add_expert_module(g, lm, a, to, ROLE_EXPERT_GATE);
        add_expert_module(g, lm, a, to, ROLE_EXPERT_UP);
    } else {
        add_expert_module(g, lm, a, to, ROLE_EXPERTS_GATE_UP);
    }
}

/* A group of experts: both halves, or one of them. */
static void make_experts(struct model_groups *g, const struct lm *lm, const struct lm_arch *a,
                         const struct model_layer *l, int64_t layer, int kind)
{
    struct model_group *to = &g->items[g->count++];
    *to = (struct model_group){.layer = layer,
                               .kind = l->groups[kind].kind,
                               .member_count = 1,
                               .experts = a->experts,
                               .normed = model_layer_norm_before(l, l->groups[kind].input) >= 0,
                               .cost_weight = (double)a->experts_per_token / (double)a->experts};
    to->members = take(g, 1, sizeof *to->members);
    to->modules = take(g, 3, sizeof *to->modules);
    to->inputs = take(g, EXPERT_HALVES, sizeof *to->inputs);
    /* "experts", "experts.gate_up" and "experts.down" are names, too */
    to->name = to->members[0] =
        aq_arena_printf(&g->arena, "layers.%" PRId64 ".mlp.%s", layer, to->kind);
    for (int h = 0; h < EXPERT_HALVES; h++) {
        if (!l->groups[kind].half[h])
            continue;
        to->inputs[to->input_count++] = (int)g->first_input[layer] + l->experts_input[h];
        add_half(g, lm, a, to, h);
    }
}

void model_groups_make(struct model_groups *g, const struct lm_arch *a, const struct lm *lm)
{
    size_t layers = (size_t)a->num_hidden_layers;
    *g = (struct model_groups){0};
    init(g, a->num_hidden_layers);
    g->inputs = take(g, layers * MODEL_INPUTS, sizeof *g->inputs);
    g->items = take(g, layers * MODEL_GROUPS, sizeof *g->items);
    for (int64_t l = 0; l < g->layers; l++) {
        struct model_layer layer;
        model_layer_describe(&layer, a, l);
        g->first[l] = g->count;
        g->first_input[l] = g->input_count;
        for (int i = 0; i < layer.input_count; i++)
            g->inputs[g->input_count++] = (struct model_input){
                aq_arena_printf(&g->arena, "layers.%" PRId64 ".%s", l, layer.inputs[i].name), l,
                layer.inputs[i].cols};
        for (int k = 0; k < layer.group_count; k++)
            if (layer.experts && k >= layer.experts_group)
                make_experts(g, lm, a, &layer, l, k);
            else
                make_group(g, lm, &layer, l, k);
    }
    g->first[layers] = g->count;
    g->first_input[layers] = g->input_count;
}

/* ---- reading ---- */

static int read_layer(const struct jref *at, int64_t last, int64_t *layer, struct aq_err *err)
{
    if (jref_int(at, "layer", 0, LM_MAX_LAYERS - 1, layer, err) < 0)
        return -1;
    return *layer == last || *layer == last + 1
               ? 0
               : jref_fail(at, err, "layer %" PRId64 " comes after layer %" PRId64, *layer, last);
}

static int read_inputs(struct model_groups *g, const struct jref *root, struct aq_err *err)
{
    struct jref list;
    if (jref_get(root, "inputs", JSON_ARRAY, &list, err) < 0)
        return -1;
    g->inputs = take(g, json_size(list.v), sizeof *g->inputs);
    for (const struct json *v = json_first(list.v); v; v = json_next(v)) {
        struct jref at = jref_child(&list, v, g->input_count);
        struct model_input *in = &g->inputs[g->input_count];
        const char *name;
        if (jref_string(&at, "name", &name, err) < 0 ||
            read_layer(&at, g->input_count ? in[-1].layer : -1, &in->layer, err) < 0 ||
            jref_int(&at, "cols", 1, LM_MAX_DIM, &in->cols, err) < 0)
            return -1;
        in->name = aq_arena_strdup(&g->arena, name);
        g->input_count++;
    }
    return g->input_count ? 0 : jref_fail(&list, err, "there is no input");
}

static int list_of(const struct jref *at, const char *key, struct jref *list, int *count,
                   struct aq_err *err)
{
    if (jref_get(at, key, JSON_ARRAY, list, err) < 0)
        return -1;
    size_t n = json_size(list->v);
    if (n < 1 || n > MAX_LIST)
        return jref_fail(list, err, "expected 1 to %d entries", MAX_LIST);
    *count = (int)n;
    return 0;
}

static int read_name(struct model_groups *g, const struct jref *list, const struct json *v,
                     size_t i, const char **out, struct aq_err *err)
{
    struct jref at = jref_child(list, v, i);
    if (jref_is(&at, JSON_STRING, err) < 0)
        return -1;
    *out = aq_arena_strdup(&g->arena, json_string(v));
    return 0;
}

static int read_members(struct model_groups *g, struct model_group *to, const struct jref *at,
                        struct aq_err *err)
{
    struct jref list;
    size_t i = 0;
    if (list_of(at, "members", &list, &to->member_count, err) < 0)
        return -1;
    to->members = take(g, (size_t)to->member_count, sizeof *to->members);
    for (const struct json *v = json_first(list.v); v; v = json_next(v), i++)
        if (read_name(g, &list, v, i, &to->members[i], err) < 0)
            return -1;
    return strcmp(to->members[0], to->name) == 0
               ? 0
               : jref_fail(&list, err, "the first member must be the group's name, '%s'",
                           aq_show(to->name));
}

static int read_shape(struct model_module *m, const struct jref *list, const struct json *v,
                      size_t i, struct aq_err *err)
{
    struct jref at = jref_child(list, v, i);
    int64_t n[2];
    if (json_type(v) != JSON_ARRAY || json_size(v) != 2 || !json_int(json_first(v), &n[0]) ||
        !json_int(json_next(json_first(v)), &n[1]) || n[0] < 1 || n[0] > LM_MAX_DIM || n[1] < 1 ||
        n[1] > LM_MAX_DIM)
        return jref_fail(&at, err, "expected [rows, columns]");
    m->rows = n[0];
    m->cols = n[1];
    return 0;
}

static int read_modules(struct model_groups *g, struct model_group *to, const struct jref *at,
                        struct aq_err *err)
{
    struct jref list;
    int shapes;
    size_t i = 0;
    if (list_of(at, "modules", &list, &to->module_count, err) < 0)
        return -1;
    to->modules = take(g, (size_t)to->module_count, sizeof *to->modules);
    for (const struct json *v = json_first(list.v); v; v = json_next(v), i++)
        if (read_name(g, &list, v, i, &to->modules[i].name, err) < 0)
            return -1;
    if (list_of(at, "shapes", &list, &shapes, err) < 0)
        return -1;
    if (shapes != to->module_count)
        return jref_fail(&list, err, "%d shapes for %d modules", shapes, to->module_count);
    i = 0;
    for (const struct json *v = json_first(list.v); v; v = json_next(v), i++)
        if (read_shape(&to->modules[i], &list, v, i, err) < 0)
            return -1;
    return 0;
}

static int read_group_inputs(struct model_groups *g, struct model_group *to, const struct jref *at,
                             struct aq_err *err)
{
    struct jref list;
    size_t i = 0;
    if (list_of(at, "inputs", &list, &to->input_count, err) < 0)
        return -1;
    to->inputs = take(g, (size_t)to->input_count, sizeof *to->inputs);
    for (const struct json *v = json_first(list.v); v; v = json_next(v), i++) {
        struct jref one = jref_child(&list, v, i);
        int64_t n;
        if (!json_int(v, &n) || n < 0 || (size_t)n >= g->input_count ||
            g->inputs[n].layer != to->layer)
            return jref_fail(&one, err, "expected the index of an input of layer %" PRId64,
                             to->layer);
        to->inputs[i] = (int)n;
    }
    return 0;
}

static int read_group(struct model_groups *g, struct model_group *to, int64_t last,
                      const struct jref *at, struct aq_err *err)
{
    const char *name, *kind;
    if (jref_maybe_int(at, "experts", 1, LM_MAX_EXPERTS, &to->experts, err) < 0)
        return -1;
    if (jref_string(at, "name", &name, err) < 0 || jref_string(at, "kind", &kind, err) < 0 ||
        read_layer(at, last, &to->layer, err) < 0)
        return -1;
    to->name = aq_arena_strdup(&g->arena, name);
    to->kind = aq_arena_strdup(&g->arena, kind);
    to->normed = group_norm_usual(kind);
    if (jref_maybe_bool(at, "norm", &to->normed, err) < 0)
        return -1;
    if (read_members(g, to, at, err) < 0 || read_modules(g, to, at, err) < 0 ||
        read_group_inputs(g, to, at, err) < 0 ||
        jref_int(at, "weights", 1, max_weights, &to->weights, err) < 0 ||
        jref_double(at, "cost_weight", &to->cost_weight, err) < 0)
        return -1;
    return to->cost_weight > 0 && to->cost_weight <= 1
               ? 0
               : jref_fail(at, err, "cost_weight is outside (0, 1]");
}

/* Where each layer begins, once all entries are known to follow one another. */
static int index_layers(struct model_groups *g, const struct jref *root, struct aq_err *err)
{
    init(g, g->inputs[g->input_count - 1].layer + 1);
    if (g->items[g->count - 1].layer + 1 != g->layers)
        return jref_fail(root, err, "inputs of %" PRId64 " layers, groups of %" PRId64, g->layers,
                         g->items[g->count - 1].layer + 1);
    for (size_t i = g->count; i-- > 0;)
        g->first[g->items[i].layer] = i;
    for (size_t i = g->input_count; i-- > 0;)
        g->first_input[g->inputs[i].layer] = i;
    g->first[g->layers] = g->count;
    g->first_input[g->layers] = g->input_count;
    return 0;
}

int model_groups_read(struct model_groups *g, const struct jref *root, struct aq_err *err)
{
    struct jref list;
    *g = (struct model_groups){0};
    if (read_inputs(g, root, err) < 0 || jref_get(root, "groups", JSON_ARRAY, &list, err) < 0)
        return -1;
    if (json_size(list.v) == 0)
        return jref_fail(&list, err, "there is no group");
    g->items = take(g, json_size(list.v), sizeof *g->items);
    for (const struct json *v = json_first(list.v); v; v = json_next(v)) {
        struct jref at = jref_child(&list, v, g->count);
        struct model_group *to = &g->items[g->count];
        if (read_group(g, to, g->count ? to[-1].layer : -1, &at, err) < 0)
            return -1;
        g->count++;
    }
    return index_layers(g, root, err);
}

/* ---- comparing ---- */

static bool same_input(const struct model_input *a, const struct model_input *b)
{
    return a->layer == b->layer && a->cols == b->cols && strcmp(a->name, b->name) == 0;
}

static bool same_group(const struct model_group *a, const struct model_group *b)
{
    bool same = a->layer == b->layer && strcmp(a->kind, b->kind) == 0 && a->weights == b->weights &&
                a->cost_weight == b->cost_weight && a->member_count == b->member_count &&
                a->module_count == b->module_count && a->input_count == b->input_count &&
                a->experts == b->experts && a->normed == b->normed;
    for (int i = 0; same && i < a->member_count; i++)
        same = strcmp(a->members[i], b->members[i]) == 0;
    for (int i = 0; same && i < a->module_count; i++)
        same = strcmp(a->modules[i].name, b->modules[i].name) == 0 &&
               a->modules[i].rows == b->modules[i].rows && a->modules[i].cols == b->modules[i].cols;
    for (int i = 0; same && i < a->input_count; i++)
        same = a->inputs[i] == b->inputs[i];
    return same;
}

bool model_groups_equal(const struct model_groups *a, const struct model_groups *b)
{
    bool same = a->input_count == b->input_count && a->count == b->count;
    for (size_t i = 0; same && i < a->input_count; i++)
        same = same_input(&a->inputs[i], &b->inputs[i]);
    for (size_t i = 0; same && i < a->count; i++)
        same = same_group(&a->items[i], &b->items[i]);
    return same;
}

/* ---- writing ---- */

void model_group_write(const struct model_group *m, struct json *v)
{
    json_add_string(v, "name", m->name);
    struct json *members = json_add_array(v, "members");
    for (int i = 0; i < m->member_count; i++)
        json_push(members, json_new_string(m->members[i]));
    struct json *modules = json_add_array(v, "modules");
    for (int i = 0; i < m->module_count; i++)
        json_push(modules, json_new_string(m->modules[i].name));
    if (m->experts)
        json_add_int(v, "experts", m->experts);
    json_add_int(v, "layer", m->layer);
    json_add_string(v, "kind", m->kind);
    struct json *inputs = json_add_array(v, "inputs");
    for (int i = 0; i < m->input_count; i++)
        json_push(inputs, json_new_int(m->inputs[i]));
    struct json *shapes = json_add_array(v, "shapes");
    for (int i = 0; i < m->module_count; i++) {
        struct json *shape = json_push(shapes, json_new_array());
        json_push(shape, json_new_int(m->modules[i].rows));
        json_push(shape, json_new_int(m->modules[i].cols));
    }
    json_add_int(v, "weights", m->weights);
    json_add_double(v, "cost_weight", m->cost_weight);
    if (group_norm_usual(m->kind) && !m->normed)
        json_add_bool(v, "norm", false);
}

void model_groups_write(const struct model_groups *g, struct json *root)
{
    struct json *list = json_add_array(root, "inputs");
    for (size_t i = 0; i < g->input_count; i++) {
        struct json *v = json_push(list, json_new_object());
        json_add_string(v, "name", g->inputs[i].name);
        json_add_int(v, "layer", g->inputs[i].layer);
        json_add_int(v, "cols", g->inputs[i].cols);
    }
    list = json_add_array(root, "groups");
    for (size_t i = 0; i < g->count; i++)
        model_group_write(&g->items[i], json_push(list, json_new_object()));
}

void model_groups_release(struct model_groups *g)
{
    aq_arena_release(&g->arena);
    *g = (struct model_groups){0};
}

int model_group_half(const struct model_group *g, int half, int *first)
{
    bool both = g->input_count == EXPERT_HALVES;
    *first = both && half == EXPERT_DOWN ? g->module_count - 1 : 0;
    return both && half == EXPERT_GATE_UP ? g->module_count - 1 : g->module_count - *first;
}

int64_t model_groups_weights(const struct model_groups *g)
{
    int64_t sum = 0;
    for (size_t i = 0; i < g->count; i++)
        sum += g->items[i].weights;
    return sum;
}
