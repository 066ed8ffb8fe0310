/*
 * What a change does to the output distribution at a position, as a short vector: with v_id =
 * sqrt(p_id) (dz_id - sum p dz), KL is half of |v|^2 to second order, and of two changes together
 * half of |v1 + v2|^2. Ids are thrown into SKETCH buckets with random signs, which keeps inner
 * products but for a spread of sqrt(2 / SKETCH) of each position.
 *
 * Logits come in slices of ids, as in eval/compare.h; a row's numbers depend on its own logits
 * alone.
 */
#ifndef AQ_EVAL_SKETCH_H
#define AQ_EVAL_SKETCH_H

#include "base/pool.h"

#include <stdint.h>

enum { SKETCH = 64 };

struct sketch;

/* Both borrowed: target [rows]; rows with -1 are left out. top [rows]: the reference's largest
   logits; -infinity before sketch_top, and another sketch of these rows needs it no more. */
struct sketch *sketch_new(int32_t rows, const int32_t *target, double *top);
void sketch_free(struct sketch *s); /* NULL is fine */
/* First pass, over all slices: the reference's largest logits. Then the second: both. */
void sketch_top(struct sketch *s, struct aq_pool *pool, const float *z, int64_t ids);
void sketch_slice(struct sketch *s, struct aq_pool *pool, const float *z, const float *zq,
                  int64_t ids);
/* After the last slice: KL(reference || changed) of a row, exactly 0 for equal logits; out:
   [SKETCH]. */
double sketch_row(const struct sketch *s, int32_t row, float *out);

#endif
