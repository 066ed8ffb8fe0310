/* What a checkpoint's quantization_config says of its modules: compressed-tensors and ModelOpt. */
#include "base/mem.h"
#include "base/msg.h"
#include "eval/file.h"
#include "select/pattern.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct scheme_rule {
    struct aq_names targets;
    struct pattern **patterns; /* of targets; NULL where one is a plain name */
    const struct json *weights, *acts;
};

struct eval_scheme {
    const char *path;
    bool modelopt;
    struct scheme_rule *rules; /* of compressed-tensors */
    size_t count;
    const struct json *quantization; /* of ModelOpt */
    struct json *config;             /* a copy */
    struct aq_arena arena;
};

/* ---- opening ---- */

/* "re:" finds at the beginning of the name, as Python's match does. */
static int add_target(struct eval_scheme *s, struct scheme_rule *r, const char *text,
                      struct aq_err *err)
{
    struct pattern *p = NULL;
    if (strncmp(text, "re:", 3) == 0) {
        p = pattern_new(aq_arena_printf(&s->arena, "re:(?:%s).*", text + 3), err);
        if (!p)
            return aq_err_prefix(err, "%s", aq_show(s->path));
    }
    r->patterns = xreallocarray(r->patterns, r->targets.count + 1, sizeof(struct pattern *));
    r->patterns[r->targets.count] = p;
    aq_names_add(&r->targets, text);
    return 0;
}

static int add_rule(struct eval_scheme *s, const struct jref *group, struct aq_err *err)
{
    struct jref targets, weights, acts;
    if (jref_get(group, "targets", JSON_ARRAY, &targets, err) < 0)
        return -1;
    s->rules = xreallocarray(s->rules, s->count + 1, sizeof *s->rules);
    struct scheme_rule *r = &s->rules[s->count++];
    *r = (struct scheme_rule){0};
    if (jref_has(group, "weights", &weights)) {
        if (jref_is(&weights, JSON_OBJECT, err) < 0)
            return -1;
        r->weights = weights.v;
    }
    if (jref_has(group, "input_activations", &acts)) {
        if (jref_is(&acts, JSON_OBJECT, err) < 0)
            return -1;
        r->acts = acts.v;
    }
    size_t i = 0;
    for (const struct json *t = json_first(targets.v); t; t = json_next(t), i++) {
        struct jref at = jref_child(&targets, t, i);
        if (jref_is(&at, JSON_STRING, err) < 0 || add_target(s, r, json_string(t), err) < 0)
            return -1;
    }
    return 0;
}

static bool says_something(const struct json *v)
{
    if (!v || json_type(v) == JSON_NULL)
        return false;
    if (json_type(v) == JSON_STRING)
        return strcmp(json_string(v), "dense") != 0;
    return json_size(v) > 0;
}

static int open_ct(struct eval_scheme *s, const struct jref *q, struct aq_err *err)
{
    const struct json *sparsity = json_find(q->v, "sparsity_config");
    struct jref groups;
    if (says_something(json_find(q->v, "transform_config")))
        return jref_fail(q, err, "transforms (transform_config) are not computed");
    if (says_something(sparsity) &&
        says_something(json_find(sparsity, "format") ? json_find(sparsity, "format") : sparsity))
        return jref_fail(q, err, "sparse weights (sparsity_config) are not read");
    if (jref_get(q, "config_groups", JSON_OBJECT, &groups, err) < 0)
        return -1;
    for (const struct json *g = json_first(groups.v); g; g = json_next(g)) {
        struct jref group = jref_child(&groups, g, 0);
        if (jref_is(&group, JSON_OBJECT, err) < 0 || add_rule(s, &group, err) < 0)
            return -1;
    }
    return 0;
}

static int open_any(struct eval_scheme *s, struct aq_err *err)
{
    struct jref root = jref_root(s->config, s->path), q;
    const char *method;
    if (jref_get(&root, "quantization_config", JSON_OBJECT, &q, err) < 0 ||
        jref_string(&q, "quant_method", &method, err) < 0)
        return -1;
    if (says_something(json_find(q.v, "kv_cache_scheme")) ||
        says_something(json_find(q.v, "kv_cache_quant_algo")))
        aq_warn("%s: the keys and values of attention are not quantized here, though the file "
                "says so",
                aq_show(s->path));
    s->modelopt = strcmp(method, "modelopt") == 0;
    s->quantization = q.v;
    if (s->modelopt)
        return 0;
    if (strcmp(method, "compressed-tensors") == 0)
        return open_ct(s, &q, err);
    jref_fail(&q, err, "quantization '%s' is not read", aq_show(method));
    return aq_err_hint(err, "what is read: compressed-tensors, modelopt, and GGUF files");
}

struct eval_scheme *eval_scheme_open(const struct json *config, const char *path,
                                     struct aq_err *err)
{
    struct eval_scheme *s = xcalloc(1, sizeof *s);
    s->path = path;
    s->config = json_copy(config);
    if (open_any(s, err) == 0)
        return s;
    eval_scheme_close(s);
    return NULL;
}

bool eval_scheme_is_modelopt(const struct eval_scheme *s)
{
    return s->modelopt;
}

void eval_scheme_close(struct eval_scheme *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->count; i++) {
        for (size_t k = 0; k < s->rules[i].targets.count; k++)
            pattern_free(s->rules[i].patterns[k]);
        free(s->rules[i].patterns);
        aq_names_release(&s->rules[i].targets);
    }
    free(s->rules);
    json_free(s->config);
    aq_arena_release(&s->arena);
    free(s);
}

/* ---- activations ---- */

static int cannot(const struct eval_scheme *s, const char *module, const char *what,
                  struct aq_err *err)
{
    return aq_err_set(err, AQ_EINPUT, "%s: %s: %s", aq_show(s->path), aq_show(module), what);
}

static const char *text_of(const struct json *v, const char *key)
{
    const char *t = json_find_string(v, key);
    return t ? t : "";
}

static bool is_true(const struct json *v, const char *key)
{
    const struct json *b = json_find(v, key);
    return b && json_type(b) == JSON_BOOL && json_bool(b);
}

static bool is_false(const struct json *v, const char *key)
{
    const struct json *b = json_find(v, key);
    return b && json_type(b) == JSON_BOOL && !json_bool(b);
}

static int whole(const struct json *v, const char *key)
{
    double x = json_find_number(v, key);
    return x > 0 && x < 1 << 24 ? (int)x : 0;
}

/* compressed-tensors' arguments of activations as a treatment. */
static int read_ct_acts(const struct eval_scheme *s, const char *module, const struct json *a,
                        struct eval_module *out, struct aq_err *err)
{
    const char *strategy = text_of(a, "strategy"), *scale = text_of(a, "scale_dtype");
    int bits = whole(a, "num_bits"), group = whole(a, "group_size");
    bool is_float = strcmp(text_of(a, "type"), "float") == 0, dynamic = is_true(a, "dynamic");
    char number[16];
    if (is_false(a, "symmetric"))
        return cannot(s, module, "asymmetric activations are not computed", err);
    if (is_float && bits != 4 && bits != 8)
        return cannot(s, module, "activations of this float type are not computed", err);
    if (is_float)
        (void)snprintf(number, sizeof number, "%s", bits == 4 ? "e2m1" : "e4m3");
    else
        (void)snprintf(number, sizeof number, "int%d", bits);
    if (strcmp(strategy, "token") == 0 && dynamic) {
        (void)snprintf(out->act, sizeof out->act, "%s:token:dynamic", number);
    } else if (strcmp(strategy, "tensor") == 0) {
        (void)snprintf(out->act, sizeof out->act, "%s:tensor:%s", number,
                       dynamic ? "dynamic" : "static");
        if (!dynamic) {
            out->scale = "input_scale";
            out->factor = is_float ? 448 : (1 << (bits - 1)) - 1;
        }
    } else if (strcmp(strategy, "tensor_group") == 0 && is_float && bits == 4) {
        (void)snprintf(out->act, sizeof out->act, "e2m1:nvfp4(%d):static", group ? group : 16);
        out->scale = "input_global_scale";
        out->factor = -2688;
    } else if (strcmp(strategy, "group") == 0 && strstr(scale, "uint8") && dynamic) {
        (void)snprintf(out->act, sizeof out->act, "%s:mx(%d):dynamic", number, group);
    } else if (strcmp(strategy, "group") == 0 && dynamic) {
        (void)snprintf(out->act, sizeof out->act, "%s:block(-1:%d):dynamic", number, group);
    } else {
        return cannot(s, module, "this strategy of activations is not computed", err);
    }
    return 0;
}

static int read_ct(const struct eval_scheme *s, const char *module, const struct scheme_rule *r,
                   struct eval_module *out, struct aq_err *err)
{
    const struct json *tile = json_find(r->weights, "block_structure");
    out->args.bits = whole(r->weights, "num_bits");
    if (strcmp(text_of(r->weights, "strategy"), "group") == 0 ||
        strcmp(text_of(r->weights, "strategy"), "tensor_group") == 0)
        out->args.group = whole(r->weights, "group_size");
    for (size_t i = 0; tile && json_type(tile) == JSON_ARRAY && i < 2; i++) {
        const struct json *v = json_at(tile, i);
        if (v && json_type(v) == JSON_INT)
            (void)json_int(v, &out->args.tile[i]);
        if (out->args.tile[i] < 0)
            out->args.tile[i] = 0;
    }
    return r->acts ? read_ct_acts(s, module, r->acts, out, err) : 0;
}

/* ---- ModelOpt ---- */

static const struct {
    const char *algorithm, *act, *scale;
    double factor;
} algorithms[] = {
    {"FP8", "e4m3:tensor:static", "input_scale", 448},
    {"FP8_PER_CHANNEL_PER_TOKEN", "e4m3:token:dynamic", NULL, 0},
    {"FP8_PB_WO", "none", NULL, 0},
    {"NVFP4", "e2m1:nvfp4(16):static", "input_scale", 2688},
    {"NVFP4_AWQ", "e2m1:nvfp4(16):static", "input_scale", 2688},
    {"W4A16_NVFP4", "none", NULL, 0},
    {"W4A16_AWQ", "none", NULL, 0},
    {"W4A8_AWQ", "e4m3:tensor:static", "input_scale", 448},
    {"W8A16", "none", NULL, 0},
    {"W8A8_SQ_PER_CHANNEL", "int8:tensor:static", "input_scale", 127},
    {"MXFP8", "e4m3:mx(32):dynamic", NULL, 0},
};

static int read_modelopt(const struct eval_scheme *s, const char *module, struct eval_module *out,
                         struct aq_err *err)
{
    const struct json *own = json_find(json_find(s->quantization, "quantized_layers"), module);
    const char *algorithm = text_of(own ? own : s->quantization, "quant_algo");
    out->args.group = whole(own ? own : s->quantization, "group_size");
    out->args.tile[0] = out->args.tile[1] = out->args.group; /* of scales that have rows, too */
    for (size_t i = 0; i < AQ_COUNT(algorithms); i++) {
        if (strcmp(algorithms[i].algorithm, algorithm) != 0)
            continue;
        (void)snprintf(out->act, sizeof out->act, "%s", algorithms[i].act);
        out->args.rounded = strcmp(algorithm, "W4A8_AWQ") == 0;
        out->scale = algorithms[i].scale;
        out->factor = algorithms[i].factor;
        return 0;
    }
    return aq_err_set(err, AQ_EINPUT, "%s: %s: ModelOpt's '%s' is not read", aq_show(s->path),
                      aq_show(module), aq_show(algorithm));
}

/* ---- looking up ---- */

/* Does a target of the rule name the module? "Linear" names the class of all. */
static int rule_takes(const struct scheme_rule *r, const char *module, struct aq_err *err)
{
    for (size_t i = 0; i < r->targets.count; i++) {
        int found = r->patterns[i] ? pattern_match(r->patterns[i], module, err)
                                   : strcmp(r->targets.items[i], "Linear") == 0 ||
                                         strcmp(r->targets.items[i], module) == 0;
        if (found)
            return found;
    }
    return 0;
}

int eval_scheme_find(const struct eval_scheme *s, const char *module, struct eval_module *out,
                     struct aq_err *err)
{
    *out = (struct eval_module){.act = "none"};
    if (s->modelopt)
        return read_modelopt(s, module, out, err);
    for (size_t i = 0; i < s->count; i++) {
        int found = rule_takes(&s->rules[i], module, err);
        if (found < 0)
            return -1;
        if (found)
            return read_ct(s, module, &s->rules[i], out, err);
    }
    return cannot(s, module, "it is quantized, and no config group names it", err);
}
