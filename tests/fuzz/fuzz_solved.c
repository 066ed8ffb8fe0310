/*
 * solved.safetensors: a header up to the first zero byte with the data after it. What is accepted
 * is numbers that can be multiplied by and divided by, the same at every call.
 */
#include "mem_file.h"
#include "store/solved.h"

#include <math.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_numbers(const float *a, const float *b, int64_t n, const struct aq_err *err)
{
    if (a != b) /* a refusal is one for good */
        abort();
    if (!a)
        must_be_refusal(err);
    for (int64_t i = 0; a && i < n; i++)
        if (!(a[i] >= 0) || isinf(a[i]))
            abort();
}

static int64_t elements(const struct solved_file *s, const char *kind, const char *id, size_t group,
                        int module)
{
    char name[96];
    (void)snprintf(name, sizeof name, "%s/%s/%zu.%d", kind, id, group, module);
    const struct st_tensor *t = st_find(&s->file, name);
    return t && t->elements < 1 << 20 ? (int64_t)t->elements : 1;
}

static void check_candidate(struct solved_file *s, const char *id)
{
    struct aq_err err = {0};
    char digest[AQ_SHA256_HEX];
    if (solved_digest(s, id, digest, &err) < 0)
        abort();
    for (size_t i = 0; i < s->model.input_count; i++) {
        int64_t n = s->model.inputs[i].cols;
        check_numbers(solved_scale(s, id, i, n, &err), solved_scale(s, id, i, n, &err), n, &err);
        check_numbers(solved_factor(s, id, i, n, &err), solved_factor(s, id, i, n, &err), n, &err);
    }
    for (size_t g = 0; g < s->model.count; g++)
        for (int m = 0; m < 2; m++) {
            int64_t n = elements(s, "range", id, g, m);
            check_numbers(solved_ranges(s, id, g, m, n, &err), solved_ranges(s, id, g, m, n, &err),
                          n, &err);
            if (!solved_codes(s, id, g, m, elements(s, "codes", id, g, m), 1, &err))
                must_be_refusal(&err);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct mem_file file;
    struct solved_file s;
    struct aq_err err = {0};
    if (solved_open(&s, mem_file_set_tensors(&file, data, size), &err) < 0) {
        must_be_refusal(&err);
        return 0;
    }
    for (const struct json *c = json_first(s.candidates); c; c = json_next(c))
        check_candidate(&s, json_key(c));
    solved_close(&s);
    return 0;
}
