/*
 * Two next-token distributions of a row, from what backend_ops.compare knows of both over the whole
 * vocabulary. Equal logits give a divergence of exactly 0. Nothing is clamped.
 */
#ifndef AQ_EVAL_COMPARE_H
#define AQ_EVAL_COMPARE_H

#include "backend/backend.h"

/* What is known of one row. */
struct comparison {
    double kl;                 /* KL(reference || other) */
    double rkl;                /* KL(other || reference) */
    double nll_reference, nll; /* -log p of the target */
    int same_top;              /* is the most likely id the same? The lowest of equals counts. */
};

struct comparison compare_sides(const struct backend_side *p, const struct backend_side *q);

#endif
