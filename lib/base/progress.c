#include "base/progress.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

static enum aq_progress_mode process_mode = AQ_PROGRESS_AUTO;

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

void aq_progress_begin(struct aq_progress *p, const char *title, uint64_t total)
{
    int terminal = isatty(STDERR_FILENO);
    int on = process_mode == AQ_PROGRESS_NEVER    ? 0
             : terminal                           ? 2
             : process_mode == AQ_PROGRESS_ALWAYS ? 1
                                                  : 0;
    *p = (struct aq_progress){.title = title, .total = total ? total : 1, .on = on};
    p->started = p->last = aq_now();
}

static void show(struct aq_progress *p, uint64_t done, double now)
{
    double elapsed = now - p->started;
    double share = (double)done / (double)p->total;
    double left = share > 0 ? elapsed / share - elapsed : 0;
    (void)fprintf(stderr, "%s%s: %3.0f%%, %.0f s done, about %.0f s to go%s",
                  p->on == 2 ? "\r" : "", p->title, share * 100, elapsed, left,
                  p->on == 2 ? "\033[K" : "\n");
    (void)fflush(stderr);
    p->shown = 1;
}

void aq_progress_update(struct aq_progress *p, uint64_t done)
{
    if (!p->on)
        return;
    double now = aq_now();
    if (now - p->started < 1.0)
        return;
    int tenth = (int)(done * 10 / p->total);
    if (p->on == 2 ? now - p->last < 0.1 : tenth == p->tenth)
        return;
    p->last = now;
    p->tenth = tenth;
    show(p, done, now);
}

void aq_progress_end(struct aq_progress *p)
{
    if (p->on == 2 && p->shown) {
        (void)fputs("\r\033[K", stderr);
        (void)fflush(stderr);
    }
    p->on = 0;
}
