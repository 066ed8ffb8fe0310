/*
 * Progress on stderr: one rewritten line, at most ten times a second, on a terminal; elsewhere one
 * plain line per tenth of the work, so that job logs stay readable. Nothing in the first second,
 * so that short jobs stay silent.
 */
#ifndef AQ_BASE_PROGRESS_H
#define AQ_BASE_PROGRESS_H

#include <stdint.h>

enum aq_progress_mode { AQ_PROGRESS_AUTO, AQ_PROGRESS_ALWAYS, AQ_PROGRESS_NEVER };

struct aq_progress {
    const char *title;
    uint64_t total;
    double started, last;
    int tenth;
    int on; /* 0 off, 1 plain lines, 2 terminal */
    int shown;
};

void aq_progress_set_mode(enum aq_progress_mode mode); /* for the whole process */
void aq_progress_begin(struct aq_progress *p, const char *title, uint64_t total);
void aq_progress_update(struct aq_progress *p, uint64_t done);
void aq_progress_end(struct aq_progress *p);

double aq_now(void); /* monotonic seconds */

#endif
