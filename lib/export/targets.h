/*
 * Modules of a recipe as short lists of regular expressions: one for all layers that have the same
 * scheme in the same place. They match the names of checkpoints and those of engines alike, and the
 * fused layers that engines make of several modules.
 */
#ifndef AQ_EXPORT_TARGETS_H
#define AQ_EXPORT_TARGETS_H

#include "export/plan.h"

/*
 * "re:.*\blayers\.(0|3|17)\.self_attn\.(q_proj|k_proj|v_proj|qkv_proj)$" for the groups whose
 * `number` is `wanted`; number [plan's count]. An array of strings.
 */
struct json *targets_of(const struct export_plan *p, const int *number, int wanted);
/* What is never quantized: other parts of the model, the head, and the groups left alone. */
struct json *targets_ignored(const struct export_plan *p, const int *number);

/*
 * Numbers the groups by distinct scheme (weights, activations and storage alike), in order of first
 * use; -1: not quantized. Returns how many there are. first: a group of each, [plan's count].
 */
int targets_number(const struct export_plan *p, int *number, size_t *first);

/* The engines' name of several modules together: "qkv_proj"; NULL: they stay as they are. */
const char *targets_fused(const struct model_group *g);
/* "model.layers.3.mlp.gate" of the group "model.layers.3.mlp.experts"; NULL: it has no experts.
   Caller frees. */
char *targets_router(const struct model_group *g);
/* "model.language_model.layers.3.self_attn." of "model.language_model.layers.3.self_attn.q_proj" */
size_t targets_parent(const char *module);
/* AQ_EINPUT for names that are not as in the example above. */
int targets_check(const struct export_plan *p, struct aq_err *err) AQ_MUST_CHECK;

#endif
