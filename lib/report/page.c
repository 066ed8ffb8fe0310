/* report.html: what the number means first, then pictures, then every number. */
#include "base/fmt.h"
#include "base/mem.h"
#include "report/cell.h"
#include "report/escape.h"
#include "report/html.h"
#include "report/svg.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void paragraph(struct aq_buf *out, const char *class, const char *fmt, ...) AQ_PRINTF(3, 4);

static void paragraph(struct aq_buf *out, const char *class, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    char *text = xmalloc((size_t)n + 1);
    (void)vsnprintf(text, (size_t)n + 1, fmt, again);
    html_text(out, "p", class, text);
    aq_buf_addc(out, '\n');
    free(text);
    va_end(again);
    va_end(ap);
}

/* ---- first screen ---- */

static void add_head(struct aq_buf *out, const struct report *r)
{
    const char *data = json_find_string(r->m->dataset, "name");
    double used = json_find_number(r->m->dataset, "num_calib_samples");
    struct cell c;
    cell_init(&c, r->m);
    aq_buf_adds(out, "<header>\n<h1>Layer sensitivity: ");
    escape_html(out, r->title);
    aq_buf_adds(out, "</h1>\n<p class=\"lead\">Model ");
    html_text(out, "code", NULL, cell_show(c.model));
    if (data) {
        aq_buf_adds(out, ", data ");
        html_text(out, "code", NULL, data);
        aq_buf_adds(out, " (");
        escape_html(out, cell_show(c.size));
        aq_buf_addc(out, ')');
    }
    if (!isnan(used))
        aq_buf_addf(out, ", %.0f samples", used);
    aq_buf_adds(out, "</p>\n</header>\n");
    cell_release(&c);
}

static void add_card(struct aq_buf *out, const char *value, const char *fmt, ...) AQ_PRINTF(3, 4);

static void add_card(struct aq_buf *out, const char *value, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char text[300];
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    aq_buf_adds(out, "<div class=\"card\">");
    html_text(out, "b", NULL, value);
    html_text(out, "span", NULL, text);
    aq_buf_adds(out, "</div>\n");
}

static double share_of_worst(const struct report *r, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < r->count && i < count; i++)
        sum += r->by_sensitivity[i]->sensitivity;
    return r->total > 0 ? sum / r->total : 0;
}

static void add_cards(struct aq_buf *out, const struct report *r)
{
    const struct manifest *m = r->m;
    double budget = json_find_number(m->scheme, "auto_quantize_bits");
    double storage = json_find_number(m->selection, "storage_bits");
    char value[64], asked[80] = "";
    (void)snprintf(value, sizeof value, isnan(m->effective_bits) ? "unknown" : "%.4g",
                   m->effective_bits);
    if (!isnan(budget))
        (void)snprintf(asked, sizeof asked, "; the budget was %.4g", budget);
    aq_buf_adds(out, "<div class=\"cards\">\n");
    add_card(out, value, "effective bits of a weight%s%s", asked,
             m->satisfied ? "" : ", which is out of reach");
    if (!isnan(storage) && fabs(storage - m->effective_bits) > 5e-4)
        add_card(out, svg_number(storage), "stored bits of a weight, block scales included");
    if (!isnan(m->score))
        add_card(out, svg_number(m->score), "total score of the selection");
    size_t searched = 0;
    for (size_t i = 0; i < r->count; i++)
        searched += r->rows[i].searched;
    (void)snprintf(value, sizeof value, "%zu", searched);
    add_card(out, value, "groups of layers, each with one format%s",
             searched < r->count ? "; the others stay as they are" : "");
    if (r->total > 0) {
        (void)snprintf(value, sizeof value, "%.0f %%", 100 * share_of_worst(r, 5));
        add_card(out, value, "of all sensitivity in the worst five groups");
    }
    aq_buf_adds(out, "</div>\n");
}

static double error_of(const struct report_row *row)
{
    return row->worst ? row->worst->error : NAN;
}

/* How many neighbours among the worst the samples tell apart by two standard errors. */
static void add_confidence(struct aq_buf *out, const struct report *r)
{
    enum { WORST = 20 };
    size_t pairs = 0, apart = 0;
    for (size_t i = 0; i + 1 < r->count && i + 1 < WORST; i++) {
        const struct report_row *x = r->by_sensitivity[i], *y = r->by_sensitivity[i + 1];
        double a = error_of(x), b = error_of(y);
        if (!(a >= 0) || !(b >= 0) || !(y->sensitivity > 0))
            continue;
        pairs++;
        apart += x->sensitivity - y->sensitivity > 2 * sqrt(a * a + b * b);
    }
    if (pairs == 0)
        html_text(out, "p", NULL,
                  "This manifest has no standard errors, so it cannot say which differences are "
                  "real: read neighbours in the ranking as equal, and trust factors of two and "
                  "more.");
    else
        paragraph(out, NULL,
                  "When a difference matters: these samples tell two layers apart when their "
                  "scores differ by more than two standard errors of the difference. Among the "
                  "%zu worst, %zu of %zu neighbours pass that test; the order of the others could "
                  "change with other samples.",
                  pairs + 1, apart, pairs);
}

static void add_meaning(struct aq_buf *out, const struct report *r)
{
    static const char squares[] =
        "The sensitivity of a layer is the sum, over tokens and outputs, of (gradient × change of "
        "the output)², when this layer alone is quantized. It is a sum of squares, not a loss and "
        "not a divergence in nats: the order of the layers and their shares of the total mean "
        "something, the size by itself does not, and twice the score is not twice the damage.";
    static const char divergence[] =
        "The sensitivity of a layer is the Kullback-Leibler divergence, summed over positions, "
        "between the predictions of the full model and of the model with this layer alone "
        "quantized. Compare layers within this page; quantizing several at once need not add up.";
    const char *method = json_find_string(r->m->scheme, "auto_quantize_method");
    aq_buf_adds(out, "<section class=\"note\" aria-label=\"How to read the numbers\">\n");
    html_text(out, "p", NULL, method && strcmp(method, "kl_div") == 0 ? divergence : squares);
    add_confidence(out, r);
    html_text(out, "p", NULL,
              "Scores of different layers are added when formats are chosen. Compare totals only "
              "between reports with the same data, normalization and method.");
    html_section_end(out);
}

/* ---- pictures ---- */

static void add_figure(struct aq_buf *out, enum chart_kind kind, const struct report *r,
                       const struct curve *c, const char *heading, const char *caption)
{
    html_section(out, heading, NULL);
    aq_buf_adds(out, "<figure>\n");
    html_text(out, "figcaption", NULL, caption);
    aq_buf_adds(out, "\n<div class=\"wide\">\n");
    chart_draw(out, kind, r, c, (struct chart_style){CHART_WIDE, false});
    aq_buf_adds(out, "</div>\n<div class=\"narrow\">\n");
    chart_draw(out, kind, r, c, (struct chart_style){CHART_NARROW, false});
    aq_buf_adds(out, "</div>\n</figure>\n");
    html_section_end(out);
}

static void add_figures(struct aq_buf *out, const struct report *r, const struct curve *c)
{
    bool outside = false;
    for (size_t i = 0; i < r->count; i++)
        outside = outside || (r->rows[i].searched && r->rows[i].block < 0);
    add_figure(out, CHART_HEATMAP, r, c, "Where the model is sensitive",
               outside ? "Each cell is one group of layers; colour is the score on a log scale. "
                         "Groups outside the blocks are in the table below."
                       : "Each cell is one group of layers; colour is the score on a log scale.");
    add_figure(out, CHART_BARS, r, c, "The worst layers",
               "A linear scale: lengths are shares of the total. Whiskers are one standard error; "
               "on the right, how much of the total the layers down to this one carry.");
    add_figure(out, CHART_DEPTH, r, c, "Sensitivity over depth",
               "One line for each kind of layer, log scale.");
    add_figure(out, CHART_FRONTIER, r, c, "What any budget would give",
               c->gap > 0
                   ? "The best total score for every budget; between its corners the curve is "
                     "proven only to within the gap below. Circles: one format for all layers."
                   : "The best total score for every budget, exact. Circles: one format for all "
                     "layers. The dashed line is the budget that was asked for.");
    if (c->gap > 0)
        paragraph(out, "soft", "Proven gap: %s.", svg_number(c->gap));
    add_figure(out, CHART_STRIP, r, c, "Which layers get more bits first",
               "The best recipe at several budgets (effective bits, left); blocks from left to "
               "right.");
}

/* ---- numbers ---- */

static void add_budgets(struct aq_buf *out, const struct curve *c)
{
    static const struct html_column columns[] = {
        {"n", "budget, bits"}, {"n", "reached"}, {"n", "total score"}};
    if (!c->known || c->recipe_count < 2)
        return;
    html_section(out, "Budgets in numbers", NULL);
    html_table(out, false, columns, AQ_COUNT(columns));
    for (size_t i = 0; i < c->recipe_count; i++) {
        const struct curve_recipe *recipe = &c->recipes[i];
        aq_buf_adds(out, "<tr>");
        html_number_cell(out, NULL, recipe->budget, svg_round_number(recipe->budget));
        html_fixed_cell(out, NULL, recipe->at.bits, 4, "");
        html_number_cell(out, NULL, recipe->at.score, svg_number(recipe->at.score));
        aq_buf_adds(out, "</tr>\n");
    }
    html_table_end(out);
    html_section_end(out);
}

static void add_option_cell(struct aq_buf *out, const struct manifest_option *o)
{
    char *name = o ? manifest_candidate(o) : xstrdup("");
    html_name_cell(out, "more", name);
    free(name);
}

/* several: there is more than one candidate, so the worst one is worth a column. */
static void add_row(struct aq_buf *out, const struct report *r, size_t i, double cumulative,
                    bool several)
{
    const struct report_row *row = r->by_sensitivity[i];
    const struct manifest_option *chosen = report_row_chosen(row);
    double total = r->total > 0 ? r->total : INFINITY, bits = chosen ? chosen->bits : NAN;
    aq_buf_adds(out, "<tr>");
    html_fixed_cell(out, "more", (double)(i + 1), 0, "");
    html_name_cell(out, NULL, row->short_name);
    html_number_cell(out, NULL, row->sensitivity, svg_number(row->sensitivity));
    html_number_cell(out, "more", error_of(row), svg_number(error_of(row)));
    html_fixed_cell(out, NULL, 100 * (row->sensitivity / total), 2, " %");
    html_fixed_cell(out, "more", 100 * (cumulative / total), 1, " %");
    if (several)
        add_option_cell(out, row->worst);
    html_number_cell(out, NULL, bits, svg_round_number(bits));
    add_option_cell(out, chosen);
    aq_buf_adds(out, "</tr>\n");
}

/* Nothing in the usual case that every score depends on bits. */
static void add_flat(struct aq_buf *out, const struct report *r)
{
    bool any = false;
    for (size_t i = 0; i < r->count; i++) {
        const char *flat = report_row_flat(r->by_sensitivity[i]);
        if (!flat)
            continue;
        aq_buf_adds(out, any ? ", "
                             : "<p>Groups whose score does not depend on the bits of the operand "
                               "in parentheses, or is zero: ");
        html_text(out, "code", NULL, r->by_sensitivity[i]->short_name);
        aq_buf_addf(out, " (%s)", flat);
        any = true;
    }
    if (any)
        aq_buf_adds(out, ".</p>\n");
}

static void add_table(struct aq_buf *out, const struct report *r)
{
    static const struct html_column single[] = {
        {"n more", "#"}, {NULL, "layer"},   {"n", "sensitivity"}, {"n more", "± s.e."},
        {"n", "share"},  {"n more", "sum"}, {"n", "bits"},        {"more", "chosen"}};
    static const struct html_column mixed[] = {
        {"n more", "#"},         {NULL, "layer"}, {"n", "sensitivity"},
        {"n more", "± s.e."},    {"n", "share"},  {"n more", "sum"},
        {"more", "worst under"}, {"n", "bits"},   {"more", "chosen"}};
    const struct manifest_option *candidates[2];
    bool several = chart_candidates(r, candidates, AQ_COUNT(candidates)) > 1;
    html_section(out, "Every layer",
                 "Headings sort. A group is named after its first module: q, k and v share one "
                 "format, and so do gate and up.");
    add_flat(out, r);
    html_table(out, true, several ? mixed : single, several ? AQ_COUNT(mixed) : AQ_COUNT(single));
    double sum = 0;
    for (size_t i = 0; i < r->count; i++) {
        sum += r->by_sensitivity[i]->sensitivity;
        add_row(out, r, i, sum, several);
    }
    html_table_end(out);
    html_section_end(out);
}

static void add_rules(struct aq_buf *out, const struct json *selection)
{
    static const struct html_column columns[] = {
        {NULL, "rule"}, {NULL, "modules"}, {"n", "added score"}};
    const struct json *pins = json_find(selection, "pins");
    if (!pins || json_type(pins) != JSON_ARRAY || !json_first(pins))
        return;
    html_section(out, "What pins and bans cost", NULL);
    html_table(out, false, columns, AQ_COUNT(columns));
    for (const struct json *p = json_first(pins); p; p = json_next(p)) {
        const char *rule = json_find_string(p, "rule"), *match = json_find_string(p, "match");
        double cost = json_find_number(p, "score_cost");
        aq_buf_adds(out, "<tr>");
        html_text(out, "td", NULL, rule ? rule : "");
        html_name_cell(out, NULL, match ? match : "");
        html_number_cell(out, NULL, cost, svg_number(cost));
        aq_buf_adds(out, "</tr>\n");
    }
    html_table_end(out);
    html_section_end(out);
}

/* ---- how to repeat it ---- */

/* The scalars of an object, as "dataset.size"; prefix may be NULL. */
static void add_facts(struct aq_buf *out, const char *prefix, const struct json *object)
{
    if (!object || json_type(object) != JSON_OBJECT)
        return;
    for (const struct json *v = json_first(object); v; v = json_next(v)) {
        enum json_type t = json_type(v);
        if (t == JSON_NULL || t == JSON_ARRAY || t == JSON_OBJECT)
            continue;
        char *key = prefix ? xasprintf("%s.%s", prefix, json_key(v)) : xstrdup(json_key(v));
        char number[AQ_FMT_MAX];
        int64_t n;
        html_text(out, "dt", NULL, key);
        if (t == JSON_STRING)
            html_text(out, "dd", NULL, json_string(v));
        else if (t == JSON_BOOL)
            html_text(out, "dd", NULL, json_bool(v) ? "true" : "false");
        else if (json_int(v, &n))
            aq_buf_addf(out, "<dd>%" PRId64 "</dd>", n);
        else
            html_text(out, "dd", NULL, aq_fmt_double(json_number(v), number));
        aq_buf_addc(out, '\n');
        free(key);
    }
}

static void add_command(struct aq_buf *out, const struct manifest *m)
{
    const char *cost = json_find_string(m->selection, "cost");
    double budget = json_find_number(m->scheme, "auto_quantize_bits");
    char number[AQ_FMT_MAX];
    aq_buf_adds(out, "<pre>aq-select");
    if (!isnan(budget))
        aq_buf_addf(out, " --effective-bits %s", aq_fmt_double(budget, number));
    if (cost) {
        aq_buf_adds(out, " --cost ");
        escape_html(out, cost);
    }
    aq_buf_addf(out,
                "%s -o quant_manifest.json scores.json...\n"
                "aq-report --all . quant_manifest.json</pre>\n",
                m->aq ? "" : " --unchecked");
}

static void add_origin(struct aq_buf *out, const struct report *r)
{
    const struct manifest *m = r->m;
    const struct json *inputs = json_find(json_find(m->aq, "provenance"), "inputs");
    html_section(out, "How to make this again", NULL);
    add_command(out, m);
    aq_buf_adds(out, "<dl>\n");
    add_facts(out, "model", m->model);
    add_facts(out, "dataset", m->dataset);
    add_facts(out, "scheme", m->scheme);
    add_facts(out, "granularity", json_find(m->quantization, "quant_granularity"));
    add_facts(out, "selection", m->selection);
    add_facts(out, "identity", json_find(m->aq, "identity"));
    aq_buf_adds(out, "</dl>\n");
    if (inputs && json_type(inputs) == JSON_OBJECT && json_first(inputs)) {
        aq_buf_adds(out, "<p class=\"soft\">SHA-256 of the inputs:</p>\n<dl>\n");
        add_facts(out, NULL, inputs);
        aq_buf_adds(out, "</dl>\n");
    }
    html_section_end(out);
}

void report_html(struct aq_buf *out, const struct report *r, const struct curve *c)
{
    char *title = xasprintf("Layer sensitivity: %s", r->title);
    html_begin(out, title);
    free(title);
    add_head(out, r);
    add_cards(out, r);
    add_meaning(out, r);
    add_figures(out, r, c);
    add_budgets(out, c);
    add_rules(out, r->m->selection);
    add_table(out, r);
    add_origin(out, r);
    html_end(out);
}
