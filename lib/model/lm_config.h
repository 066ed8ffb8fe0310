/*
 * config.json of a checkpoint: the architecture of its language model. What the engine does not
 * compute (other model types, scaled rotary embedding, biases, sliding windows, weights that are
 * quantized already) is refused by name, never ignored.
 */
#ifndef AQ_MODEL_LM_CONFIG_H
#define AQ_MODEL_LM_CONFIG_H

#include "io/json.h"
#include "model/lm.h"

/* strings owns what the architecture has for each layer. */
int lm_config_read(struct lm_arch *arch, const struct json *config, const char *name,
                   struct aq_arena *strings, struct aq_err *err) AQ_MUST_CHECK;

#endif
