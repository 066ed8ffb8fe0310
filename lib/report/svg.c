#include "report/svg.h"
#include "base/utf8.h"
#include "report/escape.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- colours ---- */

/* Matplotlib's magma (CC0): even steps of lightness, safe for all kinds of colour vision. */
static const unsigned char magma[][3] = {{0x00, 0x00, 0x04}, {0x18, 0x0f, 0x3d}, {0x44, 0x0f, 0x76},
                                         {0x72, 0x1f, 0x81}, {0x9e, 0x2f, 0x7f}, {0xcd, 0x40, 0x71},
                                         {0xf1, 0x60, 0x5d}, {0xfd, 0x96, 0x68}, {0xfe, 0xca, 0x8d},
                                         {0xfc, 0xfd, 0xbf}};

/* Okabe and Ito's set; the dark page gets lighter ones where the contrast asks for it. */
static const char *const series_light[SVG_SERIES] = {"#0072b2", "#d55e00", "#009e73", "#aa4f88",
                                                     "#b07d00", "#2f8fc4", "#6b6b00", "#555555"};
static const char *const series_dark[SVG_SERIES] = {"#56a8e0", "#f0803c", "#2cc79a", "#e08fbe",
                                                    "#e6b03a", "#8fd0f5", "#d8d24a", "#b8b8b8"};

/* Few bits, many bits; "zero" is the third of them. */
static const char *const width_light[2] = {"#5f2500", "#3a87c8"};
static const char *const width_dark[2] = {"#ffc48c", "#3e79a9"};

static void magma_at(double t, unsigned char rgb[3])
{
    const int last = (int)(sizeof magma / sizeof *magma) - 1;
    double at = t * last;
    int i = (int)at < last ? (int)at : last - 1;
    for (int c = 0; c < 3; c++)
        rgb[c] = (unsigned char)lround(magma[i][c] + (at - i) * (magma[i + 1][c] - magma[i][c]));
}

/* High values contrast with the page: dark on white, light on black. */
static void scale_rules(struct aq_buf *out, bool dark)
{
    for (int i = 0; i < SVG_LEVELS; i++) {
        unsigned char rgb[3];
        double t = (double)i / (SVG_LEVELS - 1);
        magma_at(dark ? 0.16 + 0.82 * t : 0.98 - 0.90 * t, rgb);
        aq_buf_addf(out, ".aq .s%d{fill:#%02x%02x%02x}", i, rgb[0], rgb[1], rgb[2]);
    }
    for (int i = 0; i < SVG_SERIES; i++) {
        const char *c = dark ? series_dark[i] : series_light[i];
        aq_buf_addf(out, ".aq .k%d{fill:%s}.aq .l%d{stroke:%s}", i, c, i, c);
    }
    const char *const *w = dark ? width_dark : width_light;
    aq_buf_addf(out, ".aq .w4{fill:%s}.aq .w8{fill:%s}", w[0], w[1]);
}

static void theme_rules(struct aq_buf *out, const char *page, const char *ink, const char *soft,
                        const char *grid, const char *zero, const char *mark)
{
    aq_buf_addf(
        out,
        ".aq .page{fill:%s}.aq text{fill:%s}.aq .soft{fill:%s}"
        ".aq .grid{stroke:%s}.aq .axis,.aq .whisker{stroke:%s}.aq .zero{fill:%s}"
        ".aq .mark{fill:%s;stroke:%s}.aq .halo{stroke:%s}.aq .cum{stroke:%s}.aq .budget{stroke:%s}"
        ".aq .hatch path{stroke:%s}.aq .hatch circle{fill:%s}",
        page, ink, soft, grid, ink, zero, mark, page, page, soft, soft, page, page);
}

void svg_styles(struct aq_buf *out)
{
    aq_buf_adds(
        out,
        ".aq text{font:12px system-ui,-apple-system,\"Segoe UI\",Roboto,\"DejaVu Sans\",sans-serif}"
        ".aq .small{font-size:12px}.aq .head{font-size:13px;font-weight:600}"
        ".aq .mono{font-family:ui-monospace,SFMono-Regular,Menlo,\"DejaVu Sans Mono\",monospace;"
        "font-size:11px}"
        ".aq line,.aq path{fill:none}.aq .grid{stroke-width:1}.aq .axis{stroke-width:1}"
        ".aq .whisker{stroke-width:1.4}.aq .curve{stroke-width:2;stroke-linejoin:round}"
        ".aq .cum{stroke-width:1.5;stroke-dasharray:4 3}.aq .budget{stroke-dasharray:3 3}"
        ".aq .mark{stroke-width:1.5}.aq .halo{stroke-width:1}.aq .see{fill:transparent}"
        ".aq .d1{stroke-dasharray:7 3}.aq .d2{stroke-dasharray:2 3}.aq .d3{stroke-dasharray:9 3 2 "
        "3}"
        ".aq .hatch path{stroke-width:1.3;fill:none}"
        ".aq .h1{fill:url(#h1)}.aq .h2{fill:url(#h2)}.aq .h3{fill:url(#h3)}.aq .h4{fill:url(#h4)}"
        ".aq .h5{fill:url(#h5)}");
    theme_rules(out, "#ffffff", "#1d2129", "#5b6370", "#e3e6ea", "#eceef1", "#1d2129");
    scale_rules(out, false);
    aq_buf_adds(out, "@media (prefers-color-scheme:dark){");
    theme_rules(out, "#14171c", "#e8eaee", "#a3abb8", "#2d333c", "#262b33", "#e8eaee");
    scale_rules(out, true);
    aq_buf_adds(out, "}");
}

const char *svg_level_class(double x, double low, double high)
{
    static const char *const names[SVG_LEVELS] = {
        "s0",  "s1",  "s2",  "s3",  "s4",  "s5",  "s6",  "s7",  "s8",  "s9",  "s10", "s11",
        "s12", "s13", "s14", "s15", "s16", "s17", "s18", "s19", "s20", "s21", "s22", "s23"};
    if (!(x > 0))
        return "zero";
    double t = high > low ? (log10(x) - log10(low)) / (log10(high) - log10(low)) : 1;
    int i = (int)(t * SVG_LEVELS);
    return names[i < 0 ? 0 : i >= SVG_LEVELS ? SVG_LEVELS - 1 : i];
}

const char *svg_series_class(size_t i)
{
    static const char *const names[SVG_SERIES] = {"k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7"};
    return names[i % SVG_SERIES];
}

const char *svg_bits_class(double bits)
{
    return bits < 7 ? "w4" : bits < 15 ? "w8" : "zero";
}

void svg_hatchings(struct aq_buf *out)
{
    static const char *const marks[SVG_HATCHES] = {
        "",
        "<path d=\"M-1 7L7 -1M5 7L7 5M-1 1L1 -1\"/>",
        "<path d=\"M-1 -1L7 7M-1 5L1 7M5 -1L7 1\"/>",
        "<circle cx=\"3\" cy=\"3\" r=\"1.2\"/>",
        "<path d=\"M3 0V6\"/>",
        "<path d=\"M0 3H6\"/>",
    };
    aq_buf_adds(out, "<defs>");
    for (int i = 1; i < SVG_HATCHES; i++)
        aq_buf_addf(out,
                    "<pattern id=\"h%d\" class=\"hatch\" width=\"6\" height=\"6\" "
                    "patternUnits=\"userSpaceOnUse\">%s</pattern>",
                    i, marks[i]);
    aq_buf_adds(out, "</defs>\n");
}

/* ---- shapes ---- */

/* Positions with at most one decimal, without trailing zeros, as "%.1f" rounds them. */
static void add_number(struct aq_buf *out, double x)
{
    char text[48], *at = text + sizeof text;
    double tenths = x * 10, nearest = nearbyint(tenths);
    if (fabs(tenths) >= 1e8 || fabs(tenths - nearest) > 0.49) { /* large, or nearly a tie */
        (void)snprintf(text, sizeof text, "%.1f", x);
        size_t n = strlen(text);
        if (n > 2 && text[n - 1] == '0')
            text[n - 2] = '\0';
        aq_buf_adds(out, strcmp(text, "-0") == 0 ? "0" : text);
        return;
    }
    unsigned n = (unsigned)fabs(nearest), whole = n / 10;
    *--at = '\0';
    if (n % 10) {
        *--at = (char)('0' + n % 10);
        *--at = '.';
    }
    do
        *--at = (char)('0' + whole % 10);
    while ((whole /= 10) > 0);
    if (nearest < 0)
        *--at = '-';
    aq_buf_adds(out, at);
}

static void add_attribute(struct aq_buf *out, const char *name, double x)
{
    aq_buf_addc(out, ' ');
    aq_buf_adds(out, name);
    aq_buf_adds(out, "=\"");
    add_number(out, x);
    aq_buf_addc(out, '"');
}

void svg_begin(struct aq_buf *out, double width, double height, const char *label, bool standalone)
{
    aq_buf_adds(
        out, "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"aq\" role=\"img\" viewBox=\"0 0 ");
    add_number(out, width);
    aq_buf_addc(out, ' ');
    add_number(out, height);
    aq_buf_addc(out, '"');
    add_attribute(out, "width", width);
    add_attribute(out, "height", height);
    aq_buf_adds(out, " aria-label=\"");
    escape_html(out, label);
    aq_buf_adds(out, "\">\n");
    if (!standalone)
        return;
    aq_buf_adds(out, "<style>");
    svg_styles(out);
    aq_buf_adds(out, "</style>\n");
    svg_hatchings(out);
    svg_rect(out, 0, 0, width, height, "page");
}

void svg_end(struct aq_buf *out)
{
    aq_buf_adds(out, "</svg>\n");
}

void svg_line(struct aq_buf *out, double x1, double y1, double x2, double y2, const char *class)
{
    aq_buf_addf(out, "<line class=\"%s\"", class);
    add_attribute(out, "x1", x1);
    add_attribute(out, "y1", y1);
    add_attribute(out, "x2", x2);
    add_attribute(out, "y2", y2);
    aq_buf_adds(out, "/>\n");
}

static void open_rect(struct aq_buf *out, double x, double y, double w, double h, const char *class)
{
    aq_buf_addf(out, "<rect class=\"%s\"", class);
    add_attribute(out, "x", x);
    add_attribute(out, "y", y);
    add_attribute(out, "width", w);
    add_attribute(out, "height", h);
}

void svg_rect(struct aq_buf *out, double x, double y, double w, double h, const char *class)
{
    open_rect(out, x, y, w, h, class);
    aq_buf_adds(out, "/>\n");
}

void svg_rect_titled(struct aq_buf *out, double x, double y, double w, double h, const char *class,
                     const char *title)
{
    open_rect(out, x, y, w, h, class);
    aq_buf_adds(out, "><title>");
    escape_html(out, title);
    aq_buf_adds(out, "</title></rect>\n");
}

void svg_hatched(struct aq_buf *out, double x, double y, double w, double h, const char *class,
                 size_t hatch, const char *title)
{
    char over[8];
    if (title)
        svg_rect_titled(out, x, y, w, h, class, title);
    else
        svg_rect(out, x, y, w, h, class);
    if (hatch % SVG_HATCHES == 0)
        return;
    (void)snprintf(over, sizeof over, "h%zu", hatch % SVG_HATCHES);
    open_rect(out, x, y, w, h, over);
    aq_buf_adds(out, " pointer-events=\"none\"/>\n");
}

void svg_text(struct aq_buf *out, double x, double y, enum svg_anchor anchor, const char *class,
              const char *fmt, ...)
{
    static const char *const anchors[] = {"", " text-anchor=\"middle\"", " text-anchor=\"end\""};
    struct aq_buf text = AQ_BUF_INIT;
    char piece[512];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(piece, sizeof piece, fmt, ap);
    va_end(ap);
    escape_html(&text, piece);
    aq_buf_adds(out, "<text");
    add_attribute(out, "x", x);
    add_attribute(out, "y", y);
    aq_buf_adds(out, anchors[anchor]);
    if (class)
        aq_buf_addf(out, " class=\"%s\"", class);
    aq_buf_addf(out, ">%s</text>\n", aq_buf_str(&text));
    aq_buf_release(&text);
}

/* ---- text ---- */

enum { RING_CAP = 512 };

static char *ring_buffer(void)
{
    enum { RING = 16 };
    static char ring[RING][RING_CAP];
    static int next;
    char *text = ring[next];
    next = (next + 1) % RING;
    return text;
}

/* Sans-serif faces differ; this is on the wide side of all that are common. */
static const double char_width = 6.9;

static size_t code_points(const char *text)
{
    size_t n = 0;
    for (const unsigned char *p = (const unsigned char *)text; *p; p++)
        n += (*p & 0xc0) != 0x80;
    return n;
}

double svg_text_width(const char *text)
{
    return char_width * (double)code_points(text);
}

/* The bytes of the first n code points. */
static size_t prefix_bytes(const char *text, size_t n)
{
    size_t at = 0;
    while (text[at] && n--) {
        at++;
        while (((unsigned char)text[at] & 0xc0) == 0x80)
            at++;
    }
    return at;
}

const char *svg_fit(const char *text, double width)
{
    struct aq_buf visible = AQ_BUF_INIT; /* hidden characters become longer */
    escape_plain(&visible, text);
    const char *all = aq_buf_str(&visible);
    char *out = ring_buffer();
    size_t points = code_points(all), room = (size_t)fmax(3, width / char_width);
    if (points <= room) {
        (void)snprintf(out, RING_CAP, "%s", all);
    } else {
        size_t left = (room - 1) / 2, right = room - 1 - left;
        size_t head = prefix_bytes(all, left), tail = prefix_bytes(all, points - right);
        (void)snprintf(out, RING_CAP, "%.*s…%s", (int)head, all, all + tail);
    }
    aq_buf_release(&visible);
    return out;
}

const char *svg_fit_head(const char *text, double width)
{
    return svg_fit(text, width * 0.76); /* bold, and a size larger */
}

const char *svg_line_class(size_t i)
{
    char *out = ring_buffer();
    (void)snprintf(out, RING_CAP, "l%zu d%zu", i % SVG_SERIES, i / SVG_SERIES % SVG_DASHES);
    return out;
}

const char *svg_power(int exponent)
{
    static const char *const digits[] = {"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
    char *out = ring_buffer(), plain[16];
    if (exponent == 0 || exponent == 1) {
        (void)snprintf(out, RING_CAP, exponent ? "10" : "1");
        return out;
    }
    (void)snprintf(plain, sizeof plain, "%d", abs(exponent));
    size_t at = (size_t)snprintf(out, RING_CAP, "10%s", exponent < 0 ? "⁻" : "");
    for (const char *p = plain; *p; p++)
        at += (size_t)snprintf(out + at, RING_CAP - at, "%s", digits[*p - '0']);
    return out;
}

/* digits: '3' for three of them, 'r' for those of a round number. */
static const char *number_text(double x, char digits)
{
    char *out = ring_buffer(), power[64];
    double size = fabs(x);
    if (isnan(x)) { /* not known: nothing to show */
        out[0] = '\0';
        return out;
    }
    if (size == 0 || (size >= 1e-3 && size < 1e5)) {
        bool whole = size == 0 || size >= 99.95; /* else a point at the end */
        (void)snprintf(out, RING_CAP, whole ? "%.0f" : digits == '3' ? "%#.3g" : "%.4g", x);
        return out;
    }
    (void)snprintf(power, sizeof power, digits == '3' ? "%.2e" : "%.3e", x);
    char *e = strchr(power, 'e');
    *e = '\0';
    if (digits == 'r')
        (void)snprintf(power, sizeof power, "%.4g", strtod(power, NULL));
    (void)snprintf(out, RING_CAP, "%s×%s", power, svg_power((int)strtol(e + 1, NULL, 10)));
    return out;
}

const char *svg_number(double x)
{
    return number_text(x, '3');
}

const char *svg_round_number(double x)
{
    return number_text(x, 'r');
}

const char *svg_bytes(double x)
{
    static const char *const units[] = {"bytes", "kB", "MB", "GB", "TB"};
    size_t u = 0;
    char *out = ring_buffer();
    while (u + 1 < sizeof units / sizeof *units && x >= 999.5) {
        x /= 1000;
        u++;
    }
    (void)snprintf(out, RING_CAP,
                   u == 0 || x >= 99.95 ? "%.0f %s"
                   : x >= 9.995         ? "%.1f %s"
                                        : "%.2f %s",
                   x, units[u]);
    return out;
}
