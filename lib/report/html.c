#include "report/html.h"
#include "base/fmt.h"
#include "report/escape.h"
#include "report/svg.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char styles[] =
#include "report/page.css.h"
    ;

/* Sorting is all that needs a script; the page reads well without it. */
static const char script[] =
#include "report/page.js.h"
    ;

void html_begin(struct aq_buf *out, const char *title)
{
    html_begin_with(out, title, "");
}

void html_begin_with(struct aq_buf *out, const char *title, const char *more_styles)
{
    aq_buf_adds(out, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                     "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                     "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
                     "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n");
    html_text(out, "title", NULL, title);
    aq_buf_addf(out, "\n<style>\n%s%s", styles, more_styles);
    svg_styles(out);
    aq_buf_adds(
        out, "</style>\n</head>\n<body>\n<a class=\"skip\" href=\"#main\">Skip to the content</a>\n"
             "<svg class=\"aq\" width=\"0\" height=\"0\" style=\"position:absolute\" "
             "aria-hidden=\"true\" "
             "focusable=\"false\">");
    svg_hatchings(out);
    aq_buf_adds(out, "</svg>\n<main id=\"main\">\n");
}

void html_end(struct aq_buf *out)
{
    html_end_with(out, "");
}

void html_end_with(struct aq_buf *out, const char *more_script)
{
    aq_buf_addf(out, "</main>\n<script>\n%s%s</script>\n</body>\n</html>\n", script, more_script);
}

static void open_tag(struct aq_buf *out, const char *tag, const char *class)
{
    aq_buf_addf(out, class ? "<%s class=\"%s\">" : "<%s>", tag, class);
}

void html_text(struct aq_buf *out, const char *tag, const char *class, const char *text)
{
    open_tag(out, tag, class);
    escape_html(out, text);
    aq_buf_addf(out, "</%s>", tag);
}

void html_section(struct aq_buf *out, const char *id, const char *heading, const char *intro)
{
    aq_buf_addf(out, "<section id=\"%s\" aria-labelledby=\"%s-h\">\n<h2 id=\"%s-h\">", id, id, id);
    escape_html(out, heading);
    aq_buf_adds(out, "</h2>\n");
    if (intro) {
        html_text(out, "p", "soft", intro);
        aq_buf_addc(out, '\n');
    }
}

void html_section_end(struct aq_buf *out)
{
    aq_buf_adds(out, "</section>\n");
}

/* A name may be broken after its dots, underscores and slashes. */
static void add_name(struct aq_buf *out, const char *name)
{
    struct aq_buf part = AQ_BUF_INIT;
    while (*name) {
        size_t n = strcspn(name, "._/");
        n += name[n] != '\0';
        aq_buf_reset(&part);
        aq_buf_add(&part, name, n);
        escape_html(out, aq_buf_str(&part));
        name += n;
        if (*name)
            aq_buf_adds(out, "<wbr>");
    }
    aq_buf_release(&part);
}

static bool is_name(const struct html_column *c)
{
    return c->class && strstr(c->class, "name");
}

void html_table(struct aq_buf *out, const char *name, bool sortable,
                const struct html_column *columns, size_t count)
{
    aq_buf_adds(out, "<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"");
    escape_html(out, name);
    aq_buf_adds(out, "\">");
    open_tag(out, "table", sortable ? "sortable" : NULL);
    aq_buf_adds(out, "\n<thead><tr>");
    for (size_t i = 0; i < count; i++) {
        if (!*columns[i].label) { /* the corner of a matrix heads nothing */
            aq_buf_adds(out, "<td></td>");
            continue;
        }
        aq_buf_adds(out, "<th scope=\"col\"");
        if (columns[i].class)
            aq_buf_addf(out, " class=\"%s\"", columns[i].class);
        aq_buf_addc(out, '>');
        if (is_name(&columns[i]))
            add_name(out, columns[i].label);
        else
            escape_html(out, columns[i].label);
        aq_buf_adds(out, "</th>");
    }
    aq_buf_adds(out, "</tr></thead>\n<tbody>\n");
}

void html_table_end(struct aq_buf *out)
{
    aq_buf_adds(out, "</tbody>\n</table></div>\n");
}

void html_name_cell(struct aq_buf *out, const char *class, const char *name)
{
    aq_buf_addf(out, "<td class=\"name%s%s\">", class ? " " : "", class ? class : "");
    add_name(out, name);
    aq_buf_adds(out, "</td>");
}

void html_number_cell(struct aq_buf *out, const char *class, double x, const char *text)
{
    char exact[AQ_FMT_MAX];
    aq_buf_addf(out, "<td class=\"n%s%s\" data-v=\"%s\">", class ? " " : "", class ? class : "",
                isnan(x) ? "" : aq_fmt_double(x, exact));
    escape_html(out, isnan(x) ? "" : text);
    aq_buf_adds(out, "</td>");
}

void html_fixed_cell(struct aq_buf *out, const char *class, double x, int decimals,
                     const char *unit)
{
    char text[64];
    (void)snprintf(text, sizeof text, "%.*f%s", decimals, x, unit);
    html_number_cell(out, class, x, text);
}

void html_link_cell(struct aq_buf *out, const char *link, const char *text)
{
    aq_buf_adds(out, "<td>");
    if (link) {
        aq_buf_adds(out, "<a href=\"");
        escape_html(out, link);
        aq_buf_adds(out, "\">");
        escape_html(out, text);
        aq_buf_adds(out, "</a>");
    }
    aq_buf_adds(out, "</td>");
}

void html_copy(struct aq_buf *out, const char *label, const char *text)
{
    aq_buf_adds(out, "<details class=\"copy\"><summary>");
    escape_html(out, label);
    aq_buf_adds(out, "</summary><pre tabindex=\"0\">");
    for (const char *line = text; *line;) { /* line ends are ours: they stay */
        size_t n = strcspn(line, "\n");
        struct aq_buf part = AQ_BUF_INIT;
        aq_buf_add(&part, line, n);
        escape_html(out, aq_buf_str(&part));
        aq_buf_release(&part);
        line += n;
        if (*line)
            aq_buf_addc(out, *line++);
    }
    aq_buf_adds(out, "</pre></details>\n");
}
