/* ModelOpt's unified checkpoint: an algorithm for every module, the engines' fused names too. */
#include "base/mem.h"
#include "export/config.h"
#include "export/targets.h"

#include <stdlib.h>
#include <string.h>

static void add_size(struct json *v, const struct scheme *s)
{
    if (s->codes == CODES_NVFP4) {
        json_add_int(v, "group_size", 16);
        if (s->prescaled) {
            json_add_bool(v, "has_zero_point", false);
            json_add_bool(v, "pre_quant_scale", true);
        }
    } else if (s->codes == CODES_MXFP8) {
        json_add_int(v, "group_size", 32);
    } else if (s->codes == CODES_INT4_ROWS) {
        json_add_int(v, "group_size", s->group);
        /* as ModelOpt itself says of such layers, which have no tensor of that name */
        json_add_bool(v, "has_zero_point", false);
        json_add_bool(v, "pre_quant_scale", true);
    }
}

static void add_layer(struct json *layers, const char *name, const struct scheme *s)
{
    struct json *v = json_add_object(layers, name);
    json_add_string(v, "quant_algo", s->name);
    add_size(v, s);
}

static struct json *quantized_layers(const struct export_plan *p)
{
    struct json *layers = json_new_object();
    for (size_t i = 0; i < p->count; i++) {
        const struct export_group *g = &p->groups[i];
        if (!g->verdict.quantized)
            continue;
        const char *name = g->model->modules[0].name, *fused = targets_fused(g->model);
        for (int k = 0; k < g->module_count; k++)
            add_layer(layers, g->modules[k].name, &g->verdict.scheme);
        if (fused) { /* SGLang looks for the layer that it makes of them */
            char *whole = xasprintf("%.*s%s", (int)targets_parent(name), name, fused);
            add_layer(layers, whole, &g->verdict.scheme);
            free(whole);
        }
    }
    return layers;
}

/* What is left alone: other parts of the model, the head, and groups of the recipe by name. */
static struct json *excluded(const struct export_plan *p)
{
    struct json *list = json_new_array();
    json_push(list, json_new_string("lm_head"));
    for (size_t i = 0; i < p->lm.dropped_count; i++) {
        const char *prefix = p->lm.dropped[i].prefix;
        size_t n = strlen(prefix);
        if (!p->lm.dropped[i].linears || n == 0)
            continue;
        char *text = xasprintf("%.*s*", (int)(prefix[n - 1] == '.' ? n - 1 : n), prefix);
        json_push(list, json_new_string(text));
        free(text);
    }
    for (size_t i = 0; i < p->count; i++) {
        const struct model_group *g = p->groups[i].model;
        char *router = targets_router(g);
        if (router)
            json_push(list, json_new_string(router));
        free(router);
        if (p->groups[i].verdict.quantized)
            continue;
        for (int k = 0; k < p->groups[i].module_count; k++)
            json_push(list, json_new_string(p->groups[i].modules[k].name));
        if (targets_fused(g)) {
            const char *name = g->modules[0].name;
            char *whole = xasprintf("%.*s%s", (int)targets_parent(name), name, targets_fused(g));
            json_push(list, json_new_string(whole));
            free(whole);
        }
    }
    return list;
}

static struct json *half(bool is_float, int bits, bool dynamic, int group)
{
    struct json *v = json_new_object();
    json_add_bool(v, "dynamic", dynamic);
    json_add_int(v, "num_bits", bits);
    json_add_string(v, "type", is_float ? "float" : "int");
    if (group)
        json_add_int(v, "group_size", group);
    return v;
}

static struct json *acts(const struct scheme *s)
{
    switch (s->act) {
    case ACT_FP8_TENSOR:
        return half(true, 8, false, 0);
    case ACT_FP8_TOKEN:
        return half(true, 8, true, 0);
    case ACT_INT8_TENSOR:
        return half(false, 8, false, 0);
    case ACT_NVFP4:
        return half(true, 4, false, 16);
    case ACT_MXFP8:
        return half(true, 8, true, 32);
    default:
        return NULL;
    }
}

static struct json *config_groups(const struct export_plan *p, const int *number, int count,
                                  const size_t *first)
{
    struct json *groups = json_new_object();
    for (int i = 0; i < count; i++) {
        const struct scheme *s = &p->groups[first[i]].verdict.scheme;
        char *name = xasprintf("group_%d", i);
        struct json *g = json_add_object(groups, name), *a = acts(s);
        bool is_float = s->codes != CODES_INT8 && s->codes != CODES_INT4_ROWS;
        int group = s->codes == CODES_NVFP4 ? 16 : s->codes == CODES_MXFP8 ? 32 : s->group;
        if (a)
            json_add(g, "input_activations", a);
        json_add(g, "weights", half(is_float, s->bits, false, group));
        struct json *targets = json_add_array(g, "targets");
        for (size_t k = 0; k < p->count; k++)
            for (int m = 0; number[k] == i && m < p->groups[k].module_count; m++)
                json_push(targets, json_new_string(p->groups[k].modules[m].name));
        free(name);
    }
    return groups;
}

struct numbering {
    int *number, count;
    size_t *first;
};

static struct numbering number_all(const struct export_plan *p)
{
    struct numbering n = {.number = xcalloc(p->count + 1, sizeof *n.number),
                          .first = xcalloc(p->count + 1, sizeof *n.first)};
    n.count = targets_number(p, n.number, n.first);
    return n;
}

static void add_algorithm(struct json *v, const struct export_plan *p, const struct numbering *n)
{
    const struct scheme *only = &p->groups[n->first[0]].verdict.scheme;
    if (n->count == 1) {
        json_add_string(v, "quant_algo", only->name);
        add_size(v, only);
    } else {
        json_add_string(v, "quant_algo", "MIXED_PRECISION");
        json_add(v, "quantized_layers", quantized_layers(p));
    }
}

static void add_producer(struct json *v)
{
    struct json *producer = json_add_object(v, "producer");
    json_add_string(producer, "name", "aq");
    json_add_string(producer, "version", "1");
}

struct json *config_modelopt(const struct export_plan *p)
{
    struct numbering n = number_all(p);
    struct json *v = json_new_object();
    json_add_string(v, "quant_method", "modelopt");
    add_algorithm(v, p, &n);
    json_add_null(v, "kv_cache_quant_algo");
    json_add(v, "ignore", excluded(p));
    add_producer(v);
    json_add(v, "config_groups", config_groups(p, n.number, n.count, n.first));
    free(n.number);
    free(n.first);
    return v;
}

struct json *config_modelopt_hf(const struct export_plan *p)
{
    struct numbering n = number_all(p);
    struct json *v = json_new_object();
    add_producer(v);
    struct json *q = json_add_object(v, "quantization");
    add_algorithm(q, p, &n);
    json_add_null(q, "kv_cache_quant_algo");
    json_add(q, "exclude_modules", excluded(p));
    free(n.number);
    free(n.first);
    return v;
}
