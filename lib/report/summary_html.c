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

/* A table whose columns after the first are numbers. */
static void begin_matrix(struct aq_buf *out, const char *what, const char *corner,
                         const char *const *names, size_t count)
{
    struct html_column *columns = xcalloc(count + 1, sizeof *columns);
    columns[0] = (struct html_column){NULL, corner};
    for (size_t i = 0; i < count; i++)
        columns[i + 1] = (struct html_column){"n name", names[i]};
    html_table(out, what, false, columns, count + 1);
    free(columns);
}

/* c: NULL if there is no such cell. */
static void add_total(struct aq_buf *out, const struct summary_cell *c, double low, double high)
{
    aq_buf_adds(out, "<td class=\"n\">");
    if (c) {
        if (c->link)
            aq_buf_addf(out, "<a href=\"%s\">", c->link);
        aq_buf_addf(out,
                    "%s%s <svg class=\"aq swatch\" width=\"12\" height=\"12\" aria-hidden=\"true\">"
                    "<rect class=\"%s\" width=\"12\" height=\"12\"/></svg>",
                    svg_number(c->total), c->link ? "</a>" : "",
                    svg_level_class(c->total, low, high));
    }
    aq_buf_adds(out, "</td>");
}

/* ---- totals: pairs x granularities, one table for each size ---- */

static void add_grid(struct aq_buf *out, const struct summary *s, const char *size, double low,
                     double high)
{
    struct aq_names pairs = {0}, granularities = {0};
    for (size_t i = 0; i < s->count; i++)
        if (strcmp(s->cells[i].cell.size, size) == 0) {
            (void)aq_names_place(&pairs, s->cells[i].cell.pair);
            (void)aq_names_place(&granularities, s->cells[i].cell.granularity);
        }
    size_t across = granularities.count;
    const struct summary_cell **at = xcalloc(pairs.count * across + 1, sizeof *at);
    for (size_t i = 0; i < s->count; i++)
        if (strcmp(s->cells[i].cell.size, size) == 0)
            at[aq_names_place(&pairs, s->cells[i].cell.pair) * across +
               aq_names_place(&granularities, s->cells[i].cell.granularity)] = &s->cells[i];
    html_text(out, "h3", NULL, cell_show(size));
    begin_matrix(out, "Totals by pair and granularity", "pair", granularities.items, across);
    for (size_t p = 0; p < pairs.count; p++) {
        aq_buf_adds(out, "<tr>");
        html_text(out, "td", "name", cell_show(pairs.items[p]));
        for (size_t g = 0; g < across; g++)
            add_total(out, at[p * across + g], low, high);
        aq_buf_adds(out, "</tr>\n");
    }
    html_table_end(out);
    free(at);
    aq_names_release(&pairs);
    aq_names_release(&granularities);
}

static void add_grids(struct aq_buf *out, const struct summary *s)
{
    struct aq_names sizes = {0};
    double low = INFINITY, high = 0;
    for (size_t i = 0; i < s->count; i++) {
        (void)aq_names_place(&sizes, s->cells[i].cell.size);
        if (s->cells[i].total > 0) {
            low = fmin(low, s->cells[i].total);
            high = fmax(high, s->cells[i].total);
        }
    }
    if (sizes.count > 1)
        qsort(sizes.items, sizes.count, sizeof *sizes.items, summary_by_size);
    html_section(out, "totals", "Totals",
                 "The sum of all layers' sensitivities; the squares show it on one log scale.");
    for (size_t i = 0; i < sizes.count; i++)
        add_grid(out, s, sizes.items[i], low, high);
    html_section_end(out);
    aq_names_release(&sizes);
}

/* ---- agreement ---- */

static const char *largest_size(const struct summary *s)
{
    const char *size = s->count ? s->cells[0].cell.size : "";
    for (size_t i = 1; i < s->count; i++)
        if (summary_size_order(s->cells[i].cell.size) > summary_size_order(size))
            size = s->cells[i].cell.size;
    return size;
}

static void add_agreement(struct aq_buf *out, const struct summary *s)
{
    enum { MOST = 24 };
    const struct summary_cell *list[MOST];
    const char *names[MOST];
    size_t n = 0;
    const char *size = largest_size(s);
    const char *granularity = s->count ? s->cells[0].cell.granularity : "";
    for (size_t i = 0; i < s->count && n < MOST; i++)
        if (strcmp(s->cells[i].cell.size, size) == 0 &&
            strcmp(s->cells[i].cell.granularity, granularity) == 0) {
            names[n] = s->cells[i].cell.pair;
            list[n++] = &s->cells[i];
        }
    if (n < 2)
        return;
    char *intro = xasprintf("Spearman's rank correlation, granularity %s, size %s. 1 is the same "
                            "order; near 1, a cheap pair can rank the layers for the others.",
                            granularity, size);
    html_section(out, "agreement", "Do the pairs agree on the order?", intro);
    free(intro);
    begin_matrix(out, "Agreement of pairs", "pair", names, n);
    for (size_t i = 0; i < n; i++) {
        aq_buf_adds(out, "<tr>");
        html_text(out, "td", "name", cell_show(names[i]));
        for (size_t j = 0; j < n; j++)
            html_fixed_cell(out, NULL, summary_spearman(list[i], list[j]), 3, "");
        aq_buf_adds(out, "</tr>\n");
    }
    html_table_end(out);
    html_section_end(out);
}

/* ---- every cell ---- */

static void add_row(struct aq_buf *out, const struct summary_cell *c, bool engine, bool linked)
{
    aq_buf_adds(out, "<tr>");
    html_name_cell(out, NULL, cell_show(c->cell.pair));
    html_name_cell(out, NULL, cell_show(c->cell.granularity));
    html_text(out, "td", NULL, cell_show(c->cell.size));
    html_number_cell(out, NULL, c->total, svg_number(c->total));
    html_number_cell(out, "more", c->score, svg_number(c->score));
    html_fixed_cell(out, NULL, c->effective_bits, 3, summary_unreached(c) ? " *" : "");
    html_name_cell(out, "more", c->worst_shown ? c->worst_shown : "");
    html_fixed_cell(out, "more",
                    c->count && c->total > 0 ? 100 * (c->scores[c->worst] / c->total) : NAN, 0,
                    " %");
    html_number_cell(out, "more", c->weight_part, svg_number(c->weight_part));
    html_number_cell(out, "more", c->activation_part, svg_number(c->activation_part));
    html_fixed_cell(out, "more", c->rho_size, 3, "");
    html_fixed_cell(out, "more", c->tau_size, 3, "");
    html_fixed_cell(out, NULL, c->rho_cells, 3, "");
    if (engine)
        html_text(out, "td", NULL, c->verdict ? c->verdict : "");
    if (linked)
        html_link_cell(out, c->link, "report");
    aq_buf_adds(out, "</tr>\n");
}

static void add_rows(struct aq_buf *out, const struct summary *s)
{
    struct html_column columns[15] = {{NULL, "pair"},
                                      {NULL, "granularity"},
                                      {NULL, "size"},
                                      {"n", "total"},
                                      {"n more", "selection"},
                                      {"n", "bits"},
                                      {"more", "most sensitive"},
                                      {"n more", "its share"},
                                      {"n more", "weights"},
                                      {"n more", "activations"},
                                      {"n more", "rho, size"},
                                      {"n more", "tau, size"},
                                      {"n", "rho, cells"}};
    size_t across = 13;
    if (s->engine)
        columns[across++] = (struct html_column){NULL, s->engine};
    if (s->linked)
        columns[across++] = (struct html_column){NULL, "link"};
    html_section(out, "cells", "Every cell",
                 "Click a heading to sort. Weights and activations: the total when only those are "
                 "quantized. Agreement with the largest data set of the same cell (rho: Spearman, "
                 "tau: Kendall), and the mean rho with the other cells of the size. Under an "
                 "engine's name: whether it computes what was scored.");
    html_table(out, "Every cell", true, columns, across);
    for (size_t i = 0; i < s->count; i++)
        add_row(out, &s->cells[i], s->engine, s->linked);
    html_table_end(out);
    html_section_end(out);
}

static void add_skipped(struct aq_buf *out, const struct summary *s)
{
    static const struct html_column columns[] = {
        {NULL, "pair"}, {NULL, "granularity"}, {NULL, "size"}, {NULL, "reason"}};
    if (!s->skipped_count)
        return;
    html_section(out, "left-out", "Cells left out", NULL);
    html_table(out, "Cells left out", false, columns, AQ_COUNT(columns));
    for (size_t i = 0; i < s->skipped_count; i++) {
        const struct summary_skipped *k = &s->skipped[i];
        aq_buf_adds(out, "<tr>");
        html_name_cell(out, NULL, cell_show(k->pair));
        html_name_cell(out, NULL, cell_show(k->granularity));
        html_text(out, "td", NULL, cell_show(k->size));
        html_text(out, "td", NULL, k->reason);
        aq_buf_adds(out, "</tr>\n");
    }
    html_table_end(out);
    html_section_end(out);
}

static void add_head(struct aq_buf *out, const struct summary *s)
{
    aq_buf_adds(out, "<header>\n<h1>Summary of the sweep</h1>\n<p class=\"lead\">");
    if (s->count) {
        aq_buf_adds(out, "Model ");
        html_text(out, "code", NULL, cell_show(s->cells[0].cell.model));
        aq_buf_adds(out, ", ");
    }
    aq_buf_addf(out, "%zu cell%s, %zu left out</p>\n", s->count, s->count == 1 ? "" : "s",
                s->skipped_count);
    if (s->linked)
        aq_buf_adds(out, "<p><a href=\"explore.html\">Explore all cells on one page</a>: a matrix, "
                         "two cells side by side, the best recipe for any budget. The totals below "
                         "lead to the reports of the cells.</p>\n");
    aq_buf_adds(out, "</header>\n");
}

static void add_meaning(struct aq_buf *out, const struct summary *s)
{
    aq_buf_adds(out, "<section class=\"note\">\n");
    html_text(
        out, "p", NULL,
        "A total is a sum of squares, (gradient × change of the output)², over all layers: "
        "not a loss. Per token, about half of it is a KL divergence in nats. Differences of a "
        "few per cent mean nothing. Compare cells of one data size only.");
    if (s->mixed)
        html_text(out, "p", NULL,
                  "These cells have different normalizations: their totals do not compare.");
    size_t unreached = summary_count_unreached(s);
    if (unreached) {
        char *text = xasprintf("In %zu cell%s the budget is out of reach, and the recipe is the "
                               "smallest there is: bits with a *.",
                               unreached, unreached == 1 ? "" : "s");
        html_text(out, "p", NULL, text);
        free(text);
    }
    html_section_end(out);
}

void summary_html(struct aq_buf *out, const struct summary *s)
{
    /* as wide as the explorer: a dozen granularities beside one another */
    html_begin_with(out, "Summary of the sweep",
                    "body { max-width: 1330px }\n@page { size: A4 landscape }\n");
    add_head(out, s);
    add_meaning(out, s);
    add_grids(out, s);
    add_agreement(out, s);
    add_rows(out, s);
    add_skipped(out, s);
    html_end(out);
}
