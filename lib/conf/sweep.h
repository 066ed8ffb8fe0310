/*
 * -m: the cartesian product of all sweeps. Keys in the order of first appearance, the last one
 * varies fastest; every job gets its overrides as text, as if typed.
 */
#ifndef AQ_CONF_SWEEP_H
#define AQ_CONF_SWEEP_H

#include "conf/override.h"
#include "conf/source.h"

enum { SWEEP_MAX_JOBS = 65536 };

struct sweep_key {
    struct aq_names texts; /* "dataset.size=small", ... */
    int number;            /* of the override */
};

struct sweep_plan {
    struct sweep_key *keys;
    size_t count, cap;
    size_t jobs;
};

/* Without multirun a sweep is an error that says how to write what was meant. */
int sweep_check_single(const struct override *overrides, size_t count,
                       struct aq_err *err) AQ_MUST_CHECK;

int sweep_expand(struct conf_search *s, struct aq_arena *a, const struct override *overrides,
                 size_t count, struct sweep_plan *out, struct aq_err *err) AQ_MUST_CHECK;
void sweep_release(struct sweep_plan *p);

/* The overrides of one job, parsed; list has room for p->count. */
int sweep_job(const struct sweep_plan *p, size_t job, struct aq_arena *a, struct override *list,
              struct aq_err *err) AQ_MUST_CHECK;

#endif
