/* gguf_digest [--keys] FILE: one line a tensor: name, type, sha256 of its bytes; or the keys. */
#include "base/opt.h"
#include "base/sha256.h"
#include "io/gguf.h"

#include <stdio.h>

static bool keys;

static int run(const struct aq_cmdline *cl, struct aq_err *err)
{
    struct gguf_file f;
    if (gguf_open(&f, cl->args[0], err) < 0)
        return -1;
    for (size_t i = 0; keys && i < f.value_count; i++)
        puts(f.values[i].key);
    for (size_t i = 0; !keys && i < f.count; i++) {
        const struct gguf_tensor *t = &f.tensors[i];
        char hex[AQ_SHA256_HEX];
        aq_sha256_of(t->data, (size_t)(t->end - t->begin), hex);
        printf("%s %s %s\n", t->name, gguf_type_info(t->type)->name, hex);
    }
    gguf_close(&f);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct aq_opt options[] = {
        {"keys", 0, AQ_OPT_FLAG, &keys, NULL, "print the keys", NULL, 0, 0}, AQ_OPT_END};
    static const struct aq_tool tool = {.name = "gguf_digest",
                                        .summary = "digests of the tensors of a GGUF file",
                                        .usage = "gguf_digest [--keys] FILE",
                                        .options = options,
                                        .min_args = 1,
                                        .max_args = 1,
                                        .run = run};
    return aq_tool_main(&tool, argc, argv);
}
