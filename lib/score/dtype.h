/* What is computed in: the names that --dtype and model.dtype take. */
#ifndef AQ_SCORE_DTYPE_H
#define AQ_SCORE_DTYPE_H

#include "base/err.h"

#include <stdbool.h>

/* "bf16" or "bfloat16", "fp32" or "float32"; NULL is fp32. */
int compute_dtype_parse(const char *text, bool *bf16, struct aq_err *err) AQ_MUST_CHECK;
/* "bf16" or "fp32". */
const char *compute_dtype_name(bool bf16);

#endif
