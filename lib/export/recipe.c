#include "export/recipe.h"

#include "base/mem.h"
#include "export/config.h"
#include "export/gguf_model.h"
#include "export/targets.h"
#include "io/yaml.h"

#include <stdlib.h>
#include <string.h>

const char *const recipe_names[RECIPES + 1] = {"llm-compressor", "modelopt-cfg", "llama-types",
                                               "autoround", NULL};

enum scheme_layout recipe_layout(enum recipe_kind kind)
{
    return kind == RECIPE_LLM_COMPRESSOR ? LAYOUT_CT : kind == RECIPE_LLAMA ? LAYOUT_GGUF : LAYOUTS;
}

/* ---- llm-compressor ---- */

/* Without what is null: its reader fills that in. */
static struct json *observed(const struct json *args, const char *observer)
{
    struct json *v = json_new_object();
    for (const struct json *m = json_first(args); m; m = json_next(m))
        if (json_type(m) != JSON_NULL)
            json_add(v, json_key(m), json_copy(m));
    if (observer)
        json_add_string(v, "observer", observer);
    return v;
}

/* A range over a whole data set needs the largest value, not an average: as aq's ranges. */
static bool is_calibrated(const struct json *acts)
{
    const struct json *d = json_find(acts, "dynamic");
    return d && (json_type(d) == JSON_STRING || (json_type(d) == JSON_BOOL && !json_bool(d)));
}

static struct json *modifier_groups(const struct json *groups)
{
    struct json *out = json_new_object();
    for (const struct json *g = json_first(groups); g; g = json_next(g)) {
        struct json *to = json_add_object(out, json_key(g));
        const struct json *acts = json_find(g, "input_activations");
        json_add(to, "targets", json_copy(json_find(g, "targets")));
        json_add(to, "format", json_copy(json_find(g, "format")));
        json_add(to, "weights", observed(json_find(g, "weights"), "memoryless_minmax"));
        if (json_type(acts) == JSON_OBJECT)
            json_add(to, "input_activations",
                     observed(acts, is_calibrated(acts) ? "static_minmax" : NULL));
    }
    return out;
}

static int llm_compressor(const struct export_plan *p, struct aq_buf *out, struct aq_err *err)
{
    struct json *config = config_ct(p), *root = json_new_object();
    struct json *modifier = json_add_object(
        json_add_object(json_add_object(root, "aq_stage"), "aq_modifiers"), "QuantizationModifier");
    json_add(modifier, "ignore", json_copy(json_find(config, "ignore")));
    json_add(modifier, "config_groups", modifier_groups(json_find(config, "config_groups")));
    struct aq_buf text = AQ_BUF_INIT;
    struct aq_arena arena = AQ_ARENA_INIT;
    int r = json_write(&text, root, JSON_COMPACT, err);
    struct node *tree = r == 0 ? yaml_parse_node(&arena, text.data, text.len, "recipe", err) : NULL;
    if (tree)
        yaml_write(out, tree);
    aq_buf_release(&text);
    aq_arena_release(&arena);
    json_free(config);
    json_free(root);
    return tree ? 0 : -1;
}

/* ---- ModelOpt ---- */

static void add_bits(struct aq_buf *out, const struct quant_step *s)
{
    static const char *const floats[] = {[QUANT_E4M3] = "(4, 3)",
                                         [QUANT_E5M2] = "(5, 2)",
                                         [QUANT_E2M1] = "(2, 1)",
                                         [QUANT_E3M2] = "(3, 2)",
                                         [QUANT_E2M3] = "(2, 3)"};
    if (s->number == QUANT_INT)
        aq_buf_addf(out, "%d", s->bits);
    else
        aq_buf_adds(out, floats[s->number]);
}

static void add_scope(struct aq_buf *out, const struct quant_step *s)
{
    switch (s->scope) {
    case QUANT_TENSOR:
        aq_buf_addf(out, "%s\"axis\": None", s->dynamic ? "\"type\": \"dynamic\", " : "");
        break;
    case QUANT_AXIS0:
    case QUANT_AXIS1:
    case QUANT_HIDDEN:
        aq_buf_addf(out, "\"axis\": %d",
                    s->scope == QUANT_AXIS0   ? 0
                    : s->scope == QUANT_AXIS1 ? 1
                                              : -1);
        break;
    case QUANT_TOKEN:
        aq_buf_adds(out, "\"type\": \"dynamic\", \"block_sizes\": {-1: None}");
        break;
    case QUANT_BLOCK:
        aq_buf_adds(out, "\"block_sizes\": {");
        if (s->block_cols > 1 || s->block_rows == 1)
            aq_buf_addf(out, "-1: %d", s->block_cols);
        if (s->block_rows > 1)
            aq_buf_addf(out, "%s-2: %d", s->block_cols > 1 ? ", " : "", s->block_rows);
        aq_buf_addc(out, '}');
        break;
    case QUANT_NVFP4:
    case QUANT_MX:
        aq_buf_addf(out, "\"block_sizes\": {-1: %d, \"type\": \"dynamic\", \"scale_bits\": %s}",
                    s->block_cols, s->scope == QUANT_NVFP4 ? "(4, 3)" : "(8, 0)");
        break;
    }
}

static void add_step(struct aq_buf *out, const struct quant_step *s)
{
    aq_buf_adds(out, "{\"num_bits\": ");
    add_bits(out, s);
    aq_buf_adds(out, ", ");
    add_scope(out, s);
    aq_buf_addc(out, '}');
}

static int add_quantizer(struct aq_buf *out, const char *module, const char *quantizer,
                         const char *treatment, struct aq_err *err)
{
    struct quant_spec spec;
    if (quant_parse(treatment, &spec, err) < 0)
        return aq_err_prefix(err, "%s", aq_show(module));
    if (spec.steps == 0)
        return 0;
    aq_buf_addf(out, "        {\"quantizer_name\": \"%s.%s\", \"cfg\": ", module, quantizer);
    if (spec.steps > 1)
        aq_buf_addc(out, '[');
    for (int i = 0; i < spec.steps; i++) {
        if (i)
            aq_buf_adds(out, ", ");
        add_step(out, &spec.step[i]);
    }
    aq_buf_addf(out, "%s},\n", spec.steps > 1 ? "]" : "");
    return 0;
}

/* Python, since JSON has neither tuples nor numbers as keys. The last entry that fits wins. */
static int modelopt(const struct export_plan *p, struct aq_buf *out, struct aq_err *err)
{
    aq_buf_adds(out, "# mtq.quantize(model, CONFIG, forward_loop), ModelOpt 0.47; CONFIG_040 for "
                     "ModelOpt 0.40.\n"
                     "CONFIG = {\n    \"quant_cfg\": [\n"
                     "        {\"quantizer_name\": \"*\", \"enable\": False},\n");
    for (size_t i = 0; i < p->count; i++) {
        const struct export_group *g = &p->groups[i];
        for (int k = 0; k < g->module_count; k++) {
            const char *name = g->modules[k].name;
            if (add_quantizer(out, name, "weight_quantizer", g->weight, err) < 0 ||
                add_quantizer(out, name, "input_quantizer", g->act, err) < 0)
                return -1;
        }
    }
    aq_buf_adds(out,
                "    ],\n    \"algorithm\": \"max\",\n}\n"
                "CONFIG_040 = {\n"
                "    \"quant_cfg\": {\"default\": {\"enable\": False}, **{\n"
                "        e[\"quantizer_name\"]: {**e.get(\"cfg\", {}), \"enable\": "
                "e.get(\"enable\", True)} if not isinstance(e.get(\"cfg\"), list) else e[\"cfg\"]\n"
                "        for e in CONFIG[\"quant_cfg\"]}},\n"
                "    \"algorithm\": \"max\",\n}\n");
    return 0;
}

/* ---- llama-quantize ---- */

static const char *llama_type(const struct export_group *g)
{
    if (!g->verdict.quantized)
        return "bf16";
    switch (g->verdict.scheme.codes) {
    case CODES_Q8_0:
        return "q8_0";
    case CODES_Q4_0:
        return "q4_0";
    case CODES_MXFP4:
        return "mxfp4";
    default:
        return NULL;
    }
}

/* Expressions must not overlap: which of two that fit is taken depends on the version. */
static int llama_types(const struct export_plan *p, struct aq_buf *out, struct aq_err *err)
{
    struct aq_buf name = AQ_BUF_INIT;
    int r = 0;
    for (size_t i = 0; i < p->count && r == 0; i++) {
        const struct export_group *g = &p->groups[i];
        const char *type = llama_type(g);
        if (!type)
            r = aq_err_set(err, AQ_EINPUT, "%s: llama-quantize cannot make %s",
                           aq_show(g->model->name), g->verdict.scheme.name);
        for (int k = 0; k < g->model->member_count && r == 0; k++) {
            char *tensor = xasprintf("%s.weight", g->model->members[k]);
            r = gguf_tensor_name(&p->lm.arch, p->arch, tensor, &name, NULL, err);
            aq_buf_addc(out, '^');
            for (const char *c = aq_buf_str(&name); *c; c++)
                aq_buf_addf(out, "%s%c", *c == '.' ? "\\" : "", *c);
            aq_buf_addf(out, "$=%s\n", type ? type : "");
            free(tensor);
        }
    }
    aq_buf_release(&name);
    return r;
}

/* ---- AutoRound ---- */

static int autoround_weight(struct json *v, const struct quant_step *s)
{
    json_add_int(v, "bits", s->bits);
    switch (s->scope) {
    case QUANT_TENSOR:
    case QUANT_AXIS0:
        json_add_int(v, "group_size", s->scope == QUANT_TENSOR ? 0 : -1);
        break;
    case QUANT_BLOCK:
        if (s->block_rows > 1)
            return -1;
        json_add_int(v, "group_size", s->block_cols);
        break;
    case QUANT_NVFP4:
    case QUANT_MX:
        json_add_int(v, "group_size", s->block_cols);
        break;
    default:
        return -1;
    }
    json_add_bool(v, "sym", true);
    json_add_string(v, "data_type",
                    s->scope == QUANT_NVFP4  ? "nv_fp"
                    : s->scope == QUANT_MX   ? "mx_fp"
                    : s->number == QUANT_INT ? "int"
                                             : "fp");
    return 0;
}

static int autoround_act(struct json *v, const struct quant_spec *a)
{
    const struct quant_step *s = &a->step[0];
    if (a->steps == 0) {
        json_add_int(v, "act_bits", 16);
        return 0;
    }
    if (a->steps > 1 || s->scope == QUANT_HIDDEN || s->scope == QUANT_BLOCK)
        return -1;
    bool blocks = s->scope == QUANT_NVFP4 || s->scope == QUANT_MX;
    json_add_int(v, "act_bits", s->bits);
    json_add_int(v, "act_group_size", blocks ? s->block_cols : s->scope == QUANT_TENSOR ? 0 : -1);
    json_add_bool(v, "act_sym", true);
    json_add_bool(v, "act_dynamic", s->dynamic || blocks);
    json_add_string(v, "act_data_type",
                    s->scope == QUANT_NVFP4  ? "nv_fp4_with_static_gs"
                    : s->scope == QUANT_MX   ? "mx_fp"
                    : s->number == QUANT_INT ? "int"
                                             : "fp");
    return 0;
}

static int autoround_group(struct json *root, const struct export_group *g, struct aq_err *err)
{
    struct quant_spec w, a;
    if (quant_parse(g->weight, &w, err) < 0 || quant_parse(g->act, &a, err) < 0)
        return aq_err_prefix(err, "%s", aq_show(g->model->name));
    for (int k = 0; k < g->module_count; k++) {
        struct json *v = json_add_object(root, g->modules[k].name);
        if (!g->verdict.quantized)
            json_add_int(v, "bits", 16);
        else if (w.steps != 1 || autoround_weight(v, &w.step[0]) < 0 || autoround_act(v, &a) < 0)
            return aq_err_set(err, AQ_EINPUT, "%s: AutoRound has no words for %s | %s",
                              aq_show(g->model->name), g->weight, g->act);
    }
    return 0;
}

static int autoround(const struct export_plan *p, struct aq_buf *out, struct aq_err *err)
{
    struct json *root = json_new_object();
    int r = 0;
    for (size_t i = 0; i < p->count && r == 0; i++)
        r = autoround_group(root, &p->groups[i], err);
    if (r == 0)
        r = json_write(out, root, JSON_NEWLINE, err);
    json_free(root);
    return r;
}

int recipe_text(const struct export_plan *p, enum recipe_kind kind, struct aq_buf *out,
                struct aq_err *err)
{
    for (size_t i = 0; i < p->count; i++) {
        struct quant_spec w;
        if (quant_parse(p->groups[i].weight, &w, err) < 0)
            return -1;
        if (quant_has_method(&w))
            return aq_err_set(err, AQ_EINPUT,
                              "%s: candidate '%s' (%s) was calibrated here, and a recipe makes "
                              "the tool that reads it round to nearest: export a checkpoint",
                              aq_show(p->groups[i].model->name), aq_show(p->groups[i].candidate),
                              p->groups[i].weight);
    }
    if (targets_check(p, err) < 0)
        return -1;
    switch (kind) {
    case RECIPE_LLM_COMPRESSOR:
        return llm_compressor(p, out, err);
    case RECIPE_MODELOPT:
        return modelopt(p, out, err);
    case RECIPE_LLAMA:
        return llama_types(p, out, err);
    case RECIPE_AUTOROUND:
        return autoround(p, out, err);
    case RECIPES:
        break;
    }
    return -1;
}
