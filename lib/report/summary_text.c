/* The summary as Markdown and TSV. */
#include "base/mem.h"
#include "report/escape.h"
#include "report/fields.h"
#include "report/summary.h"

#include <math.h>

/* ---- TSV ---- */

static void cell_row(struct fields *f, const struct summary_cell *c)
{
    fields_text(f, c->cell.model);
    fields_text(f, c->cell.pair);
    fields_text(f, c->cell.granularity);
    fields_text(f, c->cell.size);
    fields_number(f, c->total);
    fields_number(f, c->score);
    fields_number(f, c->effective_bits);
    fields_number(f, c->storage_bits);
    fields_count(f, c->satisfied);
    fields_text(f, c->count ? c->layers[c->worst] : NULL);
    fields_number(f, c->count && c->total > 0 ? c->scores[c->worst] / c->total : NAN);
    fields_number(f, c->weight_part);
    fields_number(f, c->activation_part);
    fields_number(f, c->rho_size);
    fields_number(f, c->tau_size);
    fields_number(f, c->rho_cells);
    fields_text(f, c->normalization);
    fields_text(f, NULL);
    fields_text(f, c->verdict);
    fields_text(f, c->worst_shown);
    fields_end(f);
}

void summary_tsv(struct aq_buf *out, const struct summary *s)
{
    static const char *const names[] = {
        "model",          "pair",           "granularity",     "size",          "total",
        "score",          "effective_bits", "storage_bits",    "satisfied",     "worst_layer",
        "worst_share",    "weight_part",    "activation_part", "spearman_size", "kendall_size",
        "spearman_cells", "normalization",  "skipped",         "verdict",       "worst_group"};
    struct fields f = {.out = out, .separator = '\t'};
    fields_names(&f, names, AQ_COUNT(names));
    for (size_t i = 0; i < s->count; i++)
        cell_row(&f, &s->cells[i]);
    for (size_t i = 0; i < s->skipped_count; i++) {
        const struct summary_skipped *k = &s->skipped[i];
        fields_text(&f, NULL);
        fields_text(&f, k->pair);
        fields_text(&f, k->granularity);
        fields_text(&f, k->size);
        for (int c = 0; c < 13; c++)
            fields_text(&f, NULL);
        fields_text(&f, k->reason);
        fields_text(&f, k->verdict);
        fields_text(&f, NULL);
        fields_end(&f);
    }
}

/* ---- Markdown ---- */

static void md_text(struct aq_buf *out, const char *text)
{
    aq_buf_adds(out, "| ");
    escape_cell(out, text);
    aq_buf_addc(out, ' ');
}

/* style: f (fixed) or e (scientific). */
static void md_number(struct aq_buf *out, char style, int decimals, double x)
{
    aq_buf_adds(out, "| ");
    if (!isnan(x))
        aq_buf_addf(out, style == 'e' ? "%.*e " : "%.*f ", decimals, x);
}

static void md_cell(struct aq_buf *out, const struct summary_cell *c, bool engine)
{
    aq_buf_adds(out, c->link ? "| [" : "| ");
    escape_cell(out, cell_show(c->cell.pair));
    if (c->link)
        aq_buf_addf(out, "](%s)", c->link);
    aq_buf_addc(out, ' ');
    md_text(out, cell_show(c->cell.granularity));
    md_text(out, cell_show(c->cell.size));
    md_number(out, 'e', 4, c->total);
    md_number(out, 'e', 4, c->score);
    md_number(out, 'f', 4, c->effective_bits);
    if (summary_unreached(c))
        aq_buf_adds(out, "\\* ");
    md_number(out, 'f', 4, c->storage_bits);
    md_text(out, c->worst_shown ? c->worst_shown : "");
    md_number(out, 'f', 1, c->count && c->total > 0 ? 100 * (c->scores[c->worst] / c->total) : NAN);
    md_number(out, 'e', 3, c->weight_part);
    md_number(out, 'e', 3, c->activation_part);
    md_number(out, 'f', 3, c->rho_size);
    md_number(out, 'f', 3, c->tau_size);
    md_number(out, 'f', 3, c->rho_cells);
    if (engine)
        md_text(out, c->verdict ? c->verdict : "");
    aq_buf_adds(out, "|\n");
}

static void md_skipped(struct aq_buf *out, const struct summary *s)
{
    if (!s->skipped_count)
        return;
    aq_buf_adds(out, "\n## Cells left out\n\n| Pair | Granularity | Size | Reason |\n| :--- | :--- "
                     "| :--- | :--- |\n");
    for (size_t i = 0; i < s->skipped_count; i++) {
        md_text(out, cell_show(s->skipped[i].pair));
        md_text(out, cell_show(s->skipped[i].granularity));
        md_text(out, cell_show(s->skipped[i].size));
        md_text(out, s->skipped[i].reason);
        aq_buf_adds(out, "|\n");
    }
}

void summary_markdown(struct aq_buf *out, const struct summary *s)
{
    aq_buf_adds(out, "# Summary of the sweep\n\n");
    if (s->count) {
        aq_buf_adds(out, "Model: `");
        escape_code(out, cell_show(s->cells[0].cell.model));
        aq_buf_addf(out, "`, %zu cell%s, %zu left out.\n\n", s->count, s->count == 1 ? "" : "s",
                    s->skipped_count);
    }
    if (s->linked)
        aq_buf_adds(out, "The names of the pairs lead to the reports of the cells; "
                         "[explore.html](explore.html) has all cells on one page.\n\n");
    aq_buf_adds(
        out,
        "*Total* is the sum of all layers' sensitivities, *Score* that of the "
        "selection. They are sums of\n"
        "squares, not losses; per token, about half of a sum is a KL divergence in nats. Compare "
        "cells with the same data size only.\n");
    if (s->mixed)
        aq_buf_adds(
            out, "**These cells have different normalizations: their totals do not compare.**\n");
    aq_buf_adds(out, "*Weights* and *Activations* are the parts when only those are quantized. "
                     "*rho, tau (size)* compare\n"
                     "the ranking of the layers with that of the largest data set of the same cell "
                     "(Spearman, Kendall);\n"
                     "*rho (cells)* is the mean with the other cells of the same size.\n");
    size_t unreached = summary_count_unreached(s);
    if (unreached)
        aq_buf_addf(
            out,
            "\\* The budget is out of reach in %zu cell%s: the recipe there is the smallest "
            "there is.\n",
            unreached, unreached == 1 ? "" : "s");
    if (s->engine)
        aq_buf_adds(out, "The last column is what the engine makes of the formats: exact (as they "
                         "are scored), near (with other\nroundings), other (another computation), "
                         "wrong (garbage), no (refused).\n");
    aq_buf_adds(out, "\n| Pair | Granularity | Size | Total | Score | Bits | Stored bits | Most "
                     "sensitive | Its share, % | Weights | "
                     "Activations | rho (size) | tau (size) | rho (cells) |");
    if (s->engine) {
        aq_buf_addc(out, ' ');
        escape_cell(out, s->engine);
        aq_buf_adds(out, " |");
    }
    aq_buf_adds(out, "\n| :--- | :--- | :--- | ---: | ---: | ---: | ---: | :--- | ---: | ---: | "
                     "---: | ---: | ---: | ---: |");
    aq_buf_adds(out, s->engine ? " :--- |\n" : "\n");
    for (size_t i = 0; i < s->count; i++)
        md_cell(out, &s->cells[i], s->engine);
    md_skipped(out, s);
}
