/* The summary as Markdown and TSV. */
#include "base/fmt.h"
#include "report/escape.h"
#include "report/summary.h"

#include <math.h>

/* ---- TSV ---- */

static void field(struct aq_buf *out, const char *text)
{
    escape_field(out, text);
    aq_buf_addc(out, '\t');
}

static void number(struct aq_buf *out, double x)
{
    char text[AQ_FMT_MAX];
    aq_buf_addf(out, "%s\t", isnan(x) ? "-" : aq_fmt_double(x, text));
}

static void cell_row(struct aq_buf *out, const struct summary_cell *c)
{
    field(out, c->cell.model);
    field(out, c->cell.pair);
    field(out, c->cell.granularity);
    field(out, c->cell.size);
    number(out, c->total);
    number(out, c->score);
    number(out, c->effective_bits);
    number(out, c->storage_bits);
    aq_buf_addf(out, "%d\t", c->satisfied);
    field(out, c->count ? c->layers[c->worst] : "-");
    number(out, c->count && c->total > 0 ? c->scores[c->worst] / c->total : NAN);
    number(out, c->weight_part);
    number(out, c->activation_part);
    number(out, c->rho_size);
    number(out, c->tau_size);
    number(out, c->rho_cells);
    field(out, c->normalization);
    aq_buf_adds(out, "-\n");
}

void summary_tsv(struct aq_buf *out, const struct summary *s)
{
    aq_buf_adds(
        out,
        "model\tpair\tgranularity\tsize\ttotal\tscore\teffective_bits\tstorage_bits\tsatisfied\t"
        "worst_layer\tworst_share\tweight_part\tactivation_part\tspearman_size\tkendall_size\t"
        "spearman_cells\tnormalization\tskipped\n");
    for (size_t i = 0; i < s->count; i++)
        cell_row(out, &s->cells[i]);
    for (size_t i = 0; i < s->skipped_count; i++) {
        const struct summary_skipped *k = &s->skipped[i];
        field(out, "-");
        field(out, k->pair);
        field(out, k->granularity);
        field(out, k->size);
        for (int c = 0; c < 13; c++)
            field(out, "-");
        escape_field(out, k->reason);
        aq_buf_addc(out, '\n');
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

static void md_cell(struct aq_buf *out, const struct summary_cell *c)
{
    md_text(out, c->cell.pair);
    md_text(out, c->cell.granularity);
    md_text(out, c->cell.size);
    md_number(out, 'e', 4, c->total);
    md_number(out, 'e', 4, c->score);
    md_number(out, 'f', 4, c->effective_bits);
    md_number(out, 'f', 4, c->storage_bits);
    md_text(out, c->count ? c->layers[c->worst] : "");
    md_number(out, 'f', 1, c->count && c->total > 0 ? 100 * (c->scores[c->worst] / c->total) : NAN);
    md_number(out, 'e', 3, c->weight_part);
    md_number(out, 'e', 3, c->activation_part);
    md_number(out, 'f', 3, c->rho_size);
    md_number(out, 'f', 3, c->tau_size);
    md_number(out, 'f', 3, c->rho_cells);
    aq_buf_adds(out, "|\n");
}

static void md_skipped(struct aq_buf *out, const struct summary *s)
{
    if (!s->skipped_count)
        return;
    aq_buf_adds(out, "\n## Cells left out\n\n| Pair | Granularity | Size | Reason |\n| :--- | :--- "
                     "| :--- | :--- |\n");
    for (size_t i = 0; i < s->skipped_count; i++) {
        md_text(out, s->skipped[i].pair);
        md_text(out, s->skipped[i].granularity);
        md_text(out, s->skipped[i].size);
        md_text(out, s->skipped[i].reason);
        aq_buf_adds(out, "|\n");
    }
}

void summary_markdown(struct aq_buf *out, const struct summary *s)
{
    aq_buf_adds(out, "# Summary of the sweep\n\n");
    if (s->count) {
        aq_buf_adds(out, "Model: `");
        escape_code(out, s->cells[0].cell.model);
        aq_buf_addf(out, "`, %zu cell%s, %zu left out.\n\n", s->count, s->count == 1 ? "" : "s",
                    s->skipped_count);
    }
    aq_buf_adds(out,
                "*Total* is the sum of all layers' sensitivities, *Score* that of the "
                "selection. They are sums of\n"
                "squares, not losses, and twice the total is not twice the damage: compare cells "
                "with the same data size only.\n");
    if (s->mixed)
        aq_buf_adds(
            out, "**These cells have different normalizations: their totals do not compare.**\n");
    aq_buf_adds(out, "*Weights* and *Activations* are the parts when only those are quantized. "
                     "*rho, tau (size)* compare\n"
                     "the ranking of the layers with that of the largest data set of the same cell "
                     "(Spearman, Kendall);\n"
                     "*rho (cells)* is the mean with the other cells of the same size.\n\n"
                     "| Pair | Granularity | Size | Total | Score | Bits | Stored bits | Worst "
                     "layer | Its share, % | Weights | "
                     "Activations | rho (size) | tau (size) | rho (cells) |\n"
                     "| :--- | :--- | :--- | ---: | ---: | ---: | ---: | :--- | ---: | ---: | ---: "
                     "| ---: | ---: | ---: |\n");
    for (size_t i = 0; i < s->count; i++)
        md_cell(out, &s->cells[i]);
    md_skipped(out, s);
}
