#include "report/calibrated.h"

#include "base/mem.h"
#include "report/escape.h"
#include "report/html.h"
#include "report/svg.h"
#include "solve/ranks.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_LINES = 12 };

/* One group under both candidates. */
struct line {
    const struct report_row *row;
    double plain, solved; /* scores */
    size_t before, after; /* ranks, 1 the most sensitive */
};

struct table {
    const char *plain, *solved; /* names of the candidates */
    double tokens; /* that the second was solved over; NAN: the manifest does not say */
    struct line *lines;
    size_t count;
    double sum_plain, sum_solved, correlation;
    size_t better; /* lines whose calibrated score is lower */
};

struct tables {
    struct table *items;
    size_t count, cap;
    double columns; /* of the widest input; NAN: unknown */
};

/* The steps of a weight treatment: methods in front end with "/". */
static const char *steps_of(const char *w)
{
    const char *slash = strrchr(w, '/');
    return slash ? slash + 1 : w;
}

static const struct manifest_option *option_of(const struct report_row *row, const char *name)
{
    for (size_t i = 0; i < row->group->count; i++) {
        const struct manifest_option *o = &row->group->options[i];
        if (o->name && strcmp(o->name, name) == 0)
            return o;
    }
    return NULL;
}

/* The candidate that rounds to nearest on the grid of a calibrated one; NULL: there is none, or it
   is not calibrated. */
static const char *plain_of(const struct json *all, const struct json *solved)
{
    const char *w = json_find_string(solved, "w"), *a = json_find_string(solved, "a");
    if (!w || !a || steps_of(w) == w)
        return NULL;
    for (const struct json *c = json_first(all); c; c = json_next(c)) {
        const char *cw = json_find_string(c, "w"), *ca = json_find_string(c, "a");
        if (cw && ca && strcmp(cw, steps_of(w)) == 0 && strcmp(ca, a) == 0)
            return json_key(c);
    }
    return NULL;
}

static int by_plain(const void *a, const void *b)
{
    double x = ((const struct line *)a)->plain, y = ((const struct line *)b)->plain;
    if (x != y)
        return x > y ? -1 : 1;
    return ((const struct line *)a)->row < ((const struct line *)b)->row ? -1 : 1;
}

static int by_solved(const void *a, const void *b)
{
    double x = ((const struct line *)a)->solved, y = ((const struct line *)b)->solved;
    if (x != y)
        return x > y ? -1 : 1;
    return ((const struct line *)a)->row < ((const struct line *)b)->row ? -1 : 1;
}

static size_t moved(const struct line *l)
{
    return l->before > l->after ? l->before - l->after : l->after - l->before;
}

/* By falling change of rank; then as round-to-nearest has them. */
static int by_move(const void *a, const void *b)
{
    size_t x = moved(a), y = moved(b);
    if (x != y)
        return x > y ? -1 : 1;
    return ((const struct line *)a)->before < ((const struct line *)b)->before ? -1 : 1;
}

/* Of the lines in the order of the rounded scores. */
static void sum_up(struct table *t)
{
    double *x = xcalloc(t->count, sizeof *x), *y = xcalloc(t->count, sizeof *y);
    for (size_t i = 0; i < t->count; i++) {
        x[i] = t->lines[i].plain;
        y[i] = t->lines[i].solved;
        t->sum_plain += x[i];
        t->sum_solved += y[i];
        t->better += y[i] < x[i];
    }
    t->correlation = rank_spearman(x, y, t->count);
    free(x);
    free(y);
}

static struct table compare(const struct report *r, const char *plain, const struct json *solved)
{
    struct table t = {.plain = plain,
                      .solved = json_key(solved),
                      .tokens = json_find_number(solved, "tokens"),
                      .lines = xcalloc(r->count + 1, sizeof *t.lines)};
    for (size_t i = 0; i < r->count; i++) {
        const struct manifest_option *p = option_of(&r->rows[i], plain);
        const struct manifest_option *s = option_of(&r->rows[i], t.solved);
        if (p && s)
            t.lines[t.count++] = (struct line){&r->rows[i], p->score, s->score, 0, 0};
    }
    qsort(t.lines, t.count, sizeof *t.lines, by_solved);
    for (size_t i = 0; i < t.count; i++)
        t.lines[i].after = i + 1;
    qsort(t.lines, t.count, sizeof *t.lines, by_plain);
    for (size_t i = 0; i < t.count; i++)
        t.lines[i].before = i + 1;
    sum_up(&t);
    qsort(t.lines, t.count, sizeof *t.lines, by_move);
    return t;
}

/* The most columns of any group's modules, or of those of experts; NAN: there are none. */
static double widest_input(const struct json *groups, bool of_experts)
{
    double widest = NAN;
    for (const struct json *g = groups ? json_first(groups) : NULL; g; g = json_next(g)) {
        const struct json *shapes = json_find(g, "shapes");
        if (of_experts && !json_find(g, "experts"))
            continue;
        for (const struct json *s = shapes ? json_first(shapes) : NULL; s; s = json_next(s)) {
            const struct json *cols = json_at(s, 1);
            int64_t n;
            if (cols && json_int(cols, &n))
                widest = fmax(widest, (double)n);
        }
    }
    return widest;
}

/* Every calibrated candidate whose grid some other one rounds to nearest. */
static struct tables find_tables(const struct report *r)
{
    struct tables all = {.columns = widest_input(json_find(r->m->root, "groups"), false)};
    const struct json *candidates = json_find(r->m->selection, "candidates");
    for (const struct json *c = candidates ? json_first(candidates) : NULL; c; c = json_next(c)) {
        const char *plain = plain_of(candidates, c);
        if (!plain)
            continue;
        struct table t = compare(r, plain, c);
        if (t.count == 0) {
            free(t.lines);
            continue;
        }
        AQ_GROW(all.items, all.count, all.cap);
        all.items[all.count++] = t;
    }
    return all;
}

static void release_tables(struct tables *all)
{
    for (size_t i = 0; i < all->count; i++)
        free(all->items[i].lines);
    free(all->items);
}

bool calibrated_known(const struct report *r)
{
    struct tables all = find_tables(r);
    bool any = all.count > 0;
    release_tables(&all);
    return any;
}

/* Where the tokens are too few for the second moments; NULL: enough, or unknown. Caller frees. */
static char *warning_of(const struct tables *all)
{
    enum { ENOUGH = 4 }; /* as aq-calib solve says */
    double tokens = NAN;
    for (size_t i = 0; i < all->count; i++)
        tokens = fmin(tokens, all->items[i].tokens);
    if (!(tokens < ENOUGH * all->columns))
        return NULL;
    return xasprintf("Calibrated candidates were solved over %.0f tokens, fewer than %d for each "
                     "of the %.0f columns of the widest input: they fit this text more than "
                     "others, and so do their scores. Longer text makes them comparable.",
                     tokens, ENOUGH, all->columns);
}

/*
 * Experts are solved over their own tokens if these are as many as a matrix has columns. NULL: all
 * are, or nothing was calibrated, or the report does not know. Caller frees.
 */
static char *experts_note(const struct report *r, const struct tables *all)
{
    size_t layers = 0, few = 0;
    if (all->count == 0)
        return NULL;
    double columns = widest_input(json_find(r->m->root, "groups"), true);
    for (size_t i = 0; i < r->count; i++) {
        const struct routed *n = &r->rows[i].group->routed;
        layers += n->experts > 0;
        few += n->experts > 0 && (double)n->least < columns;
    }
    if (few == 0)
        return NULL;
    return xasprintf("In %zu of %zu layers an expert got fewer tokens than the %.0f columns of its "
                     "matrices: calibrated candidates of such experts were solved over the tokens "
                     "of the whole layer.",
                     few, layers, columns);
}

static void add_summary(struct aq_buf *out, const struct table *t)
{
    aq_buf_addf(out, "Sum of scores %.3e and %.3e", t->sum_plain, t->sum_solved);
    if (t->sum_plain > 0)
        aq_buf_addf(out, " (%.2f times)", t->sum_solved / t->sum_plain);
    aq_buf_addf(out, "; lower in %zu of %zu groups", t->better, t->count);
    if (!isnan(t->correlation))
        aq_buf_addf(out, "; rank correlation %.3f", t->correlation);
    aq_buf_addc(out, '.');
}

static int64_t change_of(const struct line *l)
{
    return (int64_t)l->after - (int64_t)l->before;
}

/* ---- Markdown ---- */

static void add_table(struct aq_buf *out, const struct table *t)
{
    aq_buf_adds(out, "### ");
    escape_cell(out, t->plain);
    aq_buf_adds(out, " and ");
    escape_cell(out, t->solved);
    aq_buf_adds(out, "\n\n\n");
    add_summary(out, t);
    aq_buf_adds(out, "\n\n|Layer|Rounded|Rank|Calibrated|Rank|Change|\n"
                     "| :--- | :--- | :--- | :--- | :--- | :--- |\n");
    for (size_t i = 0; i < t->count && i < MOST_LINES; i++) {
        const struct line *l = &t->lines[i];
        aq_buf_addc(out, '|');
        escape_cell(out, l->row->shown);
        aq_buf_addf(out, "|%.3e|%zu|%.3e|%zu|%+" PRId64 "|\n", l->plain, l->before, l->solved,
                    l->after, change_of(l));
    }
    if (t->count > MOST_LINES)
        aq_buf_addf(out, "\nThe %d groups whose rank changes most; 1 is the most sensitive.\n",
                    MOST_LINES);
    aq_buf_addc(out, '\n');
}

static const char heading[] = "Round-to-nearest and calibrated";

void calibrated_markdown(struct aq_buf *out, const struct report *r)
{
    struct tables all = find_tables(r);
    char *warning = warning_of(&all), *experts = experts_note(r, &all);
    if (all.count)
        aq_buf_addf(out, "\n## %s\n\n\n", heading);
    if (warning)
        aq_buf_addf(out, "**%s**\n\n\n", warning);
    if (experts)
        aq_buf_addf(out, "%s\n\n\n", experts);
    for (size_t i = 0; i < all.count; i++)
        add_table(out, &all.items[i]);
    free(experts);
    free(warning);
    release_tables(&all);
}

/* ---- HTML ---- */

static void add_html_table(struct aq_buf *out, const struct table *t)
{
    static const struct html_column columns[] = {
        {NULL, "layer"},     {"n", "rounded"}, {"n more", "rank, rounded"},
        {"n", "calibrated"}, {"n", "times"},   {"n more", "rank, calibrated"},
        {"n", "rank change"}};
    struct aq_buf summary = AQ_BUF_INIT;
    char *name = xasprintf("%s and %s", t->plain, t->solved);
    html_text(out, "h3", NULL, name);
    add_summary(&summary, t);
    html_text(out, "p", NULL, aq_buf_str(&summary));
    html_table(out, name, true, columns, AQ_COUNT(columns));
    for (size_t i = 0; i < t->count; i++) {
        const struct line *l = &t->lines[i];
        double ratio = l->plain > 0 ? l->solved / l->plain : NAN;
        char *change = xasprintf("%+" PRId64, change_of(l));
        aq_buf_adds(out, "<tr>");
        html_name_cell(out, NULL, l->row->shown);
        html_number_cell(out, NULL, l->plain, svg_number(l->plain));
        html_fixed_cell(out, "more", (double)l->before, 0, "");
        html_number_cell(out, NULL, l->solved, svg_number(l->solved));
        html_fixed_cell(out, NULL, ratio, 2, "");
        html_fixed_cell(out, "more", (double)l->after, 0, "");
        html_number_cell(out, NULL, (double)change_of(l), change);
        aq_buf_adds(out, "</tr>\n");
        free(change);
    }
    html_table_end(out);
    free(name);
    aq_buf_release(&summary);
}

void calibrated_html(struct aq_buf *out, const struct report *r)
{
    struct tables all = find_tables(r);
    char *warning = warning_of(&all), *experts = experts_note(r, &all);
    if (all.count) {
        html_section(out, "calibrated", heading,
                     "The same grid with codes rounded to nearest, and with what a method made of "
                     "it. Ranks go by falling score, 1 the most sensitive; a change above zero "
                     "means that the layer matters less, next to the others, than rounding says.");
        if (warning)
            html_text(out, "p", "warn", warning);
        if (experts)
            html_text(out, "p", NULL, experts);
        for (size_t i = 0; i < all.count; i++)
            add_html_table(out, &all.items[i]);
        html_section_end(out);
    }
    free(experts);
    free(warning);
    release_tables(&all);
}
