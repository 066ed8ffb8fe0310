/*
 * Recipes put together from candidates, group by group, without a file for each: what a search
 * measures.
 */
#ifndef AQ_EVAL_RECIPE_H
#define AQ_EVAL_RECIPE_H

#include "eval/inputs.h"
#include "select/select_table.h"

struct recipes {
    const struct sel_table *table;
    const struct model_groups *groups; /* of the reference */
    struct eval_operand *candidates;   /* [table candidates]: each with all groups that have it */
    size_t count;
    struct eval_operand mixed; /* the recipe; its ranges belong to the candidates */
    size_t *group;             /* of each row of the table */
    int *choice;               /* [rows]: the option that `mixed` has */
};

/* table: scores of the reference, all groups of it. Close also after a failure. */
int recipes_open(struct recipes *r, const struct sel_table *table, struct eval_inputs *in,
                 struct aq_err *err) AQ_MUST_CHECK;
void recipes_close(struct recipes *r);
/* Sets r->mixed to these options of the rows. */
void recipes_set(struct recipes *r, const int *option);
/* The layer of a row's group. */
int64_t recipes_layer(const struct recipes *r, size_t row);

#endif
