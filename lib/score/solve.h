/*
 * The job of `aq-calib solve`: one forward pass of the unquantized network, layer by layer. For
 * each layer the second moments of its inputs are added up (they are never held for more than one
 * layer), then every calibrated candidate is solved for the layer's linears, and a file of the
 * layer is written beside the product; a killed run continues after the last of them.
 */
#ifndef AQ_SCORE_SOLVE_H
#define AQ_SCORE_SOLVE_H

#include "backend/backend.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Incremented when equal inputs may give other numbers: by the host, and where a device solves. */
enum { SOLVE_RESULT_VERSION = 4, SOLVE_DEVICE_RESULT_VERSION = 7 };

struct solve_job {
    const char *lm, *tokens, *ranges; /* files */
    int64_t prefix;                   /* samples; 0: all */
    int64_t batch;                    /* samples of a batch, for AWQ over a quarter of them */
    const char *layers;               /* "A-B": these alone; NULL: all */
    const char *output;
    const char *device, *dtype;
    uint64_t memory; /* 0: no limit */
    bool replace;    /* start over if the output is of other inputs */
    bool verify;
    const char *const *quants; /* quant.json files; those that need nothing are passed over */
    size_t quant_count;
    struct backend_config config;
};

int solve_run(const struct solve_job *job, struct aq_err *err) AQ_MUST_CHECK;

#endif
