/*
 * The frontier: the best score for every budget, each format used for all layers, and the
 * selection.
 */
#include "base/mem.h"
#include "report/chart.h"
#include "report/escape.h"
#include "report/svg.h"

#include <math.h>
#include <stdlib.h>

enum { MOST_UNIFORMS = 14 }; /* with a letter and a line in the legend */

struct frontier_frame {
    struct chart_frame frame;
    double low, high; /* bits */
};

static bool frame_init(struct frontier_frame *f, const struct report *r, const struct curve *c)
{
    size_t n = 0;
    double *scores = xcalloc(c->count + c->uniform_count + 2, sizeof *scores);
    f->low = INFINITY;
    f->high = 0;
    for (size_t i = 0; i < c->count; i++) {
        scores[n++] = c->points[i].score;
        f->low = fmin(f->low, c->points[i].bits);
        f->high = fmax(f->high, c->points[i].bits);
    }
    for (size_t i = 0; i < c->uniform_count; i++)
        scores[n++] = c->uniforms[i].at.score;
    if (!isnan(r->m->score))
        scores[n++] = r->m->score;
    bool any = chart_decades(scores, n, &f->frame.d);
    free(scores);
    if (f->high - f->low < 0.5)
        f->high = f->low + 0.5;
    double margin = (f->high - f->low) * 0.03;
    f->low -= margin;
    f->high += margin;
    return any;
}

static double x_at(const struct frontier_frame *f, double bits)
{
    return f->frame.left + f->frame.width * (bits - f->low) / (f->high - f->low);
}

static double y_at(const struct frontier_frame *f, double score)
{
    return chart_frame_y(&f->frame, score);
}

static void draw_axes(struct aq_buf *out, const struct frontier_frame *f)
{
    static const double steps[] = {0.1, 0.25, 0.5, 1, 2, 4};
    size_t s = 0;
    while (s + 1 < AQ_COUNT(steps) && f->frame.width * steps[s] / (f->high - f->low) < 38)
        s++;
    double top = f->frame.top, bottom = top + f->frame.height;
    for (int n = (int)ceil(f->low / steps[s]); n * steps[s] <= f->high; n++) {
        double b = n * steps[s];
        svg_line(out, x_at(f, b), top, x_at(f, b), bottom, "grid");
        svg_text(out, x_at(f, b), bottom + 16, SVG_MIDDLE, "small soft", "%g", b);
    }
    chart_frame_draw(out, &f->frame, "average bits per weight",
                     "total score, log scale; lower is better");
}

/* A staircase: a budget between two points can have only the cheaper one. */
static void draw_curve(struct aq_buf *out, const struct frontier_frame *f, const struct curve *c)
{
    aq_buf_adds(out, "<path class=\"curve l0\" d=\"");
    for (size_t i = 0; i < c->count; i++) {
        double x = x_at(f, c->points[i].bits), y = y_at(f, c->points[i].score);
        if (i == 0)
            aq_buf_addf(out, "M%.1f %.1f", x, y);
        else
            aq_buf_addf(out, "H%.1fV%.1f", x, y);
    }
    aq_buf_adds(out, "\"/>\n");
}

static void draw_selection(struct aq_buf *out, const struct frontier_frame *f,
                           const struct report *r)
{
    double budget = x_at(f, json_find_number(r->m->scheme, "auto_quantize_bits"));
    if (budget >= f->frame.left && budget <= f->frame.left + f->frame.width)
        svg_line(out, budget, f->frame.top, budget, f->frame.top + f->frame.height, "budget");
    double b = r->m->effective_bits;
    if (isnan(b) || isnan(r->m->score) || b < f->low || b > f->high)
        return;
    double x = x_at(f, b), y = y_at(f, r->m->score);
    aq_buf_addf(out, "<path class=\"mark\" d=\"M%.1f %.1fL%.1f %.1fL%.1f %.1fL%.1f %.1fZ\"/>\n", x,
                y - 9, x + 9, y, x, y + 9, x - 9, y);
}

/* Thin columns that a pointer or the keyboard finds: what each stretch of the curve gives. */
static void draw_readings(struct aq_buf *out, const struct frontier_frame *f, const struct curve *c)
{
    enum { MOST = 120 };
    size_t step = c->count / MOST + 1;
    for (size_t i = 0; i < c->count; i += step) {
        size_t next = i + step < c->count ? i + step : c->count - 1;
        double x = x_at(f, c->points[i].bits), end = x_at(f, c->points[next].bits);
        char *title = xasprintf("%.4g bits: total score %s", c->points[i].bits,
                                svg_number(c->points[i].score));
        svg_rect_titled(out, x, f->frame.top, fmax(end - x, 1), f->frame.height, "see", title);
        free(title);
    }
}

static void draw_uniforms(struct aq_buf *out, const struct frontier_frame *f,
                          const struct report *r, const struct curve *c)
{
    for (size_t i = 0; i < c->uniform_count; i++) {
        const struct curve_uniform *u = &c->uniforms[i];
        double x = x_at(f, u->at.bits), y = y_at(f, u->at.score);
        char *name = report_candidate(r, u->candidate);
        aq_buf_addf(out, "<circle class=\"%s halo\" cx=\"%.1f\" cy=\"%.1f\" r=\"6\"><title>all ",
                    svg_bits_class(u->candidate->bits), x, y);
        escape_html(out, name);
        aq_buf_addf(out, ": %.4g bits, total score %s</title></circle>\n", u->at.bits,
                    svg_number(u->at.score));
        if (i < MOST_UNIFORMS)
            svg_text(out, x + 9, y < f->frame.top + 18 ? y + 15 : y - 7, SVG_START, "small", "%c",
                     (char)('A' + i));
        free(name);
    }
}

static size_t draw_legend(struct aq_buf *out, const struct report *r, const struct curve *c,
                          struct chart_style style, double y)
{
    struct chart_key keys[MOST_UNIFORMS + 2];
    char *texts[MOST_UNIFORMS + 2];
    size_t n = 0;
    texts[n] = xstrdup("best score within each budget");
    keys[n] = (struct chart_key){"l0", texts[n], 0};
    n++;
    if (!isnan(r->m->score)) {
        texts[n] = xasprintf("this selection (diamond): %s", svg_number(r->m->score));
        keys[n] = (struct chart_key){"mark", texts[n], 0};
        n++;
    }
    for (size_t i = 0; i < c->uniform_count && i < MOST_UNIFORMS; i++) {
        char *name = report_candidate(r, c->uniforms[i].candidate);
        texts[n] = xasprintf("%c: all %s: %s", (char)('A' + i), svg_fit(name, style.width - 230),
                             svg_number(c->uniforms[i].at.score));
        free(name);
        keys[n] = (struct chart_key){svg_bits_class(c->uniforms[i].candidate->bits), texts[n], 0};
        n++;
    }
    size_t lines = chart_legend(out, style, 12, y, keys, n);
    for (size_t i = 0; i < n; i++)
        free(texts[i]);
    return lines;
}

void chart_frontier(struct aq_buf *out, const struct report *r, const struct curve *c,
                    struct chart_style style)
{
    static const char label[] =
        "Curve: the best total score within each budget, with uniform formats as markers";
    struct frontier_frame f = {0};
    if (!c->known || !frame_init(&f, r, c)) {
        chart_empty(out, style, label, "There is nothing to choose between.");
        return;
    }
    struct aq_buf body = AQ_BUF_INIT;
    double y = chart_title(&body, r, style, "Score against size") + 16;
    size_t lines = draw_legend(&body, r, c, style, y);
    f.frame.left = 48;
    f.frame.top = y + 20 * (double)(lines - 1) + 40;
    f.frame.width = style.width - f.frame.left - 14;
    f.frame.height = style.width < 500 ? 260 : 320;
    draw_axes(&body, &f);
    draw_curve(&body, &f, c);
    draw_readings(&body, &f, c);
    draw_selection(&body, &f, r); /* larger than a circle, which may lie upon it */
    draw_uniforms(&body, &f, r, c);
    svg_begin(out, style.width, f.frame.top + f.frame.height + 44, label, style.standalone);
    aq_buf_add(out, body.data, body.len);
    svg_end(out);
    aq_buf_release(&body);
}
