/*
 * From the algorithm of a format (`algorithm: {method: awq_lite, alpha_step: 0.1}`) to the methods
 * of its weight treatment, or to the reason why there are none.
 */
#ifndef AQ_QUANT_METHOD_H
#define AQ_QUANT_METHOD_H

#include "base/err.h"
#include "io/json.h"
#include "quant/quant.h"
#include "quant/quantizer.h"

#include <stdbool.h>

/* What autoquant.awq_shared, awq_samples, awq_identity, gptq_order, gptq_input and mse_grid say
   when they are not the defaults. */
struct method_rules {
    bool awq_own, awq_quarter, awq_plain, gptq_plain_order, gptq_quantized, mse_modelopt;
};

/* The rules of a run: {"autoquant": {...}}. */
int method_rules_read(struct method_rules *r, const struct jref *run,
                      struct aq_err *err) AQ_MUST_CHECK;

/* Does the algorithm find block scales of NVFP4 that are then stored? */
bool method_stores_scales(const struct json *algorithm);
/*
 * format: {"quant_cfg", "algorithm"}. weight: its first quantizer; NULL: none. *applied is false
 * for an algorithm that is not computed here: the methods are none then. A parameter that is not
 * known or has no sense is AQ_EINPUT.
 */
int method_find(const struct jref *format, const struct quantizer *weight,
                const struct method_rules *rules, struct quant_methods *out, bool *applied,
                struct aq_err *err) AQ_MUST_CHECK;

#endif
