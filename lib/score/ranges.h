/*
 * Ranges of the activations at the inputs of the linears, from one forward pass over all samples:
 * the largest magnitude per tensor and sample, and per channel for the first so many samples, so
 * that one pass serves all sizes of a data set. Pad rows are included. The file is described in
 * range_file.h, which reads it.
 */
#ifndef AQ_SCORE_RANGES_H
#define AQ_SCORE_RANGES_H

#include "backend/backend.h"
#include "base/err.h"
#include "io/json.h"
#include "nn/qwen3.h"
#include "nn/tile.h"

#include <stddef.h>
#include <stdint.h>

struct ranges {
    int64_t layers, samples;
    int64_t *prefixes; /* rising; the last is `samples` */
    size_t prefix_count;
    int64_t cols[QWEN3_INPUTS];
    float *amax;                  /* [layers * 4][samples] */
    float *pad;                   /* [layers * 4]; NULL without pad rows */
    float *channel[QWEN3_INPUTS]; /* [layers][prefixes][cols] */
};

/* What `aq-calib ranges` is asked for. */
struct ranges_job {
    const char *lm, *tokens; /* files */
    const char *prefixes;    /* "16,128,512"; NULL: the sizes of the tokens */
    const char *output;      /* NULL: standard output */
    const char *device;
    struct backend_config config;
};

/* Opens, computes and writes. A prefix that is no number or beyond the samples is AQ_EUSAGE. */
int ranges_run(const struct ranges_job *job, struct aq_err *err) AQ_MUST_CHECK;

/*
 * The tiles hold the samples of the last prefix and no others. A value that is not finite is
 * AQ_ERUN and names layer, input and sample.
 */
int ranges_compute(struct ranges *r, struct qwen3 *m, struct backend *b, const struct tiles *tiles,
                   const int64_t *prefixes, size_t prefix_count, struct aq_err *err) AQ_MUST_CHECK;
/* metadata: object of strings, taken over. */
int ranges_write(const struct ranges *r, const char *path, struct json *metadata,
                 struct aq_err *err) AQ_MUST_CHECK;
void ranges_release(struct ranges *r);

#endif
