/*
 * Families of decoders as tables. A family says which tensors a layer has, what each of them does,
 * which input it reads, and which linears get one format together. Everything else that must know
 * the parts of a layer asks here; nobody counts them.
 *
 * A new dense family is one table of tensors, and one flag of struct lm_arch for each way in which
 * it computes otherwise than the families before it.
 */
#ifndef AQ_MODEL_FAMILY_H
#define AQ_MODEL_FAMILY_H

#include "model/arch.h"

#include <stdbool.h>
#include <stdint.h>

/* What a tensor does in its layer. nn computes with these; other code only passes them on. */
enum model_role {
    ROLE_Q,
    ROLE_K,
    ROLE_V,
    ROLE_O,
    ROLE_GATE,
    ROLE_UP,
    ROLE_DOWN,
    ROLE_QKV,            /* q, k and v in one: rows of q, then k, then v */
    ROLE_GATE_UP,        /* gate and up in one: rows of gate, then up */
    ROLE_ATTN_NORM,      /* of the residual stream, before attention */
    ROLE_MLP_NORM,       /* of the residual stream, before the MLP */
    ROLE_ATTN_POST_NORM, /* of what attention adds to the residual stream */
    ROLE_MLP_POST_NORM,  /* of what the MLP adds to it */
    ROLE_Q_NORM,
    ROLE_K_NORM,
    ROLE_ROUTER,      /* (experts, hidden): which experts a token goes to */
    ROLE_EXPERT_GATE, /* of one expert */
    ROLE_EXPERT_UP,
    ROLE_EXPERT_DOWN,
    ROLE_EXPERTS_GATE_UP, /* of all experts in one tensor: gate, then up */
    ROLE_EXPERTS_DOWN,
    MODEL_ROLES
};

/* A size by its name, so that a table reads like the model's description. */
enum model_dim {
    DIM_NONE, /* of a vector: it has no second dimension */
    DIM_HIDDEN,
    DIM_FF,
    DIM_Q,    /* heads x head_dim */
    DIM_KV,   /* key-value heads x head_dim */
    DIM_QKV,  /* DIM_Q + 2 DIM_KV */
    DIM_2FF,  /* 2 DIM_FF */
    DIM_HEAD, /* head_dim */
    DIM_EXPERTS,
    DIM_MOE,  /* what is between gate and down in an expert */
    DIM_2MOE, /* 2 DIM_MOE */
    DIM_VOCAB,
};

/* Capacities; tables are checked against them when a layer is described. */
enum { MODEL_TENSORS = 32, MODEL_LINEARS = 8, MODEL_INPUTS = 4, MODEL_GROUPS = 4 };

/* Layers that have a tensor. A sparse layer has experts instead of the MLP, in one of two forms. */
enum model_where { IN_ALL, IN_DENSE, IN_SPARSE, IN_EACH, IN_FUSED };

struct model_tensor {
    const char
        *name; /* without "layers.N.": "self_attn.q_proj.weight"; "{e}": number of an expert */
    enum model_role role;
    enum model_dim out, in;
    int8_t input; /* of a linear: index into the family's inputs; else -1 */
    int8_t group; /* of a linear: index into the family's groups; else -1 */
    /* enum arch_bias: the bias of the linear with this role, which comes before it in the table;
       there only in models that have biases of this kind. 0: no bias. */
    uint8_t bias;
    uint8_t where;      /* enum model_where */
    const char *source; /* its name in checkpoints, if that is another; NULL */
};

/*
 * Keys of config.json that a family computes. A key of another family whose value would change
 * results is refused by name (lm_config.c has the list).
 */
enum model_reads {
    READS_ATTENTION_BIAS = 1 << 0, /* attention_bias: of q, k, v and o */
    READS_MLP_BIAS = 1 << 1,
    READS_PARTIAL_ROTARY = 1 << 2,
    READS_NO_ROPE = 1 << 3,      /* no_rope_layers, no_rope_layer_interval */
    READS_MULTIPLIERS = 1 << 4,  /* embedding, attention and residual multiplier, logits_scaling */
    READS_ATTN_CAP = 1 << 5,     /* attn_logit_softcapping */
    READS_LOGIT_CAP = 1 << 6,    /* final_logit_softcapping */
    READS_QUERY_SCALAR = 1 << 7, /* query_pre_attn_scalar instead of head_dim */
    READS_TWO_ROPES = 1 << 8,    /* rope_parameters by type of layer */
    READS_EXPERTS = 1 << 9,      /* num_experts or num_local_experts, num_experts_per_tok */
    READS_SPARSE = 1 << 10,      /* decoder_sparse_step, mlp_only_layers, moe_intermediate_size */
    READS_NORM_TOPK = 1 << 11,   /* norm_topk_prob; without it the weights always add up to 1 */
    READS_LOCAL_THETA = 1 << 12, /* rope_local_base_freq: theta of the layers with a window */
};

/* Which layers attend within sliding_window, unless layer_types says so. */
enum model_windows {
    WINDOWS_NONE,  /* a window is refused */
    WINDOWS_ALL,   /* all, if sliding_window is a number */
    WINDOWS_QWEN2, /* from max_window_layers on, if use_sliding_window */
    WINDOWS_EVERY, /* all but every window_period-th */
};

struct model_family {
    const char *name;
    const char *const *model_types;     /* of a language model, NULL at the end */
    const char *const *wrappers;        /* model_types whose text_config is one, NULL at the end */
    const struct model_tensor *tensors; /* of a layer, in the order of lm.json */
    int tensor_count;
    const char *const *inputs;        /* names of what linears read, NULL at the end */
    const char *const *groups;        /* kinds of groups, NULL at the end */
    const char *const *sparse_groups; /* of a layer with experts; NULL: there is none */
    const char *architecture;         /* for a checkpoint of the language model alone */
    const char *text_type;            /* its model_type */

    /* How it computes; zeros are Llama's way. */
    enum arch_norm_place norm_place;
    bool norm_one_plus, norm_round_once;
    enum arch_qk_norm qk_norm;
    unsigned bias; /* enum arch_bias: those that every model of the family has */
    enum arch_act act;
    bool embed_root; /* embeddings are multiplied by sqrt(hidden_size), in their own type */
    unsigned reads;  /* enum model_reads */
    enum model_windows windows;
    int window_period; /* WINDOWS_EVERY; sliding_window_pattern replaces it */

    /* What transformers takes where config.json has no such key. */
    bool tied;
    int64_t head_dim; /* 0: hidden_size / num_attention_heads */
    int64_t window;   /* sliding_window; 0: none */
    double eps;       /* 0: 1e-6 */
    double attn_cap, logit_cap;
    double theta[2]; /* READS_TWO_ROPES: of layers that see all, and of those with a window */
};

/* NULL: no family has this model_type. */
const struct model_family *model_family_find(const char *model_type);
/* Does a config.json of this type hold the language model in text_config? */
bool model_family_wraps(const char *model_type);
const struct model_family *model_family_named(const char *name);
/* All model_types, for messages: "llama, qwen3, ...". Caller frees. */
char *model_family_types(void);

int64_t model_dim_size(const struct lm_arch *a, enum model_dim d);

/* The matrices of an expert as they are computed with: gate above up, (2 M, hidden), and down,
   (hidden, M). */
enum { EXPERT_GATE_UP, EXPERT_DOWN, EXPERT_HALVES };

struct model_linear {
    char name[64]; /* "self_attn.q_proj" */
    enum model_role role;
    int tensor; /* index into struct model_layer's tensors */
    int input, group;
    int bias;           /* index into struct model_layer's tensors; -1: none */
    int64_t rows, cols; /* (out, in) */
};

/* One layer, with its sizes. */
struct model_layer {
    const struct model_tensor *tensors[MODEL_TENSORS]; /* those that the model has */
    int tensor_count;
    struct model_linear linears[MODEL_LINEARS]; /* in the order of the tensors */
    int linear_count;
    struct {
        const char *name; /* "qkv" */
        int64_t cols;
    } inputs[MODEL_INPUTS];
    int input_count;
    struct {
        const char *kind;   /* "qkv" */
        int first, linears; /* its linears are neighbours; the first gives it its name */
        int input;
        /* of experts: whether it has each expert's gate with up, and its down; both unless
           arch.moe_split */
        bool half[EXPERT_HALVES];
    } groups[MODEL_GROUPS];
    int group_count;
    int tensor_of[MODEL_ROLES]; /* index into tensors; -1: the layer has no such tensor */
    int linear_of[MODEL_ROLES]; /* index into linears; -1: none */
    int64_t weights;            /* elements of all linears and experts */
    int experts;                /* 0: a dense layer */
    int experts_group;          /* the first of experts; -1: none */
    int experts_groups;         /* 1, or 2: gate with up, and down */
    /* inputs: what the experts read, and that of down, which is made inside; -1 */
    int experts_input[EXPERT_HALVES];
};

void model_layer_describe(struct model_layer *out, const struct lm_arch *a, int64_t layer);

/* A tensor of the whole model, in the fixed order of lm.json: the embedding, the layers, the last
   norm, and the head unless it is tied to the embedding. */
struct model_place {
    int64_t layer; /* -1: none */
    const struct model_tensor *tensor;
    int expert; /* of a tensor that each expert has; else -1 */
};
/* Caller frees. */
struct model_place *model_layout(const struct lm_arch *a, size_t *count);
enum { MODEL_RANK = 3 };
/* Fills rank and shape, and writes the name ("layers.3.mlp.up_proj.weight") into name. */
struct aq_buf;
void model_place_describe(const struct model_place *p, const struct lm_arch *a, struct aq_buf *name,
                          int *rank, uint64_t shape[MODEL_RANK]);
/* The name below the checkpoint's prefix. */
void model_place_source(const struct model_place *p, struct aq_buf *name);
/* Is it of one expert, or of all of them in one? */
bool model_is_expert(const struct model_tensor *t);
/* Its name without "layers.N.": "mlp.experts.{e}.up_proj.weight". The family has it. */
const char *model_role_name(const struct model_family *f, enum model_role role);
/* The tensor of a sparse layer's experts with this role, in the form that the layer has. */
const struct model_tensor *model_expert_tensor(const struct lm_arch *a, enum model_role role);

#endif
