/* report.html: what the number means first, then pictures, then every number. */
#include "base/fmt.h"
#include "base/mem.h"
#include "report/escape.h"
#include "report/html.h"
#include "report/svg.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct json *member(const struct json *object, const char *key)
{
    return object && json_type(object) == JSON_OBJECT ? json_get(object, key) : NULL;
}

static const char *text_of(const struct json *v)
{
    return v && json_type(v) == JSON_STRING ? json_string(v) : NULL;
}

static double number_of(const struct json *v)
{
    bool number = v && (json_type(v) == JSON_FLOAT || json_type(v) == JSON_INT);
    return number ? json_number(v) : NAN;
}

/* Standard error behind the sensitivity of a row; NAN: unknown. */
static const struct manifest_option *worst_of(const struct report_row *row)
{
    for (size_t i = 0; i < row->count; i++)
        if (row->counted[i]->score == row->sensitivity)
            return row->counted[i];
    return NULL;
}

static double error_of(const struct report_row *row)
{
    const struct manifest_option *o = worst_of(row);
    return o ? o->error : NAN;
}

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
    const struct manifest *m = r->m;
    aq_buf_adds(out, "<header>\n<h1>Layer sensitivity: ");
    escape_html(out, r->title);
    aq_buf_adds(out, "</h1>\n<p class=\"lead\">Model ");
    html_text(out, "code", NULL, m->model_id ? m->model_id : "unknown");
    const char *name = text_of(member(m->dataset, "name")),
               *size = text_of(member(m->dataset, "size"));
    double used = number_of(member(m->dataset, "num_calib_samples"));
    if (name) {
        aq_buf_adds(out, ", data ");
        html_text(out, "code", NULL, name);
        if (size) {
            aq_buf_adds(out, " (");
            escape_html(out, size);
            aq_buf_addc(out, ')');
        }
    }
    if (!isnan(used))
        aq_buf_addf(out, ", %.0f samples", used);
    aq_buf_adds(out, "</p>\n</header>\n");
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
    double budget = number_of(member(m->scheme, "auto_quantize_bits"));
    double storage = number_of(member(m->selection, "storage_bits"));
    char bits[64], asked[80] = "";
    (void)snprintf(bits, sizeof bits, isnan(m->effective_bits) ? "unknown" : "%.4g",
                   m->effective_bits);
    if (!isnan(budget))
        (void)snprintf(asked, sizeof asked, " of a budget of %.4g", budget);
    aq_buf_adds(out, "<div class=\"cards\">\n");
    add_card(out, bits, "effective bits of a weight%s%s", asked,
             m->satisfied ? "" : ": out of reach");
    if (!isnan(storage) && fabs(storage - m->effective_bits) > 5e-4)
        add_card(out, svg_number(storage), "stored bits of a weight, block scales included");
    if (!isnan(m->score))
        add_card(out, svg_number(m->score), "total score of the selection");
    size_t searched = 0;
    for (size_t i = 0; i < r->count; i++)
        searched += r->rows[i].count > 0 && !r->rows[i].counted[0]->none;
    char groups[32];
    (void)snprintf(groups, sizeof groups, "%zu", searched);
    add_card(out, groups, "groups of layers, each with one format%s",
             searched < r->count ? "; the others stay as they are" : "");
    if (r->total > 0) {
        char share[32];
        (void)snprintf(share, sizeof share, "%.0f %%", 100 * share_of_worst(r, 5));
        add_card(out, share, "of all sensitivity in the worst five groups");
    }
    aq_buf_adds(out, "</div>\n");
}

/* Pairs of neighbours among the worst that the samples tell apart by two standard errors. */
static void add_confidence(struct aq_buf *out, const struct report *r)
{
    enum { WORST = 20 };
    size_t pairs = 0, apart = 0;
    for (size_t i = 0; i + 1 < r->count && i + 1 < WORST; i++) {
        double a = error_of(r->by_sensitivity[i]), b = error_of(r->by_sensitivity[i + 1]);
        if (!(a >= 0) || !(b >= 0) || !(r->by_sensitivity[i + 1]->sensitivity > 0))
            continue;
        pairs++;
        apart += r->by_sensitivity[i]->sensitivity - r->by_sensitivity[i + 1]->sensitivity >
                 2 * sqrt(a * a + b * b);
    }
    if (pairs == 0)
        paragraph(
            out, NULL,
            "This manifest has no standard errors, so it cannot say which differences are real: "
            "read neighbours in the ranking as equal, and trust factors of two and more.");
    else
        paragraph(
            out, NULL,
            "When a difference matters: these samples tell two layers apart when their scores "
            "differ by more than two standard errors of the difference. Among the %zu worst, %zu "
            "of %zu "
            "neighbours pass that test; the order of the others could change with other samples.",
            pairs + 1, apart, pairs);
}

static void add_meaning(struct aq_buf *out, const struct report *r)
{
    const char *method = text_of(member(r->m->scheme, "auto_quantize_method"));
    bool kl = method && strcmp(method, "kl_div") == 0;
    aq_buf_adds(out, "<section class=\"note\" aria-label=\"How to read the numbers\">\n");
    if (kl)
        paragraph(
            out, NULL,
            "The sensitivity of a layer is the Kullback-Leibler divergence, summed over positions, "
            "between the predictions of the full model and of the model with this layer alone "
            "quantized. Compare layers within this page; quantizing several at once need not add "
            "up.");
    else
        paragraph(out, NULL,
                  "The sensitivity of a layer is the sum, over tokens and outputs, of (gradient × "
                  "change of "
                  "the output)², when this layer alone is quantized. It is a sum of squares, not a "
                  "loss and "
                  "not a divergence in nats: rank and proportion mean something, the size by "
                  "itself does not. "
                  "A layer with twice the score is expected to do about twice the harm.");
    add_confidence(out, r);
    paragraph(
        out, NULL,
        "Scores of different layers are added when formats are chosen. Compare totals only between "
        "reports with the same data, normalization and method.");
    aq_buf_adds(out, "</section>\n");
}

/* ---- pictures ---- */

static void add_figure(struct aq_buf *out, enum chart_kind kind, const struct report *r,
                       const struct curve *c, const char *heading, const char *caption)
{
    aq_buf_adds(out, "<section>\n");
    html_text(out, "h2", NULL, heading);
    aq_buf_adds(out, "\n<figure>\n");
    html_text(out, "figcaption", NULL, caption);
    aq_buf_adds(out, "\n<div class=\"wide\">\n");
    chart_draw(out, kind, r, c, (struct chart_style){CHART_WIDE, false});
    aq_buf_adds(out, "</div>\n<div class=\"narrow\">\n");
    chart_draw(out, kind, r, c, (struct chart_style){CHART_NARROW, false});
    aq_buf_adds(out, "</div>\n</figure>\n</section>\n");
}

static void add_figures(struct aq_buf *out, const struct report *r, const struct curve *c)
{
    add_figure(out, CHART_HEATMAP, r, c, "Where the model is sensitive",
               "Each cell is one group of layers; colour is the score on a log scale.");
    add_figure(out, CHART_BARS, r, c, "The worst layers",
               "A linear scale, since proportion is what the score means. Whiskers are one "
               "standard error; "
               "on the right, how much of the total the layers down to this one carry.");
    add_figure(out, CHART_DEPTH, r, c, "Sensitivity over depth",
               "One line for each kind of layer, log scale.");
    add_figure(
        out, CHART_FRONTIER, r, c, "What any budget would give",
        c->gap > 0
            ? "The best total score for every budget; between its corners the curve is proven "
              "only to within the printed gap. Circles: one format for all layers."
            : "The best total score for every budget, exact. Circles: one format for all layers. "
              "The dashed line is the budget that was asked for.");
    if (c->gap > 0)
        paragraph(out, "soft", "Proven gap: %s.", svg_number(c->gap));
    add_figure(
        out, CHART_STRIP, r, c, "Which layers get more bits first",
        "The best recipe at several budgets (effective bits, left); blocks from left to right.");
}

/* ---- numbers ---- */

static void add_budgets(struct aq_buf *out, const struct curve *c)
{
    if (!c->known || c->recipe_count < 2)
        return;
    aq_buf_adds(out,
                "<section>\n<h2>Budgets in numbers</h2>\n<div class=\"scroll\"><table>\n<thead><tr>"
                "<th class=\"n\">budget, bits</th><th class=\"n\">reached</th><th "
                "class=\"n\">total score</th>"
                "</tr></thead>\n<tbody>\n");
    for (size_t i = 0; i < c->recipe_count; i++)
        aq_buf_addf(
            out,
            "<tr><td class=\"n\">%.4g</td><td class=\"n\">%.4f</td><td class=\"n\">%s</td></tr>\n",
            c->recipes[i].budget, c->recipes[i].at.bits, svg_number(c->recipes[i].at.score));
    aq_buf_adds(out, "</tbody>\n</table></div>\n</section>\n");
}

static void add_option_cell(struct aq_buf *out, const struct manifest_option *o)
{
    char *name = o ? chart_candidate_name(o) : xstrdup("");
    html_text(out, "td", "name more", name);
    free(name);
}

static void add_row(struct aq_buf *out, const struct report *r, size_t i, double cumulative)
{
    const struct report_row *row = r->by_sensitivity[i];
    const struct manifest_group *g = row->group;
    const struct manifest_option *worst = worst_of(row);
    const struct manifest_option *chosen = g->chosen >= 0 ? &g->options[g->chosen] : NULL;
    char text[64];
    aq_buf_addf(out, "<tr><td class=\"n\" data-v=\"%zu\">%zu</td>", i + 1, i + 1);
    html_text(out, "td", "name", row->short_name);
    html_number_cell(out, NULL, row->sensitivity, svg_number(row->sensitivity));
    double error = error_of(row);
    html_number_cell(out, "more", error, svg_number(error));
    double share = r->total > 0 ? row->sensitivity / r->total : 0;
    (void)snprintf(text, sizeof text, "%.2f %%", 100 * share);
    html_number_cell(out, NULL, share, text);
    (void)snprintf(text, sizeof text, "%.1f %%", 100 * (r->total > 0 ? cumulative / r->total : 0));
    html_number_cell(out, "more", cumulative, text);
    add_option_cell(out, worst);
    double bits = chosen ? chosen->bits : worst ? worst->bits : NAN;
    (void)snprintf(text, sizeof text, "%.4g", bits);
    html_number_cell(out, NULL, bits, text);
    if (chosen)
        add_option_cell(out, chosen);
    else
        aq_buf_adds(out, "<td class=\"more\"></td>");
    aq_buf_adds(out, "</tr>\n");
}

static void add_table(struct aq_buf *out, const struct report *r)
{
    aq_buf_adds(
        out,
        "<section>\n<h2>Every layer</h2>\n<p class=\"soft\">Headings sort. A group is named after "
        "its first "
        "module: q, k and v share one format, and so do gate and up.</p>\n<div class=\"scroll\">"
        "<table class=\"sortable\">\n<thead><tr><th class=\"n\">#</th><th>layer</th>"
        "<th class=\"n\">sensitivity</th><th class=\"n more\">± s.e.</th><th class=\"n\">share</th>"
        "<th class=\"n more\">sum</th><th class=\"more\">worst under</th><th class=\"n\">bits</th>"
        "<th class=\"more\">chosen</th></tr></thead>\n<tbody>\n");
    double sum = 0;
    for (size_t i = 0; i < r->count; i++) {
        sum += r->by_sensitivity[i]->sensitivity;
        add_row(out, r, i, sum);
    }
    aq_buf_adds(out, "</tbody>\n</table></div>\n</section>\n");
}

static void add_rules(struct aq_buf *out, const struct json *selection)
{
    const struct json *pins = member(selection, "pins");
    if (!pins || json_type(pins) != JSON_ARRAY || !json_first(pins))
        return;
    aq_buf_adds(out, "<section>\n<h2>What pins and bans cost</h2>\n<div "
                     "class=\"scroll\"><table>\n<thead><tr><th>rule</th>"
                     "<th>modules</th><th class=\"n\">added score</th></tr></thead>\n<tbody>\n");
    for (const struct json *p = json_first(pins); p; p = json_next(p)) {
        const char *rule = text_of(member(p, "rule")), *match = text_of(member(p, "match"));
        double cost = number_of(member(p, "score_cost"));
        aq_buf_adds(out, "<tr>");
        html_text(out, "td", NULL, rule ? rule : "");
        html_text(out, "td", "name", match ? match : "");
        html_number_cell(out, NULL, cost, svg_number(cost));
        aq_buf_adds(out, "</tr>\n");
    }
    aq_buf_adds(out, "</tbody>\n</table></div>\n</section>\n");
}

/* ---- how to repeat it ---- */

static void add_facts(struct aq_buf *out, const struct json *object)
{
    int64_t n;
    char number[AQ_FMT_MAX];
    if (!object || json_type(object) != JSON_OBJECT)
        return;
    for (const struct json *v = json_first(object); v; v = json_next(v)) {
        enum json_type t = json_type(v);
        if (t == JSON_NULL || t == JSON_ARRAY || t == JSON_OBJECT)
            continue;
        html_text(out, "dt", NULL, json_key(v));
        if (t == JSON_STRING)
            html_text(out, "dd", NULL, json_string(v));
        else if (t == JSON_BOOL)
            html_text(out, "dd", NULL, json_bool(v) ? "true" : "false");
        else if (json_int(v, &n))
            aq_buf_addf(out, "<dd>%" PRId64 "</dd>", n);
        else
            html_text(out, "dd", NULL, aq_fmt_double(json_number(v), number));
        aq_buf_addc(out, '\n');
    }
}

static void add_origin(struct aq_buf *out, const struct report *r)
{
    const struct manifest *m = r->m;
    const char *cost = text_of(member(m->selection, "cost"));
    double budget = number_of(member(m->scheme, "auto_quantize_bits"));
    aq_buf_adds(out, "<section>\n<h2>How to make this again</h2>\n<pre>aq-select");
    char number[AQ_FMT_MAX];
    if (!isnan(budget))
        aq_buf_addf(out, " --effective-bits %s", aq_fmt_double(budget, number));
    if (cost) {
        aq_buf_adds(out, " --cost ");
        escape_html(out, cost);
    }
    aq_buf_addf(out,
                "%s -o quant_manifest.json scores.json...\naq-report --all . "
                "quant_manifest.json</pre>\n<dl>\n",
                m->aq ? "" : " --unchecked");
    add_facts(out, m->scheme);
    add_facts(out, m->dataset);
    add_facts(out, member(m->quantization, "quant_granularity"));
    add_facts(out, m->selection);
    add_facts(out, member(m->aq, "identity"));
    aq_buf_adds(out, "</dl>\n");
    const struct json *inputs = member(member(m->aq, "provenance"), "inputs");
    if (inputs && json_type(inputs) == JSON_OBJECT && json_first(inputs)) {
        aq_buf_adds(out, "<p class=\"soft\">SHA-256 of the inputs:</p>\n<dl>\n");
        add_facts(out, inputs);
        aq_buf_adds(out, "</dl>\n");
    }
    aq_buf_adds(out, "</section>\n");
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
