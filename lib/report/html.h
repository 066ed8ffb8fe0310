/* The parts that every HTML page of ours has: head with styles, foot with the sorting script. */
#ifndef AQ_REPORT_HTML_H
#define AQ_REPORT_HTML_H

#include "report/chart.h"

void html_begin(struct aq_buf *out, const char *title);
void html_end(struct aq_buf *out);
/* The same with more rules of style, and another script after the common one. */
void html_begin_with(struct aq_buf *out, const char *title, const char *more_styles);
void html_end_with(struct aq_buf *out, const char *more_script);

/* <tag class="...">text</tag>; class may be NULL. */
void html_text(struct aq_buf *out, const char *tag, const char *class, const char *text);
/* A section with its heading and, unless NULL, a paragraph below it; id: of links to it. */
void html_section(struct aq_buf *out, const char *id, const char *heading, const char *intro);
void html_section_end(struct aq_buf *out);

/*
 * A table that may scroll sideways; name: what it is, for who cannot see it. Classes: "n" for
 * numbers, "more" for what a phone has no room for, "name" for what is in a fixed-width face.
 */
struct html_column {
    const char *class; /* NULL: none */
    const char *label;
};
void html_table(struct aq_buf *out, const char *name, bool sortable,
                const struct html_column *columns, size_t count);
void html_table_end(struct aq_buf *out);

/* <td> with a name in a fixed-width face; where there is little room it breaks after . _ and /. */
void html_name_cell(struct aq_buf *out, const char *class, const char *name);
/* <td> with the number for people, and the exact one for sorting. NAN: empty. */
void html_number_cell(struct aq_buf *out, const char *class, double x, const char *text);
/* The same with a number of decimals and a unit. */
void html_fixed_cell(struct aq_buf *out, const char *class, double x, int decimals,
                     const char *unit);

/* <td> with a link; link: NULL: without. */
void html_link_cell(struct aq_buf *out, const char *link, const char *text);

/* A text with a button that copies it; label: what the button says. */
void html_copy(struct aq_buf *out, const char *label, const char *text);

struct answer;
struct serving;
/* What a page is made from; all borrowed. */
struct page {
    const struct report *report;
    const struct curve *curve;
    const struct answer *answer;
    const struct measured *measured;
    const struct serving *serving;
};
/* One self-contained page. */
void report_html(struct aq_buf *out, const struct page *p);

#endif
