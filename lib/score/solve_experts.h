/*
 * `aq-calib solve` for the experts of a layer. What they read is kept for the layer at work, with
 * the routes, and second moments are made of it for one expert at a time: all of them at once would
 * take experts x columns^2. An expert that got fewer tokens than its matrix has columns is solved
 * over the moments of the whole layer, and that is said.
 *
 * Scales are joint: one for what all experts of a layer read, and one for the inputs of all downs.
 * The first goes into the norm in front, whose output the router reads as well, so that the
 * router's columns are multiplied; the second divides the rows of up. Both are powers of two, with
 * which all of that is exact: routes, and what is computed, are those that were scored.
 */
#ifndef AQ_SCORE_SOLVE_EXPERTS_H
#define AQ_SCORE_SOLVE_EXPERTS_H

#include "nn/model.h"
#include "nn/tile.h"
#include "score/solve_layer.h"

/* Rows of text alone. */
struct expert_inputs {
    int64_t tokens; /* so far */
    int experts, per_token;
    int64_t cols[EXPERT_HALVES];
    float *x[EXPERT_HALVES]; /* (tokens, cols), and (tokens x per_token, cols) */
    int32_t *sel;            /* [tokens x per_token]: the expert of each */
    float *tile;             /* room for an input of a tile */
};

/* For a model without experts nothing is taken. */
int expert_inputs_open(struct expert_inputs *x, const struct lm_arch *a, int64_t tokens,
                       int64_t tile_rows, struct aq_err *err) AQ_MUST_CHECK;
void expert_inputs_close(struct expert_inputs *x);
uint64_t expert_inputs_bytes(const struct lm_arch *a, int64_t tokens, int64_t tile_rows);
int expert_inputs_add(struct expert_inputs *x, struct backend *b, const struct model_layer *m,
                      const struct tile *t, const struct nn_acts *acts,
                      struct aq_err *err) AQ_MUST_CHECK;

/* How many experts have tokens enough of their own. */
struct expert_counts {
    int own[EXPERT_HALVES], unseen;
};
struct expert_counts expert_counts_of(const struct expert_inputs *x);

int solve_experts(const struct layer_job *job, struct solved_items *out,
                  struct aq_err *err) AQ_MUST_CHECK;
/* Bytes of a layer's work at most. */
uint64_t solve_experts_bytes(const struct lm_arch *a, const struct backend *b,
                             const struct candidates *c);

#endif
