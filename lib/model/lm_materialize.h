/*
 * The language model as a checkpoint of its own, in the layout of its family's text model: names
 * "model.layers.0...", the family's text model_type, a tied head not repeated. Files beyond 5 GB
 * are cut into shards. The bytes of the tensors are copied by the kernel, so memory stays small.
 */
#ifndef AQ_MODEL_LM_MATERIALIZE_H
#define AQ_MODEL_LM_MATERIALIZE_H

#include "model/lm.h"

#define LM_SHARD_BYTES 5000000000ULL

/*
 * dir is made if it is not there, and must not hold a config.json: that file is written last, so
 * that an interrupted copy does not look like a checkpoint. shard_bytes: largest file.
 */
int lm_materialize(const struct lm *lm, const char *dir, uint64_t shard_bytes,
                   struct aq_err *err) AQ_MUST_CHECK;

#endif
