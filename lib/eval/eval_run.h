/* One call of aq-eval: opens what was typed, resumes what is there, measures, writes receipts. */
#ifndef AQ_EVAL_EVAL_RUN_H
#define AQ_EVAL_EVAL_RUN_H

#include "base/err.h"
#include "base/names.h"
#include "eval/inputs.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct eval_options {
    struct eval_where where;
    const struct aq_names *domains; /* NAME=TOKENS */
    const char *shard;              /* "K/N": the product is a part; NULL: all */
    const char *output;             /* NULL: standard output */
    const char *const *operands;
    size_t count;
};

int eval_run(const struct eval_options *o, struct aq_err *err) AQ_MUST_CHECK;
/* Receipts from parts. */
int eval_merge(const char *output, const char *const *parts, size_t count,
               struct aq_err *err) AQ_MUST_CHECK;

#endif
