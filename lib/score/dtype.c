#include "score/dtype.h"

#include <string.h>

int compute_dtype_parse(const char *text, bool *bf16, struct aq_err *err)
{
    *bf16 = text && (strcmp(text, "bf16") == 0 || strcmp(text, "bfloat16") == 0);
    if (!text || *bf16 || strcmp(text, "fp32") == 0 || strcmp(text, "float32") == 0)
        return 0;
    return aq_err_set(err, AQ_EINPUT, "dtype '%s' cannot be computed with, only: bf16, fp32",
                      aq_show(text));
}

const char *compute_dtype_name(bool bf16)
{
    return bf16 ? "bf16" : "fp32";
}
