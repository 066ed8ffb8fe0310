/*
 * Ranges of the activations at the inputs of the linears, from one forward pass over all samples:
 * the largest magnitude per tensor and sample, and per channel for each prefix of the samples with
 * the mean magnitude, so that one pass serves all sizes of a data set. The file is described in store/range_file.h, which
 * reads it.
 *
 * The first text row of a sample has a number of its own: many models put activations a thousand
 * times larger than all others there.
 */
#ifndef AQ_SCORE_RANGES_H
#define AQ_SCORE_RANGES_H

#include "backend/backend.h"
#include "base/err.h"
#include "nn/model.h"
#include "nn/tile.h"
#include "score/walk.h"
#include "store/range_file.h"

#include <stddef.h>
#include <stdint.h>

struct ranges {
    const struct model_groups *model;
    int64_t samples;
    int64_t *prefixes; /* rising; the last is `samples` */
    size_t prefix_count;
    float *first;    /* [inputs][samples]: first text row */
    float *rest;     /* [inputs][samples]: all other text rows */
    float *pad;      /* [inputs]; NULL without pad rows */
    float **channel; /* [inputs]: [prefixes][cols], pad rows included */
    double **mean;   /* [inputs]: [prefixes][cols], pad rows left out */
    int64_t experts;
    int32_t **routed; /* [layers]: [prefixes][experts], tokens without pads; NULL: a dense layer */
};

/* What `aq-calib ranges` is asked for. */
struct ranges_job {
    const char *lm, *tokens; /* files */
    const char *prefixes;    /* "16,128,512"; NULL: the sizes of the tokens */
    const char *output;      /* NULL: standard output */
    const char *device, *dtype;
    uint64_t memory; /* 0: no limit */
    bool verify;     /* read the whole checkpoint and compare it with its full digest first */
    struct backend_config config;
};

/* Opens, computes and writes. A prefix that is not a number, or larger than the number of samples,
 * is AQ_EUSAGE. */
int ranges_run(const struct ranges_job *job, struct aq_err *err) AQ_MUST_CHECK;

/*
 * Goes through all layers with a walk that was just opened over the samples of the last prefix and,
 * maybe, more. A value that is not finite is AQ_ERUN and names layer, input and sample. model is
 * borrowed.
 */
int ranges_compute(struct ranges *r, const struct model_groups *model, struct walk *w,
                   const int64_t *prefixes, size_t prefix_count, struct aq_err *err) AQ_MUST_CHECK;
/* One line about experts that no token reaches, if there are any. */
void ranges_say_unseen(const struct ranges *r);
/* of: what they were made from. keep_equal: a file that is there with these bytes is left alone. */
int ranges_write(const struct ranges *r, const char *path, const struct range_user *of,
                 bool keep_equal, struct aq_err *err) AQ_MUST_CHECK;
void ranges_release(struct ranges *r);

#endif
