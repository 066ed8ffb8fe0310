/* Between interp.c, interp_parse.c and resolvers.c only. */
#ifndef AQ_CONF_INTERP_IMPL_H
#define AQ_CONF_INTERP_IMPL_H

#include "conf/interp.h"

/* The value of a text with interpolations, seen from v, whose text (or whose part) it is. */
struct node *interp_eval_text(struct interp *in, struct node *v, const char *text);
/* One value of a resolver's arguments: what oc.decode takes. */
struct node *interp_eval_element(struct interp *in, struct node *v, const char *text);

/* What ${key} names, seen from v. */
struct node *interp_node_at(struct interp *in, struct node *v, const char *key);
/* ${name:args}: args is a list. */
struct node *interp_call(struct interp *in, struct node *v, const char *name,
                         const struct node *args);

/*
 * interp_select with the rules of an interpolation (missing != NULL: "???" is an error, described
 * there) or of a question (missing == NULL).
 */
enum { INTERP_NOT_FOUND = 0, INTERP_FOUND = 1, INTERP_ERROR = -1 };
int interp_lookup(struct interp *in, struct node *v, const char *key, bool asking,
                  struct node **out);

/* NULL, with the class that goes with v's place. */
struct node *interp_fail(struct interp *in, const struct node *v, const char *fmt, ...)
    AQ_PRINTF(3, 4);

#endif
