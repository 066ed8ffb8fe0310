/* st_digest FILE...: one line a tensor: name, dtype, shape, sha256 of its bytes. */
#include "base/opt.h"
#include "base/sha256.h"
#include "io/safetensors.h"

#include <inttypes.h>
#include <stdio.h>

static int print_file(const char *path, struct aq_err *err)
{
    struct st_file f;
    if (st_open(&f, path, err) < 0)
        return -1;
    for (size_t i = 0; i < f.count; i++) {
        const struct st_tensor *t = &f.tensors[i];
        char hex[AQ_SHA256_HEX];
        printf("%s %s [", t->name, t->dtype_name);
        for (int k = 0; k < t->rank; k++)
            printf("%s%" PRIu64, k ? "," : "", t->shape[k]);
        aq_sha256_of(t->data, (size_t)(t->end - t->begin), hex);
        printf("] %s\n", hex);
    }
    st_close(&f);
    return 0;
}

static int run(const struct aq_cmdline *cl, struct aq_err *err)
{
    for (int i = 0; i < cl->count; i++)
        if (print_file(cl->args[i], err) < 0)
            return -1;
    return 0;
}

int main(int argc, char **argv)
{
    static const struct aq_tool tool = {.name = "st_digest",
                                        .summary = "digests of the tensors of safetensors files",
                                        .usage = "st_digest FILE...",
                                        .min_args = 1,
                                        .max_args = -1,
                                        .run = run};
    return aq_tool_main(&tool, argc, argv);
}
