/*
 * explore.html: a whole sweep on one page. Every cell in a matrix, two cells side by side, and for
 * each size of the data the best recipe at every corner of the frontier over all its cells.
 */
#ifndef AQ_REPORT_EXPLORE_H
#define AQ_REPORT_EXPLORE_H

#include "base/buf.h"
#include "base/err.h"

#include <stddef.h>

struct explore_request {
    const char *const *manifests;
    size_t count;
    const char *cells_json; /* all cells; each manifest must be in the directory of one of them */
    const char *conf_dir; /* its engine/NAME.yaml say what an engine serves; NULL: no such choice */
};
int explore_html(struct aq_buf *out, const struct explore_request *q,
                 struct aq_err *err) AQ_MUST_CHECK;

#endif
