/*
 * Rotary embeddings: a table of radians per position, and a factor on cosines and sines. Every
 * scaling that models use comes down to these two; the formulas are in docs/families.md.
 */
#ifndef AQ_MODEL_ROPE_H
#define AQ_MODEL_ROPE_H

#include "model/arch.h"

/* inv_freq: [a->rotary_dim / 2]. Computed once for a model. */
void rope_table(const struct lm_arch *a, const struct arch_rope *rope, float *inv_freq,
                float *factor);

#endif
