/*
 * What engines make of a recipe, group by group: the chosen engine, which --engine or the selection
 * names, and the others, each on the GPU that it is asked about when nobody says which.
 */
#ifndef AQ_REPORT_SERVING_H
#define AQ_REPORT_SERVING_H

#include "report/curve.h"
#include "report/engines.h"
#include "report/report.h"

struct serving {
    struct engines engines;
    struct engine_target targets[REPORT_ENGINES];
    int order[REPORT_ENGINES]; /* indices, the chosen one first */
    int chosen;                /* -1: none */
    /* [groups] of each engine; NULL: the manifest does not say what its candidates do, or has no
       recipe */
    struct engine_verdict *verdicts[REPORT_ENGINES];
};

/*
 * conf_dir: of the rules; NULL: nothing is known. engine: "vllm:sm90"; NULL: the selection's own.
 * Caller releases on success.
 */
int serving_init(struct serving *s, const struct report *r, const struct curve *c,
                 const char *conf_dir, const char *engine, struct aq_err *err) AQ_MUST_CHECK;
void serving_release(struct serving *s);

bool serving_known(const struct serving *s);
/* A section with what each engine makes of each group, and why. */
void serving_html(struct aq_buf *out, const struct report *r, const struct curve *c,
                  const struct serving *s);

#endif
