/*
 * A layer's mixture of experts, over the ops under "experts" of backend.h:
 *
 *     p = softmax(n Wr')                    S(t) = the experts of token t: the K largest p
 *     w_e = p_e, or p_e / sum of S(t)'s p   f_e = Wd_e (act(Wg_e n) * (Wu_e n))
 *     y = sum over S(t) of w_e f_e, by rising e
 *
 * A tile is routed once a pass. Some experts at a time, as many as the backend likes, are a part of
 * the tile: the rows of one after those of the other, each in the order of the tile, so that their
 * products and the sums over them depend on the data alone.
 */
#ifndef AQ_NN_EXPERTS_H
#define AQ_NN_EXPERTS_H

#include "nn/model.h"

#include <stdbool.h>

struct quant_spec; /* quant/quant.h */
struct quant_range;

/* Where the tokens of a tile go: device memory, and parts of some experts each. */
struct nn_routes {
    struct backend *b;
    int32_t rows; /* of a tile */
    int experts, per_token;
    int at_once;                  /* experts of a part */
    size_t bytes;                 /* of the device memory, which p begins */
    float *p;                     /* device (rows, experts) */
    float *w, *q;                 /* device [rows x per_token]: weights, and their gradients */
    int32_t *sel;                 /* device [rows x per_token] */
    int32_t *host;                /* a copy of sel */
    int32_t *slots;               /* host [rows x per_token]: those of each expert, rising */
    int32_t *begin;               /* host [experts + 2]: where an expert's slots begin */
    const struct backend_tile *t; /* that was routed last */
    struct backend_tile **parts;  /* [part_count]; NULL: no token */
    int part_count;
};

/* NULL for a model without experts; that is not an error. */
int nn_routes_new(struct nn_routes **out, const struct lm_arch *a, struct backend *b, int32_t rows,
                  struct aq_err *err) AQ_MUST_CHECK;
void nn_routes_free(struct nn_routes *r);
uint64_t nn_routes_bytes(const struct lm_arch *a, int32_t rows);

/* After `route`: makes the parts of t. */
int nn_routes_sort(struct nn_routes *r, const struct backend_tile *t,
                   struct aq_err *err) AQ_MUST_CHECK;
/* Tokens of each expert among rows from <= row < end, added to counts [experts]. */
void nn_routes_count(const struct nn_routes *r, int32_t from, int32_t end, int32_t *counts);
/* The experts of part i over another division of the rows into samples; NULL: they have no rows. */
int nn_routes_part(const struct nn_routes *r, int i, const struct backend_tile *t,
                   struct backend_tile **out, struct aq_err *err) AQ_MUST_CHECK;
/* Experts of a part: as many as the backend likes of this size. Rows that a part may have. */
int nn_experts_at_once(const struct lm_arch *a, const struct backend *b);
int64_t nn_part_rows(const struct lm_arch *a, const struct backend *b, int32_t rows);

/* A group of experts under one treatment. Operands are the caller's; those of the weights hold
   what is quantized last, so that calls for the same experts one after another cost nothing. */
struct nn_expert_swap {
    const struct quant_spec *w[EXPERT_HALVES], *a[EXPERT_HALVES];
    const struct quant_range *range[EXPERT_HALVES]; /* of the inputs of both matrices */
    /* Quantizes the matrix of one expert, where a method makes more than its treatment says. NULL:
       the model's own weight under w. */
    int (*quantize)(void *arg, struct backend_operand *to, const struct quant_spec *w,
                    int64_t layer, int expert, int half, struct aq_err *err);
    void *arg;
    struct backend_operand **gate_up, **down; /* [experts of a part] */
    struct backend_operand *x, *u;
    const struct backend_tile *by; /* divides the rows for dynamic ranges; NULL: the tile itself */
    double *clipped;               /* device [samples], or NULL */
};

/* The operands of a swap for tiles of `rows` rows, and what they take; free also after a failure.
   Nothing for a model without experts. */
int nn_expert_operands_new(struct nn_expert_swap *swap, const struct lm_arch *a, struct backend *b,
                           int32_t rows, struct aq_err *err) AQ_MUST_CHECK;
void nn_expert_operands_free(struct nn_expert_swap *swap, const struct lm_arch *a,
                             struct backend *b);
uint64_t nn_expert_operands_bytes(const struct lm_arch *a, const struct backend *b, int32_t rows);
/* What a backend's plan must know of experts. */
void nn_expert_sizes(struct backend_sizes *sizes, const struct lm_arch *a, const struct backend *b);

/* Where a tile's tokens went, kept on the host: [rows x per_token] each. */
struct nn_kept_routes {
    int32_t *sel;
    float *w;
};
/* Of the tile routed last. */
int nn_routes_keep(const struct nn_routes *r, struct nn_kept_routes *to,
                   struct aq_err *err) AQ_MUST_CHECK;

/* "layers.3.mlp.experts.5.gate_up" or "...down": what a model asks its source for. */
struct nn_expert_name {
    int64_t layer, expert;
    bool down;
};
bool nn_expert_name(const char *name, struct nn_expert_name *out);
/* The tensors that it is made of where each expert has its own, one above the other: gate and up,
   or down. Returns how many. */
enum { NN_EXPERT_PARTS = 2, NN_EXPERT_NAME_MAX = 96 };
int nn_expert_parts(const struct nn_expert_name *e,
                    char names[NN_EXPERT_PARTS][NN_EXPERT_NAME_MAX]);

const struct backend_weight *nn_expert_weight(const struct nn_model *m, int64_t layer, int expert,
                                              int down);
/* The rows of n (rows, hidden) that part `i` has, ready for nn_experts_add; they stay until the
   next take or layer call. */
void nn_experts_take(struct nn_model *m, const struct nn_routes *r, int i, const void *n);
/* yq (rows, hidden) += what the experts of part i make of the rows taken, under the swap. */
int nn_experts_add(struct nn_model *m, int64_t layer, const struct nn_routes *r, int i,
                   const struct nn_expert_swap *swap, void *yq, struct aq_err *err) AQ_MUST_CHECK;

#endif
