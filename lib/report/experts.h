/*
 * Mixtures of experts: how many tokens each layer's experts got while they were scored, where a
 * manifest says so, and which groups are scored on part of their weights.
 */
#ifndef AQ_REPORT_EXPERTS_H
#define AQ_REPORT_EXPERTS_H

#include "report/report.h"

bool experts_known(const struct report *r);
/* A section of per-layer-sensitivity.md, and one of a page; nothing where nobody knows. */
void experts_markdown(struct aq_buf *out, const struct report *r);
void experts_html(struct aq_buf *out, const struct report *r);

#endif
