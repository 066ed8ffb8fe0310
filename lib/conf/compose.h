/*
 * A whole configuration: files in the order of the plan, then the overrides of values, then the
 * interpolations. What belongs to the run itself and not to the application (directories, job
 * name) lives under the key `hydra`, which is kept apart.
 */
#ifndef AQ_CONF_COMPOSE_H
#define AQ_CONF_COMPOSE_H

#include "conf/defaults.h"
#include "conf/interp.h"
#include "conf/override.h"
#include "conf/source.h"

#include <time.h>

struct conf_job {
    struct conf_search *search;
    const char *primary; /* "preset/qwen3_lm_sensitivity" */
    const struct override *overrides;
    size_t count;
    int number; /* hydra.job.num: from 0 */
    bool sweep;
    struct tm now; /* one time for a whole invocation */
};

struct conf_result {
    struct node *root;     /* with hydra, unresolved: every value knows its place */
    struct interp in;      /* over root */
    struct conf_plan plan; /* the files */
    struct aq_arena *a;
};

/* The result lives in the arena, but for the plan: conf_result_release. */
int conf_compose(const struct conf_job *job, struct aq_arena *a, struct conf_result *out,
                 struct aq_err *err) AQ_MUST_CHECK;
void conf_result_release(struct conf_result *r);

/* The application's part, resolved, as a new tree. */
struct node *conf_resolve(struct conf_result *r);

/*
 * The raw value at a key ("a.b", "hydra.run.dir"), or NULL with AQ_EUSAGE, the nearest key and
 * those that there are.
 */
struct node *conf_at(struct conf_result *r, const char *key, struct aq_err *err);

#endif
