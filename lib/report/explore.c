#include "report/explore.h"
#include "base/fmt.h"
#include "base/mem.h"
#include "base/names.h"
#include "base/pool.h"
#include "report/cell_list.h"
#include "report/engines.h"
#include "report/escape.h"
#include "report/html.h"
#include "report/summary.h"
#include "report/svg.h"
#include "select/select.h"
#include "solve/knapsack.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char styles[] =
#include "report/explore.css.h"
    ;

static const char script[] =
#include "report/explore.js.h"
    ;

/* One manifest of the sweep, once its size has been read. */
struct shown_manifest {
    const char *path;
    const struct cell_entry *entry;
};

struct explorer {
    const struct explore_request *q;
    struct engines engines;
    struct aq_buf *data, *rows; /* JSON for the script; the table for all */
    struct cell_list list;
    struct shown_manifest *places; /* in the order of the command line */
    size_t count;
    struct aq_names pairs, granularities, sizes;
    size_t shown; /* cells written so far */
    char *model;
    bool have_groups;
};

/* ---- JSON in a page ---- */

/* A string that cannot end the element it is in. */
static void add_text(struct aq_buf *out, const char *text)
{
    struct aq_buf plain = AQ_BUF_INIT, quoted = AQ_BUF_INIT;
    escape_plain(&plain, text);
    struct json *v = json_new_string(aq_buf_str(&plain));
    if (json_write(&quoted, v, JSON_COMPACT, NULL) < 0) /* escape_plain leaves valid UTF-8 */
        aq_buf_adds(&quoted, "\"\"");
    for (const char *p = aq_buf_str(&quoted); *p; p++)
        if (*p == '<')
            aq_buf_adds(out, "\\u003c");
        else
            aq_buf_addc(out, *p);
    json_free(v);
    aq_buf_release(&plain);
    aq_buf_release(&quoted);
}

static void add_texts(struct aq_buf *out, const char *key, const struct aq_names *t)
{
    aq_buf_addf(out, ",\n\"%s\":[", key);
    for (size_t i = 0; i < t->count; i++) {
        aq_buf_adds(out, i ? "," : "");
        add_text(out, t->items[i]);
    }
    aq_buf_addc(out, ']');
}

/* Enough digits to compare by eye; null for what is not known. */
static void add_short(struct aq_buf *out, double x)
{
    if (isfinite(x))
        aq_buf_addf(out, "%.4g", x);
    else
        aq_buf_adds(out, "null");
}

static void add_exact(struct aq_buf *out, double x)
{
    char text[AQ_FMT_MAX];
    aq_buf_adds(out, isfinite(x) ? aq_fmt_double(x, text) : "null");
}

/* ---- frontiers ---- */

struct totals {
    double score, bytes;
};

static struct totals add_up(const struct sel_table *t, const int *option)
{
    struct totals sum = {0, 0};
    for (size_t g = 0; g < t->count; g++) {
        const struct sel_option *o = &t->rows[g].options[option[g]];
        sum.score += o->score;
        sum.bytes += t->rows[g].weights * (isnan(o->storage_bits) ? o->bits : o->storage_bits) / 8;
    }
    return sum;
}

/* nats, low, high */
static void add_prediction(struct aq_buf *out, struct prediction p)
{
    add_short(out, p.nats);
    aq_buf_addc(out, ',');
    add_short(out, p.low);
    aq_buf_addc(out, ',');
    add_short(out, p.high);
}

/* [bits, score, bytes, [group, candidate, ...], nats, low, high]: what changes from the corner
   before, and the predicted divergence. */
static void add_corner(struct aq_buf *out, const struct sel_problem *p, int64_t cost,
                       const int *before, const int *now)
{
    struct totals sum = add_up(p->table, now);
    aq_buf_addc(out, '[');
    add_exact(out, sel_units_to_bits(p, cost));
    aq_buf_addc(out, ',');
    add_exact(out, sum.score);
    aq_buf_addf(out, ",%.0f,[", sum.bytes);
    bool first = true;
    for (size_t g = 0; g < p->table->count; g++) {
        if (before && before[g] == now[g])
            continue;
        aq_buf_addf(out, "%s%zu,%d", first ? "" : ",", g,
                    p->table->rows[g].options[now[g]].candidate);
        first = false;
    }
    aq_buf_adds(out, "],");
    add_prediction(out, sel_predict(p->table, now));
    aq_buf_addc(out, ']');
}

/* Every corner of a table's frontier. */
static int add_corners(struct aq_buf *out, const struct sel_table *t, struct aq_err *err)
{
    struct sel_problem p;
    if (sel_problem_init(&p, t, err) < 0)
        return -1;
    struct knapsack_problem problem = {t->count, p.start, p.costs, p.scores, 0};
    struct knapsack *k = knapsack_corners(&problem);
    int *before = xcalloc(t->count + 1, sizeof *before), *now = xcalloc(t->count + 1, sizeof *now);
    aq_buf_addc(out, '[');
    for (size_t i = 0; i < knapsack_count(k); i++) {
        knapsack_choices(k, i, now);
        for (size_t g = 0; g < t->count; g++)
            now[g] = p.option[p.start[g] + (size_t)now[g]];
        aq_buf_adds(out, i ? ",\n" : "");
        add_corner(out, &p, knapsack_points(k)[i].cost, i ? before : NULL, now);
        memcpy(before, now, t->count * sizeof *now);
    }
    aq_buf_addc(out, ']');
    free(before);
    free(now);
    knapsack_free(k);
    sel_problem_release(&p);
    return 0;
}

/* Which options of a table each engine serves as they were scored, or nearly so. */
struct servable {
    const struct engines *engines;
    const struct sel_table *t;
    struct engine_target targets[REPORT_ENGINES];
    bool *row_known; /* [rows]: the manifest says enough for the engines to be asked */
    bool *option;    /* [options][engines] */
};

/* What engines are asked about a candidate for the group that q was read from. */
static bool ask_about(struct engine_group *q, const struct sel_candidate *c)
{
    q->weight = json_find_string(c->facts, "w");
    q->act = json_find_string(c->facts, "a");
    return q->weight && q->act;
}

static bool *served_option(const struct servable *s, const struct sel_option *o)
{
    return s->option + (o - s->t->options) * REPORT_ENGINES;
}

static void judge_row(void *arg, int64_t unit, int worker)
{
    (void)worker;
    const struct servable *s = arg;
    const struct sel_row *row = &s->t->rows[unit];
    struct engine_group q = {.arch = ""};
    struct aq_err none = {0};
    bool known = row->model && engine_group_read(&q, row->model, row->name, &none) == 0;
    for (size_t i = 0; i < row->count && known; i++) {
        const struct sel_option *o = &row->options[i];
        if (o->candidate == SEL_NONE)
            continue;
        known = ask_about(&q, &s->t->candidates[o->candidate]);
        for (int e = 0; e < REPORT_ENGINES && known; e++) {
            const struct engine *rules = s->engines->rules[e];
            struct engine_verdict v;
            if (!rules)
                continue;
            engine_judge(rules, &s->targets[e], engine_default_layout(rules), &q, &v);
            served_option(s, o)[e] = v.quantized && v.verdict <= VERDICT_NEAR;
        }
    }
    s->row_known[unit] = known;
}

/* Hundreds of groups times hundreds of candidates times engines; false: not all can be asked about.
 */
static bool served_init(struct servable *s, const struct explorer *x, const struct sel_table *t,
                        struct aq_err *err)
{
    size_t options = 0;
    bool known = true;
    *s = (struct servable){.engines = &x->engines, .t = t};
    for (int e = 0; e < REPORT_ENGINES; e++)
        if (engine_target_parse(engines_names[e].name, &s->targets[e], err) < 0)
            return false;
    for (size_t g = 0; g < t->count; g++)
        options += t->rows[g].count;
    s->row_known = xcalloc(t->count + 1, sizeof *s->row_known);
    s->option = xcalloc((options + 1) * REPORT_ENGINES, sizeof *s->option);
    aq_pool_once((int64_t)t->count, judge_row, s);
    for (size_t g = 0; g < t->count; g++)
        known = known && s->row_known[g];
    return known;
}

static void served_release(struct servable *s)
{
    free(s->row_known);
    free(s->option);
}

/* Allows what the engine serves; false: nothing. */
static bool allow_for(struct sel_table *t, const struct servable *s, int engine)
{
    bool any = false;
    for (size_t g = 0; g < t->count; g++)
        for (size_t i = 0; i < t->rows[g].count; i++) {
            struct sel_option *o = &t->rows[g].options[i];
            if (o->candidate == SEL_NONE)
                continue;
            o->allowed = served_option(s, o)[engine];
            any = any || o->allowed;
        }
    return any;
}

static void allow_all(struct sel_table *t)
{
    for (size_t g = 0; g < t->count; g++)
        for (size_t i = 0; i < t->rows[g].count; i++)
            t->rows[g].options[i].allowed = true;
}

/* The frontiers of one size over what each engine serves; candidates are numbered as in the first.
 */
static int add_engines(struct aq_buf *out, const struct explorer *x, struct sel_table *t,
                       size_t size, struct aq_err *err)
{
    int status = 0;
    struct servable served;
    bool known = served_init(&served, x, t, err);
    for (int e = 0; e < REPORT_ENGINES && known && status == 0; e++) {
        const struct engine *rules = x->engines.rules[e];
        if (!rules || !allow_for(t, &served, e))
            continue;
        aq_buf_addf(out, ",\n{\"size\":%zu,\"engine\":\"%s\",\"version\":", size,
                    engines_names[e].name);
        add_text(out, engine_version(rules));
        aq_buf_adds(out, ",\"corners\":");
        status = add_corners(out, t, err);
        aq_buf_addc(out, '}');
    }
    allow_all(t);
    served_release(&served);
    return status;
}

/* The frontier over all cells of one size. */
static int add_frontier(struct aq_buf *out, const struct sel_table *t, size_t size,
                        struct aq_err *err)
{
    aq_buf_addf(out, "{\"size\":%zu,\"engine\":\"\",\"cost\":", size);
    add_text(out, sel_cost_names[t->cost]);
    aq_buf_adds(out, ",\"weights\":");
    add_exact(out, t->total);
    aq_buf_addf(out, ",\"fixed\":%.0f", t->fixed);
    aq_buf_adds(out, ",\"candidates\":[");
    for (size_t c = 0; c < t->candidate_count; c++) {
        double bits = NAN;
        for (size_t g = 0; g < t->count && isnan(bits); g++)
            for (size_t i = 0; i < t->rows[g].count; i++)
                if (t->rows[g].options[i].candidate == (int)c)
                    bits = t->rows[g].options[i].bits;
        aq_buf_adds(out, c ? ",[" : "[");
        add_text(out, t->candidates[c].name);
        aq_buf_addc(out, ',');
        add_exact(out, bits);
        aq_buf_addc(out, ']');
    }
    aq_buf_adds(out, "],\n\"corners\":");
    int status = add_corners(out, t, err);
    aq_buf_addc(out, '}');
    return status;
}

/* ---- one cell ---- */

static double bytes_of_recipe(const struct manifest *m)
{
    double bytes = 0;
    for (size_t g = 0; g < m->count; g++) {
        const struct manifest_group *group = &m->groups[g];
        if (group->chosen < 0)
            return NAN;
        const struct manifest_option *o = &group->options[group->chosen];
        bytes += manifest_group_weights(group) *
                 (isnan(o->storage_bits) ? o->bits : o->storage_bits) / 8;
    }
    return bytes;
}

static void add_row(struct explorer *x, const struct cell_entry *e, const struct report *r,
                    size_t worst)
{
    const struct manifest *m = r->m;
    double bytes = bytes_of_recipe(m);
    char *link = cell_entry_link(e);
    const struct report_row *top = r->count ? &r->rows[worst] : NULL;
    aq_buf_adds(x->rows, "<tr>");
    html_name_cell(x->rows, NULL, e->pair);
    html_name_cell(x->rows, NULL, e->granularity);
    html_text(x->rows, "td", NULL, e->size);
    html_number_cell(x->rows, NULL, r->total, svg_number(r->total));
    html_name_cell(x->rows, "more", top ? top->shown : "");
    html_fixed_cell(x->rows, "more",
                    top && r->total > 0 ? 100 * (top->sensitivity / r->total) : NAN, 0, " %");
    html_fixed_cell(x->rows, NULL, m->effective_bits, 3, "");
    html_number_cell(x->rows, "more", bytes, isnan(bytes) ? "" : svg_bytes(bytes));
    html_link_cell(x->rows, link, "report");
    aq_buf_adds(x->rows, "</tr>\n");
    free(link);
}

/* A group that takes the format, and what 16 bits for it instead gain for each weight of cost. */
struct gain_step {
    double rate;
    size_t group;
};

static int by_rate(const void *a, const void *b)
{
    const struct gain_step *x = a, *y = b;
    if (x->rate != y->rate)
        return x->rate > y->rate ? -1 : 1;
    return x->group < y->group ? -1 : 1;
}

/*
 * The corners of a cell's own frontier: the groups in the order in which they go back to 16 bits
 * as the budget grows. One that goes together with the one before is written as -1 - group.
 */
static void add_order(struct aq_buf *out, const struct report *r)
{
    struct gain_step *steps = xcalloc(r->count + 1, sizeof *steps);
    size_t n = 0;
    for (size_t g = 0; g < r->count; g++) {
        const struct manifest_option *o = r->rows[g].worst, *none = NULL;
        for (size_t i = 0; i < r->rows[g].group->count; i++)
            if (r->rows[g].group->options[i].none)
                none = &r->rows[g].group->options[i];
        if (o && none && !o->none && o->score > none->score && none->cost > o->cost)
            steps[n++] = (struct gain_step){(o->score - none->score) / (none->cost - o->cost), g};
    }
    qsort(steps, n, sizeof *steps, by_rate);
    aq_buf_addc(out, '[');
    for (size_t i = 0; i < n; i++) {
        bool together = i > 0 && steps[i].rate == steps[i - 1].rate;
        long g = (long)steps[i].group;
        aq_buf_addf(out, "%s%ld", i ? "," : "", together ? -1 - g : g);
    }
    aq_buf_addc(out, ']');
    free(steps);
}

/* [nats of each group, nats, low, high of all]; null where the input has several candidates. */
static void add_nats(struct aq_buf *out, const struct sel_cell *c)
{
    struct prediction all = {0};
    if (c->candidate_count != 1) {
        aq_buf_adds(out, "null");
        return;
    }
    aq_buf_adds(out, "[[");
    for (size_t g = 0; g < c->group_count; g++) {
        const struct predict_group own = sel_predict_value(c, g, 0);
        aq_buf_adds(out, g ? "," : "");
        add_short(out, predict_nats(&own));
        prediction_add(&all, &own);
    }
    prediction_end(&all);
    aq_buf_adds(out, "],");
    add_prediction(out, all);
    aq_buf_addc(out, ']');
}

/* [pair, granularity, size, total, bits of the recipe, bits of the format, [scores], [order],
   prediction] */
static void add_cell(struct explorer *x, const struct cell_entry *e, const struct sel_cell *cell,
                     const struct report *r)
{
    struct aq_buf *out = x->data;
    double bits = NAN;
    size_t worst = 0;
    for (size_t i = 0; i < r->count; i++) {
        if (r->rows[i].worst && isnan(bits) && !r->rows[i].worst->none)
            bits = r->rows[i].worst->bits;
        if (r->rows[i].rank == 1)
            worst = i;
    }
    aq_buf_addf(out, "%s[%zu,%zu,%zu,", x->shown++ ? ",\n" : "", aq_names_place(&x->pairs, e->pair),
                aq_names_place(&x->granularities, e->granularity),
                aq_names_place(&x->sizes, e->size));
    add_short(out, r->total);
    aq_buf_addc(out, ',');
    add_exact(out, r->m->effective_bits);
    aq_buf_addc(out, ',');
    add_exact(out, bits);
    aq_buf_adds(out, ",[");
    for (size_t i = 0; i < r->count; i++) {
        aq_buf_adds(out, i ? "," : "");
        add_short(out, r->rows[i].sensitivity);
    }
    aq_buf_adds(out, "],");
    add_order(out, r);
    aq_buf_addc(out, ',');
    add_nats(out, cell);
    aq_buf_addc(out, ']');
    add_row(x, e, r, worst);
}

/* Once: the groups that all cells have. */
static void add_groups(struct aq_buf *out, const struct report *r, const struct sel_table *t)
{
    aq_buf_adds(out, "\"groups\":[");
    for (size_t i = 0; i < r->count; i++) {
        const struct report_row *row = &r->rows[i];
        aq_buf_adds(out, i ? ",[" : "[");
        add_text(out, row->shown);
        aq_buf_addf(out, ",%ld,%zu,%.0f,", row->block, row->kind, t->rows[i].weights);
        add_text(out, row->group->layer);
        if (t->active) {
            aq_buf_addc(out, ',');
            add_exact(out, t->rows[i].share);
        }
        aq_buf_addc(out, ']');
    }
    aq_buf_adds(out, "],\n\"kinds\":[");
    for (size_t i = 0; i < r->kind_count; i++) {
        aq_buf_adds(out, i ? "," : "");
        add_text(out, r->kinds[i]);
    }
    aq_buf_adds(out, "],\n");
}

/* ---- one size ---- */

/* The tables of all sizes are kept: what the cells lend is used until the page is written. */
struct shelf {
    struct sel_table *tables;
    size_t count;
};

static int read_size(struct explorer *x, const char *size, struct sel_table *t, struct aq_err *err)
{
    const char **paths = xcalloc(x->count + 1, sizeof *paths);
    size_t n = 0;
    for (size_t i = 0; i < x->count; i++)
        if (strcmp(x->places[i].entry->size, size) == 0)
            paths[n++] = x->places[i].path;
    int status = sel_table_read(t, paths, n, &(struct sel_table_options){0}, err);
    free(paths);
    return status;
}

static int add_cells(struct explorer *x, const struct sel_table *t, struct aq_err *err)
{
    for (size_t i = 0; i < t->cell_count; i++) {
        struct report r;
        if (report_init(&r, &t->cells[i].manifest, NULL, err) < 0)
            return -1;
        add_cell(x, cell_list_find(&x->list, t->cells[i].path), &t->cells[i], &r);
        report_release(&r);
    }
    return 0;
}

static int add_head_of(struct explorer *x, const struct sel_table *t, struct aq_err *err)
{
    struct report r;
    if (report_init(&r, &t->cells[0].manifest, NULL, err) < 0)
        return -1;
    add_groups(x->data, &r, t);
    x->model = xstrdup(cell_show(r.cell.model));
    report_release(&r);
    return 0;
}

static int add_sizes(struct explorer *x, struct shelf *shelf, struct aq_err *err)
{
    struct aq_buf frontiers = AQ_BUF_INIT;
    int status = 0;
    for (size_t s = 0; s < x->sizes.count && status == 0; s++) {
        struct sel_table *t = &shelf->tables[shelf->count++];
        status = read_size(x, x->sizes.items[s], t, err);
        if (status == 0 && s == 0) {
            status = add_head_of(x, t, err);
            aq_buf_adds(x->data, "\"cells\":[\n");
        }
        if (status == 0)
            status = add_cells(x, t, err);
        aq_buf_adds(&frontiers, s ? ",\n" : "");
        if (status == 0)
            status = add_frontier(&frontiers, t, s, err);
        if (status == 0)
            status = add_engines(&frontiers, x, t, s, err);
    }
    aq_buf_addf(x->data, "],\n\"frontiers\":[%s]", aq_buf_str(&frontiers));
    aq_buf_release(&frontiers);
    return status;
}

/* ---- the page ---- */

static int read_places(struct explorer *x, const char *const *manifests, struct aq_err *err)
{
    for (size_t i = 0; i < x->list.count; i++) { /* in the order of the sweep */
        (void)aq_names_place(&x->pairs, x->list.items[i].pair);
        (void)aq_names_place(&x->granularities, x->list.items[i].granularity);
    }
    for (size_t i = 0; i < x->count; i++) {
        const struct cell_entry *e = cell_list_find(&x->list, manifests[i]);
        if (!e)
            return aq_err_set(err, AQ_EINPUT, "%s: is in no directory of the list of cells",
                              aq_show(manifests[i]));
        x->places[i] = (struct shown_manifest){manifests[i], e};
        (void)aq_names_place(&x->sizes, e->size);
    }
    qsort(x->sizes.items, x->sizes.count, sizeof *x->sizes.items, summary_by_size);
    return 0;
}

static void add_left_out(struct aq_buf *out, const struct cell_list *l)
{
    static const struct html_column columns[] = {
        {NULL, "pair"}, {NULL, "granularity"}, {NULL, "size"}, {NULL, "reason"}};
    size_t n = 0;
    for (size_t i = 0; i < l->count; i++)
        n += l->items[i].reason != NULL;
    if (!n)
        return;
    html_section(out, "left-out", "Cells left out", NULL);
    html_table(out, "Cells left out", false, columns, AQ_COUNT(columns));
    for (size_t i = 0; i < l->count; i++) {
        const struct cell_entry *e = &l->items[i];
        if (!e->reason)
            continue;
        aq_buf_adds(out, "<tr>");
        html_name_cell(out, NULL, e->pair);
        html_name_cell(out, NULL, e->granularity);
        html_text(out, "td", NULL, e->size);
        html_text(out, "td", NULL, e->reason);
        aq_buf_adds(out, "</tr>\n");
    }
    html_table_end(out);
    html_section_end(out);
}

static void add_page(struct aq_buf *out, const struct explorer *x)
{
    static const struct html_column columns[] = {
        {NULL, "pair"}, {NULL, "granularity"},      {NULL, "size"},
        {"n", "total"}, {"more", "most sensitive"}, {"n more", "its share"},
        {"n", "bits"},  {"n more", "weights"},      {NULL, "link"}};
    html_begin_with(out, "Explore the sweep", styles);
    aq_buf_adds(out, "<header>\n<h1>Explore the sweep</h1>\n<p class=\"lead\">Model ");
    html_text(out, "code", NULL, x->model);
    aq_buf_addf(
        out,
        ": %zu cells, each a pair of number formats (weights, activations), a granularity of "
        "their scales, and a size of the calibration data.</p>\n</header>\n",
        x->count);
    aq_buf_adds(
        out,
        "<div id=\"app\"></div>\n"
        "<noscript><p class=\"note\">With JavaScript this page shows a matrix, a budget slider and "
        "comparisons. Without it, every cell is in the table below.</p></noscript>\n");
    html_section(out, "cells", "Every cell",
                 "Total: the sum of all layers' sensitivities when every layer takes the format; "
                 "compare it within one size. Bits and weights are those of the cell's own recipe. "
                 "Click a heading to sort.");
    html_table(out, "Every cell", true, columns, AQ_COUNT(columns));
    aq_buf_add(out, aq_buf_str(x->rows), x->rows->len);
    html_table_end(out);
    html_section_end(out);
    add_left_out(out, &x->list);
    aq_buf_adds(out, "<script type=\"application/json\" id=\"data\">\n{");
    aq_buf_add(out, aq_buf_str(x->data), x->data->len);
    add_texts(out, "pairs", &x->pairs);
    add_texts(out, "granularities", &x->granularities);
    add_texts(out, "sizes", &x->sizes);
    aq_buf_adds(out, ",\n\"model\":");
    add_text(out, x->model);
    aq_buf_adds(out, "}\n</script>\n");
    html_end_with(out, script);
}

int explore_html(struct aq_buf *out, const struct explore_request *q, struct aq_err *err)
{
    struct aq_buf data = AQ_BUF_INIT, rows = AQ_BUF_INIT;
    struct explorer x = {.q = q, .data = &data, .rows = &rows, .count = q->count};
    struct shelf shelf = {0};
    if (cell_list_read(&x.list, q->cells_json, err) < 0)
        return -1;
    x.places = xcalloc(q->count + 1, sizeof *x.places);
    int status = engines_load(&x.engines, q->conf_dir, err);
    if (status == 0)
        status = read_places(&x, q->manifests, err);
    if (status == 0) {
        shelf.tables = xcalloc(x.sizes.count + 1, sizeof *shelf.tables);
        status = add_sizes(&x, &shelf, err);
    }
    if (status == 0)
        add_page(out, &x);
    for (size_t i = 0; i < shelf.count; i++)
        sel_table_release(&shelf.tables[i]);
    engines_release(&x.engines);
    free(shelf.tables);
    free(x.places);
    free(x.model);
    aq_names_release(&x.pairs);
    aq_names_release(&x.granularities);
    aq_names_release(&x.sizes);
    cell_list_release(&x.list);
    aq_buf_release(&data);
    aq_buf_release(&rows);
    return status;
}
