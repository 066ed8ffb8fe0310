/*
 * What aq-eval measured: results for this recipe, text by text, and for other recipes of the same
 * model on the same text.
 */
#ifndef AQ_REPORT_MEASURED_H
#define AQ_REPORT_MEASURED_H

#include "base/buf.h"
#include "base/err.h"
#include "base/names.h"
#include "io/json.h"

#include <stddef.h>

/* NAN: the result does not say. */
struct measured_text {
    const char *name; /* of the domain; "all" of all together; borrowed from the document */
    double samples, positions;
    double kl, error, p99, most;
    double top1, perplexity, reference_perplexity;
};

struct measured_result {
    struct json *root;
    double bits; /* effective ones of the recipe */
    struct measured_text all;
    struct measured_text *texts;
    size_t count;
    /* Fused layers under one NVFP4 second level: how many (0: none), and the squared error of their
       weights over that under one for each member. */
    double shared_groups, shared_ratio, shared_widest;
};

struct measured {
    struct measured_result *items; /* the first one is this recipe's */
    size_t count;                  /* 0: nothing was measured */
};

/*
 * Reads results of aq-eval (aq.eval/1). Those after the first that are of another model or other
 * text are left out with a warning. Release also after a failure.
 */
int measured_read(struct measured *m, const struct aq_names *paths,
                  struct aq_err *err) AQ_MUST_CHECK;
void measured_release(struct measured *m);

/* A section with a row for each text; nothing if nothing was measured. */
void measured_html(struct aq_buf *out, const struct measured *m);

#endif
