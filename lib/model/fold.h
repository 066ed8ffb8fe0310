/*
 * A calibrated candidate multiplies the columns of weights by a scale and divides their input by
 * it. Where that input is what a norm gives, the norm's own weight takes the division, and nothing
 * is left to compute while the model runs. The folded weight is stored in the type of the tensor:
 * scales are therefore chosen among those that this type can carry, so that the fold is exact.
 */
#ifndef AQ_MODEL_FOLD_H
#define AQ_MODEL_FOLD_H

#include "base/num.h"
#include "model/family.h"
#include "model/lm.h"

#include <stdbool.h>

/* The norm whose output is this input of the layer's linears, as an index into its tensors; -1:
   there is none. */
int model_layer_norm_before(const struct model_layer *l, int input);
/* The same as the model's tensor; NULL: there is none. input: an index into lm's inputs. */
const struct lm_tensor *lm_norm_before(const struct lm *lm, size_t input);
/* The router that reads the same input: its columns are multiplied by a scale that goes into the
   norm. NULL: there is none. */
const struct lm_tensor *lm_router_beside(const struct lm *lm, size_t input);

/* Element i of a norm's weight as it is stored, divided by the scale; one_plus: the norm multiplies
   by 1 + weight. Rounded to the type of the tensor. */
float fold_norm(float weight, float scale, bool one_plus, enum num_type type);
/* The scale nearest to this one that fold_norm carries exactly, up to the last bit of fp32. */
float fold_norm_scale(float weight, float scale, bool one_plus, enum num_type type);
/* The scale nearest to this one whose inverse bf16 has: that of an input without a norm in front,
   whose factor files hold in bf16 (pre_quant_scale). */
float fold_free_scale(float scale);

#endif
