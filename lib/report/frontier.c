/*
 * The frontier: the best score for every budget, the formats used uniformly beside it, and where
 * the selection stands.
 */
#include "base/mem.h"
#include "report/chart.h"
#include "report/svg.h"

#include <math.h>
#include <stdlib.h>

struct frame {
    double left, top, width, height;
    double low, high; /* bits */
    struct decades d;
};

static bool frame_init(struct frame *f, const struct report *r, const struct curve *c)
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
    bool any = chart_decades(scores, n, &f->d);
    free(scores);
    if (f->high - f->low < 0.5)
        f->high = f->low + 0.5;
    double margin = (f->high - f->low) * 0.03;
    f->low -= margin;
    f->high += margin;
    return any;
}

static double x_at(const struct frame *f, double bits)
{
    return f->left + f->width * (bits - f->low) / (f->high - f->low);
}

static double y_at(const struct frame *f, double score)
{
    double e = score > 0 ? log10(score) : f->d.low;
    return f->top + f->height * (f->d.high - fmax(e, f->d.low)) / (f->d.high - f->d.low);
}

static void draw_axes(struct aq_buf *out, const struct frame *f)
{
    int step = chart_decade_step(&f->d, f->height, 22);
    for (int e = f->d.low; e <= f->d.high; e += step) {
        double y = y_at(f, pow(10, e));
        svg_line(out, f->left, y, f->left + f->width, y, "grid");
        svg_text(out, f->left - 6, y + 4, SVG_END, "small soft", "%s", svg_power(e));
    }
    static const double steps[] = {0.1, 0.25, 0.5, 1, 2, 4};
    size_t s = 0;
    while (s + 1 < AQ_COUNT(steps) && f->width * steps[s] / (f->high - f->low) < 38)
        s++;
    double bottom = f->top + f->height;
    for (int n = (int)ceil(f->low / steps[s]); n * steps[s] <= f->high; n++) {
        double b = n * steps[s];
        svg_line(out, x_at(f, b), f->top, x_at(f, b), bottom, "grid");
        svg_text(out, x_at(f, b), bottom + 16, SVG_MIDDLE, "small soft", "%g", b);
    }
    svg_line(out, f->left, bottom, f->left + f->width, bottom, "axis");
    svg_text(out, f->left + f->width / 2, bottom + 34, SVG_MIDDLE, "small soft",
             "effective bits of a weight");
}

/* A staircase: a budget between two points can have only the cheaper one. */
static void draw_curve(struct aq_buf *out, const struct frame *f, const struct curve *c)
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

static void draw_selection(struct aq_buf *out, const struct frame *f, const struct report *r)
{
    const struct json *bits = json_get(r->m->scheme, "auto_quantize_bits");
    if (bits && (json_type(bits) == JSON_FLOAT || json_type(bits) == JSON_INT)) {
        double b = json_number(bits);
        if (b >= f->low && b <= f->high)
            svg_line(out, x_at(f, b), f->top, x_at(f, b), f->top + f->height, "budget");
    }
    double b = r->m->effective_bits;
    if (isnan(b) || isnan(r->m->score) || b < f->low || b > f->high)
        return;
    double x = x_at(f, b), y = y_at(f, r->m->score);
    aq_buf_addf(out, "<path class=\"mark\" d=\"M%.1f %.1fL%.1f %.1fL%.1f %.1fL%.1f %.1fZ\"/>\n", x,
                y - 7, x + 7, y, x, y + 7, x - 7, y);
}

static void draw_uniforms(struct aq_buf *out, const struct frame *f, const struct curve *c)
{
    for (size_t i = 0; i < c->uniform_count; i++)
        aq_buf_addf(out, "<circle class=\"k%zu halo\" cx=\"%.1f\" cy=\"%.1f\" r=\"5\"/>\n",
                    (i + 1) % SVG_SERIES, x_at(f, c->uniforms[i].at.bits),
                    y_at(f, c->uniforms[i].at.score));
}

static size_t draw_legend(struct aq_buf *out, const struct report *r, const struct curve *c,
                          struct chart_style style, double y)
{
    enum { MOST = 14 };
    static const char *const classes[SVG_SERIES] = {"k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7"};
    struct chart_key keys[MOST + 2];
    char *texts[MOST + 2];
    size_t n = 0;
    texts[n] = xstrdup("best for every budget");
    keys[n] = (struct chart_key){"k0", texts[n]};
    n++;
    if (!isnan(r->m->score)) {
        texts[n] = xasprintf("this selection (diamond): %s", svg_number(r->m->score));
        keys[n] = (struct chart_key){"mark", texts[n]};
        n++;
    }
    for (size_t i = 0; i < c->uniform_count && n < MOST + 2; i++) {
        const char *name = svg_fit(c->uniforms[i].name, style.width - 210);
        texts[n] = xasprintf("all %s: %s", name, svg_number(c->uniforms[i].at.score));
        keys[n] = (struct chart_key){classes[(i + 1) % SVG_SERIES], texts[n]};
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
        "Curve: the best total score for every budget, with uniform formats as markers";
    struct frame f = {0};
    if (!c->known || !frame_init(&f, r, c)) {
        chart_empty(out, style, label, "There is nothing to choose between.");
        return;
    }
    struct aq_buf body = AQ_BUF_INIT;
    double y = chart_title(&body, r, style, "Best total score for every budget") + 16;
    size_t lines = draw_legend(&body, r, c, style, y);
    f.left = 48;
    f.top = y + 20 * (double)(lines - 1) + 22;
    f.width = style.width - f.left - 14;
    f.height = style.width < 500 ? 260 : 320;
    draw_axes(&body, &f);
    draw_curve(&body, &f, c);
    draw_uniforms(&body, &f, c);
    draw_selection(&body, &f, r);
    svg_begin(out, style.width, f.top + f.height + 44, label, style.standalone);
    aq_buf_add(out, body.data, body.len);
    svg_end(out);
    aq_buf_release(&body);
}
