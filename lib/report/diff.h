/* Two cells layer by layer: what became worse, what changed places, what the selection now takes.
 */
#ifndef AQ_REPORT_DIFF_H
#define AQ_REPORT_DIFF_H

#include "base/buf.h"
#include "report/report.h"

void diff_markdown(struct aq_buf *out, const struct report *a, const struct report *b);
void diff_tsv(struct aq_buf *out, const struct report *a, const struct report *b);

#endif
