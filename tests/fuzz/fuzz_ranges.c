/*
 * ranges.safetensors: a header up to the first zero byte with the data after it. What is accepted
 * has ranges that are numbers and not negative.
 */
#include "mem_file.h"
#include "store/range_file.h"

#include <math.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(struct range_file *r)
{
    char digest[AQ_SHA256_HEX];
    for (size_t p = 0; p < r->prefix_count; p++) {
        if (r->prefixes[p] < 1 || r->prefixes[p] > r->samples)
            abort();
        for (size_t i = 0; i < r->model.input_count; i++) {
            struct quant_range one;
            double ratio = range_file_ratio(r, (int64_t)i, (int)p);
            range_file_get(r, (int64_t)i, (int)p, &one);
            if (!(one.amax >= 0) || isinf(one.amax) || ratio < 0)
                abort();
            double *mean = malloc((size_t)r->model.inputs[i].cols * sizeof *mean + 1);
            range_file_mean(r, (int64_t)i, (int)p, mean);
            for (int64_t c = 0; c < r->model.inputs[i].cols; c++)
                if (!(one.hidden[c] >= 0) || isinf(one.hidden[c]) || !(mean[c] >= 0) ||
                    isinf(mean[c]))
                    abort();
            free(mean);
        }
        range_file_digest(r, (int)p, digest);
        if (range_file_prefix(r, r->prefixes[p], NULL) != (int)p)
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct mem_file file;
    struct range_file r;
    struct aq_err err = {0};
    if (range_file_open(&r, mem_file_set_tensors(&file, data, size), &err) < 0) {
        must_be_refusal(&err);
        return 0;
    }
    check(&r);
    range_file_close(&r);
    return 0;
}
