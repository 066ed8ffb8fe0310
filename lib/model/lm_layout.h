/* The tensors of the language model, in their fixed order, with names and shapes. */
#ifndef AQ_MODEL_LM_LAYOUT_H
#define AQ_MODEL_LM_LAYOUT_H

#include "base/buf.h"
#include "model/lm.h"

/* What ranges of single keys cannot say: heads, kv heads and head_dim together, theta and eps. */
int lm_arch_check(const struct lm_arch *arch, const struct jref *place,
                  struct aq_err *err) AQ_MUST_CHECK;

enum { LM_LAYER_TENSORS = 11 };

/* Number of tensors: embedding, LM_LAYER_TENSORS a layer, final norm, head unless tied. */
size_t lm_layout_count(const struct lm_arch *arch);

/* Tensor i: its name is written into `name` (emptied first), its shape into the rest. */
void lm_layout_get(const struct lm_arch *arch, size_t i, struct aq_buf *name, int *rank,
                   uint64_t shape[2]);

#endif
