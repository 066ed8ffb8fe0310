/* tokens.safetensors from lines of ids on standard input: data sets for tests, without a tokenizer.
 */
#include "base/buf.h"
#include "base/file.h"
#include "base/fmt.h"
#include "base/mem.h"
#include "base/opt.h"
#include "text/tokens.h"

#include <stdlib.h>
#include <string.h>

static int add_line(struct tokens *t, char *line, size_t cap[2], struct aq_err *err)
{
    for (char *rest = line, *word; (word = strsep(&rest, " \r")) != NULL;) {
        int64_t id;
        if (!*word)
            continue;
        if (!aq_parse_i64(word, &id))
            return aq_err_set(err, AQ_EINPUT, "'%s' is not an id", aq_show(word));
        size_t count = (size_t)t->id_count;
        AQ_GROW(t->ids, count, cap[0]);
        t->ids[t->id_count++] = (int32_t)id;
    }
    size_t count = (size_t)t->samples + 1;
    AQ_GROW(t->offsets, count, cap[1]);
    t->offsets[++t->samples] = t->id_count;
    return 0;
}

static int read_lines(struct tokens *t, struct aq_err *err)
{
    struct aq_buf text = AQ_BUF_INIT;
    size_t cap[2] = {0, 8};
    t->offsets = xcalloc(cap[1], sizeof *t->offsets);
    int r = aq_read_file("-", 1 << 24, &text, err);
    for (char *rest = text.data, *line; r == 0 && rest && *rest && (line = strsep(&rest, "\n"));)
        r = add_line(t, line, cap, err);
    aq_buf_release(&text);
    return r;
}

static const char *const paddings[] = {"none", "max_length", NULL};

static struct {
    const char *padding, *sizes;
    int64_t seq_len, pad;
} o = {.padding = "none", .seq_len = 512};

static const struct aq_opt options[] = {
    {"padding", 0, AQ_OPT_CHOICE, &o.padding, "RULE", "none, max_length", paddings},
    {"seq-len", 0, AQ_OPT_INT, &o.seq_len, "N", "length that samples are padded to", NULL, 1,
     1 << 20},
    {"pad-id", 0, AQ_OPT_INT, &o.pad, "N", "id of the padding (0)", NULL, 0, 1 << 20},
    {"sizes", 0, AQ_OPT_TEXT, &o.sizes, "LIST", "numbers of samples, rising (all)"},
    AQ_OPT_END,
};

static int run(const struct aq_cmdline *cl, struct aq_err *err)
{
    struct tokens t = {.max_length = strcmp(o.padding, "max_length") == 0,
                       .seq_len = o.seq_len,
                       .pad_id = (int32_t)o.pad};
    size_t cap = 0;
    int r = read_lines(&t, err);
    char *copy = o.sizes ? xstrdup(o.sizes) : xasprintf("%lld", (long long)t.samples);
    for (char *rest = copy, *word; (word = strsep(&rest, ",")) != NULL;) {
        AQ_GROW(t.sizes, t.size_count, cap);
        t.sizes[t.size_count] = (struct tokens_size){xasprintf("s%zu", t.size_count), atoll(word)};
        t.size_count++;
    }
    free(copy);
    if (r == 0)
        r = tokens_write(&t, "make_tokens", 1, cl->output, err);
    tokens_release(&t);
    return r;
}

int main(int argc, char **argv)
{
    static const struct aq_tool tool = {.name = "make_tokens",
                                        .summary = "tokens.safetensors from lines of ids",
                                        .usage = "make_tokens [OPTION...] -o FILE",
                                        .example =
                                            "echo '1 2 3' | make_tokens -o tokens.safetensors",
                                        .options = options,
                                        .run = run};
    return aq_tool_main(&tool, argc, argv);
}
