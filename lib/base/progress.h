/*
 * Progress on stderr: one rewritten line, between once and ten times a second, on a terminal;
 * elsewhere one plain line per tenth of the work, so that job logs stay readable. Nothing in the
 * first second, so that short jobs stay silent.
 *
 * As JSON, for programs: the first and the last state and one a second between them, a line each:
 * {"progress": "scoring", "done": 3, "total": 120, "elapsed_s": 1.0, "eta_s": 39.0}; eta_s is null
 * until something is done. The unit of done and total is the job's own.
 *
 * Between begin and end a thread may read the structure: it must not move, and only update may
 * change it. Every begin needs its end.
 */
#ifndef AQ_BASE_PROGRESS_H
#define AQ_BASE_PROGRESS_H

#include <stdint.h>

enum aq_progress_mode { AQ_PROGRESS_AUTO, AQ_PROGRESS_ALWAYS, AQ_PROGRESS_NEVER, AQ_PROGRESS_JSON };

struct aq_ticker;

struct aq_progress {
    const char *title;
    uint64_t total;
    uint64_t done, shown_done;
    double started, last, updated; /* last: of a line; updated: of done */
    int tenth;
    enum { AQ_PROGRESS_OFF, AQ_PROGRESS_LINES, AQ_PROGRESS_TERMINAL, AQ_PROGRESS_OBJECTS } form;
    int shown;
    struct aq_ticker *ticker;
};

void aq_progress_set_mode(enum aq_progress_mode mode); /* for the whole process */
void aq_progress_begin(struct aq_progress *p, const char *title, uint64_t total);
void aq_progress_update(struct aq_progress *p, uint64_t done);
void aq_progress_end(struct aq_progress *p);

double aq_now(void); /* monotonic seconds */

#endif
