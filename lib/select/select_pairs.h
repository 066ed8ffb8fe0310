/*
 * Choosing by what aq-eval singles measured: each candidate alone, and pairs of groups of one
 * layer. The sum of both is minimised exactly: all combinations of a layer's groups are priced,
 * those that another one beats in cost and sum are left out, and a knapsack over layers takes one
 * each. No dominated combination is ever needed, for terms of other layers do not depend on it.
 */
#ifndef AQ_SELECT_SELECT_PAIRS_H
#define AQ_SELECT_SELECT_PAIRS_H

#include "select/select.h"

#define SINGLES_SCHEMA "aq.singles/1"

struct sel_pairs {
    char *path;
    char digest[AQ_SHA256_HEX]; /* of its content */
    size_t groups, candidates;
    double *nats;   /* (groups, candidates) of the table, per position */
    double *pair;   /* (groups x candidates, groups x candidates); 0 across layers */
    double *cov;    /* the same shape, all layers: what both cost more together than apart, to
                       second order; 0 within a group */
    int64_t *layer; /* [groups] */
};

/* For the groups and candidates of a table, all of which must be there. Release also after a
   failure. */
int sel_pairs_read(struct sel_pairs *p, const char *path, const struct sel_table *t,
                   struct aq_err *err) AQ_MUST_CHECK;
void sel_pairs_release(struct sel_pairs *p);

/* The sum that is minimised: nats of a choice (option of each row). */
double sel_pairs_nats(const struct sel_pairs *p, const struct sel_table *t, const int *option);
/* AQ_EINPUT: a layer with too many combinations. */
int sel_pairs_solve(const struct sel_pairs *p, const struct sel_problem *problem,
                    const struct sel_budget *b, struct sel_choice *out,
                    struct aq_err *err) AQ_MUST_CHECK;

#endif
