/*
 * Names from files, made harmless for each place they are written to. Everywhere control
 * characters, invalid UTF-8 and marks that reorder or hide text become \xNN or \u{NNNN}.
 */
#ifndef AQ_REPORT_ESCAPE_H
#define AQ_REPORT_ESCAPE_H

#include "base/buf.h"

void escape_plain(struct aq_buf *out, const char *text); /* that and nothing else */
void escape_html(struct aq_buf *out, const char *text);  /* also SVG and attribute values */
void escape_cell(struct aq_buf *out, const char *text);  /* Markdown text, also inside a table */
void escape_code(struct aq_buf *out, const char *text);  /* between backticks */
void escape_csv(struct aq_buf *out, const char *text);   /* quoted where RFC 4180 asks for it */

#endif
