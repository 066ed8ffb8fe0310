/*
 * What a polish tries next: moves of up to three groups that keep a recipe within its budget, by
 * falling promise. A move's effect is predicted as a sum of differences of its options, and, where
 * it is known what two options cost more together than apart, of a share of these interactions; how
 * far off that may be is known too, so that the expected improvement is that of a normal variable,
 * divided by what the trial costs.
 */
#ifndef AQ_EVAL_MOVES_H
#define AQ_EVAL_MOVES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MOVE_GROUPS = 3, MOVES_MOST = 2000 };

/* The options of all groups: group g owns start[g] .. start[g + 1] - 1. */
struct move_problem {
    size_t groups;
    const size_t *start;
    const int64_t *costs;
    const double *nats; /* predicted of each option */
    const double *both; /* (options, options): what two of them cost more together; NULL: unknown */
    double share;       /* of `both` that counts, 0 to 1 */
    const int64_t *layer; /* of each group */
    int64_t layers;
    double head; /* the head's cost, in layers */
    int64_t budget;
};

struct move {
    int count;
    size_t group[MOVE_GROUPS];  /* rising */
    size_t option[MOVE_GROUPS]; /* of all options */
    double predicted;           /* change in nats; negative: better */
    double together;            /* the whole change in interactions, of which it has a share */
    double spread;              /* of that prediction, one standard deviation */
    double improvement;         /* expected, in nats */
    double cost;                /* of the trial: a share of a whole pass */
};

struct moves {
    struct move *items; /* the most promising first */
    size_t count;
};

/* Expected improvement of a normal variable with this mean and spread (below zero is better). */
double move_improvement(double mean, double spread);
bool move_same(const struct move *a, const struct move *b);

/*
 * At most MOVES_MOST moves from this choice (an option of all options for each group), without
 * those of `tried`. spread: one standard deviation of a prediction over itself.
 */
void moves_find(struct moves *m, const struct move_problem *p, const size_t *choice, double spread,
                const struct move *tried, size_t tried_count);
void moves_release(struct moves *m);

#endif
