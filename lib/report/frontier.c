/*
 * The frontier: the best score for every budget, each format used for all layers, and the
 * selection. Where the manifest says what a score costs, all of them in nats: the predicted
 * divergence, with what was measured beside it.
 */
#include "base/mem.h"
#include "report/chart.h"
#include "report/escape.h"
#include "report/svg.h"

#include <math.h>
#include <stdlib.h>

enum {
    MOST_UNIFORMS = 14, /* with a letter and a line in the legend */
    MOST_BITS = 32,     /* of a measured recipe */
};

struct frontier_frame {
    struct chart_frame frame;
    double low, high; /* bits */
    bool nats;        /* else scores */
    const struct measured *measured;
};

/* What is drawn upwards. */
static double value_of(const struct frontier_frame *f, const struct curve_point *at)
{
    return f->nats ? at->kl.nats : at->score;
}

/* Of the selection; NAN: unknown. */
static double selected(const struct frontier_frame *f, const struct report *r)
{
    return f->nats ? json_find_number(json_find(r->m->selection, "predicted_kl"), "nats")
                   : r->m->score;
}

static const char *unit_of(const struct frontier_frame *f)
{
    return f->nats ? "predicted KL" : "total score";
}

static bool frame_init(struct frontier_frame *f, const struct report *r, const struct curve *c)
{
    size_t n = 0;
    double *scores = xcalloc(c->count + c->uniform_count + f->measured->count + 2, sizeof *scores);
    f->low = INFINITY;
    f->high = 0;
    f->nats = c->predicted;
    for (size_t i = 0; i < c->count; i++) {
        scores[n++] = value_of(f, &c->points[i]);
        f->low = fmin(f->low, c->points[i].bits);
        f->high = fmax(f->high, c->points[i].bits);
    }
    for (size_t i = 0; i < c->uniform_count; i++)
        scores[n++] = value_of(f, &c->uniforms[i].at);
    if (!isnan(selected(f, r)))
        scores[n++] = selected(f, r);
    for (size_t i = 0; f->nats && i < f->measured->count; i++) {
        double bits = f->measured->items[i].bits;
        scores[n++] = f->measured->items[i].all.kl;
        if (bits > 0 && bits <= MOST_BITS) {
            f->low = fmin(f->low, bits);
            f->high = fmax(f->high, bits);
        }
    }
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
                     f->nats ? "KL in nats per token, log scale; lower is better"
                             : "total score, log scale; lower is better");
}

/* A staircase: a budget between two points can have only the cheaper one. */
static void draw_curve(struct aq_buf *out, const struct frontier_frame *f, const struct curve *c)
{
    aq_buf_adds(out, "<path class=\"curve l0\" d=\"");
    for (size_t i = 0; i < c->count; i++) {
        double x = x_at(f, c->points[i].bits), y = y_at(f, value_of(f, &c->points[i]));
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
    double b = r->m->effective_bits, value = selected(f, r);
    if (isnan(b) || isnan(value) || b < f->low || b > f->high)
        return;
    double x = x_at(f, b), y = y_at(f, value);
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
        char *title = xasprintf("%.4g bits: %s %s", c->points[i].bits, unit_of(f),
                                svg_number(value_of(f, &c->points[i])));
        svg_rect_titled(out, x, f->frame.top, fmax(end - x, 1), f->frame.height, "see", title);
        free(title);
    }
}

static void draw_uniforms(struct aq_buf *out, const struct frontier_frame *f,
                          const struct report *r, const struct curve *c)
{
    for (size_t i = 0; i < c->uniform_count; i++) {
        const struct curve_uniform *u = &c->uniforms[i];
        double x = x_at(f, u->at.bits), y = y_at(f, value_of(f, &u->at));
        char *name = report_candidate(r, u->candidate);
        aq_buf_addf(out, "<circle class=\"%s halo\" cx=\"%.1f\" cy=\"%.1f\" r=\"6\"><title>all ",
                    svg_bits_class(u->candidate->bits), x, y);
        escape_html(out, name);
        aq_buf_addf(out, ": %.4g bits, %s %s</title></circle>\n", u->at.bits, unit_of(f),
                    svg_number(value_of(f, &u->at)));
        if (i < MOST_UNIFORMS)
            svg_text(out, x + 9, y < f->frame.top + 18 ? y + 15 : y - 7, SVG_START, "small", "%c",
                     (char)('A' + i));
        free(name);
    }
}

/* Where the predicted divergence of the best recipes may be. */
static void draw_interval(struct aq_buf *out, const struct frontier_frame *f, const struct curve *c)
{
    for (int side = 0; side < 2 && f->nats; side++) {
        aq_buf_adds(out, "<path class=\"cum\" fill=\"none\" d=\"");
        for (size_t i = 0; i < c->count; i++) {
            const struct prediction *kl = &c->points[i].kl;
            double x = x_at(f, c->points[i].bits), y = y_at(f, side ? kl->high : kl->low);
            y = fmin(fmax(y, f->frame.top), f->frame.top + f->frame.height);
            if (i == 0)
                aq_buf_addf(out, "M%.1f %.1f", x, y);
            else
                aq_buf_addf(out, "H%.1fV%.1f", x, y);
        }
        aq_buf_adds(out, "\"/>\n");
    }
}

/* Squares with two standard errors, and the bits of their recipes. */
static void draw_measured(struct aq_buf *out, const struct frontier_frame *f)
{
    for (size_t i = 0; f->nats && i < f->measured->count; i++) {
        const struct measured_result *m = &f->measured->items[i];
        double error = isnan(m->all.error) ? 0 : 2 * m->all.error;
        if (isnan(m->bits) || m->bits < f->low || m->bits > f->high || !(m->all.kl > 0))
            continue;
        double x = x_at(f, m->bits), y = y_at(f, m->all.kl),
               bottom = f->frame.top + f->frame.height;
        double up = fmax(y_at(f, m->all.kl + error), f->frame.top);
        double down = m->all.kl > error ? fmin(y_at(f, m->all.kl - error), bottom) : bottom;
        svg_line(out, x, up, x, down, "whisker");
        char *title = xasprintf("measured at %.4g bits: %s ± %s nats", m->bits,
                                svg_number(m->all.kl), svg_number(m->all.error));
        svg_rect_titled(out, x - 4, y - 4, 8, 8, "k1", title);
        free(title);
    }
}

static size_t draw_legend(struct aq_buf *out, const struct frontier_frame *f,
                          const struct report *r, const struct curve *c, struct chart_style style,
                          double y)
{
    struct chart_key keys[MOST_UNIFORMS + 3];
    char *texts[MOST_UNIFORMS + 3];
    size_t n = 0;
    texts[n] =
        xstrdup(f->nats ? "predicted for the best recipe within each budget, and its interval"
                        : "best score within each budget");
    keys[n] = (struct chart_key){"l0", texts[n], 0};
    n++;
    if (!isnan(selected(f, r))) {
        texts[n] = xasprintf("this selection (diamond): %s", svg_number(selected(f, r)));
        keys[n] = (struct chart_key){"mark", texts[n], 0};
        n++;
    }
    if (f->nats && f->measured->count) {
        texts[n] = xasprintf("measured (squares), two standard errors: %s for this selection",
                             svg_number(f->measured->items[0].all.kl));
        keys[n] = (struct chart_key){"k1", texts[n], 0};
        n++;
    }
    for (size_t i = 0; i < c->uniform_count && i < MOST_UNIFORMS; i++) {
        char *name = report_candidate(r, c->uniforms[i].candidate);
        texts[n] = xasprintf("%c: all %s: %s", (char)('A' + i), svg_fit(name, style.width - 230),
                             svg_number(value_of(f, &c->uniforms[i].at)));
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
                    const struct measured *measured, struct chart_style style)
{
    static const struct measured nothing = {0};
    const char *label = c->predicted
                            ? "Curve: the predicted divergence of the best recipe within each "
                              "budget, with uniform formats as circles and measurements as squares"
                            : "Curve: the best total score within each budget, with uniform "
                              "formats as markers";
    struct frontier_frame f = {.measured = measured ? measured : &nothing};
    if (!c->known || !frame_init(&f, r, c)) {
        chart_empty(out, style, label, "There is nothing to choose between.");
        return;
    }
    struct aq_buf body = AQ_BUF_INIT;
    double y = chart_title(&body, r, style,
                           c->predicted ? "Divergence against size" : "Score against size") +
               16;
    size_t lines = draw_legend(&body, &f, r, c, style, y);
    f.frame.left = 48;
    f.frame.top = y + 20 * (double)(lines - 1) + 40;
    f.frame.width = style.width - f.frame.left - 14;
    f.frame.height = style.width < 500 ? 260 : 320;
    draw_axes(&body, &f);
    draw_interval(&body, &f, c);
    draw_curve(&body, &f, c);
    draw_readings(&body, &f, c);
    draw_selection(&body, &f, r); /* larger than a circle, which may lie upon it */
    draw_uniforms(&body, &f, r, c);
    draw_measured(&body, &f);
    svg_begin(out, style.width, f.frame.top + f.frame.height + 44, label, style.standalone);
    aq_buf_add(out, body.data, body.len);
    svg_end(out);
    aq_buf_release(&body);
}
