#include "base/pool.h"
#include "base/mem.h"

#include <errno.h>
#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

/* Some 20 us. Ops of a small model take 50, and a sleep and a wake-up would cost as much again; but
   where other work has taken the CPU of a thread that the others wait for, spinning for longer is
   time that nobody has. */
enum { SPINS = 1000 };

struct worker {
    struct aq_pool *pool;
    pthread_t thread;
    int index;
};

struct aq_pool {
    int threads, started;
    int spins; /* 0 where there are more threads than CPUs: a spinner would steal from a worker */
    struct worker *workers; /* [threads]; 0 is the caller and has no thread */
    aq_pool_fn *fn;
    void *arg;
    int64_t units;
    atomic_llong next;
    atomic_uint generation; /* incremented for each run, and once more to stop the workers */
    atomic_int busy;
    bool ending;
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    cpu_set_t allowed;
    bool pinned;
};

int aq_pool_cpus(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) < 0)
        return 1;
    int n = CPU_COUNT(&set);
    return n > 0 ? n : 1;
}

int aq_pool_threads(const struct aq_pool *p)
{
    return p->threads;
}

static void pin_to(const cpu_set_t *allowed, int nth)
{
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, allowed) || nth-- > 0)
            continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        /* advice: a container may refuse, and the work is right without it */
        (void)pthread_setaffinity_np(pthread_self(), sizeof one, &one);
        return;
    }
}

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void work(struct aq_pool *p, int worker)
{
    for (;;) {
        int64_t unit = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (unit >= p->units)
            return;
        p->fn(p->arg, unit, worker);
    }
}

static unsigned wait_for_run(struct aq_pool *p, unsigned seen)
{
    for (int i = 0; i < p->spins; i++) {
        unsigned now = atomic_load_explicit(&p->generation, memory_order_acquire);
        if (now != seen)
            return now;
        relax();
    }
    pthread_mutex_lock(&p->lock);
    while (atomic_load_explicit(&p->generation, memory_order_acquire) == seen)
        pthread_cond_wait(&p->wake, &p->lock);
    pthread_mutex_unlock(&p->lock);
    return atomic_load_explicit(&p->generation, memory_order_acquire);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct aq_pool *p = w->pool;
    /* Denormals are numbers here, whatever a preloaded library thinks. */
    (void)fesetenv(FE_DFL_ENV);
    if (p->pinned)
        pin_to(&p->allowed, w->index);
    for (unsigned seen = 0;;) {
        seen = wait_for_run(p, seen);
        if (p->ending)
            return NULL;
        work(p, w->index);
        if (atomic_fetch_sub_explicit(&p->busy, 1, memory_order_acq_rel) == 1) {
            pthread_mutex_lock(&p->lock);
            pthread_cond_signal(&p->done);
            pthread_mutex_unlock(&p->lock);
        }
    }
}

static void start_run(struct aq_pool *p)
{
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add_explicit(&p->generation, 1, memory_order_release);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

struct aq_pool *aq_pool_new(int threads, struct aq_err *err)
{
    int cpus = aq_pool_cpus();
    struct aq_pool *p = xcalloc(1, sizeof *p);
    p->threads = threads <= 0 ? cpus : threads > AQ_POOL_MAX ? AQ_POOL_MAX : threads;
    p->spins = p->threads <= cpus ? SPINS : 0;
    p->workers = xcalloc((size_t)p->threads, sizeof *p->workers);
    p->started = 1;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->done, NULL);
    (void)fesetenv(FE_DFL_ENV);
    if (p->threads > 1 && p->threads == cpus &&
        sched_getaffinity(0, sizeof p->allowed, &p->allowed) == 0)
        p->pinned = true;
    for (; p->started < p->threads; p->started++) {
        struct worker *w = &p->workers[p->started];
        *w = (struct worker){.pool = p, .index = p->started};
        int e = pthread_create(&w->thread, NULL, worker_main, w);
        if (e) {
            errno = e;
            (void)aq_err_sys(err, AQ_ERUN, "cannot start thread %d of %d", p->started + 1,
                             p->threads);
            (void)aq_mem_hint(err);
            aq_pool_free(p);
            return NULL;
        }
    }
    return p;
}

void aq_pool_free(struct aq_pool *p)
{
    if (!p)
        return;
    p->ending = true;
    start_run(p);
    for (int i = 1; i < p->started; i++)
        pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_cond_destroy(&p->done);
    pthread_mutex_destroy(&p->lock);
    free(p->workers);
    free(p);
}

void aq_pool_run(struct aq_pool *p, int64_t units, aq_pool_fn *fn, void *arg)
{
    if (p->threads == 1 || units <= 1) {
        for (int64_t u = 0; u < units; u++)
            fn(arg, u, 0);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    p->units = units;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    atomic_store_explicit(&p->busy, p->threads - 1, memory_order_relaxed);
    start_run(p);
    work(p, 0);
    for (int i = 0; i < p->spins; i++) {
        if (atomic_load_explicit(&p->busy, memory_order_acquire) == 0)
            return;
        relax();
    }
    pthread_mutex_lock(&p->lock);
    while (atomic_load_explicit(&p->busy, memory_order_acquire) != 0)
        pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

void aq_pool_once(int64_t units, aq_pool_fn *fn, void *arg)
{
    enum { MOST = 8 };
    int threads = aq_pool_cpus() < MOST ? aq_pool_cpus() : MOST;
    struct aq_pool *p = aq_pool_new(units > threads ? threads : units > 0 ? (int)units : 1, NULL);
    if (p)
        aq_pool_run(p, units, fn, arg);
    for (int64_t u = 0; u < units && !p; u++)
        fn(arg, u, 0);
    aq_pool_free(p);
}

struct aq_trying {
    aq_pool_try_fn *fn;
    void *arg;
    struct aq_tried *of; /* [units] */
};

static void try_unit(void *arg, int64_t unit, int worker)
{
    const struct aq_trying *t = arg;
    (void)worker;
    t->of[unit].status = t->fn(t->arg, unit, &t->of[unit].why);
}

struct aq_tried *aq_pool_try(int64_t units, aq_pool_try_fn *fn, void *arg)
{
    struct aq_trying t = {fn, arg, xcalloc((size_t)units + 1, sizeof *t.of)};
    aq_pool_once(units, try_unit, &t);
    return t.of;
}

int aq_tried_error(const struct aq_tried *t, int64_t units, struct aq_err *err)
{
    for (int64_t u = 0; u < units; u++)
        if (t[u].status < 0) {
            *err = t[u].why;
            return -1;
        }
    return 0;
}
