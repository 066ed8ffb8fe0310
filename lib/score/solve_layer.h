/* One layer of `aq-calib solve`: from the moments of its inputs to the numbers of all candidates.
 */
#ifndef AQ_SCORE_SOLVE_LAYER_H
#define AQ_SCORE_SOLVE_LAYER_H

#include "base/pool.h"
#include "model/lm.h"
#include "nn/model.h"
#include "store/candidate.h"
#include "store/solved.h"

/* What was measured of an input. */
struct input_stats {
    int64_t cols, tokens;
    /* (cols, cols): sum of x x', both triangles, in the solver's memory; NULL: nobody needs it */
    double *moments;
    double *diagonal;  /* [cols]: theirs; set on a device alone */
    double *mean;      /* [cols]: mean of |x|, from the ranges */
    const float *amax; /* [cols]: the largest |x|, from the ranges */
    /* Moments and means over a quarter of the batches by ModelOpt's rules: pads count, and each
       batch as much as another. NULL: nobody needs them. */
    double *quarter, *quarter_mean;
};

struct layer_job {
    struct aq_pool *pool;
    struct backend *backend;
    struct nn_model *model;
    const struct lm *lm;
    const struct model_groups *groups;
    const struct candidates *candidates; /* solved ones alone */
    const bool *done;                    /* [candidates]: in the product already */
    int64_t layer;
    const struct input_stats *inputs;    /* of the layer */
    const struct expert_inputs *experts; /* score/solve_experts.h; of a layer with experts */
};

/* The tensors of a layer; grows. */
struct solved_items {
    struct solved_item *items;
    size_t count, cap;
};
void solved_items_release(struct solved_items *s);
/* Takes name and data. depth: of three dimensions; rows 0: one dimension. */
void solved_items_add(struct solved_items *s, char *name, enum st_dtype dtype, int64_t depth,
                      int64_t rows, int64_t cols, const void *data);

int solve_layer(const struct layer_job *job, struct solved_items *out,
                struct aq_err *err) AQ_MUST_CHECK;
/* Do the methods of any candidate need second moments; those over a quarter of the batches? */
bool solve_needs_moments(const struct candidates *c);
bool solve_needs_quarter(const struct candidates *c);
/* Bytes that a layer takes at most beside the moments of its inputs. */
uint64_t solve_layer_bytes(const struct nn_model *m, const struct backend *b,
                           const struct candidates *c);

#endif
