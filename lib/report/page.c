/* report.html: what the number means first, then pictures, then every number. */
#include "base/fmt.h"
#include "base/mem.h"
#include "report/experts.h"
#include "report/answer.h"
#include "report/calibrated.h"
#include "report/cell.h"
#include "report/escape.h"
#include "report/html.h"
#include "report/position.h"
#include "report/serving.h"
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
    aq_buf_adds(out, "<header>\n<h1>Layer sensitivity: ");
    escape_html(out, r->title);
    aq_buf_adds(out, "</h1>\n<p class=\"lead\">Model ");
    html_text(out, "code", NULL, cell_show(r->cell.model));
    if (data) {
        aq_buf_adds(out, ", data ");
        html_text(out, "code", NULL, data);
        aq_buf_adds(out, " (");
        escape_html(out, cell_show(r->cell.size));
        aq_buf_addc(out, ')');
    }
    if (!isnan(used))
        aq_buf_addf(out, ", %.0f samples", used);
    aq_buf_adds(out, "</p>\n</header>\n");
}

/* One bar: how many weights take which format. */
static void add_shares(struct aq_buf *out, const struct report *r, const struct answer *a,
                       const size_t *hatches)
{
    enum { WIDTH = 932, HEIGHT = 26 };
    double total = a->before / 2, x = 0;
    if (total > 0 && isfinite(total)) {
        aq_buf_addf(out,
                    "<svg class=\"aq shares\" viewBox=\"0 0 %d %d\" preserveAspectRatio=\"none\" "
                    "aria-hidden=\"true\">\n",
                    WIDTH, HEIGHT);
        for (size_t i = 0; i < a->count; i++) {
            double w = WIDTH * a->formats[i].weights / total;
            const struct manifest_option *o = a->formats[i].option;
            char *name = report_candidate(r, o);
            char *title = xasprintf("%.200s: %zu groups, %.1f %% of the weights", name,
                                    a->formats[i].groups, 100 * a->formats[i].weights / total);
            svg_hatched(out, x, 0, fmax(w - 2, 0.5), HEIGHT,
                        o->none ? "zero" : svg_bits_class(o->bits), hatches[i], title);
            free(name);
            free(title);
            x += w;
        }
        aq_buf_adds(out, "</svg>\n");
    }
}

static void add_format_row(struct aq_buf *out, const struct report *r, const struct answer *a,
                           size_t i, size_t hatch)
{
    const struct answer_format *f = &a->formats[i];
    char *words = f->option->none ? xstrdup("not quantized") : report_candidate_words(r, f->option);
    char *name = f->option->none ? xstrdup("NONE") : report_candidate(r, f->option);
    aq_buf_adds(
        out, "<tr><td><svg class=\"aq swatch\" width=\"14\" height=\"14\" aria-hidden=\"true\">");
    svg_hatched(out, 0, 0, 14, 14, f->option->none ? "zero" : svg_bits_class(f->option->bits),
                hatch, NULL);
    aq_buf_adds(out, "</svg> ");
    escape_html(out, words);
    aq_buf_adds(out, "</td>");
    html_name_cell(out, "more", name);
    html_number_cell(out, NULL, f->option->bits, svg_round_number(f->option->bits));
    html_fixed_cell(out, NULL, (double)f->groups, 0, "");
    html_fixed_cell(out, NULL, 200 * f->weights / a->before, 1, " %");
    html_number_cell(out, NULL, f->bytes, svg_bytes(f->bytes));
    aq_buf_adds(out, "</tr>\n");
    free(words);
    free(name);
}

static void add_formats(struct aq_buf *out, const struct report *r, const struct answer *a)
{
    static const struct html_column columns[] = {{NULL, "format"},        {"more", "name"},
                                                 {"n", "bits"},           {"n", "groups"},
                                                 {"n", "of the weights"}, {"n", "size"}};
    const struct manifest_option **list = xcalloc(a->count + 1, sizeof *list);
    size_t *hatches = xcalloc(a->count + 1, sizeof *hatches);
    for (size_t i = 0; i < a->count; i++)
        list[i] = a->formats[i].option;
    chart_hatches(list, a->count, hatches);
    add_shares(out, r, a, hatches);
    html_table(out, "Formats of the recipe", false, columns, AQ_COUNT(columns));
    for (size_t i = 0; i < a->count; i++)
        add_format_row(out, r, a, i, hatches[i]);
    html_table_end(out);
    free(list);
    free(hatches);
}

static void add_copies(struct aq_buf *out, const struct report *r, const struct curve *c)
{
    char *command = answer_command(r), *menu = answer_menu(r, c);
    aq_buf_adds(out, "<div class=\"copies\">\n");
    if (command)
        html_copy(out, "make command", command);
    if (menu)
        html_copy(out, "recipe (menu for aq-select)", menu);
    for (int i = 0; i < REPORT_SERVERS; i++) {
        char *text = answer_export(r, engines_names[i].name),
             *label = xasprintf("export for %s", engines_names[i].title);
        if (text)
            html_copy(out, label, text);
        free(text);
        free(label);
    }
    aq_buf_adds(out, "</div>\n");
    free(command);
    free(menu);
}

static void add_divergence(struct aq_buf *out, const struct answer *a)
{
    aq_buf_adds(out, "<div class=\"wide\">\n");
    answer_divergence_draw(out, a, (struct chart_style){CHART_WIDE, false});
    aq_buf_adds(out, "</div>\n<div class=\"narrow\">\n");
    answer_divergence_draw(out, a, (struct chart_style){CHART_NARROW, false});
    aq_buf_adds(out, "</div>\n");
}

static void add_answer(struct aq_buf *out, const struct report *r, const struct curve *c,
                       const struct answer *a)
{
    char *sentence = answer_sentence(a, r), *kl = answer_divergence(a), *worst = answer_worst(r);
    char *sharing = answer_sharing(a);
    bool warning;
    char *padding = position_padding(r, &warning);
    double budget = json_find_number(r->m->selection, "budget");
    aq_buf_adds(out, "<section id=\"answer\" aria-label=\"The answer\">\n");
    html_text(out, "p", "answer", sentence);
    if (*kl)
        html_text(out, "p", "kl", kl);
    add_divergence(out, a);
    if (*sharing)
        html_text(out, "p", "soft", sharing);
    html_text(out, "p", NULL, worst);
    if (padding)
        html_text(out, "p", warning ? "warn" : "soft", padding);
    if (a->recomputed)
        html_text(out, "p", "soft",
                  "The manifest has no recipe: this is the best one within its effective bits, "
                  "computed again from its scores.");
    if (!r->m->satisfied && !isnan(budget))
        paragraph(out, "warn",
                  "The budget of %.4g bits cannot be met: this is the smallest recipe there is.",
                  budget);
    if (a->known) {
        add_formats(out, r, a);
        add_copies(out, r, c);
    }
    html_section_end(out);
    free(sentence);
    free(kl);
    free(sharing);
    free(worst);
    free(padding);
}

static double error_of(const struct report_row *row)
{
    return row->worst ? row->worst->error : NAN;
}

/* How many neighbours among the most sensitive the samples tell apart by two standard errors. */
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
                  "real: treat neighbours in the ranking as equal, and trust factors of two and "
                  "more.");
    else
        paragraph(out, NULL,
                  "How certain is the order? Two layers differ when their scores are more than two "
                  "standard errors of the difference apart. Among the %zu most sensitive, %zu of "
                  "%zu neighbours do; the others may swap places with other samples.",
                  pairs + 1, apart, pairs);
}

static void add_meaning(struct aq_buf *out, const struct report *r)
{
    static const char squares[] =
        "The sensitivity of a layer estimates how much the loss reacts when this layer alone is "
        "quantized: the sum, over tokens and outputs, of (gradient × change of the output)². "
        "Scores of layers add, and per token about half of their sum is the divergence that a "
        "recipe costs. It is not a perplexity.";
    static const char divergence[] =
        "The sensitivity of a layer is the Kullback-Leibler divergence, summed over positions, "
        "between the predictions of the full model and of the model with this layer alone "
        "quantized. Compare layers within this page; quantizing several at once need not add up.";
    const char *method = json_find_string(r->m->scheme, "auto_quantize_method");
    aq_buf_adds(out, "<section class=\"note\" aria-label=\"How to read the numbers\">\n");
    html_text(out, "p", NULL, method && strcmp(method, "kl_div") == 0 ? divergence : squares);
    add_confidence(out, r);
    html_text(out, "p", NULL,
              "Compare totals only between reports with the same data, normalization and method.");
    html_section_end(out);
}

/* ---- pictures ---- */

static void add_figure(struct aq_buf *out, enum chart_kind kind, const struct page *p,
                       const char *heading, const char *caption)
{
    html_section(out, chart_names[kind], heading, NULL);
    aq_buf_adds(out, "<figure>\n");
    html_text(out, "figcaption", NULL, caption);
    aq_buf_adds(out, "\n<div class=\"wide\">\n");
    chart_draw(out, kind, p->report, p->curve, p->measured,
               (struct chart_style){CHART_WIDE, false});
    aq_buf_adds(out, "</div>\n<div class=\"narrow\">\n");
    chart_draw(out, kind, p->report, p->curve, p->measured,
               (struct chart_style){CHART_NARROW, false});
    aq_buf_adds(out, "</div>\n</figure>\n");
    html_section_end(out);
}

static void add_frontier(struct aq_buf *out, const struct page *p)
{
    const bool gap = p->curve->gap > 0, nats = p->curve->predicted;
    char *caption = xasprintf(
        "%s%s Circles: one format for all layers. Dashed, upright: the budget that was "
        "asked for.%s%s",
        nats ? "The predicted divergence of the recipe with the best total score within "
               "each budget, in nats per token"
             : "The best total score within each budget",
        gap ? "; between its corners the curve is proven only to within the gap below."
            : ", exact.",
        nats ? " Dashed, along the curve: the interval of the prediction." : "",
        nats && p->measured->count ? " Squares: what aq-eval measured, with two standard errors."
                                   : "");
    add_figure(out, CHART_FRONTIER, p, nats ? "Divergence against size" : "Score against size",
               caption);
    free(caption);
}

static void add_figures(struct aq_buf *out, const struct page *p)
{
    const struct report *r = p->report;
    const struct curve *c = p->curve;
    bool outside = false;
    for (size_t i = 0; i < r->count; i++)
        outside = outside || (r->rows[i].searched && r->rows[i].block < 0);
    add_figure(out, CHART_HEATMAP, p, "Where the model is sensitive",
               outside ? "Each square is one group of layers; colour is the score on a log scale. "
                         "Groups outside the blocks are in the table below."
                       : "Each square is one group of layers; colour is the score on a log scale.");
    add_figure(out, CHART_BARS, p, "The most sensitive layers",
               "Linear scale: the length of a bar is its share of the total. Whiskers: one "
               "standard error. Right: cumulative share.");
    add_figure(out, CHART_DEPTH, p, "Sensitivity over depth",
               "One line for each kind of layer. Higher is more sensitive.");
    add_frontier(out, p);
    if (c->gap > 0)
        paragraph(out, "soft", "Proven gap: %s.", svg_number(c->gap));
    add_figure(out, CHART_STRIP, p, "Which layers get more bits first",
               "The best recipe at several budgets (average bits per weight, left); one square per "
               "block. Darker is fewer bits on a light page, lighter on a dark one.");
}

/* ---- numbers ---- */

static void add_budgets(struct aq_buf *out, const struct curve *c)
{
    static const struct html_column columns[] = {
        {"n", "budget, bits"}, {"n", "reached"}, {"n", "total score"}, {"n", "predicted KL"}};
    if (!c->known || c->recipe_count < 2)
        return;
    html_section(out, "budgets", "Budgets in numbers", NULL);
    html_table(out, "Budgets in numbers", false, columns, AQ_COUNT(columns) - !c->predicted);
    for (size_t i = 0; i < c->recipe_count; i++) {
        const struct curve_recipe *recipe = &c->recipes[i];
        aq_buf_adds(out, "<tr>");
        html_number_cell(out, NULL, recipe->budget, svg_round_number(recipe->budget));
        html_fixed_cell(out, NULL, recipe->at.bits, 4, "");
        html_number_cell(out, NULL, recipe->at.score, svg_number(recipe->at.score));
        if (c->predicted)
            html_number_cell(out, NULL, recipe->at.kl.nats, svg_number(recipe->at.kl.nats));
        aq_buf_adds(out, "</tr>\n");
    }
    html_table_end(out);
    html_section_end(out);
}

static void add_option_cell(struct aq_buf *out, const struct report *r,
                            const struct manifest_option *o)
{
    char *name = !o ? xstrdup("") : o->none ? xstrdup("NONE") : report_candidate(r, o);
    html_name_cell(out, "more", name);
    free(name);
}

/* Columns that are not in every table. */
struct optional {
    bool several;   /* there is more than one candidate, so the worst one is worth a column */
    bool positions; /* the manifest says what comes from first positions */
};

static void add_row(struct aq_buf *out, const struct report *r, const struct curve *c, size_t i,
                    double cumulative, struct optional also)
{
    const struct report_row *row = r->by_sensitivity[i];
    const struct manifest_option *chosen =
        c->recipe ? &row->group->options[c->recipe[row - r->rows]] : NULL;
    double total = r->total > 0 ? r->total : INFINITY, bits = chosen ? chosen->bits : NAN;
    aq_buf_adds(out, "<tr>");
    html_fixed_cell(out, "more", (double)row->rank, 0, "");
    html_name_cell(out, NULL, row->shown);
    html_number_cell(out, NULL, row->sensitivity, svg_number(row->sensitivity));
    html_number_cell(out, "more", error_of(row), svg_number(error_of(row)));
    html_fixed_cell(out, NULL, 100 * (row->sensitivity / total), 2, " %");
    html_fixed_cell(out, "more", 100 * (cumulative / total), 1, " %");
    if (also.several)
        add_option_cell(out, r, row->worst);
    html_number_cell(out, NULL, bits, svg_round_number(bits));
    add_option_cell(out, r, chosen);
    if (also.positions) {
        html_fixed_cell(out, "more", 100 * position_share(row), 1, " %");
        html_number_cell(out, "more", position_ratio(row), svg_number(position_ratio(row)));
    }
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
        html_text(out, "code", NULL, r->by_sensitivity[i]->shown);
        aq_buf_addf(out, " (%s)", flat);
        any = true;
    }
    if (any)
        aq_buf_adds(out, ".</p>\n");
}

/* Nothing in the usual case of none. */
static void add_sinks(struct aq_buf *out, const struct report *r)
{
    bool any = false;
    for (size_t i = 0; i < r->count; i++) {
        if (!position_is_sink(r, r->by_sensitivity[i]))
            continue;
        aq_buf_addf(out, "%s%s", any ? ", " : "<p>", any ? "" : position_sinks_before);
        html_text(out, "code", NULL, r->by_sensitivity[i]->shown);
        any = true;
    }
    if (any)
        aq_buf_addf(out, "%s</p>\n", position_sinks_after);
}

static void add_table(struct aq_buf *out, const struct report *r, const struct curve *c)
{
    const struct manifest_option *candidates[2];
    const struct optional also = {chart_candidates(r, candidates, AQ_COUNT(candidates)) > 1,
                                  position_known(r)};
    const char *bits = c->recomputed ? "bits (recomputed)" : "bits";
    const struct html_column columns[] = {
        {"n more", "rank"},
        {NULL, "layer"},
        {"n", "sensitivity"},
        {"n more", "± s.e."},
        {"n", "share"},
        {"n more", "cumulative"},
        {"more", "most sensitive to"},
        {"n", bits},
        {"more", "format"},
        {"n more", position_is_pad(r) ? "pad row" : "first position"},
        {"n more", "range ratio"}};
    struct html_column shown[AQ_COUNT(columns)];
    size_t n = 0;
    for (size_t i = 0; i < AQ_COUNT(columns); i++)
        if ((i != 6 || also.several) && (i < 9 || also.positions))
            shown[n++] = columns[i];
    html_section(out, "layers", "Every layer",
                 "Click a heading to sort. Each row is a group of layers that share one format: q, "
                 "k and v; gate and up. Bits and format are those of the recipe; the sensitivity "
                 "is what the group would add if it took the candidate format.");
    if (also.positions)
        paragraph(out, "soft more",
                  "%s: the share of the sensitivity that comes from it. Range ratio: the largest "
                  "input at the first position of a text over the largest elsewhere.",
                  position_is_pad(r) ? "Pad row" : "First position");
    add_flat(out, r);
    add_sinks(out, r);
    html_table(out, "Every layer", true, shown, n);
    double sum = 0;
    for (size_t i = 0; i < r->count; i++) {
        sum += r->by_sensitivity[i]->sensitivity;
        add_row(out, r, c, i, sum, also);
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
    html_section(out, "rules", "What pins and bans cost", NULL);
    html_table(out, "What pins and bans cost", false, columns, AQ_COUNT(columns));
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

static void add_origin(struct aq_buf *out, const struct report *r)
{
    const struct manifest *m = r->m;
    const struct json *inputs = json_find(json_find(m->aq, "provenance"), "inputs");
    char *command = answer_command(r);
    html_section(out, "reproduce", "Reproduce", NULL);
    if (command)
        html_copy(out, "make command", command);
    free(command);
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

/* Is there a section with this name? */
static bool has_section(const struct page *p, const char *id)
{
    if (strcmp(id, "budgets") == 0)
        return p->curve->known && p->curve->recipe_count >= 2;
    if (strcmp(id, "measured") == 0)
        return p->measured->count > 0;
    if (strcmp(id, "experts") == 0)
        return experts_known(p->report);
    if (strcmp(id, "calibrated") == 0)
        return calibrated_known(p->report);
    return strcmp(id, "engines") != 0 || serving_known(p->serving);
}

static void add_nav(struct aq_buf *out, const struct page *p)
{
    static const char *const links[][2] = {
        {"measured", "Measured"},  {"heatmap", "Heat map"},       {"bars", "Most sensitive"},
        {"depth", "Depth"},        {"frontier", "Cost and size"}, {"strip", "Recipes"},
        {"budgets", "Budgets"},    {"engines", "Engines"},        {"calibrated", "Calibrated"},
        {"layers", "Every layer"}, {"experts", "Experts"},        {"reproduce", "Reproduce"}};
    aq_buf_adds(out, "<nav aria-label=\"On this page\">");
    for (size_t i = 0; i < AQ_COUNT(links); i++)
        if (has_section(p, links[i][0]))
            aq_buf_addf(out, "<a href=\"#%s\">%s</a> ", links[i][0], links[i][1]);
    aq_buf_adds(out, "</nav>\n");
}

void report_html(struct aq_buf *out, const struct page *p)
{
    const struct report *r = p->report;
    const struct curve *c = p->curve;
    char *title = xasprintf("Layer sensitivity: %s", r->title);
    html_begin(out, title);
    free(title);
    add_head(out, r);
    add_answer(out, r, c, p->answer);
    add_nav(out, p);
    add_meaning(out, r);
    measured_html(out, p->measured);
    add_figures(out, p);
    add_budgets(out, c);
    add_rules(out, r->m->selection);
    serving_html(out, r, c, p->serving);
    calibrated_html(out, r);
    add_table(out, r, c);
    experts_html(out, p->report);
    add_origin(out, r);
    html_end(out);
}
