/*
 * SVG by hand: a few shapes, text, one style sheet for light and dark, and the two colour scales.
 * Positions are pixels; text is 12 px unless its class says otherwise.
 */
#ifndef AQ_REPORT_SVG_H
#define AQ_REPORT_SVG_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

enum {
    SVG_LEVELS = 24, /* of the sequential scale: classes s0 (low) to s23 (high) */
    SVG_SERIES = 8,  /* distinguishable colours: classes k0 to k7, lines l0 to l7 */
    SVG_DASHES = 4,  /* of lines: classes d0 (solid) to d3 */
    SVG_HATCHES = 6, /* laid over a colour: h0 (nothing) to h5 */
};

enum svg_anchor { SVG_START, SVG_MIDDLE, SVG_END };

/* label: the text for readers who cannot see the picture. standalone: with its own styles. */
void svg_begin(struct aq_buf *out, double width, double height, const char *label, bool standalone);
void svg_end(struct aq_buf *out);
/* The rules that the pictures need, for a page that holds several of them. */
void svg_styles(struct aq_buf *out);

void svg_line(struct aq_buf *out, double x1, double y1, double x2, double y2, const char *class);
void svg_rect(struct aq_buf *out, double x, double y, double w, double h, const char *class);
/* The same with a text that shows under the pointer. */
void svg_rect_titled(struct aq_buf *out, double x, double y, double w, double h, const char *class,
                     const char *title);
void svg_text(struct aq_buf *out, double x, double y, enum svg_anchor anchor, const char *class,
              const char *fmt, ...) AQ_PRINTF(6, 7);

/* About how wide a text comes out, for layout. */
double svg_text_width(const char *text);
/* The text cut in the middle to fit a width; lives in a ring of static buffers. */
const char *svg_fit(const char *text, double width);
const char *svg_fit_head(const char *text, double width); /* for the class head */

/* "10⁻³" for -3. Ring of static buffers. */
const char *svg_power(int exponent);
/* Numbers for people: three digits ("0.342", "1.20×10⁻⁵"), or as many as a round number has ("2",
 * "2×10⁻⁵"). "" for NAN. Ring of static buffers. */
const char *svg_number(double x);
const char *svg_round_number(double x);
const char *svg_bytes(double x); /* "8.05 GB", powers of 1000 */

const char *svg_series_class(size_t i); /* "k0" to "k7", and from the start again */
/* "l3 d1": SVG_SERIES x SVG_DASHES distinguishable lines. Ring of static buffers. */
const char *svg_line_class(size_t i);
/*
 * The look of a number format: the colour says how many bits (dark few, light many on a white
 * page; the other way round on a black one), hatching tells formats of one colour apart. The three
 * colours, with that of unquantized layers, differ by 3:1 and more.
 */
const char *svg_bits_class(double bits); /* "w4" below 7 bits, "w8", "zero" from 15 */
/* A rectangle with a hatching over it; title may be NULL. */
void svg_hatched(struct aq_buf *out, double x, double y, double w, double h, const char *class,
                 size_t hatch, const char *title);
/* The hatchings: once in every page, and in every picture that is a file of its own. */
void svg_hatchings(struct aq_buf *out);
/* Class "s<n>" for a value on a log scale from low to high; "zero" for values <= 0. */
const char *svg_level_class(double x, double low, double high);

#endif
