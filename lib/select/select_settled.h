/*
 * Has a recipe settled? Nested sizes of one data set choose each their own recipe at the budget;
 * the larger size judges the smaller one's. They agree where the larger size cannot tell them
 * apart.
 */
#ifndef AQ_SELECT_SELECT_SETTLED_H
#define AQ_SELECT_SELECT_SETTLED_H

#include "select/select_run.h"

#define SETTLED_SCHEMA "aq.settled/1"

/*
 * q->inputs: scores of at least two sizes, each with the same candidates. The product:
 *
 *     {"schema": "aq.settled/1", "budget", "cost", "settled": samples|null, "sizes": [{"samples",
 *      "score", "effective_bits", "same_weights", "difference", "se", "agrees"}]}
 *
 * same_weights, difference and so on are against the size before it, and null in the first.
 * difference: what that size's recipe costs more than this one's own, by this size's scores; se:
 * its standard error over the groups that differ, as if independent; agrees: it is below 1.96 of
 * them. settled: the smallest size whose recipe all larger ones agree with, step by step; null: not
 * even the last two do.
 */
int sel_settled(const struct sel_request *q, struct aq_err *err) AQ_MUST_CHECK;

#endif
