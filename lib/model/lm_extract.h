/*
 * From a checkpoint directory to the language model inside it. Only headers are read; the tensors
 * that the architecture needs are looked up under the prefix that this checkpoint uses, and
 * everything else is counted as dropped or refused as unexpected.
 */
#ifndef AQ_MODEL_LM_EXTRACT_H
#define AQ_MODEL_LM_EXTRACT_H

#include "base/buf.h"
#include "model/lm.h"

/*
 * Fills lm: mapped and with its digest. notes (an initialized buffer) gets warnings, one a line.
 * Caller closes lm with lm_close.
 */
int lm_extract(struct lm *lm, const char *dir, enum lm_digest kind, struct aq_buf *notes,
               struct aq_err *err) AQ_MUST_CHECK;

/* autoquant.moe_split: makes the groups of the experts' halves and the digests anew. A model
   without experts stays as it is. */
void lm_split_experts(struct lm *lm, enum lm_digest kind);

/* ---- for other readers of checkpoints ---- */

struct ckpt;
/* The prefix of the names of the language model's tensors, found by the embedding. NULL with
   AQ_EINPUT. */
const char *lm_prefix_of(const struct ckpt *c, struct aq_err *err);
/* The prefix of "lm_head.weight" in a checkpoint of such a model. */
const char *lm_head_prefix_of(const char *prefix);
/* Gemma multiplies embeddings by a number of their own type. */
void lm_round_embed_scale(struct lm_arch *a, enum st_dtype embedding);

#endif
