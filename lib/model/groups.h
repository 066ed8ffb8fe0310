/*
 * The groups of a whole model: linears that get one format together, in the order of the store, and
 * the inputs that they read. Made once, by aq-extract-lm, from the family's table; every later file
 * carries a copy of that list.
 *
 *     "inputs": [{"name": "layers.0.qkv", "layer": 0, "cols": 2560}, ...]
 *     "groups": [{"name": "layers.0.self_attn.q_proj", "members": [...], "modules": [...],
 *                 "layer": 0, "kind": "qkv", "inputs": [0], "shapes": [[4096, 2560], ...],
 *                 "weights": 15728640, "cost_weight": 1}, ...]
 *
 * members are names for analysis, without a prefix; modules are the checkpoint's own names. A group
 * of experts has "experts": their number, one member ("layers.0.mlp.experts"), and two inputs: what
 * they read, and what is between gate and down. Split, they are two groups with an input each:
 * "layers.0.mlp.experts.gate_up" and "...down". "{e}" in a module is the number of an expert.
 * "norm": false is written where no norm is in front of qkv or gate_up, as in OLMo 2.
 */
#ifndef AQ_MODEL_GROUPS_H
#define AQ_MODEL_GROUPS_H

#include "base/arena.h"
#include "base/err.h"
#include "io/json.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct model_input {
    const char *name;
    int64_t layer, cols;
};

struct model_module {
    const char *name; /* of the checkpoint, without ".weight" */
    int64_t rows, cols;
};

struct model_group {
    const char *name; /* the first member */
    const char **members;
    int member_count;
    struct model_module *modules;
    int module_count;
    int64_t layer;
    const char *kind; /* "qkv" */
    int *inputs;      /* indices into the model's inputs */
    int input_count;
    int64_t experts; /* 0: none */
    int64_t weights; /* elements of all modules, of all experts */
    double cost_weight;
    /* A norm gives what its linears read, so that the norm's weight can divide that by a scale
       (model/fold.h). */
    bool normed;
};

struct model_groups {
    struct model_input *inputs; /* by rising layer */
    size_t input_count;
    struct model_group *items; /* by rising layer */
    size_t count;
    int64_t layers;
    size_t *first;       /* [layers + 1]: a layer's groups */
    size_t *first_input; /* [layers + 1]: a layer's inputs */
    struct aq_arena arena;
};

struct lm;
struct lm_arch;
/* lm: its tensors are in place, and give modules their names in the checkpoint; NULL: modules are
   called like members. */
void model_groups_make(struct model_groups *g, const struct lm_arch *a, const struct lm *lm);
/*
 * The members "inputs" and "groups" of a document. Layers must be 0, 1, 2 and so on without a gap,
 * and every group must be of a layer that its inputs are of. Release also after a failure.
 */
int model_groups_read(struct model_groups *g, const struct jref *root,
                      struct aq_err *err) AQ_MUST_CHECK;
void model_groups_write(const struct model_groups *g, struct json *root);
/* The members of one group, added to v. */
void model_group_write(const struct model_group *m, struct json *v);
bool model_groups_equal(const struct model_groups *a, const struct model_groups *b);
void model_groups_release(struct model_groups *g);

/* The modules of a group of experts that are one half of each (model/family.h): gate and up, or
   both in one; or down. Returns how many there are, from *first on. */
int model_group_half(const struct model_group *g, int half, int *first);
/* Elements of all groups. */
int64_t model_groups_weights(const struct model_groups *g);

#endif
