/* config.json of a quantized checkpoint: the source's, with a quantization_config at the end. */
#ifndef AQ_EXPORT_CONFIG_H
#define AQ_EXPORT_CONFIG_H

#include "export/directory.h"
#include "export/plan.h"

/* The source's config.json. One that is quantized already is AQ_EINPUT. Caller frees. */
struct json *config_read(const struct export_plan *p, struct aq_err *err);
/* Adds the torch dtype where it is missing, and `quantization`, which is taken over. */
void config_finish(const struct export_plan *p, struct json *config, struct json *quantization);

/* quantization_config in the words of compressed-tensors. */
struct json *config_ct(const struct export_plan *p);
/* The same groups as in config_ct for an llm-compressor recipe; see export/recipe.h. */
struct json *config_ct_groups(const struct export_plan *p, const int *number, int count,
                              const size_t *first);
/* The format of a scheme: "pack-quantized". */
const char *config_ct_format(const struct scheme *s);

/* quantization_config and hf_quant_config.json in ModelOpt's words. */
struct json *config_modelopt(const struct export_plan *p);
struct json *config_modelopt_hf(const struct export_plan *p);

#endif
