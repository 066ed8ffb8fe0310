#include "report/experts.h"

#include "report/escape.h"
#include "report/html.h"

#include <inttypes.h>
#include <stdio.h>

static const char meaning[] =
    "How many tokens the experts of a layer got while the layer was scored. An expert without "
    "tokens adds nothing to the score and its full size to the cost.";
static const char partly_before[] =
    "Scored on part of their weights, since no token reaches more than a tenth of the experts: ";
static const char partly_after[] = ". More, or other, texts would reach more of them.";

static const struct routed *routed_of_row(const struct report_row *row)
{
    return row->group->routed.experts ? &row->group->routed : NULL;
}

static bool is_partly(const struct report_row *row)
{
    return routed_of_row(row) && routed_partly(routed_of_row(row));
}

bool experts_known(const struct report *r)
{
    for (size_t i = 0; i < r->count; i++)
        if (routed_of_row(&r->rows[i]))
            return true;
    return false;
}

/* ---- Markdown ---- */

static void add_partly(struct aq_buf *out, const struct report *r)
{
    bool any = false;
    for (size_t i = 0; i < r->count; i++) {
        if (!is_partly(&r->rows[i]))
            continue;
        aq_buf_addf(out, "%s`", any ? ", " : partly_before);
        escape_code(out, r->rows[i].group->layer);
        aq_buf_addc(out, '`');
        any = true;
    }
    if (any)
        aq_buf_addf(out, "%s\n\n", partly_after);
}

void experts_markdown(struct aq_buf *out, const struct report *r)
{
    if (!experts_known(r))
        return;
    aq_buf_addf(out, "\n## Tokens per expert\n\n\n%s\n\n", meaning);
    add_partly(out, r);
    aq_buf_adds(out, "|Layer|Experts|Fewest|Median|Most|Without tokens|\n"
                     "| :--- | :--- | :--- | :--- | :--- | :--- |\n");
    for (size_t i = 0; i < r->count; i++) {
        const struct routed *n = routed_of_row(&r->rows[i]);
        if (!n)
            continue;
        aq_buf_addc(out, '|');
        escape_cell(out, r->rows[i].group->layer);
        aq_buf_addf(out, "|%" PRId64 "|%" PRId64 "|%" PRId64 "|%" PRId64 "|%" PRId64 "|\n",
                    n->experts, n->least, n->median, n->most, n->unseen);
    }
}

/* ---- HTML ---- */

static void add_count(struct aq_buf *out, const char *class, int64_t n)
{
    char text[32];
    (void)snprintf(text, sizeof text, "%" PRId64, n);
    html_number_cell(out, class, (double)n, text);
}

static void add_partly_html(struct aq_buf *out, const struct report *r)
{
    bool any = false;
    for (size_t i = 0; i < r->count; i++) {
        if (!is_partly(&r->rows[i]))
            continue;
        aq_buf_addf(out, "%s%s", any ? ", " : "<p>", any ? "" : partly_before);
        html_text(out, "code", NULL, r->rows[i].shown);
        any = true;
    }
    if (any)
        aq_buf_addf(out, "%s</p>\n", partly_after);
}

void experts_html(struct aq_buf *out, const struct report *r)
{
    static const struct html_column columns[] = {{NULL, "layer"}, {"n more", "experts"},
                                                 {"n", "fewest"}, {"n", "median"},
                                                 {"n", "most"},   {"n", "without tokens"}};
    if (!experts_known(r))
        return;
    html_section(out, "experts", "Tokens per expert", meaning);
    add_partly_html(out, r);
    html_table(out, "Tokens per expert", true, columns, sizeof columns / sizeof *columns);
    for (size_t i = 0; i < r->count; i++) {
        const struct routed *n = routed_of_row(&r->rows[i]);
        if (!n)
            continue;
        aq_buf_adds(out, "<tr>");
        html_name_cell(out, NULL, r->rows[i].shown);
        add_count(out, "n more", n->experts);
        add_count(out, "n", n->least);
        add_count(out, "n", n->median);
        add_count(out, "n", n->most);
        add_count(out, "n", n->unseen);
        aq_buf_adds(out, "</tr>\n");
    }
    html_table_end(out);
    html_section_end(out);
}
