#include "model/lm_layout.h"
#include "base/mem.h"

#include <inttypes.h>

int lm_arch_check(const struct lm_arch *a, const struct jref *place, struct aq_err *err)
{
    if (a->num_attention_heads % a->num_key_value_heads)
        return jref_fail(place, err,
                         "num_key_value_heads %" PRId64
                         " does not divide num_attention_heads %" PRId64,
                         a->num_key_value_heads, a->num_attention_heads);
    if (a->head_dim % 2)
        return jref_fail(place, err, "head_dim %" PRId64 " is odd: rotary embedding needs pairs",
                         a->head_dim);
    if (a->num_attention_heads * a->head_dim > LM_MAX_DIM)
        return jref_fail(place, err,
                         "num_attention_heads x head_dim is %" PRId64 ", the limit is %d",
                         a->num_attention_heads * a->head_dim, LM_MAX_DIM);
    if (!(a->rope_theta > 0))
        return jref_fail(place, err, "rope_theta is %g, expected a positive number", a->rope_theta);
    if (!(a->rms_norm_eps > 0))
        return jref_fail(place, err, "rms_norm_eps is %g, expected a positive number",
                         a->rms_norm_eps);
    return 0;
}

/* A dimension by its name, so that the table below reads like the model's description. */
enum dim { NONE, D, F, Q, KV, HEAD, V }; /* Q: heads x head_dim, KV: kv_heads x head_dim */

struct part {
    const char *name;
    enum dim out, in;
};

static const struct part layer_parts[LM_LAYER_TENSORS] = {
    {"input_layernorm.weight", D, NONE},     {"self_attn.q_proj.weight", Q, D},
    {"self_attn.k_proj.weight", KV, D},      {"self_attn.v_proj.weight", KV, D},
    {"self_attn.o_proj.weight", D, Q},       {"self_attn.q_norm.weight", HEAD, NONE},
    {"self_attn.k_norm.weight", HEAD, NONE}, {"post_attention_layernorm.weight", D, NONE},
    {"mlp.gate_proj.weight", F, D},          {"mlp.up_proj.weight", F, D},
    {"mlp.down_proj.weight", D, F},
};
static const struct part embedding = {"embed_tokens.weight", V, D};
static const struct part final_norm = {"norm.weight", D, NONE};
static const struct part head = {"lm_head.weight", V, D};

static uint64_t size_of(const struct lm_arch *a, enum dim d)
{
    switch (d) {
    case D:
        return (uint64_t)a->hidden_size;
    case F:
        return (uint64_t)a->intermediate_size;
    case Q:
        return (uint64_t)a->num_attention_heads * (uint64_t)a->head_dim;
    case KV:
        return (uint64_t)a->num_key_value_heads * (uint64_t)a->head_dim;
    case HEAD:
        return (uint64_t)a->head_dim;
    case V:
        return (uint64_t)a->vocab_size;
    default:
        return 1;
    }
}

size_t lm_layout_count(const struct lm_arch *arch)
{
    return 2 + LM_LAYER_TENSORS * (size_t)arch->num_hidden_layers + !arch->tie_word_embeddings;
}

void lm_layout_get(const struct lm_arch *arch, size_t i, struct aq_buf *name, int *rank,
                   uint64_t shape[2])
{
    size_t layers = LM_LAYER_TENSORS * (size_t)arch->num_hidden_layers;
    const struct part *p = &embedding;
    aq_buf_reset(name);
    if (i > 0 && i <= layers) {
        p = &layer_parts[(i - 1) % LM_LAYER_TENSORS];
        aq_buf_addf(name, "layers.%zu.", (i - 1) / LM_LAYER_TENSORS);
    } else if (i > 0) {
        p = i == layers + 1 ? &final_norm : &head;
    }
    aq_buf_adds(name, p->name);
    *rank = p->in == NONE ? 1 : 2;
    shape[0] = size_of(arch, p->out);
    shape[1] = size_of(arch, p->in);
}
