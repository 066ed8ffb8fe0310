/* Rotary embeddings in a config.json: two spellings, and six ways to stretch them. */
#ifndef AQ_MODEL_CONFIG_ROPE_H
#define AQ_MODEL_CONFIG_ROPE_H

#include "base/arena.h"
#include "io/json.h"
#include "model/arch.h"

/*
 * text: the object that holds the language model's keys. Fills rotary_dim, rope, rope_count and
 * rope_theta; the family and the sizes are in place. strings owns lists of factors.
 */
int config_read_ropes(struct lm_arch *a, const struct jref *text, struct aq_arena *strings,
                      struct aq_err *err) AQ_MUST_CHECK;

#endif
