/*
 * The worst layers: bars on a linear scale, so that lengths are shares of the total, with one
 * standard error on both sides, and the share that they add up to.
 */
#include "base/mem.h"
#include "report/chart.h"
#include "report/svg.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

enum { WORST = 20 };

struct bars {
    const struct report *r;
    size_t count;
    double most; /* end of the scale */
    double left, width, row;
    double text_x, share_x, share_w;
    bool narrow, errors; /* errors: at least one is known */
};

/* Where the upper whisker ends, or the bar if there is none. */
static double end_of(const struct report_row *row)
{
    double error = row->worst->error;
    return error > 0 ? fmin(row->sensitivity + error, DBL_MAX) : row->sensitivity;
}

static void bars_init(struct bars *b, const struct report *r, struct chart_style style)
{
    *b = (struct bars){.r = r, .narrow = style.width < 500};
    while (b->count < r->count && b->count < WORST && r->by_sensitivity[b->count]->sensitivity > 0)
        b->count++;
    for (size_t i = 0; i < b->count; i++) {
        b->most = fmax(b->most, end_of(r->by_sensitivity[i]));
        b->errors = b->errors || r->by_sensitivity[i]->worst->error > 0;
    }
    b->row = b->narrow ? 38 : 24;
    double longest = 0;
    for (size_t i = 0; i < b->count; i++)
        longest = fmax(longest, svg_text_width(r->by_sensitivity[i]->shown));
    b->left = b->narrow ? 12 : fmin(longest, 234) + 16;
    b->share_w = b->narrow ? 0 : 130;
    b->share_x = style.width - b->share_w - 52;
    b->text_x = b->narrow ? style.width - 136 : b->share_x - 96;
    b->width = b->text_x - b->left - 8;
}

static void draw_grid(struct aq_buf *out, const struct bars *b, double top)
{
    double bottom = top + (double)b->count * b->row;
    double unit = pow(10, floor(log10(b->most))), step = unit;
    while (b->most / step > 4)
        step *= step / unit == 1 ? 2 : step / unit == 2 ? 2.5 : 2;
    while (b->most / step < 2)
        step /= 2;
    for (int i = 0; i * step <= b->most; i++) {
        double v = i * step;
        double x = b->left + b->width * (v / b->most);
        svg_line(out, x, top, x, bottom, "grid");
        svg_text(out, x, bottom + 16, SVG_MIDDLE, "small soft", "%s", svg_round_number(v));
    }
    if (b->narrow)
        return;
    for (int percent = 0; percent <= 100; percent += 50) {
        double x = b->share_x + b->share_w * percent / 100;
        svg_line(out, x, top, x, bottom, "grid");
        svg_text(out, x, bottom + 16, SVG_MIDDLE, "small soft", "%d %%", percent);
    }
}

static void draw_row(struct aq_buf *out, const struct bars *b, size_t i, double y, double share)
{
    const struct report_row *row = b->r->by_sensitivity[i];
    double length = b->width * (row->sensitivity / b->most), error = row->worst->error;
    double bar_y = b->narrow ? y + 18 : y + 5, middle = bar_y + 7;
    if (b->narrow)
        svg_text(out, b->left, y + 12, SVG_START, "mono", "%s", svg_fit(row->shown, 330));
    else
        svg_text(out, b->left - 8, y + 16, SVG_END, "mono", "%s",
                 svg_fit(row->shown, b->left - 16));
    char *title =
        xasprintf("%.300s: %s%s%s, %.2f %% of the total", row->shown, svg_number(row->sensitivity),
                  error > 0 ? " ± " : "", error > 0 ? svg_number(error) : "",
                  100 * (row->sensitivity / b->r->total));
    svg_rect(out, b->left, bar_y, length, 14, "k0");
    svg_rect_titled(out, b->left, bar_y, fmax(b->width, 1), 14, "see", title);
    free(title);
    if (error > 0) {
        double from = b->left + b->width * (fmax(0, row->sensitivity - error) / b->most);
        double to = b->left + b->width * (end_of(row) / b->most);
        svg_line(out, from, middle, to, middle, "whisker");
        svg_line(out, from, middle - 4, from, middle + 4, "whisker");
        svg_line(out, to, middle - 4, to, middle + 4, "whisker");
    }
    svg_text(out, b->text_x, middle + 4, SVG_START, "small", "%s", svg_number(row->sensitivity));
    svg_text(out, b->narrow ? b->text_x + 124 : b->share_x + b->share_w + 44, middle + 4, SVG_END,
             "small", "%.0f %%", 100 * share);
}

static void draw_shares(struct aq_buf *out, const struct bars *b, double top)
{
    double sum = 0, x = 0, y = 0;
    for (size_t i = 0; i < b->count; i++) {
        sum += b->r->by_sensitivity[i]->sensitivity;
        double share = sum / b->r->total, row_y = top + (double)i * b->row;
        draw_row(out, b, i, row_y, share);
        if (b->narrow)
            continue;
        double next_x = b->share_x + b->share_w * share, next_y = row_y + 12;
        if (i)
            svg_line(out, x, y, next_x, next_y, "cum");
        svg_rect(out, next_x - 2.5, next_y - 2.5, 5, 5, "k1");
        x = next_x;
        y = next_y;
    }
}

void chart_bars(struct aq_buf *out, const struct report *r, struct chart_style style)
{
    static const char label[] =
        "Bars: the most sensitive layers with standard errors and their cumulative share";
    struct bars b;
    bars_init(&b, r, style);
    if (b.count == 0) {
        chart_empty(out, style, label, "No layer has a score above zero.");
        return;
    }
    double head = style.standalone ? 52 : 4;
    svg_begin(out, style.width, head + 20 + (double)b.count * b.row + 28, label, style.standalone);
    double top = chart_title(out, r, style, "The most sensitive layers") + 20;
    svg_text(out, b.left, top - 8, SVG_START, "small soft",
             !b.errors  ? "sensitivity"
             : b.narrow ? "sensitivity ± s.e."
                        : "sensitivity, ± one standard error");
    if (b.narrow)
        svg_text(out, b.text_x + 124, top - 8, SVG_END, "small soft", "cumulative");
    else
        svg_text(out, b.share_x, top - 8, SVG_START, "small soft", "cumulative share of total");
    draw_grid(out, &b, top);
    draw_shares(out, &b, top);
    svg_end(out);
}
