/*
 * A pool of worker threads for one kind of work: a fixed number of numbered units, taken in order
 * by whoever is free. What a unit computes may depend on its number alone, so results do not depend
 * on the number of threads.
 *
 * When the pool takes every CPU that the process may use, each thread but the caller is pinned to
 * its own: left alone, two busy threads now and then share a CPU for seconds. The caller finds the
 * one that is left. A smaller pool is not pinned, so that several processes side by side do not all
 * sit on the first CPUs.
 */
#ifndef AQ_BASE_POOL_H
#define AQ_BASE_POOL_H

#include "base/err.h"

#include <stdint.h>

struct aq_pool;

/* worker: 0 to threads - 1; the caller of aq_pool_run is worker 0. */
typedef void aq_pool_fn(void *arg, int64_t unit, int worker);

enum { AQ_POOL_MAX = 1024 };

/* threads <= 0: one for each CPU that the process may use. NULL and an error if one cannot start.
 */
struct aq_pool *aq_pool_new(int threads, struct aq_err *err);
void aq_pool_free(struct aq_pool *p); /* NULL is fine */
int aq_pool_threads(const struct aq_pool *p);
/* CPUs that this process may use: affinity mask, hence taskset and cpusets, respected. */
int aq_pool_cpus(void);
/* Returns when all units are done. Not to be called from within a unit. */
void aq_pool_run(struct aq_pool *p, int64_t units, aq_pool_fn *fn, void *arg);
/* The same with a pool for these units alone, of eight threads at most, as other processes may be
   busy beside it; one after another where no thread can start. */
void aq_pool_once(int64_t units, aq_pool_fn *fn, void *arg);

/* What a unit that may fail came to: 0, or -1 and why. */
struct aq_tried {
    int status;
    struct aq_err why;
};
typedef int aq_pool_try_fn(void *arg, int64_t unit, struct aq_err *err);
/* aq_pool_once with units that may fail: [units], caller frees. */
struct aq_tried *aq_pool_try(int64_t units, aq_pool_try_fn *fn, void *arg);
/* The error of the first unit that failed, whichever was made first; 0: none failed. */
int aq_tried_error(const struct aq_tried *t, int64_t units, struct aq_err *err);

#endif
