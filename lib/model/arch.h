/*
 * The architecture of a language model as numbers and flags: what config.json says, with the
 * family's defaults filled in. lm.json carries all of it.
 */
#ifndef AQ_MODEL_ARCH_H
#define AQ_MODEL_ARCH_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "io/json.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Larger than any model; small enough that products of two cannot overflow. */
enum { LM_MAX_LAYERS = 65536, LM_MAX_HEADS = 65536, LM_MAX_EXPERTS = 65536, LM_MAX_DIM = 1 << 24 };

struct model_family;

enum arch_norm_place { NORM_PRE, NORM_POST, NORM_BOTH };
enum arch_qk_norm { QK_NORM_NONE, QK_NORM_HEAD, QK_NORM_ROW };
enum arch_act { ACT_SILU, ACT_GELU_TANH };
enum arch_bias { BIAS_QKV = 1, BIAS_O = 2, BIAS_MLP = 4 };
enum arch_rope_type {
    ROPE_DEFAULT,
    ROPE_LINEAR,
    ROPE_LLAMA3,
    ROPE_YARN,
    ROPE_LONGROPE,
    ROPE_DYNAMIC
};

/* One way to rotate; layers choose among them. What a type does not use is 0. */
struct arch_rope {
    double theta;
    enum arch_rope_type type;
    double factor, low_freq_factor, high_freq_factor, beta_fast, beta_slow;
    double attention_factor; /* of cosines and sines; 1 for most */
    int64_t original_max;    /* positions that the model was first trained on */
    int64_t max_length;      /* longer samples would need other angles and are refused; 0: none */
    bool no_truncate;
    double *short_factor; /* longrope: [rotary_dim / 2], owned by the lm's arena */
};

enum { ARCH_ROPES = 2 };

struct lm_arch {
    const struct model_family *family;
    char model_type[64]; /* of config.json, or of its text_config */
    int64_t hidden_size, intermediate_size, num_hidden_layers, num_attention_heads;
    int64_t num_key_value_heads, head_dim, vocab_size;
    double rope_theta, rms_norm_eps; /* rope_theta: of the first rope */
    bool tie_word_embeddings;

    /* How a layer computes. */
    enum arch_norm_place norm_place;
    bool norm_one_plus;   /* the weight of a norm is 1 + w */
    bool norm_round_once; /* bf16: the norm's product is rounded once, after the weight */
    enum arch_qk_norm qk_norm;
    enum arch_act act;
    unsigned bias;               /* enum arch_bias, or-ed */
    double attn_scale, attn_cap; /* attn_cap, logit_cap 0: none */
    double embed_scale, residual_scale, logit_div, logit_cap;
    int64_t rotary_dim; /* leading columns of a head that are rotated */
    struct arch_rope rope[ARCH_ROPES];
    int rope_count;
    /* [layers], owned by the lm's arena; NULL: 0 in every layer */
    int8_t *layer_rope;    /* index into rope; -1: no rotation */
    int64_t window;        /* 0: none */
    uint8_t *layer_window; /* 1: attention sees `window` tokens */

    /* A mixture of experts; experts 0: none. */
    int64_t experts, experts_per_token, moe_intermediate_size;
    bool norm_topk;         /* the weights of a token's experts add up to 1 */
    bool moe_split;         /* gate with up and down of the experts are a group each */
    int8_t *layer_sparse;   /* 1: experts instead of an MLP */
    int8_t *experts_layout; /* enum arch_experts: how the checkpoint has them; in no digest */
};

/* One tensor for each matrix of each expert, or those of all experts in one: as (experts, out, in)
   or (experts, in, out). */
enum arch_experts { EXPERTS_EACH, EXPERTS_LINEAR, EXPERTS_TRANSPOSED };

static inline bool arch_sparse(const struct lm_arch *a, int64_t layer)
{
    return a->layer_sparse && layer >= 0 && a->layer_sparse[layer];
}

static inline enum arch_experts arch_layout(const struct lm_arch *a, int64_t layer)
{
    return a->experts_layout && layer >= 0 ? (enum arch_experts)a->experts_layout[layer]
                                           : EXPERTS_EACH;
}

/* Room for what the layers of a mixture differ in; nothing for a dense model. */
void arch_take_experts(struct lm_arch *a, struct aq_arena *strings);

/* Positions of the longest sample whose rotation is computed; 0: any. */
int64_t arch_max_length(const struct lm_arch *a);
/* Fills in what follows from the sizes and is rarely given: attn_scale, rotary_dim, scales of 1. */
void arch_defaults(struct lm_arch *a);
/* Sizes together, theta, eps: what a range of a single key cannot say. */
int arch_check(const struct lm_arch *a, struct aq_err *err) AQ_MUST_CHECK;

int arch_read(struct lm_arch *a, const struct jref *v, struct aq_arena *strings,
              struct aq_err *err) AQ_MUST_CHECK;
void arch_write(struct json *v, const struct lm_arch *a);
/*
 * The line of the architecture for the digest of a model. Members that have their default value are
 * left out, so that a digest stays the same when members are added.
 */
void arch_digest_line(const struct lm_arch *a, struct aq_buf *line);

#endif
