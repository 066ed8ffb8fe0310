#include "report/chart.h"
#include "base/mem.h"
#include "report/svg.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const chart_names[CHARTS + 1] = {"heatmap", "bars", "frontier", "depth", "strip", NULL};

void chart_draw(struct aq_buf *out, enum chart_kind kind, const struct report *r,
                const struct curve *curve, const struct measured *measured,
                struct chart_style style)
{
    switch (kind) {
    case CHART_HEATMAP:
        chart_heatmap(out, r, style);
        break;
    case CHART_BARS:
        chart_bars(out, r, style);
        break;
    case CHART_FRONTIER:
        chart_frontier(out, r, curve, measured, style);
        break;
    case CHART_DEPTH:
        chart_depth(out, r, style);
        break;
    case CHART_STRIP:
        chart_strip(out, r, curve, style);
        break;
    case CHARTS:
        break;
    }
}

void chart_empty(struct aq_buf *out, struct chart_style style, const char *label, const char *why)
{
    svg_begin(out, style.width, 60, label, style.standalone);
    svg_text(out, 12, 34, SVG_START, "soft", "%s", why);
    svg_end(out);
}

double chart_title(struct aq_buf *out, const struct report *r, struct chart_style style,
                   const char *what)
{
    if (!style.standalone)
        return 4;
    svg_text(out, 12, 22, SVG_START, "head", "%s", what);
    svg_text(out, 12, 40, SVG_START, "small soft", "%s", svg_fit(r->title, style.width - 24));
    return 52;
}

bool chart_decades(const double *values, size_t count, struct decades *d)
{
    double low = INFINITY, high = 0;
    for (size_t i = 0; i < count; i++)
        if (values[i] > 0) {
            low = fmin(low, values[i]);
            high = fmax(high, values[i]);
        }
    if (!(high > 0))
        return false;
    /* 10^-307 and 10^308 are the outermost powers that are normal numbers */
    d->low = (int)fmin(fmax(floor(log10(low)), -307), 307);
    d->high = (int)fmin(fmax(ceil(log10(high)), d->low + 1), 308);
    return true;
}

int chart_decade_step(const struct decades *d, double length, double room)
{
    int step = 1;
    int decades = d->high - d->low;
    for (int lines = decades; lines * room > length; lines = decades / step)
        step++;
    return step;
}

double chart_frame_y(const struct chart_frame *f, double value)
{
    double e = value > 0 ? fmax(log10(value), f->d.low) : f->d.low;
    return f->top + f->height * (f->d.high - e) / (f->d.high - f->d.low);
}

void chart_frame_draw(struct aq_buf *out, const struct chart_frame *f, const char *axis,
                      const char *up)
{
    double right = f->left + f->width, bottom = f->top + f->height;
    int step = chart_decade_step(&f->d, f->height, 22);
    for (int e = f->d.low; e <= f->d.high; e += step) {
        double y = chart_frame_y(f, pow(10, e));
        svg_line(out, f->left, y, right, y, "grid");
        svg_text(out, f->left - 6, y + 4, SVG_END, "small soft", "%s", svg_power(e));
    }
    svg_line(out, f->left, bottom, right, bottom, "axis");
    svg_text(out, f->left + f->width / 2, bottom + 34, SVG_MIDDLE, "small soft", "%s", axis);
    svg_text(out, 12, f->top - 10, SVG_START, "small soft", "%s", up);
}

size_t chart_live_kinds(const struct report *r, size_t *kinds)
{
    bool *live = xcalloc(r->kind_count + 1, sizeof *live);
    size_t n = 0;
    for (size_t i = 0; i < r->count; i++)
        if (r->rows[i].block >= 0 && r->rows[i].sensitivity > 0)
            live[r->rows[i].kind] = true;
    for (size_t k = 0; k < r->kind_count; k++)
        if (live[k])
            kinds[n++] = k;
    free(live);
    return n;
}

size_t chart_blocks(const struct report *r, const size_t *kinds, size_t count)
{
    long most = -1;
    for (size_t i = 0; i < r->count; i++)
        for (size_t k = 0; k < count; k++)
            if (r->rows[i].kind == kinds[k] && r->rows[i].block > most)
                most = r->rows[i].block;
    return (size_t)(most + 1);
}

const char *chart_short_kind(const char *kind)
{
    const char *dot = strrchr(kind, '.');
    return dot ? dot + 1 : kind;
}

size_t chart_tick_step(size_t blocks, double cell, enum chart_way way)
{
    static const size_t steps[] = {1, 2, 4, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000};
    char longest[24];
    (void)snprintf(longest, sizeof longest, "%zu", blocks);
    double room = way == CHART_DOWN ? 15 : svg_text_width(longest) + 14;
    for (size_t i = 0; i < AQ_COUNT(steps); i++)
        if ((double)steps[i] * cell >= room)
            return steps[i];
    return blocks;
}

/* ---- candidates ---- */

size_t chart_candidates(const struct report *r, const struct manifest_option **list, size_t most)
{
    size_t n = 0;
    for (size_t i = 0; i < r->m->option_count; i++) {
        const struct manifest_option *o = &r->m->options[i];
        bool known = o->none;
        for (size_t j = 0; j < n && !known; j++)
            known = manifest_same_candidate(o, list[j]);
        if (!known && n < most)
            list[n++] = o;
    }
    return n;
}

void chart_hatches(const struct manifest_option *const *list, size_t count, size_t *hatches)
{
    for (size_t i = 0; i < count; i++) {
        hatches[i] = 0;
        for (size_t j = 0; j < i; j++)
            hatches[i] += strcmp(svg_bits_class(list[j]->bits), svg_bits_class(list[i]->bits)) == 0;
    }
}

size_t chart_legend(struct aq_buf *out, struct chart_style style, double left, double y,
                    const struct chart_key *keys, size_t count)
{
    double x = left;
    size_t lines = 1;
    for (size_t i = 0; i < count; i++) {
        const char *text = svg_fit(keys[i].text, style.width - left - 40);
        double need = 18 + svg_text_width(text) + 16;
        if (x > left && x + need > style.width - 8) {
            x = left;
            lines++;
        }
        double base = y + (double)(lines - 1) * 20;
        if (keys[i].class[0] == 'l')
            svg_line(out, x - 4, base - 4, x + 14, base - 4, keys[i].class);
        else
            svg_hatched(out, x, base - 10, 12, 12, keys[i].class, keys[i].hatch, NULL);
        svg_text(out, x + 18, base, SVG_START, "small", "%s", text);
        x += need;
    }
    return lines;
}
