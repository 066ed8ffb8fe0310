/*
 * A layer computed as an operand has it: some of its linears read quantized inputs and weights. The
 * quantized operands are room for one layer at a time, shared by all operands that are compared.
 */
#ifndef AQ_EVAL_SWAPS_H
#define AQ_EVAL_SWAPS_H

#include "backend/backend.h"
#include "eval/operand.h"
#include "nn/experts.h"
#include "score/made.h"

struct eval_swaps {
    struct backend *b;
    struct aq_pool *pool; /* for what is made on the host; borrowed, may be NULL */
    struct backend_operand *w[MODEL_LINEARS], *xq[MODEL_LINEARS];
    struct nn_expert_swap experts; /* its operands, of experts of this model */
    const struct lm_arch *experts_of;
    struct made made[MODEL_LINEARS]; /* what w are quantized from */
    struct made_experts made_experts;
    uint64_t made_bytes; /* of these and of scaled inputs at most; for plans of memory */
};

/* Room for the largest of each linear that any of the operands replaces, and for inputs of `rows`
   rows. Close also after a failure. */
int eval_swaps_open(struct eval_swaps *s, struct backend *b, const struct eval_operand *operands,
                    size_t count, int32_t rows, struct aq_err *err) AQ_MUST_CHECK;
void eval_swaps_close(struct eval_swaps *s);

/* Raises sizes to those that a model needs; for plans of memory. */
void eval_model_sizes(struct backend_sizes *sizes, const struct nn_model *m,
                      const struct backend *b);

/* One tile's way through a layer; `to` may be `from`. */
struct eval_step {
    const struct backend_tile *tile;
    const void *from;
    void *to;
    struct nn_kept_routes *keep;       /* takes the layer's routes, if it has any; or NULL */
    const struct nn_kept_routes *hold; /* routes to take instead of the layer's own; or NULL */
};
/* The layer's weights are in use (nn_use_layer). operand NULL: the model as it is. */
int eval_swaps_layer(struct eval_swaps *s, struct nn_model *m, const struct eval_operand *operand,
                     int64_t layer, const struct eval_step *steps, size_t count,
                     struct aq_err *err) AQ_MUST_CHECK;

#endif
