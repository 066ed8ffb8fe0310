/* The pool runs every unit once; the BLAS gives the same bits to several callers at once. */
#include "tap.h"

#include "backend/cpu/blas.h"
#include "base/mem.h"
#include "base/pool.h"

#include <dirent.h>
#include <math.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

static struct aq_err err;

struct tally {
    atomic_int *counts;
    atomic_int wrong_worker;
    int threads;
};

static void count_unit(void *arg, int64_t unit, int worker)
{
    struct tally *t = arg;
    atomic_fetch_add(&t->counts[unit], 1);
    if (worker < 0 || worker >= t->threads)
        atomic_fetch_add(&t->wrong_worker, 1);
}

static void test_units(int threads)
{
    enum { MOST = 100, RUNS = 300 };
    struct aq_pool *p = aq_pool_new(threads, &err);
    struct tally t = {xcalloc(MOST, sizeof *t.counts), 0, aq_pool_threads(p)};
    int good = aq_pool_threads(p) == threads;
    for (int run = 0; run < RUNS; run++) {
        int units = run % (MOST + 1);
        aq_pool_run(p, units, count_unit, &t);
        for (int u = 0; u < MOST; u++)
            good &= atomic_exchange(&t.counts[u], 0) == (u < units);
    }
    tap_ok(good && !t.wrong_worker, "%d threads: every unit once in %d runs", threads, RUNS);
    aq_pool_free(p);
    free(t.counts);
}

static void test_affinity(void)
{
    cpu_set_t before, after;
    CPU_ZERO(&before);
    CPU_ZERO(&after);
    (void)sched_getaffinity(0, sizeof before, &before);
    struct aq_pool *p = aq_pool_new(0, &err);
    tap_ok(aq_pool_threads(p) == aq_pool_cpus(), "0 threads means one for each CPU");
    (void)sched_getaffinity(0, sizeof after, &after);
    aq_pool_free(p);
    tap_ok(CPU_EQUAL(&before, &after), "the caller may run where it might before");
}

/* ---- the BLAS ---- */

static int tasks(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/task");
    for (const struct dirent *e; d && (e = readdir(d));)
        n += e->d_name[0] != '.';
    if (d)
        (void)closedir(d);
    return n;
}

/* Its own threads, which it starts when it is loaded, would spin where ours work. */
static void test_threads(void)
{
    (void)blas_init();
    for (int i = 0; tasks() > 1 && i < 1000; i++) /* one that is joined is listed a little longer */
        (void)usleep(1000);
    tap_ok(tasks() == 1, "no thread but the caller's before there is a pool (%d)", tasks());
}

/* 4 callers x 1000 products */

enum { CALLERS = 4, PRODUCTS = 1000 };

static const struct shape {
    int64_t m, n, k;
} shapes[] = {{33, 300, 70}, {64, 96, 129}, {5, 64, 300}, {128, 31, 64}, {1, 257, 65}};

struct products {
    const float *a, *b;
    float *expected[AQ_COUNT(shapes)], *c[CALLERS];
    atomic_int differ;
};

static void product(const struct products *p, const struct shape *s, float *c)
{
    blas_gemm(BLAS_N, BLAS_T, s->m, s->n, s->k, p->a, s->k, p->b, s->k, 0, c, s->n);
}

static void product_unit(void *arg, int64_t unit, int worker)
{
    struct products *p = arg;
    size_t which = (size_t)unit % AQ_COUNT(shapes);
    const struct shape *s = &shapes[which];
    product(p, s, p->c[worker]);
    if (memcmp(p->c[worker], p->expected[which], (size_t)(s->m * s->n) * sizeof(float)) != 0)
        atomic_fetch_add(&p->differ, 1);
}

static void test_blas(void)
{
    enum { ROOM = 64 * 1024 };
    float *a = xmalloc(ROOM * sizeof *a), *b = xmalloc(ROOM * sizeof *b);
    float *plain = xmalloc(ROOM * sizeof *plain);
    struct products p = {.a = a, .b = b};
    struct aq_pool *pool = aq_pool_new(CALLERS, &err);
    for (int i = 0; i < ROOM; i++) {
        a[i] = (float)((i * 7919LL) % 1009 - 504) / 504;
        b[i] = (float)((i * 104729LL) % 2003 - 1001) / 1001;
    }
    (void)blas_init();
    for (size_t i = 0; i < AQ_COUNT(shapes); i++) {
        const struct shape *s = &shapes[i];
        p.expected[i] = xmalloc(ROOM * sizeof(float));
        product(&p, s, p.expected[i]);
        blas_gemm_plain(BLAS_N, BLAS_T, s->m, s->n, s->k, a, s->k, b, s->k, 0, plain, s->n);
        double far = 0;
        for (int64_t j = 0; j < s->m * s->n; j++)
            far = fmax(far, fabs((double)plain[j] - p.expected[i][j]));
        tap_ok(far < 1e-4, "%s against plain C (%.1e)", blas_name(), far);
    }
    for (int i = 0; i < CALLERS; i++)
        p.c[i] = xmalloc(ROOM * sizeof(float));
    aq_pool_run(pool, (int64_t)CALLERS * PRODUCTS, product_unit, &p);
    tap_ok(p.differ == 0, "%d callers x %d products: the same bits (%d differ)", CALLERS, PRODUCTS,
           (int)p.differ);
    for (int i = 0; i < CALLERS; i++)
        free(p.c[i]);
    for (size_t i = 0; i < AQ_COUNT(shapes); i++)
        free(p.expected[i]);
    free(a);
    free(b);
    free(plain);
    aq_pool_free(pool);
}

int main(void)
{
    static const int threads[] = {1, 2, 3, 8};
    test_threads();
    for (size_t i = 0; i < AQ_COUNT(threads); i++)
        test_units(threads[i]);
    test_affinity();
    test_blas();
    return tap_done();
}
