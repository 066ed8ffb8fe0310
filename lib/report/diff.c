#include "report/diff.h"
#include "base/mem.h"
#include "base/names.h"
#include "report/escape.h"
#include "solve/ranks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One layer of either report; a side that lacks it is NULL. */
struct diff_line {
    const struct report_row *a, *b;
};

struct diff {
    struct diff_line *lines; /* those that both have by falling change, then the rest */
    size_t count, common;
    double rho, tau;
};

static double change(const struct diff_line *l)
{
    double x = l->a->sensitivity, y = l->b->sensitivity;
    if (x == y)
        return 0;
    return x > 0 && y > 0 ? fabs(log(y / x)) : INFINITY;
}

static int by_change(const void *a, const void *b)
{
    const struct diff_line *p = a, *q = b;
    double x = change(p), y = change(q);
    if (x != y)
        return x > y ? -1 : 1;
    return p->a < q->a ? -1 : p->a > q->a;
}

static void diff_init(struct diff *d, const struct report *a, const struct report *b)
{
    struct aq_names names = AQ_NAMES_INIT;
    bool *met = xcalloc(b->count + 1, sizeof *met);
    struct diff_line *alone = xcalloc(a->count + b->count + 1, sizeof *alone);
    size_t alone_count = 0;
    *d = (struct diff){.lines = xcalloc(a->count + b->count + 1, sizeof *d->lines)};
    for (size_t i = 0; i < b->count; i++)
        aq_names_add(&names, b->rows[i].group->layer);
    (void)aq_names_sort(&names);
    for (size_t i = 0; i < a->count; i++) {
        ptrdiff_t at = aq_names_find(&names, a->rows[i].group->layer);
        if (at < 0) {
            alone[alone_count++] = (struct diff_line){&a->rows[i], NULL};
            continue;
        }
        met[at] = true;
        d->lines[d->common++] = (struct diff_line){&a->rows[i], &b->rows[at]};
    }
    for (size_t i = 0; i < b->count; i++)
        if (!met[i])
            alone[alone_count++] = (struct diff_line){NULL, &b->rows[i]};
    double *x = xcalloc(d->common + 1, sizeof *x), *y = xcalloc(d->common + 1, sizeof *y);
    for (size_t i = 0; i < d->common; i++) {
        x[i] = d->lines[i].a->sensitivity;
        y[i] = d->lines[i].b->sensitivity;
    }
    d->rho = rank_spearman(x, y, d->common);
    d->tau = rank_kendall(x, y, d->common);
    qsort(d->lines, d->common, sizeof *d->lines, by_change);
    memcpy(d->lines + d->common, alone, alone_count * sizeof *alone);
    d->count = d->common + alone_count;
    free(x);
    free(y);
    free(met);
    free(alone);
    aq_names_release(&names);
}

static const char *layer_of(const struct diff_line *l)
{
    return (l->a ? l->a : l->b)->group->layer;
}

/* The chosen candidate; NULL if the manifest does not say. Caller frees. */
static char *chosen_of(const struct report_row *row)
{
    const struct manifest_option *o = row ? report_row_chosen(row) : NULL;
    return o ? manifest_candidate(o) : NULL;
}

static double ratio(const struct diff_line *l)
{
    double r = l->a && l->b ? l->b->sensitivity / l->a->sensitivity : NAN;
    return isfinite(r) ? r : NAN;
}

/* ---- TSV ---- */

static void add_side(struct fields *f, const struct report_row *row)
{
    if (row)
        fields_count(f, row->rank);
    else
        fields_text(f, NULL);
}

void diff_tsv(struct aq_buf *out, const struct report *a, const struct report *b)
{
    static const char *const names[] = {"layer",  "sensitivity_a", "sensitivity_b", "ratio",
                                        "rank_a", "rank_b",        "chosen_a",      "chosen_b"};
    struct diff d;
    struct fields f = {.out = out, .separator = '\t'};
    diff_init(&d, a, b);
    fields_names(&f, names, AQ_COUNT(names));
    for (size_t i = 0; i < d.count; i++) {
        const struct diff_line *l = &d.lines[i];
        char *x = chosen_of(l->a), *y = chosen_of(l->b);
        fields_text(&f, layer_of(l));
        fields_number(&f, l->a ? l->a->sensitivity : NAN);
        fields_number(&f, l->b ? l->b->sensitivity : NAN);
        fields_number(&f, ratio(l));
        add_side(&f, l->a);
        add_side(&f, l->b);
        fields_text(&f, x);
        fields_text(&f, y);
        fields_end(&f);
        free(x);
        free(y);
    }
    free(d.lines);
}

/* ---- Markdown ---- */

static void md_head(struct aq_buf *out, const struct diff *d, const struct report *a,
                    const struct report *b)
{
    aq_buf_adds(out, "# Difference of two cells\n\n- **A:** `");
    escape_code(out, a->title);
    aq_buf_addf(out, "`, total %.6e\n- **B:** `", a->total);
    escape_code(out, b->title);
    aq_buf_addf(out, "`, total %.6e", b->total);
    if (a->total > 0)
        aq_buf_addf(out, " (%.4g times A)", b->total / a->total);
    aq_buf_addf(out, "\n- **Layers in both:** %zu of %zu\n", d->common, d->count);
    if (!isnan(d->rho))
        aq_buf_addf(out, "- **Agreement of the order:** Spearman %.4f, Kendall %.4f\n", d->rho,
                    d->tau);
    aq_buf_adds(out, "\nSorted by the size of the change. Rank 1 is the most sensitive layer.\n\n"
                     "| Layer | A | B | B / A | Rank A | Rank B | Chosen A | Chosen B |\n"
                     "| :--- | ---: | ---: | ---: | ---: | ---: | :--- | :--- |\n");
}

static void md_side(struct aq_buf *out, const struct report_row *row)
{
    if (row)
        aq_buf_addf(out, " %.3e |", row->sensitivity);
    else
        aq_buf_adds(out, " |");
}

static void md_rank(struct aq_buf *out, const struct report_row *row)
{
    if (row)
        aq_buf_addf(out, " %zu |", row->rank);
    else
        aq_buf_adds(out, " |");
}

void diff_markdown(struct aq_buf *out, const struct report *a, const struct report *b)
{
    struct diff d;
    diff_init(&d, a, b);
    md_head(out, &d, a, b);
    for (size_t i = 0; i < d.count; i++) {
        const struct diff_line *l = &d.lines[i];
        char *x = chosen_of(l->a), *y = chosen_of(l->b);
        aq_buf_adds(out, "| ");
        escape_cell(out, layer_of(l));
        aq_buf_adds(out, " |");
        md_side(out, l->a);
        md_side(out, l->b);
        if (isnan(ratio(l)))
            aq_buf_adds(out, " |");
        else
            aq_buf_addf(out, " %.4g |", ratio(l));
        md_rank(out, l->a);
        md_rank(out, l->b);
        aq_buf_addc(out, ' ');
        escape_cell(out, x ? x : "");
        aq_buf_adds(out, " | ");
        escape_cell(out, y ? y : "");
        aq_buf_adds(out, " |\n");
        free(x);
        free(y);
    }
    free(d.lines);
}
