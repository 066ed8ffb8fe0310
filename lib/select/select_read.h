/* The two readers that sel_cell_read chooses from. */
#ifndef AQ_SELECT_SELECT_READ_H
#define AQ_SELECT_SELECT_READ_H

#include "select/select_cell.h"

/* c->root is a parsed scores.json. */
int sel_read_scores(struct sel_cell *c, struct aq_err *err) AQ_MUST_CHECK;
/* Takes root over. */
int sel_read_manifest(struct sel_cell *c, struct json *root, struct aq_err *err) AQ_MUST_CHECK;

/* For both: a scalar as text, NULL if absent or null; caller frees. */
char *sel_fact_text(const struct json *object, const char *key);
/* Sets *cost if the name is known. */
int sel_cost_named(const struct jref *at, enum sel_cost *cost, struct aq_err *err) AQ_MUST_CHECK;

#endif
