#include "model/lm_config.h"
#include "base/mem.h"
#include "base/msg.h"
#include "model/config_rope.h"
#include "model/family.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- kind of model ---- */

static bool is_object(const struct jref *parent, const char *key, struct jref *out)
{
    return jref_has(parent, key, out) && json_type(out->v) == JSON_OBJECT;
}

/* Of models that are asked for: what they would need, by how their model_type begins. */
static const struct {
    const char *begins, *needs;
} strangers[] = {
    {"qwen2_moe", "a shared expert beside the others"},
    {"qwen3_next", "linear attention and a shared expert"},
    {"qwen3_5_moe", "linear attention and a shared expert"},
    {"glm4_moe", "shared experts and a router with sigmoids and groups"},
    {"ernie4_5_moe", "shared experts and a router with a bias"},
    {"hunyuan_v1_moe", "a shared expert beside the others"},
    {"granitemoe", "other names of tensors and multipliers"},
    {"phimoe", "layer norms and a router that samples by thresholds"},
    {"dbrx", "layer norms and other names of tensors"},
    {"jamba", "state-space layers"},
    {"dots1", "shared experts and a router with sigmoids and groups"},
    {"bailing_moe", "shared experts and a router with sigmoids and groups"},
    {"kimi", "latent attention, shared experts and a router with sigmoids"},
    {"flex_olmo", "norms after the branches and experts"},
    {"deepseek", "latent attention, shared experts and a router with groups"},
    {"gpt_oss", "experts and attention sinks"},
    {"llama4", "experts and normalized queries without a weight"},
    {"minimax", "experts and linear attention"},
    {"gemma", "the family gemma2 without norms after the branches"},
    {"gpt2", "layer norms, learned positions and an MLP without a gate"},
    {"gpt_neox", "layer norms, parallel branches and an MLP without a gate"},
    {"starcoder2", "layer norms and an MLP without a gate"},
    {"phi", "layer norms, parallel branches and an MLP without a gate"},
    {"falcon", "layer norms and parallel branches"},
    {"cohere", "layer norms, parallel branches and interleaved rotation"},
    {"stablelm", "layer norms and partial rotation"},
    {"olmo", "layer norms without weights"},
    {"glm", "interleaved rotation of a part of each head"},
    {"exaone", "other names of tensors"},
    {"internlm", "other names of tensors and a fused projection in groups"},
    {"nemotron", "layer norms with 1 + w and a squared relu"},
    {"mistral3", "the family mistral inside text_config"},
    {"mamba", "a state-space layer"},
};

static const char *needs_of(const char *type)
{
    size_t n = strlen(type), best = 0;
    const char *needs = NULL;
    for (size_t i = 0; i < AQ_COUNT(strangers); i++) {
        size_t len = strlen(strangers[i].begins);
        if (len > best && strncmp(type, strangers[i].begins, len) == 0) {
            best = len;
            needs = strangers[i].needs;
        }
    }
    return !needs && n > 4 && strcmp(type + n - 4, "_moe") == 0
               ? "to know how its router chooses experts"
               : needs;
}

static int check_type(const struct jref *place, const char **type, struct aq_err *err)
{
    if (jref_string(place, "model_type", type, err) < 0)
        return -1;
    if (model_family_find(*type))
        return 0;
    const char *needs = needs_of(*type);
    char *known = model_family_types();
    jref_fail(place, err, "model_type '%s' is not supported%s%s", aq_show(*type),
              needs ? ": it would need " : "", needs ? needs : "");
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
    *out = fallback;
    return jref_maybe_int(text, key, 1, max, out, err);
}

static int read_sizes(struct lm_arch *a, const struct jref *text, struct aq_err *err)
{
    if (jref_int(text, "hidden_size", 1, LM_MAX_DIM, &a->hidden_size, err) < 0 ||
        jref_int(text, "num_hidden_layers", 1, LM_MAX_LAYERS, &a->num_hidden_layers, err) < 0 ||
        jref_int(text, "num_attention_heads", 1, LM_MAX_HEADS, &a->num_attention_heads, err) < 0 ||
        jref_int(text, "vocab_size", 1, LM_MAX_DIM, &a->vocab_size, err) < 0 ||
        optional_int(text, "num_key_value_heads", LM_MAX_HEADS, a->num_attention_heads,
                     &a->num_key_value_heads, err) < 0)
        return -1;
    struct jref r;
    if (!(a->family->reads & READS_SPARSE) || jref_has(text, "intermediate_size", &r)) {
        if (jref_int(text, "intermediate_size", 1, LM_MAX_DIM, &a->intermediate_size, err) < 0)
            return -1;
    }
    int64_t usual = a->family->head_dim;
    if (usual)
        return optional_int(text, "head_dim", LM_MAX_HEADS, usual, &a->head_dim, err);
    if (!jref_has(text, "head_dim", &r) && a->hidden_size % a->num_attention_heads)
        return jref_fail(text, err,
                         "no head_dim, and hidden_size %lld is not a multiple of "
                         "num_attention_heads %lld",
                         (long long)a->hidden_size, (long long)a->num_attention_heads);
    return optional_int(text, "head_dim", LM_MAX_HEADS, a->hidden_size / a->num_attention_heads,
                        &a->head_dim, err);
}

/* ---- numbers of a family ---- */

static int read_biases(struct lm_arch *a, const struct jref *text, struct aq_err *err)
{
    bool attention = false, mlp = false;
    unsigned reads = a->family->reads;
    a->bias = a->family->bias;
    if (((reads & READS_ATTENTION_BIAS) &&
         jref_maybe_bool(text, "attention_bias", &attention, err) < 0) ||
        ((reads & READS_MLP_BIAS) && jref_maybe_bool(text, "mlp_bias", &mlp, err) < 0))
        return -1;
    a->bias |= (attention ? BIAS_QKV | BIAS_O : 0) | (mlp ? BIAS_MLP : 0);
    return 0;
}

/* transformers has null for none, and a number of its own where the key is missing. */
static int read_cap(const struct jref *text, const char *key, double fallback, double *out,
                    struct aq_err *err)
{
    const struct json *v = json_get(text->v, key);
    *out = v ? 0 : fallback;
    if (!v || json_type(v) == JSON_NULL)
        return 0;
    if (jref_double(text, key, out, err) < 0)
        return -1;
    return *out > 0 ? 0 : jref_fail(text, err, "%s is %g, expected a positive number", key, *out);
}

static int read_scales(struct lm_arch *a, const struct jref *text, struct aq_err *err)
{
    const struct model_family *f = a->family;
    if ((f->reads & READS_MULTIPLIERS) &&
        (a->attn_scale = 1,
         jref_maybe_double(text, "attention_multiplier", &a->attn_scale, err) < 0 ||
             jref_maybe_double(text, "embedding_multiplier", &a->embed_scale, err) < 0 ||
             jref_maybe_double(text, "residual_multiplier", &a->residual_scale, err) < 0 ||
             jref_maybe_double(text, "logits_scaling", &a->logit_div, err) < 0))
        return -1;
    if (f->reads & READS_QUERY_SCALAR) {
        double scalar = 256;
        if (jref_maybe_double(text, "query_pre_attn_scalar", &scalar, err) < 0)
            return -1;
        if (!(scalar > 0))
            return jref_fail(text, err, "query_pre_attn_scalar is %g, expected a positive number",
                             scalar);
        a->attn_scale = 1 / sqrt(scalar);
    }
    if (((f->reads & READS_ATTN_CAP) &&
         read_cap(text, "attn_logit_softcapping", f->attn_cap, &a->attn_cap, err) < 0) ||
        ((f->reads & READS_LOGIT_CAP) &&
         read_cap(text, "final_logit_softcapping", f->logit_cap, &a->logit_cap, err) < 0))
        return -1;
    if (f->embed_root)
        a->embed_scale = sqrt((double)a->hidden_size);
    return 0;
}

static int read_act(struct lm_arch *a, const struct jref *text, struct aq_err *err)
{
    static const char *const names[] = {[ACT_SILU] = "silu", [ACT_GELU_TANH] = "gelu_pytorch_tanh"};
    bool gelu = a->family->act == ACT_GELU_TANH;
    struct jref r;
    const char *key = gelu ? "hidden_activation" : "hidden_act", *act;
    a->act = a->family->act;
    if (!jref_has(text, key, &r))
        return 0;
    if (jref_string(text, key, &act, err) < 0)
        return -1;
    return strcmp(act, names[a->act]) == 0
               ? 0
               : jref_fail(&r, err, "'%s' is not supported, expected '%s'", aq_show(act),
                           names[a->act]);
}

/* ---- what differs from layer to layer ---- */

/* Fills windows[l] with 1 for "sliding_attention". false: there is no such list. */
static int read_layer_types(const struct lm_arch *a, const struct jref *text, int8_t *windows,
                            bool *found, struct aq_err *err)
{
    struct jref list;
    *found = jref_has(text, "layer_types", &list);
    if (!*found)
        return 0;
    if (jref_get(text, "layer_types", JSON_ARRAY, &list, err) < 0)
        return -1;
    bool may_slide = a->family->windows != WINDOWS_NONE;
    size_t i = 0;
    for (const struct json *v = json_first(list.v); v; v = json_next(v), i++) {
        struct jref r = jref_child(&list, v, i);
        const char *type = json_type(v) == JSON_STRING ? json_string(v) : "";
        bool slides = may_slide && strcmp(type, "sliding_attention") == 0;
        if (!slides && strcmp(type, "full_attention") != 0)
            return jref_fail(&r, err,
                             may_slide ? "expected 'full_attention' or 'sliding_attention'"
                                       : "only 'full_attention' is supported");
        if (i < (size_t)a->num_hidden_layers)
            windows[i] = slides;
    }
    if (i != (size_t)a->num_hidden_layers)
        return jref_fail(&list, err, "%zu entries for %lld layers", i,
                         (long long)a->num_hidden_layers);
    return 0;
}

/* Where no list says it. */
static int default_windows(const struct lm_arch *a, const struct jref *text, int8_t *windows,
                           struct aq_err *err)
{
    const struct model_family *f = a->family;
    int64_t from = 0, period = f->window_period;
    if (f->windows == WINDOWS_QWEN2) {
        from = a->num_hidden_layers;
        if (jref_maybe_int(text, "max_window_layers", 0, LM_MAX_LAYERS, &from, err) < 0)
            return -1;
    }
    if (f->windows == WINDOWS_EVERY &&
        jref_maybe_int(text, "sliding_window_pattern", 1, LM_MAX_LAYERS, &period, err) < 0)
        return -1;
    for (int64_t l = 0; l < a->num_hidden_layers; l++)
        windows[l] = f->windows == WINDOWS_EVERY ? (l + 1) % period != 0 : l >= from;
    return 0;
}

/* The window's size; 0: none. */
static int read_window_size(struct lm_arch *a, const struct jref *text, struct aq_err *err)
{
    const struct model_family *f = a->family;
    const struct json *v = json_get(text->v, "sliding_window");
    bool used = f->windows != WINDOWS_QWEN2;
    a->window = v ? 0 : f->window;
    if (f->windows == WINDOWS_QWEN2 && jref_maybe_bool(text, "use_sliding_window", &used, err) < 0)
        return -1;
    if (v && json_type(v) != JSON_NULL &&
        jref_int(text, "sliding_window", 1, INT32_MAX, &a->window, err) < 0)
        return -1;
    if (!used)
        a->window = 0;
    return 0;
}

static int read_windows(struct lm_arch *a, const struct jref *text, struct aq_arena *strings,
                        struct aq_err *err)
{
    int8_t *windows = aq_arena_alloc(strings, (size_t)a->num_hidden_layers);
    bool listed, any = false;
    memset(windows, 0, (size_t)a->num_hidden_layers);
    if (read_layer_types(a, text, windows, &listed, err) < 0)
        return -1;
    if (a->family->windows == WINDOWS_NONE)
        return 0;
    if (read_window_size(a, text, err) < 0 ||
        (a->window > 0 && !listed && default_windows(a, text, windows, err) < 0))
        return -1;
    for (int64_t l = 0; l < a->num_hidden_layers; l++)
        any |= windows[l];
    if (a->window > 0 && any)
        a->layer_window = (uint8_t *)windows;
    else if (listed && any)
        return jref_fail(text, err,
                         "layer_types has sliding_attention, but there is no "
                         "sliding_window");
    if (!a->layer_window)
        a->window = 0;
    return 0;
}

/* Layers that do not rotate, or rotate by the second table. */
static int read_layer_ropes(struct lm_arch *a, const struct jref *text, struct aq_arena *strings,
                            struct aq_err *err)
{
    int64_t layers = a->num_hidden_layers, interval = 4;
    struct jref list;
    int8_t *ropes = aq_arena_alloc(strings, (size_t)layers);
    memset(ropes, 0, (size_t)layers);
    if (a->rope_count > 1) {
        for (int64_t l = 0; l < layers; l++)
            ropes[l] = a->layer_window && a->layer_window[l];
        if (a->layer_window)
            a->layer_rope = ropes;
        return 0;
    }
    if (!(a->family->reads & READS_NO_ROPE))
        return 0;
    if (jref_maybe_int(text, "no_rope_layer_interval", 1, LM_MAX_LAYERS, &interval, err) < 0)
        return -1;
    for (int64_t l = 0; l < layers; l++)
        ropes[l] = (l + 1) % interval == 0 ? -1 : 0;
    if (jref_has(text, "no_rope_layers", &list)) {
        if (jref_get(text, "no_rope_layers", JSON_ARRAY, &list, err) < 0)
            return -1;
        if (json_size(list.v) != (size_t)layers)
            return jref_fail(&list, err, "%zu entries for %lld layers", json_size(list.v),
                             (long long)layers);
        size_t i = 0;
        for (const struct json *v = json_first(list.v); v; v = json_next(v), i++) {
            int64_t rotates;
            struct jref at = jref_child(&list, v, i);
            if (!json_int(v, &rotates) || rotates < 0 || rotates > 1)
                return jref_fail(&at, err, "expected 0 (no rotation) or 1");
            ropes[i] = rotates ? 0 : -1;
        }
    }
    a->layer_rope = ropes;
    return 0;
}

/* ---- experts ---- */

/* Library versions write the one or the other key. */
static int read_expert_count(struct lm_arch *a, const struct jref *text, struct aq_err *err)
{
    static const char *const keys[] = {"num_experts", "num_local_experts"};
    int64_t n[2] = {0};
    for (int i = 0; i < 2; i++)
        if (jref_maybe_int(text, keys[i], 1, LM_MAX_EXPERTS, &n[i], err) < 0)
            return -1;
    if (!n[0] && !n[1])
        return jref_fail(text, err, "neither num_experts nor num_local_experts is there");
    if (n[0] && n[1] && n[0] != n[1])
        return jref_fail(text, err, "num_experts is %lld, num_local_experts %lld", (long long)n[0],
                         (long long)n[1]);
    a->experts = n[0] ? n[0] : n[1];
    return jref_int(text, "num_experts_per_tok", 1, LM_MAX_EXPERTS, &a->experts_per_token, err);
}

/* Layers that mlp_only_layers names stay dense, and so do all but every decoder_sparse_step-th. */
static int read_sparse_layers(struct lm_arch *a, const struct jref *text, struct aq_err *err)
{
    struct jref list;
    int64_t step = 1, at;
    bool sparse_keys = a->family->reads & READS_SPARSE;
    if (sparse_keys &&
        jref_maybe_int(text, "decoder_sparse_step", 1, LM_MAX_LAYERS, &step, err) < 0)
        return -1;
    for (int64_t l = 0; l < a->num_hidden_layers; l++)
        a->layer_sparse[l] = (l + 1) % step == 0;
    if (!sparse_keys || !jref_has(text, "mlp_only_layers", &list))
        return 0;
    if (jref_get(text, "mlp_only_layers", JSON_ARRAY, &list, err) < 0)
        return -1;
    size_t i = 0;
    for (const struct json *v = json_first(list.v); v; v = json_next(v), i++) {
        struct jref one = jref_child(&list, v, i);
        if (!json_int(v, &at) || at < 0 || at >= a->num_hidden_layers)
            return jref_fail(&one, err, "expected the number of a layer, 0 to %lld",
                             (long long)a->num_hidden_layers - 1);
        a->layer_sparse[at] = 0;
    }
    return 0;
}

static int read_experts(struct lm_arch *a, const struct jref *text, struct aq_arena *strings,
                        struct aq_err *err)
{
    unsigned reads = a->family->reads;
    const char *size = reads & READS_SPARSE ? "moe_intermediate_size" : "intermediate_size";
    bool any_dense = false, any_sparse = false, router_loss = false;
    if (!(reads & READS_EXPERTS))
        return 0;
    if (read_expert_count(a, text, err) < 0 ||
        jref_int(text, size, 1, LM_MAX_DIM, &a->moe_intermediate_size, err) < 0)
        return -1;
    a->norm_topk = !(reads & READS_NORM_TOPK);
    arch_take_experts(a, strings);
    if (((reads & READS_NORM_TOPK) &&
         jref_maybe_bool(text, "norm_topk_prob", &a->norm_topk, err) < 0) ||
        jref_maybe_bool(text, "output_router_logits", &router_loss, err) < 0 ||
        read_sparse_layers(a, text, err) < 0)
        return -1;
    for (int64_t l = 0; l < a->num_hidden_layers; l++) {
        any_dense |= !a->layer_sparse[l];
        any_sparse |= a->layer_sparse[l];
    }
    if (!any_sparse)
        return jref_fail(text, err, "no layer has experts: take model_type 'qwen3'");
    if (any_dense && !a->intermediate_size)
        return jref_fail(text, err, "some layers are dense, and intermediate_size is missing");
    if (!a->intermediate_size) /* of no layer */
        a->intermediate_size = a->moe_intermediate_size;
    if (router_loss)
        aq_warn("%s: output_router_logits adds a loss in training; here the loss is the cross "
                "entropy alone",
                jref_show(text));
    return 0;
}

/* ---- what must be off ---- */

/*
 * Keys that change results, and what they are when they change nothing. A family that computes a
 * key has its bit.
 */
enum neutral { OFF, ONE, NOTHING };

static const struct {
    const char *key;
    enum neutral neutral;
    unsigned reads;
} watched[] = {
    {"attention_bias", OFF, READS_ATTENTION_BIAS},
    {"mlp_bias", OFF, READS_MLP_BIAS},
    {"clip_qkv", NOTHING, 0},
    {"qk_layernorm", OFF, 0},
    {"use_qk_norm", OFF, 0},
    {"rope_interleaved", OFF, 0},
    {"use_bidirectional_attention", OFF, 0},
    {"attn_logit_softcapping", NOTHING, READS_ATTN_CAP},
    {"final_logit_softcapping", NOTHING, READS_LOGIT_CAP},
    {"embedding_multiplier", ONE, READS_MULTIPLIERS},
    {"residual_multiplier", ONE, READS_MULTIPLIERS},
    {"attention_multiplier", NOTHING, READS_MULTIPLIERS},
    {"logits_scaling", ONE, READS_MULTIPLIERS},
    {"logit_scale", ONE, 0},
    {"query_pre_attn_scalar", NOTHING, READS_QUERY_SCALAR},
    {"rope_local_base_freq", NOTHING, READS_LOCAL_THETA},
    {"no_rope_layers", NOTHING, READS_NO_ROPE},
    {"num_experts", NOTHING, READS_EXPERTS},
    {"num_local_experts", NOTHING, READS_EXPERTS},
    {"num_shared_experts", NOTHING, 0},
    {"n_shared_experts", NOTHING, 0},
    {"shared_expert_intermediate_size", NOTHING, 0},
    {"n_routed_experts", NOTHING, 0},
};

static int check_watched(const struct lm_arch *a, const struct jref *text, struct aq_err *err)
{
    struct jref r;
    for (size_t i = 0; i < AQ_COUNT(watched); i++) {
        const char *key = watched[i].key;
        if ((a->family->reads & watched[i].reads) || !jref_has(text, key, &r))
            continue;
        bool on = false;
        double number = 1;
        if (watched[i].neutral == OFF) {
            if (jref_bool(text, key, &on, err) < 0)
                return -1;
            if (on)
                return jref_fail(&r, err, "true is not supported in the family %s",
                                 a->family->name);
        } else if (watched[i].neutral == ONE) {
            if (jref_double(text, key, &number, err) < 0)
                return -1;
            if (number != 1)
                return jref_fail(&r, err, "%g is not supported in the family %s, expected 1",
                                 number, a->family->name);
        } else {
            return jref_fail(&r, err, "the family %s does not compute this", a->family->name);
        }
    }
    return 0;
}

/* sliding_window, where the family has none; use_sliding_window = false makes it inert. */
static int check_window(const struct lm_arch *a, const struct jref *text, struct aq_err *err)
{
    struct jref r, size;
    bool on = true;
    if (a->family->windows != WINDOWS_NONE)
        return 0;
    if (jref_has(text, "use_sliding_window", &r)) {
        if (jref_bool(text, "use_sliding_window", &on, err) < 0)
            return -1;
        return on ? jref_fail(&r, err, "true is not supported in the family %s", a->family->name)
                  : 0;
    }
    return jref_has(text, "sliding_window", &size)
               ? jref_fail(&size, err, "the family %s does not compute this", a->family->name)
               : 0;
}

static int check_unsupported(const struct lm_arch *a, const struct jref *root,
                             const struct jref *text, struct aq_err *err)
{
    struct jref r;
    const struct jref *places[] = {root, text};
    for (size_t i = 0; i < AQ_COUNT(places); i++)
        if (jref_has(places[i], "quantization_config", &r)) {
            jref_fail(&r, err, "the checkpoint is quantized already");
            return aq_err_hint(err, "take the one it was made from");
        }
    return check_watched(a, text, err) < 0 ? -1 : check_window(a, text, err);
}

/* Library versions read the one or the other place; missing in both means false to all. */
static int read_tie(struct lm_arch *a, const struct jref *root, const struct jref *text,
                    struct aq_err *err)
{
    struct jref r;
    bool top = false, inner = a->family->tied;
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
                   struct aq_arena *strings, struct aq_err *err)
{
    struct jref root = jref_root(config, name), text = root;
    *a = (struct lm_arch){0};
    if (jref_is(&root, JSON_OBJECT, err) < 0 || find_text_config(a, &root, &text, err) < 0 ||
        read_sizes(a, &text, err) < 0 || check_unsupported(a, &root, &text, err) < 0)
        return -1;
    const struct model_family *f = a->family;
    arch_defaults(a);
    a->norm_place = f->norm_place;
    a->norm_one_plus = f->norm_one_plus;
    a->norm_round_once = f->norm_round_once;
    a->qk_norm = f->qk_norm;
    a->rms_norm_eps = f->eps > 0 ? f->eps : 1e-6;
    if (read_act(a, &text, err) < 0 || read_biases(a, &text, err) < 0 ||
        read_scales(a, &text, err) < 0 || config_read_ropes(a, &text, strings, err) < 0 ||
        read_windows(a, &text, strings, err) < 0 || read_layer_ropes(a, &text, strings, err) < 0 ||
        read_tie(a, &root, &text, err) < 0 || read_experts(a, &text, strings, err) < 0 ||
        jref_maybe_double(&text, "rms_norm_eps", &a->rms_norm_eps, err) < 0)
        return -1;
    struct aq_err why = {0};
    return arch_check(a, &why) < 0 ? jref_fail(&text, err, "%s", why.msg) : 0;
}
