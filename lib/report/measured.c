#include "report/measured.h"

#include "base/mem.h"
#include "base/msg.h"
#include "report/html.h"
#include "report/svg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- reading ---- */

static int read_text(struct measured_text *t, const struct jref *at, const char *name,
                     struct aq_err *err)
{
    struct jref kl;
    *t = (struct measured_text){.name = name};
    if (jref_get(at, "kl", JSON_OBJECT, &kl, err) < 0 || jref_double(&kl, "mean", &t->kl, err) < 0)
        return -1;
    t->samples = json_find_number(at->v, "samples");
    t->positions = json_find_number(at->v, "positions");
    t->error = json_find_number(kl.v, "se");
    t->p99 = json_find_number(kl.v, "p99");
    t->most = json_find_number(kl.v, "max");
    t->top1 = json_find_number(at->v, "top1");
    t->perplexity = json_find_number(at->v, "ppl");
    t->reference_perplexity = json_find_number(at->v, "ppl_reference");
    return 0;
}

static int read_texts(struct measured_result *r, const struct jref *root, struct aq_err *err)
{
    struct jref domains;
    if (!json_find(root->v, "domains"))
        return 0;
    if (jref_get(root, "domains", JSON_OBJECT, &domains, err) < 0)
        return -1;
    r->texts = xcalloc(json_size(domains.v) + 1, sizeof *r->texts);
    for (const struct json *d = json_first(domains.v); d; d = json_next(d)) {
        struct jref at = jref_child(&domains, d, 0);
        if (jref_is(&at, JSON_OBJECT, err) < 0 ||
            read_text(&r->texts[r->count++], &at, json_key(d), err) < 0)
            return -1;
    }
    return 0;
}

static int read_result(struct measured_result *r, const char *path, struct aq_err *err)
{
    *r = (struct measured_result){.root = json_read(path, err)};
    if (!r->root)
        return -1;
    struct jref root = jref_root(r->root, path), all;
    const char *schema = NULL;
    if (json_type(r->root) != JSON_OBJECT)
        return jref_fail(&root, err, "expected a result of aq-eval");
    if (jref_string(&root, "schema", &schema, err) < 0)
        return -1;
    if (strcmp(schema, "aq.eval/1") != 0)
        return jref_fail(&root, err, "expected a result of aq-eval (aq.eval/1), found '%s'",
                         aq_show(schema));
    const struct json *operand = json_find(r->root, "operand"),
                      *sharing = json_find(operand, "sharing");
    r->bits = json_find_number(operand, "bits");
    r->shared_groups = sharing ? json_find_number(sharing, "groups") : 0;
    r->shared_ratio = json_find_number(sharing, "mse_ratio");
    r->shared_widest = json_find_number(sharing, "widest");
    if (jref_get(&root, "all", JSON_OBJECT, &all, err) < 0 ||
        read_text(&r->all, &all, "all", err) < 0)
        return -1;
    return read_texts(r, &root, err);
}

/* The digests of the model and of the texts; not those of the recipe and of what it needs. */
static bool same_text(const struct measured_result *a, const struct measured_result *b)
{
    const struct json *x = json_find(json_find(a->root, "provenance"), "inputs");
    const struct json *y = json_find(json_find(b->root, "provenance"), "inputs");
    if (!x || !y || json_type(x) != JSON_OBJECT || json_type(y) != JSON_OBJECT)
        return false;
    size_t texts = 0;
    for (const struct json *v = json_first(x); v; v = json_next(v)) {
        bool text = strncmp(json_key(v), "tokens ", 7) == 0;
        const struct json *other = json_find(y, json_key(v));
        if (!text && strcmp(json_key(v), "reference") != 0)
            continue;
        if (!other || !json_equal(v, other))
            return false;
        texts += text;
    }
    return texts > 0 && a->count == b->count;
}

static void release_result(struct measured_result *r)
{
    free(r->texts);
    json_free(r->root);
    *r = (struct measured_result){0};
}

int measured_read(struct measured *m, const struct aq_names *paths, struct aq_err *err)
{
    *m = (struct measured){.items = xcalloc(paths->count + 1, sizeof *m->items)};
    for (size_t i = 0; i < paths->count; i++) {
        struct measured_result *r = &m->items[m->count++];
        if (read_result(r, paths->items[i], err) < 0)
            return -1;
        if (i > 0 && !same_text(&m->items[0], r)) {
            aq_warn("'%s' is left out: it is not of the model and text of '%s'",
                    aq_show(paths->items[i]), aq_show(paths->items[0]));
            release_result(r);
            m->count--;
        }
    }
    return 0;
}

void measured_release(struct measured *m)
{
    for (size_t i = 0; i < m->count; i++)
        release_result(&m->items[i]);
    free(m->items);
    *m = (struct measured){0};
}

/* ---- the section ---- */

static void add_row(struct aq_buf *out, const struct measured_text *t)
{
    aq_buf_adds(out, "<tr>");
    html_name_cell(out, NULL, t->name);
    html_fixed_cell(out, "more", t->samples, 0, "");
    html_fixed_cell(out, NULL, t->positions, 0, "");
    html_number_cell(out, NULL, t->kl, svg_number(t->kl));
    html_number_cell(out, NULL, t->error, svg_number(t->error));
    html_number_cell(out, "more", t->p99, svg_number(t->p99));
    html_number_cell(out, "more", t->most, svg_number(t->most));
    html_fixed_cell(out, NULL, 100 * t->top1, 2, " %");
    aq_buf_adds(out, "<td class=\"n more\">");
    if (!isnan(t->perplexity) && !isnan(t->reference_perplexity))
        aq_buf_addf(out, "%.4f → %.4f", t->reference_perplexity, t->perplexity);
    aq_buf_adds(out, "</td>");
    aq_buf_adds(out, "</tr>\n");
}

void measured_html(struct aq_buf *out, const struct measured *m)
{
    static const struct html_column columns[] = {
        {NULL, "text"},        {"n more", "samples"},   {"n", "positions"},
        {"n", "KL, nats"},     {"n", "± s.e."},         {"n more", "99th percentile"},
        {"n more", "largest"}, {"n", "same top token"}, {"n more", "perplexity"}};
    if (!m->count)
        return;
    const struct measured_result *r = &m->items[0];
    html_section(out, "measured", "Measured, text by text",
                 "KL divergence from the unquantized model over the whole vocabulary, in nats for "
                 "each position. Its standard error comes from the spread over samples.");
    html_table(out, "Measured, text by text", false, columns, AQ_COUNT(columns));
    for (size_t i = 0; i < r->count; i++)
        add_row(out, &r->texts[i]);
    if (r->count != 1)
        add_row(out, &r->all);
    html_table_end(out);
    html_section_end(out);
}
