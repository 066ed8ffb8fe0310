/* Sensitivity over depth: a line for each kind of module, log scale. */
#include "base/mem.h"
#include "report/chart.h"
#include "report/svg.h"

#include <math.h>
#include <stdlib.h>

struct depth {
    size_t *kinds, kind_count, blocks;
    double *values; /* [kind][block]; 0: nothing */
    struct decades d;
    double left, top, width, height;
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
    return chart_decades(p->values, p->kind_count * p->blocks, &p->d);
}

static double x_at(const struct depth *p, size_t block)
{
    return p->left + p->width * ((double)block + 0.5) / (double)p->blocks;
}

static double y_at(const struct depth *p, double value)
{
    return p->top + p->height * (p->d.high - log10(value)) / (p->d.high - p->d.low);
}

static void draw_axes(struct aq_buf *out, const struct depth *p)
{
    int step = chart_decade_step(&p->d, p->height, 22);
    for (int e = p->d.low; e <= p->d.high; e += step) {
        double y = y_at(p, pow(10, e));
        svg_line(out, p->left, y, p->left + p->width, y, "grid");
        svg_text(out, p->left - 6, y + 4, SVG_END, "small soft", "%s", svg_power(e));
    }
    double bottom = p->top + p->height, cell = p->width / (double)p->blocks;
    size_t ticks = chart_tick_step(p->blocks, cell, 28);
    for (size_t b = 0; b < p->blocks; b += ticks)
        svg_text(out, x_at(p, b), bottom + 16, SVG_MIDDLE, "small soft", "%zu", b);
    svg_line(out, p->left, bottom, p->left + p->width, bottom, "axis");
    svg_text(out, p->left + p->width / 2, bottom + 34, SVG_MIDDLE, "small soft", "block");
}

static void draw_line(struct aq_buf *out, const struct depth *p, size_t k)
{
    const double *v = p->values + k * p->blocks;
    bool open = false;
    aq_buf_addf(out, "<path class=\"curve l%zu\" d=\"", k % SVG_SERIES);
    for (size_t b = 0; b < p->blocks; b++) {
        if (v[b] > 0)
            aq_buf_addf(out, "%s%.1f %.1f", open ? "L" : "M", x_at(p, b), y_at(p, v[b]));
        open = v[b] > 0;
    }
    aq_buf_adds(out, "\"/>\n");
    if (p->blocks > 100)
        return;
    for (size_t b = 0; b < p->blocks; b++)
        if (v[b] > 0)
            aq_buf_addf(out, "<circle class=\"k%zu\" cx=\"%.1f\" cy=\"%.1f\" r=\"%s\"/>\n",
                        k % SVG_SERIES, x_at(p, b), y_at(p, v[b]), p->blocks > 50 ? "1.6" : "2.6");
}

void chart_depth(struct aq_buf *out, const struct report *r, struct chart_style style)
{
    static const char *const classes[SVG_SERIES] = {"k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7"};
    static const char label[] = "Lines: sensitivity over depth for each kind of module, log scale";
    struct depth p;
    if (depth_init(&p, r)) {
        struct chart_key *keys = xcalloc(p.kind_count + 1, sizeof *keys);
        struct aq_buf body = AQ_BUF_INIT;
        for (size_t k = 0; k < p.kind_count; k++)
            keys[k] = (struct chart_key){classes[k % SVG_SERIES], r->kinds[p.kinds[k]]};
        double y = chart_title(&body, r, style, "Sensitivity over depth") + 16;
        size_t lines = chart_legend(&body, style, 12, y, keys, p.kind_count);
        p.left = 48;
        p.top = y + 20 * (double)(lines - 1) + 20;
        p.width = style.width - p.left - 14;
        p.height = style.width < 500 ? 240 : 300;
        draw_axes(&body, &p);
        for (size_t k = 0; k < p.kind_count; k++)
            draw_line(&body, &p, k);
        svg_begin(out, style.width, p.top + p.height + 44, label, style.standalone);
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
