/* st_copy IN OUT: a safetensors file through our reader and our writer. Prints one line a tensor.
 */
#include "base/opt.h"
#include "io/safetensors.h"

#include <inttypes.h>
#include <stdio.h>

static int copy(const char *in, const char *out, struct aq_err *err)
{
    struct st_file f;
    if (st_open(&f, in, err) < 0)
        return -1;
    struct st_writer *w = st_writer_new();
    if (f.metadata)
        st_writer_metadata(w, json_copy(f.metadata));
    for (size_t i = 0; i < f.count; i++) {
        const struct st_tensor *t = &f.tensors[i];
        printf("%s %s %d %" PRIu64 "\n", aq_show(t->name), t->dtype_name, t->rank, t->elements);
        (void)st_declare(w, t->name, t->dtype, t->rank, t->shape);
    }
    int r = st_begin(w, out, err);
    for (size_t i = 0; i < f.count && r == 0; i++)
        r = st_write(w, (int)i, 0, f.tensors[i].data, f.tensors[i].end - f.tensors[i].begin, err);
    if (r == 0)
        r = st_commit(w, err);
    st_writer_free(w);
    st_close(&f);
    return r;
}

static int run(const struct aq_cmdline *cl, struct aq_err *err)
{
    return copy(cl->args[0], cl->args[1], err);
}

int main(int argc, char **argv)
{
    static const struct aq_tool tool = {.name = "st_copy",
                                        .summary = "a safetensors file, read and written",
                                        .usage = "st_copy IN OUT",
                                        .example = "st_copy a.safetensors b.safetensors",
                                        .min_args = 2,
                                        .max_args = 2,
                                        .run = run};
    return aq_tool_main(&tool, argc, argv);
}
