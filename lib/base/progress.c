#include "base/progress.h"
#include "base/mem.h"
#include "base/msg.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static enum aq_progress_mode process_mode = AQ_PROGRESS_AUTO;

/* Redraws while the work says nothing, once a second: a unit of a large model takes a minute. */
struct aq_ticker {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool ending;
};

double aq_now(void)
{
    struct timespec ts;
    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

void aq_progress_set_mode(enum aq_progress_mode mode)
{
    process_mode = mode;
}

/* Seconds left at the rate so far, or a negative number while nothing is done. */
static double time_left(const struct aq_progress *p, double now)
{
    if (p->done == 0)
        return -1;
    double share = (double)p->done / (double)p->total;
    double at_update = (p->updated - p->started) * (1 / share - 1);
    double left = at_update - (now - p->updated);
    return left > 0 ? left : 0;
}

/* One object per line, in one write. */
static void show_object(const struct aq_progress *p, double now)
{
    char eta[32] = "null";
    double left = time_left(p, now);
    if (left >= 0)
        (void)snprintf(eta, sizeof eta, "%.1f", left);
    (void)fprintf(stderr,
                  "{\"progress\": \"%s\", \"done\": %" PRIu64 ", \"total\": %" PRIu64
                  ", \"elapsed_s\": %.1f, \"eta_s\": %s}\n",
                  p->title, p->done, p->total, now - p->started, eta);
}

static void show_text(const struct aq_progress *p, double now)
{
    bool terminal = p->form == AQ_PROGRESS_TERMINAL;
    double left = time_left(p, now);
    char eta[48] = "";
    if (left >= 0)
        (void)snprintf(eta, sizeof eta, ", about %.0f s to go", left);
    (void)fprintf(stderr, "%s%s: %3.0f%%, %.0f s%s%s", terminal ? "\r" : "", p->title,
                  100 * ((double)p->done / (double)p->total), now - p->started, eta,
                  terminal ? "\033[K" : "\n");
    (void)fflush(stderr);
    if (terminal)
        aq_msg_line_open(true);
}

static void show(struct aq_progress *p, double now)
{
    if (p->form == AQ_PROGRESS_OBJECTS)
        show_object(p, now);
    else
        show_text(p, now);
    p->last = now;
    p->tenth = (int)(p->done * 10 / p->total);
    p->shown_done = p->done;
    p->shown = 1;
}

/* ---- the clock beside the work ---- */

static void *tick(void *arg)
{
    struct aq_progress *p = arg;
    struct aq_ticker *k = p->ticker;
    (void)pthread_mutex_lock(&k->lock);
    while (!k->ending) {
        double due = p->last + 1, now = aq_now();
        struct timespec until = {.tv_sec = (time_t)due};
        until.tv_nsec = (long)((due - (double)until.tv_sec) * 1e9);
        if (now >= due)
            show(p, now);
        else
            (void)pthread_cond_timedwait(&k->wake, &k->lock, &until);
    }
    (void)pthread_mutex_unlock(&k->lock);
    return NULL;
}

/* Without a thread there are fewer lines; that ends nobody's work. */
static void start_ticker(struct aq_progress *p)
{
    struct aq_ticker *k = xcalloc(1, sizeof *k);
    pthread_condattr_t attr;
    sigset_t all, before;
    (void)pthread_mutex_init(&k->lock, NULL);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&k->wake, &attr);
    (void)pthread_condattr_destroy(&attr);
    p->ticker = k;
    /* signals are for the main thread */
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&k->thread, NULL, tick, p) != 0) {
        free(k);
        p->ticker = NULL;
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void stop_ticker(struct aq_progress *p)
{
    struct aq_ticker *k = p->ticker;
    if (!k)
        return;
    (void)pthread_mutex_lock(&k->lock);
    k->ending = true;
    (void)pthread_cond_signal(&k->wake);
    (void)pthread_mutex_unlock(&k->lock);
    (void)pthread_join(k->thread, NULL);
    (void)pthread_cond_destroy(&k->wake);
    (void)pthread_mutex_destroy(&k->lock);
    free(k);
    p->ticker = NULL;
}

/* ---- the job's side ---- */

void aq_progress_begin(struct aq_progress *p, const char *title, uint64_t total)
{
    *p = (struct aq_progress){.title = title, .total = total ? total : 1};
    if (process_mode == AQ_PROGRESS_JSON)
        p->form = AQ_PROGRESS_OBJECTS;
    else if (process_mode != AQ_PROGRESS_NEVER && isatty(STDERR_FILENO))
        p->form = AQ_PROGRESS_TERMINAL;
    else if (process_mode == AQ_PROGRESS_ALWAYS)
        p->form = AQ_PROGRESS_LINES;
    p->started = p->last = p->updated = aq_now();
    if (p->form == AQ_PROGRESS_OBJECTS)
        show(p, p->started);
    if (p->form == AQ_PROGRESS_OBJECTS || p->form == AQ_PROGRESS_TERMINAL)
        start_ticker(p);
}

/* Is it time for another line? */
static bool is_due(const struct aq_progress *p, double now)
{
    switch (p->form) {
    case AQ_PROGRESS_OBJECTS:
        return now - p->last >= 1.0;
    case AQ_PROGRESS_TERMINAL:
        return now - p->started >= 1.0 && now - p->last >= 0.1;
    default:
        return now - p->started >= 1.0 && (int)(p->done * 10 / p->total) != p->tenth;
    }
}

void aq_progress_update(struct aq_progress *p, uint64_t done)
{
    if (p->form == AQ_PROGRESS_OFF)
        return;
    if (p->ticker)
        (void)pthread_mutex_lock(&p->ticker->lock);
    double now = aq_now();
    p->done = done;
    p->updated = now;
    if (is_due(p, now))
        show(p, now);
    if (p->ticker)
        (void)pthread_mutex_unlock(&p->ticker->lock);
}

void aq_progress_end(struct aq_progress *p)
{
    stop_ticker(p);
    if (p->form == AQ_PROGRESS_TERMINAL && p->shown) {
        (void)fputs("\r\033[K", stderr);
        (void)fflush(stderr);
        aq_msg_line_open(false);
    } else if (p->form == AQ_PROGRESS_OBJECTS && p->shown_done != p->done) {
        show(p, aq_now());
    }
    p->form = AQ_PROGRESS_OFF;
}
