/* aq-eval polish: a manifest improved by measuring, as another manifest. */
#ifndef AQ_EVAL_POLISH_COMMAND_H
#define AQ_EVAL_POLISH_COMMAND_H

#include "eval/inputs.h"

struct polish_options {
    struct eval_where where;
    const char *search, *confirm; /* NAME=TOKENS */
    const char *held_out;         /* NULL: none */
    int64_t trials;               /* at most */
    double seconds;               /* INFINITY: no limit */
    const char *pairs; /* of aq-eval singles: predictions are measured; NULL: by scores */
    const char *output;
    const char *manifest;
    const char *const *scores;
    size_t count;
};

int eval_polish(const struct polish_options *o, struct aq_err *err) AQ_MUST_CHECK;

#endif
