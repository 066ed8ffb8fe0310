/* GGUF files: whatever is read stays inside of the input. */
#include "io/gguf.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf_file f;
    struct aq_err err;
    if (gguf_open_memory(&f, data, size, "fuzz", &err) < 0)
        return 0;
    for (size_t i = 0; i < f.value_count; i++) {
        const struct gguf_value *v = &f.values[i];
        int64_t n;
        double x;
        size_t at = 0;
        (void)gguf_int(v, &n);
        (void)gguf_number(v, &x);
        (void)gguf_int_at(v, v->count - 1, &n);
        (void)gguf_string(&f, v);
        while (gguf_next_string(&f, v, &at)) {
        }
    }
    for (size_t i = 0; i < f.count; i++) {
        const struct gguf_tensor *t = &f.tensors[i];
        if (t->elements == 0 || t->elements > 1 << 16)
            continue;
        float *y = malloc(t->elements * sizeof *y);
        gguf_dequantize(t->type, t->data, t->elements, y);
        free(y);
    }
    gguf_close(&f);
    return 0;
}
