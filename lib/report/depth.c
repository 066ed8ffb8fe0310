/* Sensitivity over depth: a line for each kind of module, log scale. */
#include "base/mem.h"
#include "report/chart.h"
#include "report/escape.h"
#include "report/svg.h"

#include <math.h>
#include <stdlib.h>

struct depth {
    size_t *kinds, kind_count, blocks;
    double *values; /* [kind][block]; 0: nothing */
    struct chart_frame frame;
};

static bool depth_init(struct depth *p, const struct report *r)
{
    *p = (struct depth){.kinds = xcalloc(r->kind_count + 1, sizeof *p->kinds)};
    p->kind_count = chart_live_kinds(r, p->kinds);
    p->blocks = chart_blocks(r, p->kinds, p->kind_count);
    size_t *place = xcalloc(r->kind_count + 1, sizeof *place);
    for (size_t k = 0; k < r->kind_count; k++)
        place[k] = p->kind_count;
    for (size_t k = 0; k < p->kind_count; k++)
        place[p->kinds[k]] = k;
    p->values = xcalloc(p->kind_count * p->blocks + 1, sizeof *p->values);
    for (size_t i = 0; i < r->count; i++) {
        const struct report_row *row = &r->rows[i];
        if (row->block >= 0 && place[row->kind] < p->kind_count)
            p->values[place[row->kind] * p->blocks + (size_t)row->block] = row->sensitivity;
    }
    free(place);
    return chart_decades(p->values, p->kind_count * p->blocks, &p->frame.d);
}

static double x_at(const struct depth *p, size_t block)
{
    return p->frame.left + p->frame.width * ((double)block + 0.5) / (double)p->blocks;
}

static void draw_axes(struct aq_buf *out, const struct depth *p)
{
    double bottom = p->frame.top + p->frame.height, cell = p->frame.width / (double)p->blocks;
    size_t ticks = chart_tick_step(p->blocks, cell, CHART_ACROSS);
    chart_frame_draw(out, &p->frame, "block", "sensitivity, log scale");
    for (size_t b = 0; b < p->blocks; b += ticks)
        svg_text(out, x_at(p, b), bottom + 16, SVG_MIDDLE, "small soft", "%zu", b);
}

/* A point with its number; kind and block say what it is. */
static void draw_point(struct aq_buf *out, const struct depth *p, const char *kind, size_t k,
                       size_t b)
{
    double x = x_at(p, b), y = chart_frame_y(&p->frame, p->values[k * p->blocks + b]);
    char *title =
        xasprintf("block %zu, %.200s: %s", b, kind, svg_number(p->values[k * p->blocks + b]));
    aq_buf_addf(out, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%s\"><title>",
                svg_series_class(k), x, y, p->blocks > 50 ? "1.6" : "2.8");
    escape_html(out, title);
    aq_buf_adds(out, "</title></circle>\n");
    free(title);
}

static void draw_line(struct aq_buf *out, const struct depth *p, const char *kind, size_t k)
{
    const double *v = p->values + k * p->blocks;
    bool open = false;
    aq_buf_addf(out, "<path class=\"curve %s\" d=\"", svg_line_class(k));
    for (size_t b = 0; b < p->blocks; b++) {
        if (v[b] > 0)
            aq_buf_addf(out, "%s%.1f %.1f", open ? "L" : "M", x_at(p, b),
                        chart_frame_y(&p->frame, v[b]));
        open = v[b] > 0;
    }
    aq_buf_adds(out, "\"/>\n");
    if (p->blocks > 100)
        return;
    for (size_t b = 0; b < p->blocks; b++)
        if (v[b] > 0)
            draw_point(out, p, kind, k, b);
}

void chart_depth(struct aq_buf *out, const struct report *r, struct chart_style style)
{
    static const char label[] = "Lines: sensitivity over depth for each kind of module, log scale";
    struct depth p;
    if (depth_init(&p, r)) {
        struct chart_key *keys = xcalloc(p.kind_count + 1, sizeof *keys);
        struct aq_buf body = AQ_BUF_INIT;
        for (size_t k = 0; k < p.kind_count; k++)
            keys[k] = (struct chart_key){svg_line_class(k), r->kinds[p.kinds[k]], 0};
        double y = chart_title(&body, r, style, "Sensitivity over depth") + 16;
        size_t lines = chart_legend(&body, style, 12, y, keys, p.kind_count);
        p.frame.left = 48;
        p.frame.top = y + 20 * (double)(lines - 1) + 38;
        p.frame.width = style.width - p.frame.left - 14;
        p.frame.height = style.width < 500 ? 240 : 300;
        draw_axes(&body, &p);
        for (size_t k = 0; k < p.kind_count; k++)
            draw_line(&body, &p, r->kinds[p.kinds[k]], k);
        svg_begin(out, style.width, p.frame.top + p.frame.height + 44, label, style.standalone);
        aq_buf_add(out, body.data, body.len);
        svg_end(out);
        aq_buf_release(&body);
        free(keys);
    } else {
        chart_empty(out, style, label, "No layer has a score above zero.");
    }
    free(p.kinds);
    free(p.values);
}
