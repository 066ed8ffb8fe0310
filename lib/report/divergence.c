/* Predicted and measured divergence, one above the other on a log scale. */
#include "base/mem.h"
#include "report/answer.h"
#include "report/svg.h"

#include <math.h>

enum { ROW = 26, NAMES = 76 };

/* One line: a dot, and from low to high what it may be. */
struct bar {
    const char *name;
    double value, low, high;
};

static double x_at(const struct decades *d, double width, double value)
{
    double e = value > 0 ? fmax(log10(value), d->low) : d->low;
    return NAMES + (width - NAMES - 20) * (e - d->low) / (d->high - d->low);
}

static size_t fill(struct bar *bars, const struct answer *a)
{
    size_t n = 0;
    if (!isnan(a->kl))
        bars[n++] = (struct bar){"predicted", a->kl, a->low, a->high};
    if (a->measured) {
        const struct measured_text *t = &a->measured->all;
        double e = isnan(t->error) ? 0 : 2 * t->error;
        bars[n++] = (struct bar){"measured", t->kl, fmax(t->kl - e, 0), t->kl + e};
    }
    return n;
}

static void draw_bar(struct aq_buf *out, const struct decades *d, double width, double y,
                     const struct bar *b)
{
    double x = x_at(d, width, b->value);
    svg_text(out, 4, y + 4, SVG_START, "small", "%s", b->name);
    if (!isnan(b->low) && !isnan(b->high)) {
        double from = x_at(d, width, b->low), to = x_at(d, width, b->high);
        svg_line(out, from, y, to, y, "whisker");
        svg_line(out, from, y - 5, from, y + 5, "whisker");
        svg_line(out, to, y - 5, to, y + 5, "whisker");
    }
    aq_buf_addf(out, "<circle class=\"k0 halo\" cx=\"%.1f\" cy=\"%.1f\" r=\"5\"><title>", x, y);
    aq_buf_addf(out, "%s: %s nats", b->name, svg_number(b->value));
    aq_buf_adds(out, "</title></circle>\n");
}

void answer_divergence_draw(struct aq_buf *out, const struct answer *a, struct chart_style style)
{
    struct bar bars[2];
    double values[6];
    size_t n = fill(bars, a), count = 0;
    struct decades d;
    for (size_t i = 0; i < n; i++) {
        values[count++] = bars[i].value;
        if (bars[i].low > 0 && !isnan(bars[i].high)) {
            values[count++] = bars[i].low;
            values[count++] = bars[i].high;
        }
    }
    if (!chart_decades(values, count, &d))
        return;
    double bottom = 10 + ROW * (double)n;
    svg_begin(out, style.width, bottom + 24,
              "Predicted divergence with its interval, and measured divergence with two standard "
              "errors, in nats per token",
              style.standalone);
    int step = chart_decade_step(&d, style.width - NAMES - 20, 40);
    for (int e = d.low; e <= d.high; e += step) {
        double x = x_at(&d, style.width, pow(10, e));
        svg_line(out, x, 6, x, bottom, "grid");
        svg_text(out, x, bottom + 16, SVG_MIDDLE, "small soft", "%s", svg_power(e));
    }
    for (size_t i = 0; i < n; i++)
        draw_bar(out, &d, style.width, 6 + ROW * ((double)i + 0.5), &bars[i]);
    svg_end(out);
}
