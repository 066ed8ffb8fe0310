/*
 * A checkpoint that has the shapes of a config.json and no numbers: one sparse file, which takes no
 * room on the disk. A plan can be made of it before the weights are downloaded; its scores would
 * mean nothing.
 */
#ifndef AQ_MODEL_LM_SHAPES_H
#define AQ_MODEL_LM_SHAPES_H

#include "base/err.h"

/* config_dir has config.json; out is made, and must not hold one. */
int lm_shapes(const char *config_dir, const char *out, struct aq_err *err) AQ_MUST_CHECK;

#endif
