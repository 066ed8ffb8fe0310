/* Patterns over module names: a shell glob ("*" crosses dots), or "re:" and a regular expression.
 */
#ifndef AQ_SELECT_PATTERN_H
#define AQ_SELECT_PATTERN_H

#include "base/err.h"

struct pattern;

/* NULL with AQ_EINPUT if the expression is not valid. */
struct pattern *pattern_new(const char *text, struct aq_err *err);
void pattern_free(struct pattern *p);
/* 1: the whole name matches, 0: it does not, -1 with AQ_EINPUT: the expression takes too long. */
int pattern_match(const struct pattern *p, const char *name, struct aq_err *err) AQ_MUST_CHECK;

#endif
