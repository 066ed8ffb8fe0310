/*
 * A manifest and every report of it: what is accepted must give JSON that reads back, a rectangular
 * table, and pages without a raw control character; what is refused must say so in one line.
 */
#include "base/mem.h"
#include "report/answer.h"
#include "report/html.h"
#include "report/serving.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_lines(const struct aq_buf *b, size_t tabs)
{
    size_t found = 0;
    for (size_t i = 0; i < b->len; i++) {
        unsigned char c = (unsigned char)b->data[i];
        if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f)
            abort();
        found += c == '\t';
        if (c == '\n') {
            if (tabs && found != tabs)
                abort();
            found = 0;
        }
    }
}

static void check_balance(const struct aq_buf *b)
{
    size_t open = 0, close = 0;
    for (const char *p = aq_buf_str(b); (p = strchr(p, '<')) != NULL; p++)
        open++;
    for (const char *p = aq_buf_str(b); (p = strchr(p, '>')) != NULL; p++)
        close++;
    if (open != close)
        abort();
}

static void check_reports(const struct manifest *m)
{
    struct report r;
    struct curve c;
    struct aq_buf out = AQ_BUF_INIT;
    struct aq_err err = {0};
    if (report_init(&r, m, NULL, &err) < 0)
        return;
    report_markdown(&out, &r);
    check_lines(&out, 0);
    aq_buf_reset(&out);
    if (report_json(&out, &r, &err) == 0) {
        struct json *again = json_parse(aq_buf_str(&out), out.len, "again", &err);
        if (!again)
            abort();
        json_free(again);
    }
    aq_buf_reset(&out);
    report_tsv(&out, &r);
    check_lines(&out, 14);
    curve_init(&c, m);
    for (int kind = 0; kind < CHARTS; kind++) {
        aq_buf_reset(&out);
        chart_draw(&out, (enum chart_kind)kind, &r, &c, NULL,
                   (struct chart_style){CHART_NARROW, true});
        check_lines(&out, 0);
        check_balance(&out);
    }
    aq_buf_reset(&out);
    struct answer a;
    struct serving serving;
    struct measured measured = {0};
    const struct page page = {
        .report = &r, .curve = &c, .answer = &a, .measured = &measured, .serving = &serving};
    if (serving_init(&serving, &r, &c, NULL, NULL, &err) == 0) {
        answer_init(&a, &r, &c, NULL);
        report_html(&out, &page);
        check_lines(&out, 0);
        answer_release(&a);
        serving_release(&serving);
    }
    curve_release(&c);
    report_release(&r);
    aq_buf_release(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct aq_err err = {0};
    struct manifest m;
    struct json *root = json_parse((const char *)data, size, "fuzz", &err);
    if (!root)
        return 0;
    if (manifest_load(&m, root, "fuzz", &err) < 0) {
        if (!err.msg[0] || strchr(err.msg, '\n'))
            abort();
        return 0;
    }
    check_reports(&m);
    manifest_release(&m);
    return 0;
}
