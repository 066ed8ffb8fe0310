/*
 * explore.html: a whole sweep on one page. Every cell in a matrix, two cells side by side, and for
 * each size of the data the best recipe at every corner of the frontier over all its cells.
 */
#ifndef AQ_REPORT_EXPLORE_H
#define AQ_REPORT_EXPLORE_H

#include "base/buf.h"
#include "base/err.h"

#include <stddef.h>

/* cells_json: the list of all cells. Each manifest must be in the directory of one of them. */
int explore_html(struct aq_buf *out, const char *const *manifests, size_t count,
                 const char *cells_json, struct aq_err *err) AQ_MUST_CHECK;

#endif
