#include "eval/served.h"

#include "base/mem.h"
#include "export/gguf_model.h"
#include "io/group_norm.h"

#include <string.h>

int served_open(struct eval_served *s, const char *name, const char *conf_dir, struct aq_err *err)
{
    *s = (struct eval_served){0};
    if (!name)
        return 0;
    if (engine_target_parse(name, &s->target, err) < 0)
        return -1;
    s->engine = engine_load(conf_dir, s->target.name, err);
    return s->engine ? 0 : -1;
}

void served_close(struct eval_served *s)
{
    engine_free(s->engine);
    *s = (struct eval_served){0};
}

int served_group(const struct eval_served *s, const struct lm *lm, const struct model_group *g,
                 const char *weight, const char **act, struct aq_err *err)
{
    struct engine_group asked = {
        .kind = g->kind, .arch = "", .normed = g->normed, .weight = weight, .act = *act};
    if (!s->engine)
        return 0;
    enum scheme_layout layout = engine_default_layout(s->engine);
    if (layout == LAYOUT_GGUF && !(asked.arch = gguf_arch(lm, NULL, err)))
        return -1;
    for (; asked.modules < g->module_count && asked.modules < ENGINE_MAX_MODULES; asked.modules++) {
        asked.rows[asked.modules] = g->modules[asked.modules].rows;
        asked.cols[asked.modules] = g->modules[asked.modules].cols;
    }
    return engine_runs(s->engine, &s->target, layout, &asked, g->name, act, err);
}

/* "model.layers.0.self_attn.q_proj" is of kind qkv. */
static const char *kind_of(const char *module)
{
    static const struct {
        const char *name, *kind;
    } kinds[] = {{"q_proj", "qkv"},        {"k_proj", "qkv"},      {"v_proj", "qkv"},
                 {"qkv_proj", "qkv"},      {"o_proj", "o"},        {"gate_up_proj", "gate_up"},
                 {"gate_proj", "gate_up"}, {"up_proj", "gate_up"}, {"down_proj", "down"}};
    const char *dot = strrchr(module, '.');
    if (strstr(module, ".experts."))
        return "experts";
    for (size_t i = 0; i < AQ_COUNT(kinds); i++)
        if (strcmp(dot ? dot + 1 : module, kinds[i].name) == 0)
            return kinds[i].kind;
    return "";
}

/* llama.cpp rounds the input of every product with a quantized weight: by 256 for the K types. */
static const char *gguf_act(enum gguf_type type)
{
    switch (type) {
    case GGUF_F32:
    case GGUF_F16:
    case GGUF_BF16:
        return "none";
    case GGUF_Q4_K:
    case GGUF_Q5_K:
    case GGUF_Q6_K:
        return "int8:block(-1:256):dynamic";
    default:
        return "int8:block(-1:32):dynamic";
    }
}

int served_coded(const struct eval_served *s, enum scheme_layout layout, const char *module,
                 const struct coded *c, const char **act, struct aq_err *err)
{
    char weight[QUANT_TEXT_MAX];
    struct engine_group asked = {.kind = kind_of(module),
                                 .arch = "",
                                 .modules = 1,
                                 .rows = {c->rows},
                                 .cols = {c->cols},
                                 .weight = weight,
                                 .act = *act};
    if (!s->engine)
        return 0;
    if (!engine_has_layout(s->engine, layout))
        return aq_err_set(err, AQ_EINPUT, "%s: %s does not load %s", aq_show(module),
                          engine_name(s->engine), layout_names[layout]);
    if (layout == LAYOUT_GGUF) {
        *act = gguf_act(c->type);
        return 0;
    }
    if (c->form == CODED_PLAIN)
        return 0;
    asked.normed = group_norm_usual(asked.kind);
    if (!coded_treatment(c, weight))
        return aq_err_set(err, AQ_EINPUT,
                          "%s: what %s computes with zero points or shuffled groups is not known",
                          aq_show(module), engine_name(s->engine));
    return engine_runs(s->engine, &s->target, layout, &asked, module, act, err);
}
