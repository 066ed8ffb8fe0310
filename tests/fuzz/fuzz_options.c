/*
 * Command lines: words separated by zero bytes, against a table with an option of every type.
 * Whatever is typed, it is parsed or refused as a usage error with one printable line, and every
 * value is of its type.
 */
#include "base/mem.h"
#include "base/opt.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST_WORDS = 64 };

static struct {
    bool flag;
    int64_t number;
    double real;
    uint64_t bytes;
    const char *text, *choice;
    struct aq_names list;
} o;

static const char *const choices[] = {"one", "two", NULL};
static const struct aq_opt options[] = {
    {"flag", 'f', AQ_OPT_FLAG, &o.flag, NULL, ""},
    {"number", 'n', AQ_OPT_INT, &o.number, "N", "", NULL, 1, 9},
    {"real", 'r', AQ_OPT_DOUBLE, &o.real, "X", ""},
    {"size", 's', AQ_OPT_SIZE, &o.bytes, "SIZE", ""},
    {"text", 't', AQ_OPT_TEXT, &o.text, "T", ""},
    {"choice", 'c', AQ_OPT_CHOICE, &o.choice, "C", "", choices},
    {"list", 'l', AQ_OPT_LIST, &o.list, "L", ""},
    AQ_OPT_END,
};
static const struct aq_tool tool = {.name = "aq-x",
                                    .summary = "",
                                    .usage = "",
                                    .example = "",
                                    .options = options,
                                    .min_args = 0,
                                    .max_args = 4};

static void check_values(const struct aq_cmdline *cl)
{
    if (cl->count < 0 || cl->count > tool.max_args || cl->args[cl->count] ||
        (o.number && (o.number < 1 || o.number > 9)) || !isfinite(o.real) ||
        (o.choice && strcmp(o.choice, "one") != 0 && strcmp(o.choice, "two") != 0))
        abort();
    for (int i = 0; i < cl->count; i++)
        (void)strlen(cl->args[i]);
    for (size_t i = 0; i < o.list.count; i++)
        (void)strlen(o.list.items[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *words = xmalloc(size + 1), *argv[MOST_WORDS + 2] = {"aq-x"};
    int argc = 1;
    memcpy(words, data, size);
    words[size] = '\0';
    for (size_t at = 0; at < size && argc <= MOST_WORDS; at += strlen(words + at) + 1)
        argv[argc++] = words + at;
    struct aq_cmdline cl;
    struct aq_err err = {0};
    memset(&o, 0, sizeof o);
    if (aq_cmdline_parse(&tool, argc, argv, &cl, &err) == 0) {
        /* --help and its like are answered before operands are counted */
        if (cl.count <= tool.max_args)
            check_values(&cl);
    } else if (err.code != AQ_EUSAGE || !err.msg[0] || strchr(err.msg, '\n')) {
        abort();
    }
    aq_names_release(&o.list);
    free(words);
    return 0;
}
