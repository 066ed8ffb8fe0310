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
    aq_buf_adds(out, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                     "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                     "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
                     "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n");
    html_text(out, "title", NULL, title);
    aq_buf_addf(out, "\n<style>\n%s", styles);
    svg_styles(out);
    aq_buf_adds(out, "</style>\n</head>\n<body>\n");
}

void html_end(struct aq_buf *out)
{
    aq_buf_addf(out, "<script>\n%s</script>\n</body>\n</html>\n", script);
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

void html_section(struct aq_buf *out, const char *heading, const char *intro)
{
    aq_buf_adds(out, "<section>\n");
    html_text(out, "h2", NULL, heading);
    aq_buf_addc(out, '\n');
    if (intro) {
        html_text(out, "p", "soft", intro);
        aq_buf_addc(out, '\n');
    }
}

void html_section_end(struct aq_buf *out)
{
    aq_buf_adds(out, "</section>\n");
}

void html_table(struct aq_buf *out, bool sortable, const struct html_column *columns, size_t count)
{
    aq_buf_adds(out, "<div class=\"scroll\">");
    open_tag(out, "table", sortable ? "sortable" : NULL);
    aq_buf_adds(out, "\n<thead><tr>");
    for (size_t i = 0; i < count; i++)
        html_text(out, "th", columns[i].class, columns[i].label);
    aq_buf_adds(out, "</tr></thead>\n<tbody>\n");
}

void html_table_end(struct aq_buf *out)
{
    aq_buf_adds(out, "</tbody>\n</table></div>\n");
}

void html_name_cell(struct aq_buf *out, const char *class, const char *name)
{
    struct aq_buf part = AQ_BUF_INIT;
    aq_buf_addf(out, "<td class=\"name%s%s\">", class ? " " : "", class ? class : "");
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
    aq_buf_adds(out, "</td>");
    aq_buf_release(&part);
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
