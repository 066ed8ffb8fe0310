/*
 * The polish: a recipe improved by measuring. Moves of up to three groups are tried in the order of
 * what they promise. A trial is a race over nested parts of the search text, and ends where it is
 * clearly no improvement; what is better by two paired errors on all of it must also be better on
 * the confirm text, by one, or it is undone and never tried again. What is measured, and how, is
 * the caller's: this knows samples, sums and options alone.
 *
 * Where interactions of options are known, they are estimates from few positions, and their share
 * in predictions is fitted first, to moves that are measured on the confirm text.
 *
 * Everything is decided by measured sums in a fixed order, so that the outcome depends on nothing
 * else; a limit on the time ends it earlier, and says so.
 */
#ifndef AQ_EVAL_POLISH_H
#define AQ_EVAL_POLISH_H

#include "base/err.h"
#include "eval/moves.h"

enum polish_text { POLISH_SEARCH, POLISH_CONFIRM, POLISH_TEXTS };

enum {
    POLISH_SAMPLES = 30,     /* of a text at least: fewer have no useful error */
    POLISH_POSITIONS = 8192, /* with fewer a gain of 1 % is lost in noise */
    POLISH_TRIALS = 600,     /* by default */
    POLISH_IDLE = 200,       /* trials without an accepted one, after which it stops */
};

/* A text in pieces that are measured as a whole. */
struct polish_samples {
    int64_t samples;
    const int32_t *labels; /* [samples]: positions that count */
    size_t pieces;
    const int64_t *first; /* [pieces + 1]: samples before each */
};

/* sums of the samples of these pieces; from this layer on the choice differs from the one that was
   kept last. */
struct polish_measure {
    enum polish_text text;
    const size_t *choice; /* option of all options, for each group */
    int64_t layer;
    size_t first, end; /* pieces */
    bool keep;         /* the choice is the one that others differ from, from now on */
    double *sums;      /* [samples of the text] */
};
typedef int polish_measure_fn(void *arg, const struct polish_measure *m, struct aq_err *err);
typedef double polish_clock_fn(void *arg); /* seconds */

struct polish_job {
    struct move_problem moves;
    struct polish_samples texts[POLISH_TEXTS];
    polish_measure_fn *measure;
    polish_clock_fn *clock;
    void *arg;
    size_t trials;  /* at most */
    double seconds; /* INFINITY: no limit */
};

struct polish_difference {
    double mean, error; /* nats per position: after less before */
};
/* Is it a gain, and not chance (95 %)? What judges the outcome. */
bool polish_is_gain(const struct polish_difference *d);

/* A move that the search text accepted. */
struct polish_step {
    struct move move;
    size_t from[MOVE_GROUPS]; /* options before it */
    size_t trial;             /* its number, from 1 */
    struct polish_difference search, confirm;
    bool accepted; /* by the confirm text too */
};

enum polish_stop {
    POLISH_NO_PROMISE, /* what is left promises less than a tenth of an error */
    POLISH_NO_MOVE,    /* nothing is left to try */
    POLISH_IDLED,
    POLISH_TRIED, /* as many trials as were asked for */
    POLISH_TIMED, /* the time is over */
};
extern const char *const polish_stop_names[];

struct polish_result {
    size_t *choice; /* [groups] */
    struct polish_step *steps;
    size_t step_count, trials, accepted;
    enum polish_stop stop;
    double before[POLISH_TEXTS], after[POLISH_TEXTS]; /* nats per position */
    double spread; /* of predictions, over themselves, as the trials showed */
    double share;  /* of the interactions, as the confirm text showed; 0 where they are unknown */
};

/* start: the option of each group, within the budget. Release also after a failure. */
int polish_run(const struct polish_job *job, const size_t *start, struct polish_result *out,
               struct aq_err *err) AQ_MUST_CHECK;
void polish_release(struct polish_result *r);

#endif
