/* Treatments as text: never a crash; what is accepted prints to text that means the same. */
#include "base/mem.h"
#include "quant/quant.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = xstrndup((const char *)data, size), printed[QUANT_TEXT_MAX];
    struct quant_spec spec, again;
    struct aq_err err = {0};
    if (quant_parse(text, &spec, &err) == 0) {
        quant_print(&spec, printed);
        if (quant_parse(printed, &again, &err) < 0 || !quant_same(&spec, &again))
            abort();
    } else if (!err.msg[0] || strchr(err.msg, '\n')) {
        abort();
    }
    free(text);
    return 0;
}
