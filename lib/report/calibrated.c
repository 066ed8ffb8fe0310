#include "report/calibrated.h"

#include "base/mem.h"
#include "report/escape.h"
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
    struct line *lines;
    size_t count;
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

static struct table compare(const struct report *r, const char *plain, const char *solved)
{
    struct table t = {.lines = xcalloc(r->count + 1, sizeof *t.lines)};
    for (size_t i = 0; i < r->count; i++) {
        const struct manifest_option *p = option_of(&r->rows[i], plain);
        const struct manifest_option *s = option_of(&r->rows[i], solved);
        if (p && s)
            t.lines[t.count++] = (struct line){&r->rows[i], p->score, s->score, 0, 0};
    }
    qsort(t.lines, t.count, sizeof *t.lines, by_solved);
    for (size_t i = 0; i < t.count; i++)
        t.lines[i].after = i + 1;
    qsort(t.lines, t.count, sizeof *t.lines, by_plain);
    for (size_t i = 0; i < t.count; i++)
        t.lines[i].before = i + 1;
    return t;
}

static void add_summary(struct aq_buf *out, const struct table *t)
{
    double sums[2] = {0, 0}, *x = xcalloc(t->count, sizeof *x), *y = xcalloc(t->count, sizeof *y);
    size_t better = 0;
    for (size_t i = 0; i < t->count; i++) {
        x[i] = t->lines[i].plain;
        y[i] = t->lines[i].solved;
        sums[0] += x[i];
        sums[1] += y[i];
        better += y[i] < x[i];
    }
    double rho = rank_spearman(x, y, t->count);
    aq_buf_addf(out, "Sum of scores %.3e and %.3e", sums[0], sums[1]);
    if (sums[0] > 0)
        aq_buf_addf(out, " (%.2f times)", sums[1] / sums[0]);
    aq_buf_addf(out, "; lower in %zu of %zu groups", better, t->count);
    if (!isnan(rho))
        aq_buf_addf(out, "; rank correlation %.3f", rho);
    aq_buf_adds(out, ".\n\n");
    free(x);
    free(y);
}

static void add_table(struct aq_buf *out, struct table *t, const char *plain, const char *solved)
{
    aq_buf_adds(out, "### ");
    escape_cell(out, plain);
    aq_buf_adds(out, " and ");
    escape_cell(out, solved);
    aq_buf_adds(out, "\n\n\n");
    add_summary(out, t);
    aq_buf_adds(out, "|Layer|Rounded|Rank|Calibrated|Rank|Change|\n"
                     "| :--- | :--- | :--- | :--- | :--- | :--- |\n");
    qsort(t->lines, t->count, sizeof *t->lines, by_move);
    for (size_t i = 0; i < t->count && i < MOST_LINES; i++) {
        const struct line *l = &t->lines[i];
        aq_buf_addc(out, '|');
        escape_cell(out, l->row->shown);
        aq_buf_addf(out, "|%.3e|%zu|%.3e|%zu|%+" PRId64 "|\n", l->plain, l->before, l->solved,
                    l->after, (int64_t)l->after - (int64_t)l->before);
    }
    if (t->count > MOST_LINES)
        aq_buf_addf(out, "\nThe %d groups whose rank changes most; 1 is the most sensitive.\n",
                    MOST_LINES);
    aq_buf_addc(out, '\n');
}

void calibrated_markdown(struct aq_buf *out, const struct report *r)
{
    const struct json *all = json_find(r->m->selection, "candidates");
    bool any = false;
    for (const struct json *c = all ? json_first(all) : NULL; c; c = json_next(c)) {
        const char *plain = plain_of(all, c);
        if (!plain)
            continue;
        struct table t = compare(r, plain, json_key(c));
        if (t.count && !any)
            aq_buf_adds(out, "\n## Round-to-nearest and calibrated\n\n\n");
        any = any || t.count;
        if (t.count)
            add_table(out, &t, plain, json_key(c));
        free(t.lines);
    }
}
