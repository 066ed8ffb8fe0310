/* One call of aq-select: from the options to its products. */
#ifndef AQ_SELECT_SELECT_RUN_H
#define AQ_SELECT_SELECT_RUN_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sel_request {
    const char *const *inputs;
    size_t input_count;
    double bits;            /* 0: not given */
    uint64_t bytes;         /* 0: not given */
    const char *cost;       /* NULL, here and below: as the first input says */
    const char *cost_model; /* weight, active */
    const char *solver;     /* exact, threshold */
    const char *monotone;   /* no, v40, v39 */
    const char *menu;       /* path */
    const char *engine;     /* "vllm:sm90": only what it serves */
    const char *conf_dir;   /* where its rules are; NULL without an engine */
    const char *pairs;      /* of aq-eval singles: choose by what was measured; NULL: by scores */
    const char *state;      /* path of the state to write; NULL: none */
    const char *output;     /* NULL: stdout */
    int64_t random, seed;   /* recipes to hold predictions against; 0: none */
    const char *dir;        /* of these: dir/1.json and so on */
    bool count_vision, frontier, settled, strict, unchecked;
    int result_version;
};

int sel_run(const struct sel_request *q, struct aq_err *err) AQ_MUST_CHECK;

#endif
