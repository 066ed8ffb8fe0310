/*
 * Recipes to hold predictions against: near-optimal ones, found by the scores times exp(.35 z), z
 * normal for each option, and random ones, which spend the same budget on groups in an order that
 * has nothing to do with the scores. Their budgets are spread evenly over those that make a
 * difference, or are all the same; a recipe depends on that, the seed and its number alone.
 */
#ifndef AQ_SELECT_SELECT_RANDOM_H
#define AQ_SELECT_SELECT_RANDOM_H

#include "select/select.h"

struct sel_random {
    int64_t seed, number, count; /* number: from 0 */
    bool near_optimal;           /* even numbers; the odd one after it has the same budget */
    double bits;                 /* its budget */
};

/* bits: the budget of all of them; 0: spread over the budgets. */
struct sel_random sel_random_at(const struct sel_problem *p, double bits, int64_t seed,
                                int64_t number, int64_t count);
/* The recipe of this number. Its score is that of the table. Caller releases. */
void sel_random_solve(const struct sel_problem *p, const struct sel_random *r,
                      struct sel_choice *out);

#endif
