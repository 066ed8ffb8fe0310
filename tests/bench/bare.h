/* What the benchmarks of the engine share: random matrices, medians, and the bare BLAS. */
#ifndef AQ_BENCH_BARE_H
#define AQ_BENCH_BARE_H

#include "backend/cpu/blas.h"
#include "base/mem.h"
#include "base/pool.h"
#include "base/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BENCH_ROWS = 512 };

static struct aq_err err;

static inline void must(int good)
{
    if (!good) {
        (void)fprintf(stderr, "bench: %s\n", err.msg);
        exit(1);
    }
}

static inline int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline double median(double *times, int n)
{
    qsort(times, (size_t)n, sizeof *times, by_value);
    return times[n / 2];
}

static inline float uniform(void)
{
    static uint64_t seed = 5;
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(seed >> 32) / 2147483648.0F;
}

static inline float *random_floats(int64_t n, float scale)
{
    float *x = aq_big_alloc((size_t)n * sizeof *x, "a matrix", &err);
    must(x != NULL);
    for (int64_t i = 0; i < n; i++)
        x[i] = uniform() * scale;
    return x;
}

/* One sgemm on all threads of the pool, columns split evenly: y = x W^T for a tile. */
struct bare {
    const float *x, *w;
    float *y;
    int64_t out, depth;
    int threads;
};

static inline void bare_unit(void *arg, int64_t unit, int worker)
{
    const struct bare *p = arg;
    int64_t from = p->out * unit / p->threads, to = p->out * (unit + 1) / p->threads;
    (void)worker;
    blas_gemm(BLAS_N, BLAS_T, BENCH_ROWS, to - from, p->depth, p->x, p->depth,
              p->w + from * p->depth, p->depth, 0, p->y + from, p->out);
}

static inline double time_bare(struct aq_pool *pool, struct bare *p)
{
    double t = aq_now();
    p->threads = aq_pool_threads(pool);
    aq_pool_run(pool, p->threads, bare_unit, p);
    return aq_now() - t;
}

#endif
