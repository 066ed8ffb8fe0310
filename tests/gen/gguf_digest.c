/*
 * gguf_digest [--keys|--values|--decoded] FILE: one line a tensor: name, type, sha256 of its bytes,
 * or of its values in fp32; or the keys; or keys with their values, arrays as their length and the
 * sha256 of their text, a line an element.
 */
#include "base/buf.h"
#include "base/mem.h"
#include "base/opt.h"
#include "base/sha256.h"
#include "io/gguf.h"

#include <stdio.h>
#include <stdlib.h>

static bool keys, values, decoded;

static void number(struct aq_buf *out, const struct gguf_value *v)
{
    double x;
    int64_t n;
    bool b;
    if (gguf_bool(v, &b))
        aq_buf_adds(out, b ? "true" : "false");
    else if (gguf_int(v, &n))
        aq_buf_addf(out, "%lld", (long long)n);
    else if (gguf_number(v, &x))
        aq_buf_addf(out, "%.9g", x);
}

static void list(struct gguf_file *f, const struct gguf_value *v, struct aq_buf *out)
{
    static const size_t sizes[GGUF_KINDS] = {
        [GGUF_KIND_I32] = 4, [GGUF_KIND_FLOAT] = 4, [GGUF_KIND_BOOL] = 1};
    size_t at = 0, size = sizes[v->element];
    for (uint64_t i = 0; i < v->count; i++) {
        struct gguf_value one = {
            .kind = v->element, .count = 1, .data = v->data + i * size, .end = v->end};
        if (v->element == GGUF_KIND_STRING)
            aq_buf_adds(out, gguf_next_string(f, v, &at));
        else if (size)
            number(out, &one);
        aq_buf_addc(out, '\n');
    }
}

static void print_value(struct gguf_file *f, const struct gguf_value *v)
{
    struct aq_buf text = AQ_BUF_INIT;
    char hex[AQ_SHA256_HEX];
    if (v->kind == GGUF_KIND_ARRAY) {
        list(f, v, &text);
        aq_sha256_of(text.data, text.len, hex);
        printf("%s %llu %s\n", v->key, (unsigned long long)v->count, hex);
    } else {
        if (v->kind == GGUF_KIND_STRING)
            aq_buf_adds(&text, gguf_string(f, v));
        else
            number(&text, v);
        printf("%s %s\n", v->key, aq_buf_str(&text));
    }
    aq_buf_release(&text);
}

static void digest(const struct gguf_tensor *t, char hex[AQ_SHA256_HEX])
{
    if (!decoded) {
        aq_sha256_of(t->data, (size_t)(t->end - t->begin), hex);
        return;
    }
    float *values_of = xcalloc((size_t)t->elements, sizeof *values_of);
    gguf_dequantize(t->type, t->data, (size_t)t->elements, values_of);
    aq_sha256_of(values_of, (size_t)t->elements * sizeof *values_of, hex);
    free(values_of);
}

static int run(const struct aq_cmdline *cl, struct aq_err *err)
{
    struct gguf_file f;
    if (gguf_open(&f, cl->args[0], err) < 0)
        return -1;
    for (size_t i = 0; keys && i < f.value_count; i++)
        puts(f.values[i].key);
    for (size_t i = 0; values && i < f.value_count; i++)
        print_value(&f, &f.values[i]);
    for (size_t i = 0; !keys && !values && i < f.count; i++) {
        const struct gguf_tensor *t = &f.tensors[i];
        char hex[AQ_SHA256_HEX];
        digest(t, hex);
        printf("%s %s %s\n", t->name, gguf_type_info(t->type)->name, hex);
    }
    gguf_close(&f);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct aq_opt options[] = {
        {"keys", 0, AQ_OPT_FLAG, &keys, NULL, "print the keys", NULL, 0, 0},
        {"values", 0, AQ_OPT_FLAG, &values, NULL, "print keys and values", NULL, 0, 0},
        {"decoded", 0, AQ_OPT_FLAG, &decoded, NULL, "digests of values in fp32", NULL, 0, 0},
        AQ_OPT_END};
    static const struct aq_tool tool = {.name = "gguf_digest",
                                        .summary = "digests of the tensors of a GGUF file",
                                        .usage = "gguf_digest [--keys|--values|--decoded] FILE",
                                        .options = options,
                                        .min_args = 1,
                                        .max_args = 1,
                                        .run = run};
    return aq_tool_main(&tool, argc, argv);
}
