/* The products of a selection: the manifest, and the state in ModelOpt's shape. */
#ifndef AQ_SELECT_SELECT_WRITE_H
#define AQ_SELECT_SELECT_WRITE_H

#include "select/select.h"
#include "select/select_menu.h"
#include "select/select_pairs.h"
#include "select/select_random.h"

struct sel_product {
    const struct sel_table *table;
    const struct sel_problem *problem;
    const struct sel_choice *choice;
    const struct sel_menu *menu; /* NULL: none */
    const double *rule_costs;    /* score that each rule of the menu cost; NAN: unknown */
    struct sel_budget budget;
    const char *engine; /* NULL: none */
    const char *solver;
    const struct sel_random *random; /* NULL: the best recipe */
    const struct sel_pairs *pairs;   /* what it was chosen by; NULL: the scores */
    const struct json *polish;       /* how it was improved by measuring; NULL: it was not */
    const char *tool;                /* who chose; NULL: aq-select */
    int result_version;
};

/* Caller frees. */
struct json *sel_manifest(const struct sel_product *p);
struct json *sel_state(const struct sel_product *p);

#endif
