/* per-layer-sensitivity.md: fixed to the byte but for the prose of the explanation. */
#include "base/fmt.h"
#include "base/utf8.h"
#include "report/calibrated.h"
#include "report/escape.h"
#include "report/experts.h"
#include "report/position.h"
#include "report/report.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add_title(struct aq_buf *out, const struct report *r)
{
    struct aq_buf line = AQ_BUF_INIT;
    aq_buf_adds(&line, "AutoQuant Layer Sensitivity (");
    escape_cell(&line, r->title);
    aq_buf_addc(&line, ')');
    aq_buf_addf(out, "\n%s\n", aq_buf_str(&line));
    for (size_t at = 0; at < line.len;) { /* one mark a character, not a byte */
        uint32_t c;
        int n = aq_utf8_decode((const unsigned char *)line.data + at, line.len - at, &c);
        aq_buf_addc(out, '=');
        at += n > 0 ? (size_t)n : 1;
    }
    aq_buf_release(&line);
    aq_buf_adds(out, "\n\n\n**Scheme:** `");
    escape_code(out, r->title);
    aq_buf_adds(out, "`\n\n**Model:** `");
    escape_code(out, r->m->model_id ? r->m->model_id : "unknown");
    aq_buf_adds(out, "`\n");
}

/* A scalar as text; anything else is left out. */
static bool scalar_text(const struct json *v, struct aq_buf *text)
{
    int64_t n;
    char number[AQ_FMT_MAX];
    if (!v || json_type(v) == JSON_NULL || json_type(v) == JSON_ARRAY ||
        json_type(v) == JSON_OBJECT)
        return false;
    if (json_type(v) == JSON_STRING)
        escape_code(text, json_string(v));
    else if (json_type(v) == JSON_BOOL)
        aq_buf_adds(text, json_bool(v) ? "True" : "False");
    else if (json_int(v, &n))
        aq_buf_addf(text, "%" PRId64, n);
    else
        aq_buf_adds(text, aq_fmt_double(json_number(v), number));
    return true;
}

static void add_bullet(struct aq_buf *out, const char *name, const struct json *v)
{
    struct aq_buf text = AQ_BUF_INIT;
    if (scalar_text(v, &text))
        aq_buf_addf(out, "- **%s:** `%s`\n", name, aq_buf_str(&text));
    aq_buf_release(&text);
}

static void add_dataset(struct aq_buf *out, const struct json *d)
{
    struct aq_buf used = AQ_BUF_INIT, most = AQ_BUF_INIT;
    aq_buf_adds(out, "## Dataset\n\n\n");
    add_bullet(out, "Name", json_get(d, "name"));
    add_bullet(out, "Size", json_get(d, "size"));
    add_bullet(out, "Captions path", json_get(d, "captions_path"));
    add_bullet(out, "Root", json_get(d, "root"));
    bool have_used = scalar_text(json_get(d, "num_calib_samples"), &used);
    bool have_most = scalar_text(json_get(d, "max_calib_samples"), &most);
    if (have_used || have_most)
        aq_buf_addf(out, "- **Calibration samples:** `%s` / `%s` (used / max)\n",
                    have_used ? aq_buf_str(&used) : "unknown",
                    have_most ? aq_buf_str(&most) : "unknown");
    add_bullet(out, "Calibration seq len", json_get(d, "calib_seq_len"));
    add_bullet(out, "Batch size", json_get(d, "batch_size"));
    add_bullet(out, "Calibration batches", json_get(d, "num_calib_batches"));
    aq_buf_release(&used);
    aq_buf_release(&most);
}

static void add_code_bullet(struct aq_buf *out, const char *name, const char *text)
{
    if (!text)
        return;
    aq_buf_addf(out, "- **%s:** `", name);
    escape_code(out, text);
    aq_buf_adds(out, "`\n");
}

static void add_format(struct aq_buf *out, const struct json *q)
{
    const struct json *granularity = json_find(q, "quant_granularity");
    add_code_bullet(out, "Base format", json_find_string(q, "base_format_name"));
    const char *w = json_find_string(q, "weight"), *a = json_find_string(q, "activation");
    if (w && a) {
        aq_buf_adds(out, "- **Dtypes (W / A):** `");
        escape_code(out, w);
        aq_buf_adds(out, "` / `");
        escape_code(out, a);
        aq_buf_adds(out, "`\n");
    }
    add_code_bullet(out, "Granularity", json_find_string(granularity, "name"));
    const struct json *overrides = json_find(granularity, "quant_cfg_overrides");
    struct aq_buf text = AQ_BUF_INIT;
    if (overrides && json_write(&text, overrides, JSON_COMPACT | JSON_SORT_KEYS, NULL) == 0)
        add_code_bullet(out, "Overrides", aq_buf_str(&text));
    aq_buf_release(&text);
}

/* One cell, or one list for each candidate of a selection over several cells. */
static void add_quantization(struct aq_buf *out, const struct json *q)
{
    aq_buf_adds(out, "## Quantization\n\n\n");
    const struct json *candidates = json_get(q, "candidates");
    if (!candidates || json_type(candidates) != JSON_OBJECT) {
        add_format(out, q);
        return;
    }
    for (const struct json *c = json_first(candidates); c; c = json_next(c)) {
        if (json_type(c) != JSON_OBJECT)
            continue;
        add_code_bullet(out, "Candidate", json_key(c));
        add_format(out, c);
    }
}

static void add_search(struct aq_buf *out, const struct manifest *m)
{
    aq_buf_adds(out, "\n**Effective bits (from search):** `");
    if (isnan(m->effective_bits))
        aq_buf_adds(out, "None");
    else
        aq_buf_addf(out, "%.4f", m->effective_bits);
    aq_buf_adds(out, "`\n\n**Total AutoQuant score:** `");
    if (isnan(m->score))
        aq_buf_adds(out, "None");
    else
        aq_buf_addf(out, "%.6e", m->score);
    aq_buf_addf(out, "`\n\n**Constraint satisfied:** `%s`\n", m->satisfied ? "True" : "False");
}

/* The recipe says how many bits a group gets; without one each candidate's bits are listed. */
static void add_explanation(struct aq_buf *out, bool recipe)
{
    aq_buf_adds(out, "## Per-layer sensitivity table\n\n\n"
                     "- **Layer**: The first module of a group that must share one format (q, k "
                     "and v together; gate and up together).\n");
    aq_buf_adds(out, recipe ? "- **Num Bits**: Bits per weight that the recipe gives the group, as "
                              "the cost rule counts them; 16.0 is not quantized.\n"
                            : "- **Num Bits**: Bits per weight of each candidate format, as the "
                              "cost rule counts them. This manifest has no recipe: these are not "
                              "the bits that a layer gets.\n");
    aq_buf_adds(out, "- **Sensitivity**: Sum over tokens and outputs of (gradient x output change) "
                     "squared when this group alone takes a candidate format, listed by rising "
                     "bits. Compare it within one table only, by rank and by share; it is not a "
                     "loss. Per token, about half of it is the KL divergence in nats.\n");
    aq_buf_adds(out, recipe ? "- **Size Cost**: Weights of the group times the bits of the recipe, "
                              "in units of 16-bit weights.\n"
                            : "- **Size Cost**: Weights of the group times bits, in units of "
                              "16-bit weights.\n");
    aq_buf_adds(out,
                "\nNote: Handles in the manifest end in `.quant_recipe`; the table leaves that "
                "ending out. A group for which no format was considered is listed as "
                "unquantized, with 16 bits and a sensitivity of zero.\n\n");
}

/* Nothing where the manifest does not say. */
static void add_positions(struct aq_buf *out, const struct report *r)
{
    bool warning, any = false;
    char *padding = position_padding(r, &warning);
    if (padding)
        aq_buf_addf(out, "%s: %s\n\n", warning ? "Warning" : "Note", padding);
    free(padding);
    for (size_t i = 0; i < r->count; i++) {
        const struct report_row *row = r->by_sensitivity[i];
        if (!position_is_sink(r, row))
            continue;
        aq_buf_addf(out, "%s`", any ? ", " : position_sinks_before);
        escape_code(out, row->group->layer);
        aq_buf_addc(out, '`');
        any = true;
    }
    if (any)
        aq_buf_addf(out, "%s\n\n", position_sinks_after);
}

static void add_position_table(struct aq_buf *out, const struct report *r)
{
    if (!position_known(r))
        return;
    aq_buf_addf(out,
                "\n## First position\n\n\n"
                "- **Share**: Part of the sensitivity that comes from %s of each sample.\n"
                "- **Range Ratio**: Largest input at the first position of a text over the largest "
                "at all others.\n\n"
                "|Layer|Share|Range Ratio|\n| :--- | :--- | :--- |\n",
                position_is_pad(r) ? "the pad row" : "the first position");
    for (size_t i = 0; i < r->count; i++) {
        const struct report_row *row = r->by_sensitivity[i];
        double share = position_share(row), ratio = position_ratio(row);
        aq_buf_addc(out, '|');
        escape_cell(out, row->group->layer);
        aq_buf_addc(out, '|');
        if (!isnan(share))
            aq_buf_addf(out, "%.1f %%", 100 * share);
        aq_buf_addc(out, '|');
        if (!isnan(ratio))
            aq_buf_addf(out, "%.3g", ratio);
        aq_buf_adds(out, "|\n");
    }
}

/* The divergence that aq-select predicted for the recipe. */
static void add_prediction(struct aq_buf *out, const struct manifest *m)
{
    const struct json *p = json_find(m->selection, "predicted_kl");
    double nats = json_find_number(p, "nats"), low = json_find_number(p, "low");
    double high = json_find_number(p, "high");
    if (!isnan(nats))
        aq_buf_addf(out, "\n**Predicted KL (nats per token):** `%.3e` (%.3e to %.3e)\n", nats, low,
                    high);
}

static const char table_head[] = "|Layer|Num Bits|Sensitivity|Size Cost|\n"
                                 "| :--- | :--- | :--- | :--- |\n";

/* Nothing at all in the usual case that every score depends on bits. */
static void add_flat(struct aq_buf *out, const struct report *r)
{
    bool any = false;
    for (size_t i = 0; i < r->count; i++) {
        const struct report_row *row = r->by_sensitivity[i];
        const char *flat = report_row_flat(row);
        if (!flat)
            continue;
        aq_buf_adds(out, any ? ", `"
                             : "Note: Groups whose score does not depend on the bits of the "
                               "operand in parentheses, or is zero: `");
        escape_code(out, row->group->layer);
        aq_buf_addf(out, "` (%s)", flat);
        any = true;
    }
    if (any)
        aq_buf_adds(out, ".\n\n");
}

static void add_bits(struct aq_buf *out, double bits)
{
    if (!isnan(bits))
        aq_buf_addf(out, "%.1f", bits);
}

static void add_row(struct aq_buf *out, const struct report_row *row)
{
    const struct manifest_option *chosen = report_row_chosen(row);
    const struct manifest_option **sized = chosen ? &chosen : row->counted;
    size_t count = chosen ? 1 : row->count;
    aq_buf_addc(out, '|');
    escape_cell(out, row->group->layer);
    aq_buf_addc(out, '|');
    for (size_t i = 0; i < count; i++) {
        if (i)
            aq_buf_adds(out, ", ");
        add_bits(out, sized[i]->bits);
    }
    aq_buf_addc(out, '|');
    for (size_t i = 0; i < row->count; i++)
        aq_buf_addf(out, "%s%.3e", i ? ", " : "", row->counted[i]->score);
    aq_buf_addc(out, '|');
    for (size_t i = 0; i < count; i++)
        aq_buf_addf(out, "%s%.3e", i ? ", " : "", sized[i]->cost);
    aq_buf_adds(out, "|\n");
}

void report_markdown(struct aq_buf *out, const struct report *r)
{
    const struct manifest *m = r->m;
    add_title(out, r);
    if (m->dataset)
        add_dataset(out, m->dataset);
    if (m->quantization)
        add_quantization(out, m->quantization);
    add_search(out, m);
    add_prediction(out, m);
    add_explanation(out, report_has_recipe(r));
    add_flat(out, r);
    add_positions(out, r);
    aq_buf_adds(out, table_head);
    for (size_t i = 0; i < r->count; i++)
        add_row(out, r->by_sensitivity[i]);
    add_position_table(out, r);
    experts_markdown(out, r);
    calibrated_markdown(out, r);
}
