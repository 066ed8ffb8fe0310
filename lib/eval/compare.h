/*
 * Two next-token distributions compared, row by row, over the whole vocabulary: logits come in
 * slices of ids, sums are in double and relative to the largest logit so far. A row's numbers
 * depend on its own logits alone, so they are the same for any number of threads. Equal logits give
 * a divergence of exactly 0. Nothing is clamped. This is the host's way; where logits are on a
 * device it does the same (backend_ops.compare), and only what is known of the rows comes here.
 */
#ifndef AQ_EVAL_COMPARE_H
#define AQ_EVAL_COMPARE_H

#include "backend/backend.h"
#include "base/pool.h"

#include <stdint.h>

/* What is known of one row. */
struct comparison {
    double kl;                 /* KL(reference || other) */
    double rkl;                /* KL(other || reference) */
    double nll_reference, nll; /* -log p of the target */
    int same_top;              /* is the most likely id the same? The lowest of equals counts. */
};

struct compare;

/* `others` distributions against one reference, over `rows` rows. target: [rows], borrowed; rows
   with -1 are left out. */
struct compare *compare_new(int32_t rows, int others, const int32_t *target);
void compare_free(struct compare *c); /* NULL is fine */
/* The next `ids` ids: z (rows, ids) of the reference, zq[i] of the others. Slices rise from 0. */
void compare_slice(struct compare *c, struct aq_pool *pool, const float *z, const float *const *zq,
                   int64_t ids);
/* After the last slice: from what backend_ops.compare knows of both; row r of other i. */
struct comparison compare_sides(const struct backend_side *p, const struct backend_side *q);
struct comparison compare_row(const struct compare *c, int other, int32_t row);

#endif
