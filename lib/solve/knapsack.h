/*
 * The multiple-choice knapsack, for every budget at once: from each group exactly one option, the
 * sum of the scores as small as possible, the sum of the costs at most the budget.
 *
 * Costs are whole numbers; scores are doubles, added from the last group to the first (in another
 * order where an answer is not exact: the last bits differ). Of two assignments with equal scores
 * the cheaper one wins, and of equal cost the one whose vector of option numbers is
 * lexicographically smallest. The answer depends on nothing else.
 */
#ifndef AQ_SOLVE_KNAPSACK_H
#define AQ_SOLVE_KNAPSACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    KNAPSACK_MAX_OPTIONS = 65535, /* of one group */
    KNAPSACK_EXACT_GROUPS = 1000, /* above, a range of budgets is answered at the hull's corners */
};

struct knapsack_problem {
    size_t groups;
    const size_t *start;  /* (groups + 1): group g owns options start[g] .. start[g + 1] - 1 */
    const int64_t *costs; /* >= 0; the sum of the dearest options must fit INT64_MAX / 4 */
    const double *scores; /* finite */
    size_t max_states;    /* of all groups together; 0: the default, about 200 MB */
};

/* One undominated assignment: nothing is as cheap and has a smaller score. */
struct knapsack_point {
    int64_t cost;
    double score;
};

struct knapsack;

/*
 * All undominated assignments that are the best for some budget in [lo, hi], by rising cost.
 * If hi is below the cheapest assignment there are none.
 */
struct knapsack *knapsack_solve(const struct knapsack_problem *p, int64_t lo, int64_t hi);
void knapsack_free(struct knapsack *k);
/*
 * Only the corners of the lower convex hull, for problems of any size: the answers that are the
 * best for their cost whatever a unit of cost is worth. Each is what knapsack_solve finds for a
 * budget of exactly its cost.
 */
struct knapsack *knapsack_corners(const struct knapsack_problem *p);

size_t knapsack_count(const struct knapsack *k);
const struct knapsack_point *knapsack_points(const struct knapsack *k);
/* The option (counted from 0 inside its group) of every group at point i. */
void knapsack_choices(const struct knapsack *k, size_t i, int *choice);
/* The last point of cost at most budget; -1 if there is none. */
ptrdiff_t knapsack_find(const struct knapsack *k, int64_t budget);
/*
 * Zero for an exact answer. Otherwise there were too many groups or states; then no budget in the
 * range has an assignment whose score is smaller than the returned one by more than this.
 */
double knapsack_gap(const struct knapsack *k);

/*
 * The same points one by one, by rising cost, in bounded memory: the range is cut in pieces until
 * each has few enough states. visit may call knapsack_points(k)[i] and knapsack_choices(k, i).
 * Returns the gap: 0 up to KNAPSACK_EXACT_GROUPS groups.
 */
double knapsack_sweep(const struct knapsack_problem *p, int64_t lo, int64_t hi,
                      void (*visit)(const struct knapsack *k, size_t i, void *data), void *data);

/* Cheapest and dearest useful assignment: what budgets make a difference. */
void knapsack_reach(const struct knapsack_problem *p, int64_t *lo, int64_t *hi);

/*
 * Costs in whole units: cost[i] = ceil(value[i] / unit). The unit is the largest power of two for
 * which all values are whole, made finer until the group sums fit; *excess is the largest amount
 * by which rounding raised one value (0: none). False if values are negative, not finite or too
 * large.
 */
bool knapsack_units(const double *values, size_t count, double sum, int64_t *costs, double *unit,
                    double *excess);

#endif
