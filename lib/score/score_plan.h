/* What a call of aq-score would do: rows, bytes, operations, time; written to stdout, nothing else.
 */
#ifndef AQ_SCORE_SCORE_PLAN_H
#define AQ_SCORE_SCORE_PLAN_H

#include "score/scoring.h"

/* Rows that the store at `path` already holds with this identity are counted as done. */
int score_plan_print(struct scoring *s, const char *path, const struct json *identity,
                     struct aq_err *err) AQ_MUST_CHECK;

#endif
