/*
 * Round-to-nearest and calibrated candidates of the same grid side by side, where a manifest has
 * both: what the method changes of a group's score, and of its place among the others.
 */
#ifndef AQ_REPORT_CALIBRATED_H
#define AQ_REPORT_CALIBRATED_H

#include "report/report.h"

/* Is there such a pair? */
bool calibrated_known(const struct report *r);
/* A section of per-layer-sensitivity.md, and one of report.html; nothing without such a pair. */
void calibrated_markdown(struct aq_buf *out, const struct report *r);
void calibrated_html(struct aq_buf *out, const struct report *r);

#endif
