/* One call of aq-eval: opens what was typed, resumes what is there, measures, writes receipts. */
#ifndef AQ_EVAL_EVAL_RUN_H
#define AQ_EVAL_EVAL_RUN_H

#include "base/err.h"
#include "base/names.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct eval_options {
    const char *reference;          /* lm.json */
    const struct aq_names *domains; /* NAME=TOKENS */
    const char *ranges;             /* NULL: nothing needs them */
    const char *dtype, *device;
    const char *conf_dir; /* NULL: where tools look */
    int64_t threads;      /* 0: all that the process may use */
    uint64_t memory;      /* 0: no limit */
    const char *shard;    /* "K/N": the product is a part; NULL: all */
    bool verify;          /* the reference against its full digest */
    const char *output;   /* NULL: standard output */
    const char *const *operands;
    size_t count;
};

int eval_run(const struct eval_options *o, struct aq_err *err) AQ_MUST_CHECK;
/* Receipts from parts. */
int eval_merge(const char *output, const char *const *parts, size_t count,
               struct aq_err *err) AQ_MUST_CHECK;

#endif
