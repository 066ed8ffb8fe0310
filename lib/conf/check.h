/* Types and ranges of the values that the tools read from a composed configuration. */
#ifndef AQ_CONF_CHECK_H
#define AQ_CONF_CHECK_H

#include "io/node.h"

/* -1 with key, value and what was expected: AQ_EUSAGE if it was typed, AQ_EINPUT from a file. */
int check_run(const struct node *app, struct aq_err *err) AQ_MUST_CHECK;

/* The same way of failing for checks elsewhere. Always -1. */
int check_fail(const struct node *v, const char *key, const char *expected, struct aq_err *err);

#endif
