/*
 * A layer's mixture of experts, over the ops under "experts" of backend.h:
 *
 *     p = softmax(n Wr')                    S(t) = the experts of token t: the K largest p
 *     w_e = p_e, or p_e / sum of S(t)'s p   f_e = Wd_e (act(Wg_e n) * (Wu_e n))
 *     y = sum over S(t) of w_e f_e, by rising e
 *
 * A tile is routed once a pass. The rows of an expert are a part of the tile; they lie in the order
 * of the tile, so that their products and the sums over them depend on the data alone.
 */
#ifndef AQ_NN_EXPERTS_H
#define AQ_NN_EXPERTS_H

#include "nn/model.h"

#include <stdbool.h>

struct quant_spec; /* quant/quant.h */
struct quant_range;

/* Where the tokens of a tile go: device memory, and a part for each expert that gets some. */
struct nn_routes {
    struct backend *b;
    int32_t rows; /* of a tile */
    int experts, per_token;
    size_t bytes;                 /* of the device memory, which p begins */
    float *p;                     /* device (rows, experts) */
    float *w, *q;                 /* device [rows x per_token]: weights, and their gradients */
    int32_t *sel;                 /* device [rows x per_token] */
    int32_t *host;                /* a copy of sel */
    int32_t *slots;               /* host [rows x per_token]: those of each expert, rising */
    int32_t *begin;               /* host [experts + 2]: where an expert's slots begin */
    const struct backend_tile *t; /* that was routed last */
    struct backend_tile **parts;  /* [experts]; NULL: no token */
};

/* NULL for a model without experts, which is no error. */
int nn_routes_new(struct nn_routes **out, const struct lm_arch *a, struct backend *b, int32_t rows,
                  struct aq_err *err) AQ_MUST_CHECK;
void nn_routes_free(struct nn_routes *r);
uint64_t nn_routes_bytes(const struct lm_arch *a, int32_t rows);

/* After `route`: makes the parts of t. */
int nn_routes_sort(struct nn_routes *r, const struct backend_tile *t,
                   struct aq_err *err) AQ_MUST_CHECK;
/* An expert's slots; borrowed until the next sort. */
const int32_t *nn_routes_slots(const struct nn_routes *r, int e, int32_t *count);
/* Tokens of each expert, added to counts [experts]. */
void nn_routes_count(const struct nn_routes *r, int64_t *counts);

/* A group of experts under one treatment. Operands are the caller's; those of the weights hold
   what is quantized last, so that calls for one expert after another cost nothing. */
struct nn_expert_swap {
    const struct quant_spec *w, *a;
    const struct quant_range *in, *inner; /* of what the experts read, and of down's input */
    struct backend_operand *gate_up, *down, *x, *u;
    const struct backend_tile *by; /* divides the rows for dynamic ranges; NULL: the tile itself */
    double *clipped;               /* device [samples], or NULL */
};

/* "layers.3.mlp.experts.5.gate_up" or "...down": what a model asks its source for. */
struct nn_expert_name {
    int64_t layer, expert;
    bool down;
};
bool nn_expert_name(const char *name, struct nn_expert_name *out);

const struct backend_weight *nn_expert_weight(const struct nn_model *m, int64_t layer, int expert,
                                              int down);
/* yq (rows, hidden) += what expert e makes of its rows of n (rows, hidden) under the swap. */
int nn_expert_add(struct nn_model *m, int64_t layer, const struct nn_routes *r, int e,
                  const struct nn_expert_swap *swap, const void *n, void *yq,
                  struct aq_err *err) AQ_MUST_CHECK;

#endif
