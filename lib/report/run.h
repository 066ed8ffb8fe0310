/* The calls of aq-report: from options to files. */
#ifndef AQ_REPORT_RUN_H
#define AQ_REPORT_RUN_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

enum report_format { REPORT_MD, REPORT_JSON, REPORT_TSV, REPORT_HTML, REPORT_SVG };

struct report_request {
    const char *manifest; /* path, "-": standard input */
    const char *title;    /* NULL: the manifest's scheme */
    enum report_format format;
    const char *chart;  /* REPORT_SVG: one of chart_names */
    const char *output; /* NULL: stdout */
};

int report_one(const struct report_request *q, struct aq_err *err) AQ_MUST_CHECK;
/* All products into a directory, which is made if need be. */
int report_all(const struct report_request *q, const char *dir, struct aq_err *err) AQ_MUST_CHECK;

#endif
