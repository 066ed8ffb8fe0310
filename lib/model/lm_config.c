#include "model/lm_config.h"
#include "base/mem.h"
#include "model/family.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- kind of model ---- */

static bool is_object(const struct jref *parent, const char *key, struct jref *out)
{
    return jref_has(parent, key, out) && json_type(out->v) == JSON_OBJECT;
}

static int check_type(const struct jref *place, const char **type, struct aq_err *err)
{
    if (jref_string(place, "model_type", type, err) < 0)
        return -1;
    if (model_family_find(*type))
        return 0;
    size_t n = strlen(*type);
    bool moe = n > 4 && strcmp(*type + n - 4, "_moe") == 0;
    char *known = model_family_types();
    jref_fail(place, err, "model_type '%s' is not supported%s", aq_show(*type),
              moe ? ": no mixture of experts" : "");
    (void)aq_err_hint(err, "supported are %s", known);
    free(known);
    return -1;
}

/* The object that holds the language model's keys: the root, or text_config below it. */
static int find_text_config(struct lm_arch *a, const struct jref *root, struct jref *text,
                            struct aq_err *err)
{
    const char *type, *inner;
    struct jref r;
    if (check_type(root, &type, err) < 0)
        return -1;
    a->family = model_family_find(type);
    *text = *root;
    if (is_object(root, "text_config", &r)) {
        *text = r;
        if (jref_has(text, "model_type", &r)) {
            if (check_type(text, &inner, err) < 0)
                return -1;
            if (model_family_find(inner) != a->family)
                return jref_fail(&r, err, "'%s' inside a model of type '%s'", aq_show(inner),
                                 aq_show(type));
            type = inner;
        }
    } else if (model_family_wraps(type)) {
        return jref_get(root, "text_config", JSON_OBJECT, text, err);
    }
    (void)snprintf(a->model_type, sizeof a->model_type, "%s", type);
    return 0;
}

/* ---- sizes ---- */

static int optional_int(const struct jref *text, const char *key, int64_t max, int64_t fallback,
                        int64_t *out, struct aq_err *err)
{
    struct jref r;
    if (jref_has(text, key, &r))
        return jref_int(text, key, 1, max, out, err);
    *out = fallback;
    return 0;
}

static int read_sizes(struct lm_arch *a, const struct jref *text, struct aq_err *err)
{
    if (jref_int(text, "hidden_size", 1, LM_MAX_DIM, &a->hidden_size, err) < 0 ||
        jref_int(text, "intermediate_size", 1, LM_MAX_DIM, &a->intermediate_size, err) < 0 ||
        jref_int(text, "num_hidden_layers", 1, LM_MAX_LAYERS, &a->num_hidden_layers, err) < 0 ||
        jref_int(text, "num_attention_heads", 1, LM_MAX_HEADS, &a->num_attention_heads, err) < 0 ||
        jref_int(text, "vocab_size", 1, LM_MAX_DIM, &a->vocab_size, err) < 0 ||
        optional_int(text, "num_key_value_heads", LM_MAX_HEADS, a->num_attention_heads,
                     &a->num_key_value_heads, err) < 0)
        return -1;
    struct jref r;
    if (!jref_has(text, "head_dim", &r) && a->hidden_size % a->num_attention_heads)
        return jref_fail(text, err,
                         "no head_dim, and hidden_size %lld is no multiple of "
                         "num_attention_heads %lld",
                         (long long)a->hidden_size, (long long)a->num_attention_heads);
    return optional_int(text, "head_dim", LM_MAX_HEADS, a->hidden_size / a->num_attention_heads,
                        &a->head_dim, err);
}

/* ---- rotary embedding ---- */

/* Scaling other than none changes the positions' angles. */
static int check_rope_type(const struct jref *rope, bool required, struct aq_err *err)
{
    struct jref r;
    const char *key = jref_has(rope, "rope_type", &r) ? "rope_type" : "type", *type;
    if (!jref_has(rope, key, &r))
        return required ? jref_fail(rope, err, "key 'rope_type' is missing") : 0;
    if (jref_string(rope, key, &type, err) < 0)
        return -1;
    if (strcmp(type, "default") != 0)
        return jref_fail(&r, err, "'%s' is not supported, expected 'default'", aq_show(type));
    return 0;
}

static int read_rope(struct lm_arch *a, const struct jref *text, struct aq_err *err)
{
    struct jref r, inner;
    bool outside = jref_has(text, "rope_theta", &r), inside = false;
    double other = 0;
    if (outside && jref_double(text, "rope_theta", &a->rope_theta, err) < 0)
        return -1;
    if (jref_has(text, "rope_scaling", &r)) {
        if (jref_get(text, "rope_scaling", JSON_OBJECT, &r, err) < 0 ||
            check_rope_type(&r, true, err) < 0)
            return -1;
    }
    if (jref_has(text, "rope_parameters", &r)) {
        if (jref_get(text, "rope_parameters", JSON_OBJECT, &r, err) < 0 ||
            check_rope_type(&r, false, err) < 0)
            return -1;
        inside = jref_has(&r, "rope_theta", &inner);
        if (inside && jref_double(&r, "rope_theta", &other, err) < 0)
            return -1;
    }
    if (!outside && !inside) /* libraries disagree on the default: 10000, 500000, 5000000 */
        return jref_fail(text, err, "rope_theta is missing");
    if (outside && inside && a->rope_theta != other)
        return jref_fail(text, err, "rope_theta is %g, but %g in rope_parameters", a->rope_theta,
                         other);
    if (!outside)
        a->rope_theta = other;
    return 0;
}

/* ---- what must be off ---- */

static int refuse_flag(const struct jref *text, const char *key, struct aq_err *err)
{
    struct jref r;
    bool on = false;
    if (jref_has(text, key, &r) && jref_bool(text, key, &on, err) < 0)
        return -1;
    return on ? jref_fail(&r, err, "true is not supported") : 0;
}

static int check_layer_types(const struct jref *text, int64_t layers, struct aq_err *err)
{
    struct jref list;
    if (!jref_has(text, "layer_types", &list))
        return 0;
    if (jref_get(text, "layer_types", JSON_ARRAY, &list, err) < 0)
        return -1;
    size_t i = 0;
    for (const struct json *v = json_first(list.v); v; v = json_next(v), i++) {
        struct jref r = jref_child(&list, v, i);
        if (json_type(v) != JSON_STRING || strcmp(json_string(v), "full_attention") != 0)
            return jref_fail(&r, err, "only 'full_attention' is supported");
    }
    if (i != (size_t)layers)
        return jref_fail(&list, err, "%zu entries for %lld layers", i, (long long)layers);
    return 0;
}

static int check_partial_rotary(const struct jref *place, struct aq_err *err)
{
    struct jref r;
    double x = 1;
    if (jref_has(place, "partial_rotary_factor", &r) &&
        jref_double(place, "partial_rotary_factor", &x, err) < 0)
        return -1;
    return x != 1 ? jref_fail(&r, err, "%g is not supported, expected 1", x) : 0;
}

static int check_unsupported(const struct jref *root, const struct jref *text, int64_t layers,
                             struct aq_err *err)
{
    struct jref r;
    const char *act;
    const struct jref *places[] = {root, text};
    for (size_t i = 0; i < AQ_COUNT(places); i++)
        if (jref_has(places[i], "quantization_config", &r)) {
            jref_fail(&r, err, "the checkpoint is quantized already");
            return aq_err_hint(err, "take the one it was made from");
        }
    if (jref_has(text, "hidden_act", &r)) {
        if (jref_string(text, "hidden_act", &act, err) < 0)
            return -1;
        if (strcmp(act, "silu") != 0)
            return jref_fail(&r, err, "'%s' is not supported, expected 'silu'", aq_show(act));
    }
    if (refuse_flag(text, "attention_bias", err) < 0 ||
        refuse_flag(text, "use_sliding_window", err) < 0 || check_partial_rotary(text, err) < 0 ||
        check_layer_types(text, layers, err) < 0)
        return -1;
    return is_object(text, "rope_parameters", &r) ? check_partial_rotary(&r, err) : 0;
}

/* Library versions read the one or the other place; missing in both means false to all. */
static int read_tie(struct lm_arch *a, const struct jref *root, const struct jref *text,
                    struct aq_err *err)
{
    struct jref r;
    bool top = false, inner = false;
    bool at_top = jref_has(root, "tie_word_embeddings", &r);
    bool at_text = text->v != root->v && jref_has(text, "tie_word_embeddings", &r);
    if ((at_top && jref_bool(root, "tie_word_embeddings", &top, err) < 0) ||
        (at_text && jref_bool(text, "tie_word_embeddings", &inner, err) < 0))
        return -1;
    if (at_top && at_text && top != inner)
        return jref_fail(root, err, "tie_word_embeddings is %s at the top, %s in text_config",
                         top ? "true" : "false", inner ? "true" : "false");
    a->tie_word_embeddings = at_top ? top : inner;
    return 0;
}

int lm_config_read(struct lm_arch *a, const struct json *config, const char *name,
                   struct aq_err *err)
{
    struct jref root = jref_root(config, name), text = root, r;
    *a = (struct lm_arch){.rms_norm_eps = 1e-6};
    if (jref_is(&root, JSON_OBJECT, err) < 0 || find_text_config(a, &root, &text, err) < 0 ||
        read_sizes(a, &text, err) < 0 ||
        check_unsupported(&root, &text, a->num_hidden_layers, err) < 0 ||
        read_rope(a, &text, err) < 0 || read_tie(a, &root, &text, err) < 0)
        return -1;
    if (jref_has(&text, "rms_norm_eps", &r) &&
        jref_double(&text, "rms_norm_eps", &a->rms_norm_eps, err) < 0)
        return -1;
    arch_defaults(a);
    a->qk_norm = QK_NORM_HEAD;
    struct aq_err why = {0};
    return arch_check(a, &why) < 0 ? jref_fail(&text, err, "%s", why.msg) : 0;
}
