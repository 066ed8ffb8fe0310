/*
 * The pictures of a report. Each is laid out for a width, so that a page can hold one for a desk
 * and one for a phone; nothing is merely scaled down.
 */
#ifndef AQ_REPORT_CHART_H
#define AQ_REPORT_CHART_H

#include "report/curve.h"
#include "report/measured.h"
#include "report/report.h"

enum chart_kind { CHART_HEATMAP, CHART_BARS, CHART_FRONTIER, CHART_DEPTH, CHART_STRIP, CHARTS };

extern const char *const chart_names[CHARTS + 1]; /* NULL at the end */

enum { CHART_WIDE = 860, CHART_NARROW = 360 };

struct chart_style {
    double width;
    bool standalone; /* a file of its own */
};

/* curve is needed by the frontier and the strip; measured, for the frontier, may be NULL. */
void chart_draw(struct aq_buf *out, enum chart_kind kind, const struct report *r,
                const struct curve *curve, const struct measured *measured,
                struct chart_style style);

/* ---- for the pictures ---- */

void chart_heatmap(struct aq_buf *out, const struct report *r, struct chart_style style);
void chart_bars(struct aq_buf *out, const struct report *r, struct chart_style style);
void chart_depth(struct aq_buf *out, const struct report *r, struct chart_style style);
void chart_frontier(struct aq_buf *out, const struct report *r, const struct curve *c,
                    const struct measured *measured, struct chart_style style);
void chart_strip(struct aq_buf *out, const struct report *r, const struct curve *c,
                 struct chart_style style);

/* A picture that has nothing to show says why. */
void chart_empty(struct aq_buf *out, struct chart_style style, const char *label, const char *why);

/* Heading of a picture that is a file of its own; returns where the picture may begin. */
double chart_title(struct aq_buf *out, const struct report *r, struct chart_style style,
                   const char *what);

/* Decades around the positive values: low and high are powers of ten, at least one apart. */
struct decades {
    int low, high;
};
bool chart_decades(const double *values, size_t count, struct decades *d);
/* Decades between two labels that need `room` pixels on an axis of this length. */
int chart_decade_step(const struct decades *d, double length, double room);

/* A picture with a log scale upwards. Values below the lowest decade are drawn on it. */
struct chart_frame {
    double left, top, width, height;
    struct decades d;
};
double chart_frame_y(const struct chart_frame *f, double value);
/* The decades, the axis below and what it counts; `up` says what the other axis counts. */
void chart_frame_draw(struct aq_buf *out, const struct chart_frame *f, const char *axis,
                      const char *up);

/* Number of blocks, `cell` pixels each, from one label to the next: a round number. */
enum chart_way { CHART_ACROSS, CHART_DOWN };
size_t chart_tick_step(size_t blocks, double cell, enum chart_way way);

/* The kinds with a positive score in some block, in order: fills kinds (r->kind_count of them). */
size_t chart_live_kinds(const struct report *r, size_t *kinds);
/* Number of blocks: one more than the largest block number of a row of these kinds. */
size_t chart_blocks(const struct report *r, const size_t *kinds, size_t count);
const char *chart_short_kind(const char *kind); /* "q_proj" of "self_attn.q_proj" */

/* The quantized candidates, in order of appearance: at most `most` of them. */
size_t chart_candidates(const struct report *r, const struct manifest_option **list, size_t most);
/* The hatching of each: counted among those of the same colour. */
void chart_hatches(const struct manifest_option *const *list, size_t count, size_t *hatches);

/* Coloured squares with texts, left to right, as many lines as needed (20 px each): returns them.
 */
struct chart_key {
    const char *class; /* of a square, or of a line if it begins with 'l' */
    const char *text;
    size_t hatch;
};
size_t chart_legend(struct aq_buf *out, struct chart_style style, double left, double y,
                    const struct chart_key *keys, size_t count);

#endif
