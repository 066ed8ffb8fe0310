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
    ROLE_ATTN_NORM, /* of the residual stream, in front of attention */
    ROLE_MLP_NORM,  /* of the residual stream, in front of the MLP */
    ROLE_Q_NORM,
    ROLE_K_NORM,
    MODEL_ROLES
};

/* A size by its name, so that a table reads like the model's description. */
enum model_dim {
    DIM_NONE, /* of a vector: it has no second dimension */
    DIM_HIDDEN,
    DIM_FF,
    DIM_Q,    /* heads x head_dim */
    DIM_KV,   /* key-value heads x head_dim */
    DIM_HEAD, /* head_dim */
    DIM_VOCAB,
};

/* Capacities; tables are checked against them when a layer is described. */
enum { MODEL_TENSORS = 32, MODEL_LINEARS = 8, MODEL_INPUTS = 4, MODEL_GROUPS = 4 };

struct model_tensor {
    const char *name; /* without "layers.N.": "self_attn.q_proj.weight" */
    enum model_role role;
    enum model_dim out, in;
    int8_t input; /* of a linear: index into the family's inputs; else -1 */
    int8_t group; /* of a linear: index into the family's groups; else -1 */
};

struct model_family {
    const char *name;
    const char *const *model_types;     /* of a language model, NULL at the end */
    const char *const *wrappers;        /* model_types whose text_config is one, NULL at the end */
    const struct model_tensor *tensors; /* of a layer, in the order of lm.json */
    int tensor_count;
    const char *const *inputs; /* names of what linears read, NULL at the end */
    const char *const *groups; /* kinds of groups, NULL at the end */
    const char *architecture;  /* for a checkpoint of the language model alone */
    const char *text_type;     /* its model_type */
};

/* NULL: no family has this model_type. */
const struct model_family *model_family_find(const char *model_type);
/* Does a config.json of this type hold the language model in text_config? */
bool model_family_wraps(const char *model_type);
const struct model_family *model_family_named(const char *name);
/* All model_types, for messages: "llama, qwen3, ...". Caller frees. */
char *model_family_types(void);

int64_t model_dim_size(const struct lm_arch *a, enum model_dim d);

struct model_linear {
    char name[64]; /* "self_attn.q_proj" */
    enum model_role role;
    int tensor; /* index into struct model_layer's tensors */
    int input, group;
    int64_t rows, cols; /* (out, in) */
};

/* One layer, with its sizes. */
struct model_layer {
    const struct model_tensor *tensors;
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
    } groups[MODEL_GROUPS];
    int group_count;
    int tensor_of[MODEL_ROLES]; /* index into tensors; -1: the layer has no such tensor */
    int linear_of[MODEL_ROLES]; /* index into linears; -1: none */
    int64_t weights;            /* elements of all linears */
};

void model_layer_describe(struct model_layer *out, const struct lm_arch *a, int64_t layer);

/* A tensor of the whole model, in the fixed order of lm.json: the embedding, the layers, the last
   norm, and the head unless it is tied to the embedding. */
struct model_place {
    int64_t layer; /* -1: none */
    const struct model_tensor *tensor;
};
/* Caller frees. */
struct model_place *model_layout(const struct lm_arch *a, size_t *count);
/* Fills rank and shape, and writes the name ("layers.3.mlp.up_proj.weight") into name. */
struct aq_buf;
void model_place_describe(const struct model_place *p, const struct lm_arch *a, struct aq_buf *name,
                          int *rank, uint64_t shape[2]);

#endif
