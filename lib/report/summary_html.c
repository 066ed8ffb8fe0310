/* The summary as one page: totals as a grid per size, agreement as a matrix, every cell as a row.
 */
#include "base/mem.h"
#include "base/names.h"
#include "report/escape.h"
#include "report/html.h"
#include "report/summary.h"
#include "report/svg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Distinct texts in order of appearance. */
struct texts {
    const char **items;
    size_t count, cap;
};

static size_t text_index(struct texts *t, const char *text)
{
    for (size_t i = 0; i < t->count; i++)
        if (strcmp(t->items[i], text) == 0)
            return i;
    AQ_GROW(t->items, t->count, t->cap);
    t->items[t->count] = text;
    return t->count++;
}

static void swatch(struct aq_buf *out, double x, double low, double high)
{
    aq_buf_addf(out,
                "<svg class=\"aq swatch\" width=\"12\" height=\"12\" aria-hidden=\"true\"><rect "
                "class=\"%s\" "
                "width=\"12\" height=\"12\"/></svg>",
                svg_level_class(x, low, high));
}

/* ---- totals: pairs x granularities, one table for each size ---- */

static void add_grid(struct aq_buf *out, const struct summary *s, const char *size, double low,
                     double high)
{
    struct texts pairs = {0}, granularities = {0};
    for (size_t i = 0; i < s->count; i++)
        if (strcmp(s->cells[i].cell.size, size) == 0) {
            (void)text_index(&pairs, s->cells[i].cell.pair);
            (void)text_index(&granularities, s->cells[i].cell.granularity);
        }
    const struct summary_cell **at = xcalloc(pairs.count * granularities.count + 1, sizeof *at);
    for (size_t i = 0; i < s->count; i++)
        if (strcmp(s->cells[i].cell.size, size) == 0)
            at[text_index(&pairs, s->cells[i].cell.pair) * granularities.count +
               text_index(&granularities, s->cells[i].cell.granularity)] = &s->cells[i];
    aq_buf_adds(out, "<h3>");
    escape_html(out, size);
    aq_buf_adds(out, "</h3>\n<div class=\"scroll\"><table>\n<thead><tr><th>pair</th>");
    for (size_t g = 0; g < granularities.count; g++)
        html_text(out, "th", "n", granularities.items[g]);
    aq_buf_adds(out, "</tr></thead>\n<tbody>\n");
    for (size_t p = 0; p < pairs.count; p++) {
        aq_buf_adds(out, "<tr>");
        html_text(out, "td", "name", pairs.items[p]);
        for (size_t g = 0; g < granularities.count; g++) {
            const struct summary_cell *c = at[p * granularities.count + g];
            aq_buf_adds(out, "<td class=\"n\">");
            if (c) {
                escape_html(out, svg_number(c->total));
                aq_buf_addc(out, ' ');
                swatch(out, c->total, low, high);
            }
            aq_buf_adds(out, "</td>");
        }
        aq_buf_adds(out, "</tr>\n");
    }
    aq_buf_adds(out, "</tbody>\n</table></div>\n");
    free(at);
    free(pairs.items);
    free(granularities.items);
}

static int by_size(const void *a, const void *b)
{
    const char *x = *(const char *const *)a, *y = *(const char *const *)b;
    int order = summary_size_order(x) - summary_size_order(y);
    return order ? order : strcmp(x, y);
}

static void add_grids(struct aq_buf *out, const struct summary *s)
{
    struct texts sizes = {0};
    double low = INFINITY, high = 0;
    for (size_t i = 0; i < s->count; i++) {
        (void)text_index(&sizes, s->cells[i].cell.size);
        if (s->cells[i].total > 0) {
            low = fmin(low, s->cells[i].total);
            high = fmax(high, s->cells[i].total);
        }
    }
    if (sizes.count > 1)
        qsort(sizes.items, sizes.count, sizeof *sizes.items, by_size);
    aq_buf_adds(out, "<section>\n<h2>Totals</h2>\n<p class=\"soft\">The sum of all layers' "
                     "sensitivities; the squares "
                     "show it on one log scale.</p>\n");
    for (size_t i = 0; i < sizes.count; i++)
        add_grid(out, s, sizes.items[i], low, high);
    aq_buf_adds(out, "</section>\n");
    free(sizes.items);
}

/* ---- agreement ---- */

static void add_matrix(struct aq_buf *out, const struct summary *s)
{
    enum { MOST = 24 };
    const struct summary_cell *list[MOST];
    size_t n = 0;
    const char *size = s->count ? s->cells[s->count - 1].cell.size : "";
    const char *granularity = s->count ? s->cells[0].cell.granularity : "";
    for (size_t i = 0; i < s->count && n < MOST; i++)
        if (strcmp(s->cells[i].cell.size, size) == 0 &&
            strcmp(s->cells[i].cell.granularity, granularity) == 0)
            list[n++] = &s->cells[i];
    if (n < 2)
        return;
    aq_buf_adds(out, "<section>\n<h2>Do the pairs agree on the order?</h2>\n<p "
                     "class=\"soft\">Spearman's rank correlation, "
                     "granularity <code>");
    escape_html(out, granularity);
    aq_buf_adds(out, "</code>, size <code>");
    escape_html(out, size);
    aq_buf_adds(out, "</code>. 1 is the same order; near 1, a cheap pair can rank the layers for "
                     "the others.</p>\n"
                     "<div class=\"scroll\"><table>\n<thead><tr><th></th>");
    for (size_t i = 0; i < n; i++)
        html_text(out, "th", "n", list[i]->cell.pair);
    aq_buf_adds(out, "</tr></thead>\n<tbody>\n");
    for (size_t i = 0; i < n; i++) {
        aq_buf_adds(out, "<tr>");
        html_text(out, "td", "name", list[i]->cell.pair);
        for (size_t j = 0; j < n; j++) {
            html_fixed_cell(out, NULL, summary_spearman(list[i], list[j]), 3, "");
        }
        aq_buf_adds(out, "</tr>\n");
    }
    aq_buf_adds(out, "</tbody>\n</table></div>\n</section>\n");
}

/* ---- every cell ---- */

static void add_row(struct aq_buf *out, const struct summary_cell *c)
{
    aq_buf_adds(out, "<tr>");
    html_text(out, "td", "name", c->cell.pair);
    html_text(out, "td", "name", c->cell.granularity);
    html_text(out, "td", NULL, c->cell.size);
    html_number_cell(out, NULL, c->total, svg_number(c->total));
    html_number_cell(out, "more", c->score, svg_number(c->score));
    html_fixed_cell(out, NULL, c->effective_bits, 3, "");
    html_text(out, "td", "name more", c->count ? c->layers[c->worst] : "");
    html_fixed_cell(out, "more",
                    c->count && c->total > 0 ? 100 * c->scores[c->worst] / c->total : NAN, 0, " %");
    html_number_cell(out, "more", c->weight_part, svg_number(c->weight_part));
    html_number_cell(out, "more", c->activation_part, svg_number(c->activation_part));
    html_fixed_cell(out, "more", c->rho_size, 3, "");
    html_fixed_cell(out, "more", c->tau_size, 3, "");
    html_fixed_cell(out, NULL, c->rho_cells, 3, "");
    aq_buf_adds(out, "</tr>\n");
}

static void add_rows(struct aq_buf *out, const struct summary *s)
{
    aq_buf_adds(
        out, "<section>\n<h2>Every cell</h2>\n<p class=\"soft\">Headings sort. Weights and "
             "activations: the total when only "
             "those are quantized. Agreement with the largest data set of the same cell (rho: "
             "Spearman, tau: Kendall), "
             "and the mean rho with the other cells of the size.</p>\n<div class=\"scroll\"><table "
             "class=\"sortable\">\n"
             "<thead><tr><th>pair</th><th>granularity</th><th>size</th><th class=\"n\">total</th>"
             "<th class=\"n more\">selection</th><th class=\"n\">bits</th><th class=\"more\">worst "
             "layer</th>"
             "<th class=\"n more\">its share</th><th class=\"n more\">weights</th><th class=\"n "
             "more\">activations</th>"
             "<th class=\"n more\">rho, size</th><th class=\"n more\">tau, size</th><th "
             "class=\"n\">rho, cells</th>"
             "</tr></thead>\n<tbody>\n");
    for (size_t i = 0; i < s->count; i++)
        add_row(out, &s->cells[i]);
    aq_buf_adds(out, "</tbody>\n</table></div>\n</section>\n");
}

static void add_skipped(struct aq_buf *out, const struct summary *s)
{
    if (!s->skipped_count)
        return;
    aq_buf_adds(out, "<section>\n<h2>Cells left out</h2>\n<div "
                     "class=\"scroll\"><table>\n<thead><tr><th>pair</th>"
                     "<th>granularity</th><th>size</th><th>reason</th></tr></thead>\n<tbody>\n");
    for (size_t i = 0; i < s->skipped_count; i++) {
        const struct summary_skipped *k = &s->skipped[i];
        aq_buf_adds(out, "<tr>");
        html_text(out, "td", "name", k->pair);
        html_text(out, "td", "name", k->granularity);
        html_text(out, "td", NULL, k->size);
        html_text(out, "td", NULL, k->reason);
        aq_buf_adds(out, "</tr>\n");
    }
    aq_buf_adds(out, "</tbody>\n</table></div>\n</section>\n");
}

void summary_html(struct aq_buf *out, const struct summary *s)
{
    html_begin(out, "Summary of the sweep");
    aq_buf_adds(out, "<header>\n<h1>Summary of the sweep</h1>\n<p class=\"lead\">");
    if (s->count) {
        aq_buf_adds(out, "Model ");
        html_text(out, "code", NULL, s->cells[0].cell.model);
        aq_buf_adds(out, ", ");
    }
    aq_buf_addf(out,
                "%zu cells, %zu left out</p>\n</header>\n<section class=\"note\">\n<p>A total is a "
                "sum of squares, "
                "(gradient × change of the output)², over all layers: not a loss. Twice the total "
                "means about twice "
                "the harm; differences of a few per cent mean nothing. Compare cells of one data "
                "size only.</p>\n",
                s->count, s->skipped_count);
    if (s->mixed)
        aq_buf_adds(out, "<p><b>These cells have different normalizations: their totals do not "
                         "compare.</b></p>\n");
    aq_buf_adds(out, "</section>\n");
    add_grids(out, s);
    add_matrix(out, s);
    add_rows(out, s);
    add_skipped(out, s);
    html_end(out);
}
