/*
 * Scales of input channels: the columns of all weights that read an input are multiplied by them,
 * the input is divided. SmoothQuant's follow from ranges, AWQ's from a search over the squared
 * error of the outputs.
 */
#ifndef AQ_QUANT_SCALING_H
#define AQ_QUANT_SCALING_H

#include "base/err.h"
#include "base/pool.h"
#include "quant/quant.h"

#include <stdbool.h>
#include <stdint.h>

/* Weights that read one input, in fp32. */
struct scaled_weight {
    const float *w; /* (rows, cols) */
    int64_t rows;
    const char *name;
};

/* What is known of the input. */
struct scaled_input {
    int64_t cols;
    const double *moments; /* (cols, cols): sum of x x'; for AWQ */
    const double *mean;    /* [cols]: of |x|; for AWQ */
    const float *amax;     /* [cols]: the largest |x|; for SmoothQuant */
    bool powers;           /* scales must be powers of two, with which no product rounds */
};

/*
 * Who computes what the scales are found from: the largest magnitude of each column over all
 * weights, [cols]; the mean over all rows of |w| over the largest magnitude of its block, [cols];
 * the squared error of the outputs with scaled weights quantized by `spec`, over every
 * awq_row_step-th row of each weight.
 */
struct scaling_by {
    int (*most)(void *arg, float *most, struct aq_err *err);
    int (*measure)(void *arg, int64_t block, double *mean, struct aq_err *err);
    int (*error)(void *arg, const struct quant_spec *spec, int all_rows, const float *scale,
                 double *error, struct aq_err *err);
    void *arg;
};
int64_t awq_row_step(int64_t rows, int all_rows);
int smooth_scales_by(const struct scaling_by *by, const struct scaled_input *in, double alpha,
                     float *scale, struct aq_err *err) AQ_MUST_CHECK;
int awq_scales_by(const struct scaling_by *by, const struct scaled_input *in,
                  const struct quant_spec *spec, float *scale, double *exponent,
                  struct aq_err *err) AQ_MUST_CHECK;

/* By the host. scale: [cols], set. */
void smooth_scales(struct aq_pool *pool, const struct scaled_input *in,
                   const struct scaled_weight *w, int count, double alpha, float *scale);
/*
 * spec: with AWQ's methods. The losses are taken over at most AWQ_ROWS rows of each weight, spread
 * evenly; over all of them by ModelOpt's rules (quarter). *exponent: the one that was chosen; -1:
 * no scaling.
 */
enum { AWQ_ROWS = 512 };
int awq_scales(struct aq_pool *pool, const struct scaled_input *in, const struct scaled_weight *w,
               int count, const struct quant_spec *spec, float *scale, double *exponent,
               struct aq_err *err) AQ_MUST_CHECK;

#endif
