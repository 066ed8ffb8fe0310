/*
 * cells.json and up to three manifests, separated by zero bytes: the summary of a sweep in its
 * three forms, without raw control characters, and the table rectangular.
 */
#include "mem_file.h"
#include "report/summary.h"

#include <math.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PARTS = 4 };

static void check_text(const struct aq_buf *b)
{
    for (size_t i = 0; i < b->len; i++) {
        unsigned char c = (unsigned char)b->data[i];
        if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f)
            abort();
    }
}

static void check_table(const struct aq_buf *b)
{
    size_t tabs = 0, expected = 0;
    bool first = true;
    for (size_t i = 0; i < b->len; i++) {
        tabs += b->data[i] == '\t';
        if (b->data[i] != '\n')
            continue;
        if (!first && tabs != expected)
            abort();
        expected = tabs;
        tabs = 0;
        first = false;
    }
}

static void check(const struct summary *s)
{
    struct aq_buf out = AQ_BUF_INIT;
    for (size_t i = 0; i < s->count; i++)
        for (size_t k = 0; k < s->count; k++) {
            double rho = summary_spearman(&s->cells[i], &s->cells[k]);
            if (fabs(rho) > 1 + 1e-9)
                abort();
        }
    summary_markdown(&out, s);
    check_text(&out);
    aq_buf_reset(&out);
    summary_tsv(&out, s);
    check_text(&out);
    check_table(&out);
    aq_buf_reset(&out);
    summary_html(&out, s);
    check_text(&out);
    aq_buf_release(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct mem_file files[PARTS];
    const char *paths[PARTS];
    size_t count = 0;
    while (count < PARTS && (size || count == 0)) {
        size_t n = size ? strnlen((const char *)data, size) : 0;
        paths[count] = mem_file_set(&files[count], data, n);
        count++;
        size_t step = n < size ? n + 1 : n;
        data += step;
        size -= step;
    }
    struct summary s;
    struct aq_err err = {0};
    if (summary_read(&s, paths + 1, count - 1, paths[0], false, &err) < 0)
        must_be_refusal(&err);
    else
        check(&s);
    summary_release(&s);
    return 0;
}
