/* json_seal: a JSON document from stdin to stdout with the digest that a test's change took from
 * it. */
#include "base/opt.h"
#include "io/json_digest.h"

static int run(const struct aq_cmdline *cl, struct aq_err *err)
{
    struct json *v = json_read("-", err);
    if (!v)
        return -1;
    if (json_type(v) == JSON_OBJECT) {
        json_remove(v, "digest");
        json_add_digest(v);
    }
    int r = json_write_file(cl->output, v, err);
    json_free(v);
    return r;
}

int main(int argc, char **argv)
{
    static const struct aq_tool tool = {.name = "json_seal",
                                        .summary = "a digest for a JSON document",
                                        .usage = "json_seal <IN >OUT",
                                        .example = "json_seal <a.json >b.json",
                                        .run = run};
    return aq_tool_main(&tool, argc, argv);
}
