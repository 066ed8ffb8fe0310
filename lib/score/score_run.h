/* One call of aq-score: opens the inputs, finds what the store lacks, has it computed. */
#ifndef AQ_SCORE_SCORE_RUN_H
#define AQ_SCORE_SCORE_RUN_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SCORE_RESULT_VERSION = 12 };

struct score_options {
    const char *lm, *tokens, *ranges; /* files; ranges may be NULL if nothing needs them */
    const char *measure;              /* measured first and written there; NULL: not wanted */
    const char *solved;               /* likewise */
    const char *prefixes;             /* "16,128,512"; NULL: the sizes of the tokens */
    int64_t score_samples;            /* 0: all */
    const char *method;               /* "gradient" or "kl_div" */
    const char *dtype;                /* "fp32", "bf16" and their long names */
    const char *operand_rounding;     /* "none" or "dtype" */
    int64_t dynamic_batch;            /* samples that share a dynamic range; 0: each has its own */
    const char *device;
    int64_t threads;   /* 0: all that the process may use */
    uint64_t memory;   /* 0: no limit */
    const char *shard; /* "K/N"; NULL: all */
    bool dry_run, replace, repair, plain_products;
    bool verify;        /* read the whole checkpoint and compare it with its full digest first */
    const char *routes; /* where to write them; NULL: not wanted */
    const char *store;  /* -o; may be NULL for a dry run */
    const char *const *quants; /* quant.json files */
    size_t quant_count;
};

int score_run(const struct score_options *o, struct aq_err *err) AQ_MUST_CHECK;

#endif
