/* Types and ranges of the values that the tools read from a composed configuration. */
#ifndef AQ_CONF_CHECK_H
#define AQ_CONF_CHECK_H

#include "io/node.h"

#include <stdbool.h>

/*
 * -1 with key, value and what was expected: AQ_EUSAGE if it was typed, AQ_EINPUT from a file. Other
 * names of one dtype are replaced by ours, so that all tools see one.
 */
int check_run(struct node *app, struct aq_err *err) AQ_MUST_CHECK;

/* The same way of failing for checks elsewhere. Always -1. */
int check_fail(const struct node *v, const char *key, const char *expected, struct aq_err *err);

/*
 * [A-Za-z0-9_][A-Za-z0-9_.+-]*, at most 200 long: what directories, files and make's words may be
 * named after. To a shell or to make such a name is never an option, a pattern or syntax.
 */
bool check_is_name(const char *s);

#endif
