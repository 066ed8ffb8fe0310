/* The calls of aq-report: from options to files. */
#ifndef AQ_REPORT_RUN_H
#define AQ_REPORT_RUN_H

#include "base/err.h"
#include "base/names.h"

#include <stdbool.h>
#include <stddef.h>

enum report_format { REPORT_MD, REPORT_JSON, REPORT_TSV, REPORT_HTML, REPORT_SVG };

struct report_request {
    const char *manifest; /* path, "-": standard input */
    const char *title;    /* NULL: the manifest's scheme */
    enum report_format format;
    const struct aq_names *evals; /* results of aq-eval, this recipe's first; NULL: none */
    const char *conf_dir; /* its engine/NAME.yaml say what an engine serves; NULL: nobody does */
    const char *engine;   /* the one to show first; NULL: the selection's */
    const char *chart;    /* REPORT_SVG: one of chart_names */
    const char *output;   /* NULL: stdout */
};

int report_one(const struct report_request *q, struct aq_err *err) AQ_MUST_CHECK;
/* All products into a directory, which is made if need be. */
int report_all(const struct report_request *q, const char *dir, struct aq_err *err) AQ_MUST_CHECK;

/* A sweep: md, tsv or html. cells_json may be NULL. */
struct summary_request {
    const char *const *manifests;
    size_t count;
    const char *cells_json;
    enum report_format format;
    bool keep_going; /* leave out manifests that cannot be read */
    const char *output;
};
int report_summary(const struct summary_request *q, struct aq_err *err) AQ_MUST_CHECK;

/* summary.md, summary.tsv and summary.html in dir, which is there. */
int report_summary_all(const struct summary_request *q, const char *dir,
                       struct aq_err *err) AQ_MUST_CHECK;

/* A sweep as data: every layer of every cell, as TSV or, with a comma, as CSV. */
int report_sweep(const struct summary_request *q, char separator, struct aq_err *err) AQ_MUST_CHECK;
/* A sweep as one page to explore; cells_json is needed, conf_dir as in explore.h. */
int report_explore(const struct summary_request *q, const char *conf_dir,
                   struct aq_err *err) AQ_MUST_CHECK;

/* Two manifests: md or tsv. */
int report_diff(const char *a, const char *b, enum report_format format, const char *output,
                struct aq_err *err) AQ_MUST_CHECK;

#endif
