/*
 * Choosing one format per group within a budget. The gradient scores of different groups add, so
 * the choice is a multiple-choice knapsack, solved exactly; ModelOpt's search by a threshold is
 * there for kl_div parity.
 */
#ifndef AQ_SELECT_SELECT_H
#define AQ_SELECT_SELECT_H

#include "base/buf.h"
#include "select/select_table.h"

struct sel_budget {
    double bits;    /* average over the denominator; 0: in bytes */
    uint64_t bytes; /* of the stored weights: payload and block scales */
};

double sel_budget_bits(const struct sel_budget *b, const struct sel_table *t);

struct sel_choice {
    int *option;           /* of each row */
    double score;          /* added in the order of the rows */
    double effective_bits; /* reached */
    double storage_bits;   /* the same with scales counted; NAN: unknown */
    bool satisfied;        /* false: the cheapest assignment is above the budget */
    double gap;            /* 0: exact; else no assignment is better by more than this */
};

/* A table as a knapsack problem, in whole units of cost. */
struct sel_problem {
    const struct sel_table *table;
    size_t *start; /* of each row among the allowed options; count + 1 */
    int *option;   /* of each allowed option: its number in the row */
    int64_t *costs;
    double *scores;
    double unit;    /* one unit in 16-bit weights */
    double excess;  /* most that rounding added to one cost, in 16-bit weights; 0: none */
    int64_t lo, hi; /* cheapest and dearest useful assignment */
};

int sel_problem_init(struct sel_problem *p, const struct sel_table *t,
                     struct aq_err *err) AQ_MUST_CHECK;
void sel_problem_release(struct sel_problem *p);
/* What the budget leaves for the searched weights, in units; -1: nothing. */
int64_t sel_budget_units(const struct sel_problem *p, const struct sel_budget *b);
/* Effective bits of a cost in units. */
double sel_units_to_bits(const struct sel_problem *p, int64_t units);

void sel_solve(const struct sel_problem *p, const struct sel_budget *b, struct sel_choice *out);
/* ModelOpt's bisection for kl_div: minimises the worst score, and may miss the budget. */
void sel_threshold(const struct sel_problem *p, const struct sel_budget *b, struct sel_choice *out);
/* The choice of these options of the rows, found elsewhere. Caller releases. */
void sel_choice_take(const struct sel_table *t, const int *option, struct sel_choice *out);
void sel_choice_release(struct sel_choice *c);

/* Every budget at once, as TSV: bits, score, group, from, to. Returns the gap, as in sel_choice. */
double sel_frontier(const struct sel_problem *p, struct aq_buf *out);

#endif
