/*
 * Layer x module heat map on a log colour scale: blocks run across on a desk and down on a phone.
 * One panel for each candidate, all on one scale.
 */
#include "base/mem.h"
#include "report/chart.h"
#include "report/svg.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST_PANELS = 6, TITLED_CELLS = 4000 };

struct map {
    const struct report *r;
    struct chart_style style;
    size_t *kinds, kind_count, blocks;
    size_t *kind_place; /* of each kind of the report; kind_count of the report: absent */
    const struct manifest_option *panels[MOST_PANELS];
    size_t panel_count;
    struct decades d;
    double left, cell_w, cell_h;
    bool down; /* blocks run down */
    bool titled;
};

static const struct manifest_option *option_of(const struct report_row *row,
                                               const struct manifest_option *panel)
{
    for (size_t i = 0; i < row->count; i++)
        if (manifest_same_candidate(row->counted[i], panel))
            return row->counted[i];
    return NULL;
}

static bool map_init(struct map *m, const struct report *r, struct chart_style style)
{
    *m = (struct map){.r = r, .style = style};
    m->kinds = xcalloc(r->kind_count + 1, sizeof *m->kinds);
    m->kind_place = xcalloc(r->kind_count + 1, sizeof *m->kind_place);
    m->kind_count = chart_live_kinds(r, m->kinds);
    m->blocks = chart_blocks(r, m->kinds, m->kind_count);
    m->panel_count = chart_candidates(r, m->panels, MOST_PANELS);
    for (size_t k = 0; k < r->kind_count; k++)
        m->kind_place[k] = m->kind_count;
    for (size_t k = 0; k < m->kind_count; k++)
        m->kind_place[m->kinds[k]] = k;
    double *values = xcalloc(r->m->option_count + 1, sizeof *values);
    for (size_t i = 0; i < r->m->option_count; i++)
        values[i] = r->m->options[i].score;
    bool any = chart_decades(values, r->m->option_count, &m->d) && m->kind_count && m->blocks;
    free(values);
    m->down = style.width < 500;
    m->titled = r->m->option_count <= TITLED_CELLS;
    size_t across = m->down ? m->kind_count : m->blocks,
           along = m->down ? m->blocks : m->kind_count;
    double longest = 0;
    for (size_t k = 0; k < m->kind_count; k++)
        longest = fmax(longest, svg_text_width(r->kinds[m->kinds[k]]));
    m->left = m->down ? 46 : fmin(longest, 190) + 20;
    m->cell_w =
        fmin((style.width - m->left - 12) / (double)(across ? across : 1), m->down ? 90 : 40);
    m->cell_h = m->down ? fmin(15, fmax(0.6, 1200.0 / (double)(along ? along : 1))) : 22;
    return any;
}

static void map_release(struct map *m)
{
    free(m->kinds);
    free(m->kind_place);
}

static double along_count(const struct map *m)
{
    return (double)(m->down ? m->blocks : m->kind_count);
}

static double across_count(const struct map *m)
{
    return (double)(m->down ? m->kind_count : m->blocks);
}

static double panel_height(const struct map *m)
{
    return (m->panel_count > 1 ? 22 : 0) + 22 + along_count(m) * m->cell_h + 14;
}

static void draw_block_labels(struct aq_buf *out, const struct map *m, double top)
{
    size_t step = chart_tick_step(m->blocks, m->down ? m->cell_h : m->cell_w,
                                  m->down ? CHART_DOWN : CHART_ACROSS);
    for (size_t b = 0; b < m->blocks; b += step) {
        double at = ((double)b + 0.5) * (m->down ? m->cell_h : m->cell_w);
        if (m->down)
            svg_text(out, m->left - 6, top + at + 4, SVG_END, "small soft", "%zu", b);
        else
            svg_text(out, m->left + at, top - 6, SVG_MIDDLE, "small soft", "%zu", b);
    }
    svg_text(out, m->left - 8, top - 6, SVG_END, "small soft", "block");
}

static void draw_kind_labels(struct aq_buf *out, const struct map *m, double top)
{
    for (size_t k = 0; k < m->kind_count; k++) {
        const char *kind = m->r->kinds[m->kinds[k]];
        double at = ((double)k + 0.5) * (m->down ? m->cell_w : m->cell_h);
        if (m->down)
            svg_text(out, m->left + at, top - 6, SVG_MIDDLE, "small", "%s",
                     svg_fit(chart_short_kind(kind), m->cell_w - 8));
        else
            svg_text(out, m->left - 8, top + at + 4, SVG_END, NULL, "%s",
                     svg_fit(kind, m->left - 12));
    }
}

static void draw_cells(struct aq_buf *out, const struct map *m, const struct manifest_option *panel,
                       double top)
{
    double low = pow(10, m->d.low), high = pow(10, m->d.high);
    double gap = fmin(m->cell_w, m->cell_h) > 6 ? 1 : 0;
    for (size_t i = 0; i < m->r->count; i++) {
        const struct report_row *row = &m->r->rows[i];
        size_t k = m->kind_place[row->kind];
        const struct manifest_option *o = option_of(row, panel);
        if (row->block < 0 || k == m->kind_count || !o)
            continue;
        double x = m->left + (double)(m->down ? k : (size_t)row->block) * m->cell_w;
        double y = top + (double)(m->down ? (size_t)row->block : k) * m->cell_h;
        const char *class = svg_level_class(o->score, low, high);
        if (!m->titled) {
            svg_rect(out, x, y, m->cell_w - gap, m->cell_h - gap, class);
            continue;
        }
        char *title = xasprintf("%.300s: %s", row->shown, svg_number(o->score));
        svg_rect_titled(out, x, y, m->cell_w - gap, m->cell_h - gap, class, title);
        free(title);
    }
}

/* The colour bar, with as many decades labelled as fit. */
static void draw_scale(struct aq_buf *out, const struct map *m, double y)
{
    double width = fmin(m->style.width - m->left - 90, 420), left = m->down ? 24 : m->left,
           bar = width / SVG_LEVELS;
    for (int i = 0; i < SVG_LEVELS; i++) {
        double low = pow(10, m->d.low), high = pow(10, m->d.high);
        double value = pow(10, m->d.low + (m->d.high - m->d.low) * (i + 0.5) / SVG_LEVELS);
        svg_rect(out, left + i * bar, y, bar + 0.4, 10, svg_level_class(value, low, high));
    }
    int step = chart_decade_step(&m->d, width, 44);
    for (int e = m->d.low; e <= m->d.high; e += step) {
        double x = left + width * (e - m->d.low) / (m->d.high - m->d.low);
        svg_line(out, x, y + 10, x, y + 14, "axis");
        svg_text(out, x, y + 27, SVG_MIDDLE, "small soft", "%s", svg_power(e));
    }
    svg_text(out, left, y - 6, SVG_START, "small soft", "sensitivity, log scale");
    svg_rect(out, left + width + 22, y, 10, 10, "zero");
    svg_text(out, left + width + 38, y + 9, SVG_START, "small soft", "0");
}

void chart_heatmap(struct aq_buf *out, const struct report *r, struct chart_style style)
{
    static const char label[] = "Heat map: sensitivity of each layer and module, log colour scale";
    struct map m;
    if (!map_init(&m, r, style)) {
        chart_empty(out, style, label, "No layer has a score above zero.");
        map_release(&m);
        return;
    }
    double head = style.standalone ? 52 : 4;
    double height = head + (double)m.panel_count * panel_height(&m) + 60;
    svg_begin(out, style.width, height, label, style.standalone);
    double y = chart_title(out, r, style, "Sensitivity by layer and module");
    for (size_t p = 0; p < m.panel_count; p++) {
        double top = y + 22;
        if (m.panel_count > 1) {
            char *name = report_candidate(r, m.panels[p]);
            svg_text(out, m.left, y + 14, SVG_START, "head", "%s",
                     svg_fit_head(name, style.width - m.left));
            free(name);
            top += 22;
        }
        svg_rect(out, m.left - 1, top - 1, across_count(&m) * m.cell_w + 1,
                 along_count(&m) * m.cell_h + 1, "page");
        draw_block_labels(out, &m, top);
        draw_kind_labels(out, &m, top);
        draw_cells(out, &m, m.panels[p], top);
        y += panel_height(&m);
    }
    draw_scale(out, &m, y + 18);
    svg_end(out);
    map_release(&m);
}
