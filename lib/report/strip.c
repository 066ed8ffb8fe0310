/*
 * The recipes at several budgets: one strip of blocks for each kind of module and budget, coloured
 * by the chosen format. Reading down a panel shows what gets more bits first.
 */
#include "base/mem.h"
#include "report/chart.h"
#include "report/svg.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_CANDIDATES = 32, ROW = 15 };

struct strip {
    const struct report *r;
    const struct curve *c;
    struct chart_style style;
    size_t *kinds, kind_count, blocks;
    const struct manifest_option *candidates[MOST_CANDIDATES];
    size_t candidate_count, hatches[MOST_CANDIDATES];
    size_t columns;    /* of panels */
    double left, cell; /* within a panel */
    double panel_w, panel_h;
    size_t rows;
    bool chosen; /* the last row is the manifest's own recipe */
};

/* How a format is drawn, and what it is called. */
struct look {
    const char *class;
    size_t hatch;
    const struct manifest_option *option; /* NULL: nothing to draw */
};

static struct look look_of(const struct strip *s, const struct manifest_option *o)
{
    struct look look = {o->none ? "zero" : svg_bits_class(o->bits), 0, o};
    for (size_t i = 0; i < s->candidate_count && !o->none; i++)
        if (manifest_same_candidate(o, s->candidates[i]))
            look.hatch = s->hatches[i];
    return look;
}

static bool strip_init(struct strip *s, const struct report *r, const struct curve *c,
                       struct chart_style style)
{
    *s = (struct strip){.r = r, .c = c, .style = style};
    s->kinds = xcalloc(r->kind_count + 1, sizeof *s->kinds);
    s->kind_count = chart_live_kinds(r, s->kinds);
    s->blocks = chart_blocks(r, s->kinds, s->kind_count);
    s->candidate_count = chart_candidates(r, s->candidates, MOST_CANDIDATES);
    chart_hatches(s->candidates, s->candidate_count, s->hatches);
    s->chosen = c->recipe != NULL;
    s->rows = c->recipe_count + s->chosen;
    s->left = 52;
    s->columns = style.width < 500 ? 1 : s->kind_count < 2 ? 1 : 2;
    s->panel_w = (style.width - 8) / (double)s->columns;
    s->cell = (s->panel_w - s->left - 10) / (double)(s->blocks ? s->blocks : 1);
    s->panel_h = 24 + (double)s->rows * ROW + 26;
    return c->known && c->recipe_count && s->kind_count && s->blocks;
}

static bool same_look(const struct look *a, const struct look *b)
{
    return a->option && b->option && a->hatch == b->hatch && strcmp(a->class, b->class) == 0 &&
           manifest_same_candidate(a->option, b->option);
}

/* Neighbours of one format become one shape where cells touch each other. */
static void draw_runs(struct aq_buf *out, const struct strip *s, const struct look *looks,
                      size_t kind, size_t row, double x, double y)
{
    bool apart = s->cell > 6;
    for (size_t b = 0; b < s->blocks;) {
        size_t end = b + 1;
        while (!apart && end < s->blocks && same_look(&looks[b], &looks[end]))
            end++;
        if (looks[b].option) {
            char *name = report_candidate(s->r, looks[b].option);
            char *where = end > b + 1 ? xasprintf("blocks %zu to %zu", b, end - 1)
                                      : xasprintf("block %zu", b);
            char *budget = row < s->c->recipe_count
                               ? xasprintf("budget %.4g", s->c->recipes[row].budget)
                               : xstrdup("this recipe");
            char *title =
                xasprintf("%s, %.200s, %s: %.200s", where, s->r->kinds[kind], budget, name);
            svg_hatched(out, x + (double)b * s->cell, y,
                        (double)(end - b) * s->cell - (apart ? 1 : 0), ROW - 2, looks[b].class,
                        looks[b].hatch, title);
            free(name);
            free(where);
            free(budget);
            free(title);
        }
        b = end;
    }
}

static void draw_cells(struct aq_buf *out, const struct strip *s, size_t kind, size_t row, double x,
                       double y)
{
    struct look *looks = xcalloc(s->blocks + 1, sizeof *looks);
    const int *options = row < s->c->recipe_count ? s->c->recipes[row].option : s->c->recipe;
    for (size_t i = 0; i < s->r->count; i++) {
        const struct report_row *at = &s->r->rows[i];
        if (at->kind == kind && at->block >= 0)
            looks[at->block] = look_of(s, &at->group->options[options[i]]);
    }
    draw_runs(out, s, looks, kind, row, x, y);
    free(looks);
}

static void draw_panel(struct aq_buf *out, const struct strip *s, size_t k, double x, double y)
{
    double top = y + 24, left = x + s->left;
    svg_text(out, left - 6, y + 15, SVG_END, "small soft", "bits");
    svg_text(out, left, y + 15, SVG_START, "head", "%s",
             svg_fit_head(s->r->kinds[s->kinds[k]], s->panel_w - s->left));
    for (size_t row = 0; row < s->rows; row++) {
        double row_y = top + (double)row * ROW;
        if (row < s->c->recipe_count)
            svg_text(out, left - 6, row_y + 11, SVG_END, "small soft", "%.3g",
                     s->c->recipes[row].budget);
        else
            svg_text(out, left - 6, row_y + 11, SVG_END, "small", "this");
        draw_cells(out, s, s->kinds[k], row, left, row_y);
    }
    double bottom = top + (double)s->rows * ROW;
    size_t step = chart_tick_step(s->blocks, s->cell, CHART_ACROSS);
    for (size_t b = 0; b < s->blocks; b += step)
        svg_text(out, left + ((double)b + 0.5) * s->cell, bottom + 12, SVG_MIDDLE, "small soft",
                 "%zu", b);
}

static size_t draw_legend(struct aq_buf *out, const struct strip *s, double y)
{
    struct chart_key keys[MOST_CANDIDATES + 1];
    char *texts[MOST_CANDIDATES];
    for (size_t i = 0; i < s->candidate_count; i++) {
        char *name = report_candidate(s->r, s->candidates[i]);
        texts[i] = xasprintf("%s (%.4g bits)", svg_fit(name, s->style.width - 130),
                             s->candidates[i]->bits);
        keys[i] =
            (struct chart_key){svg_bits_class(s->candidates[i]->bits), texts[i], s->hatches[i]};
        free(name);
    }
    keys[s->candidate_count] = (struct chart_key){"zero", "not quantized (16 bits)", 0};
    size_t lines = chart_legend(out, s->style, 12, y, keys, s->candidate_count + 1);
    for (size_t i = 0; i < s->candidate_count; i++)
        free(texts[i]);
    return lines;
}

void chart_strip(struct aq_buf *out, const struct report *r, const struct curve *c,
                 struct chart_style style)
{
    static const char label[] = "Strips: the format of every layer at several budgets";
    struct strip s;
    if (!strip_init(&s, r, c, style)) {
        chart_empty(out, style, label, "There is nothing to choose between.");
        free(s.kinds);
        return;
    }
    struct aq_buf body = AQ_BUF_INIT;
    double y = chart_title(&body, r, style, "Best recipe at several budgets") + 16;
    y += 20 * (double)draw_legend(&body, &s, y);
    for (size_t k = 0; k < s.kind_count; k++) {
        size_t line = k / s.columns, column = k % s.columns;
        draw_panel(&body, &s, k, (double)column * s.panel_w, y + (double)line * s.panel_h);
    }
    size_t lines = (s.kind_count + s.columns - 1) / s.columns;
    svg_begin(out, style.width, y + (double)lines * s.panel_h, label, style.standalone);
    aq_buf_add(out, body.data, body.len);
    svg_end(out);
    aq_buf_release(&body);
    free(s.kinds);
}
