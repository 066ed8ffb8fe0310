#include "base/progress.h"

#include <inttypes.h>
#include <stdbool.h>
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

/* One object per line, in one write. */
static void show_object(struct aq_progress *p, double now)
{
    double elapsed = now - p->started;
    char eta[32] = "null";
    if (p->done)
        (void)snprintf(eta, sizeof eta, "%.1f",
                       elapsed * ((double)p->total / (double)p->done) - elapsed);
    (void)fprintf(stderr,
                  "{\"progress\": \"%s\", \"done\": %" PRIu64 ", \"total\": %" PRIu64
                  ", \"elapsed_s\": %.1f, \"eta_s\": %s}\n",
                  p->title, p->done, p->total, elapsed, eta);
}

static void show_text(const struct aq_progress *p, double now)
{
    double elapsed = now - p->started;
    double share = (double)p->done / (double)p->total;
    double left = share > 0 ? elapsed / share - elapsed : 0;
    bool terminal = p->form == AQ_PROGRESS_TERMINAL;
    (void)fprintf(stderr, "%s%s: %3.0f%%, %.0f s done, about %.0f s to go%s", terminal ? "\r" : "",
                  p->title, share * 100, elapsed, left, terminal ? "\033[K" : "\n");
    (void)fflush(stderr);
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

void aq_progress_begin(struct aq_progress *p, const char *title, uint64_t total)
{
    *p = (struct aq_progress){.title = title, .total = total ? total : 1};
    if (process_mode == AQ_PROGRESS_JSON)
        p->form = AQ_PROGRESS_OBJECTS;
    else if (process_mode != AQ_PROGRESS_NEVER && isatty(STDERR_FILENO))
        p->form = AQ_PROGRESS_TERMINAL;
    else if (process_mode == AQ_PROGRESS_ALWAYS)
        p->form = AQ_PROGRESS_LINES;
    p->started = p->last = aq_now();
    if (p->form == AQ_PROGRESS_OBJECTS)
        show(p, p->started);
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
    double now = aq_now();
    p->done = done;
    if (is_due(p, now))
        show(p, now);
}

void aq_progress_end(struct aq_progress *p)
{
    if (p->form == AQ_PROGRESS_TERMINAL && p->shown) {
        (void)fputs("\r\033[K", stderr);
        (void)fflush(stderr);
    } else if (p->form == AQ_PROGRESS_OBJECTS && p->shown_done != p->done) {
        show(p, aq_now());
    }
    p->form = AQ_PROGRESS_OFF;
}
