/* Any bytes as tokens.safetensors: what is accepted adds up. */
#include "text/tokens.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct tokens *t)
{
    if (t->samples < 1 || t->offsets[0] != 0 || t->offsets[t->samples] != t->id_count ||
        t->size_count < 1 || t->truncated > t->samples)
        abort();
    for (int64_t s = 0; s < t->samples; s++) {
        int64_t n = t->offsets[s + 1] - t->offsets[s];
        if (n < 1 || (t->count_from && (t->count_from[s] < 0 || t->count_from[s] >= n)))
            abort();
    }
    for (size_t i = 0; i < t->size_count; i++)
        if (t->sizes[i].samples < 1 || t->sizes[i].samples > t->samples ||
            (i && t->sizes[i].samples < t->sizes[i - 1].samples))
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tokens t;
    struct aq_err err = {0};
    if (tokens_parse(&t, data, size, "fuzz", &err) < 0) {
        if (err.code != AQ_EINPUT || !err.msg[0] || strchr(err.msg, '\n'))
            abort();
        return 0;
    }
    check(&t);
    tokens_release(&t);
    return 0;
}
