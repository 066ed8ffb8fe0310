/*
 * GPTQ: the codes of a weight chosen one column after another, each column's error passed on to
 * the columns left so that the outputs change least; from the second moments of the inputs. And
 * what else is solved from these moments: AWQ's scales, clipped ranges.
 */
#ifndef AQ_QUANT_GPTQ_H
#define AQ_QUANT_GPTQ_H

#include "base/err.h"
#include "base/pool.h"
#include "quant/quant.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * The moments of an input made ready: U, upper triangular, U'U the inverse of what they become. U
 * is the inverse of R, upper triangular with RR' = H: and that is the Cholesky factor of H with
 * rows and columns from the last to the first, read in the same way. So the lower triangle of the
 * reversed H is factored and inverted, and U is that inverse reversed.
 */
struct gptq_factor {
    int64_t n;
    int64_t *order; /* [n]: column i is the order[i]-th of the weight */
    double *u;      /* (n, n) */
};

/*
 * moments: (n, n), sum over tokens of x x', both triangles. scale: [n] or NULL, what the weight's
 * columns are multiplied by and the inputs divided. Columns without any input count as independent.
 * AQ_ERUN with a number that is not finite, and where even more damping leaves no factor. *damp is
 * the share of the mean diagonal that was added: methods->damp, or ten times as much and again
 * where that left no factor.
 */
int gptq_factor(struct gptq_factor *f, struct aq_pool *pool, const double *moments, int64_t n,
                const float *scale, const struct quant_methods *methods, double *damp,
                struct aq_err *err) AQ_MUST_CHECK;
void gptq_factor_release(struct gptq_factor *f);

/*
 * The same for whoever computes the factor. diagonal: [n], of the moments after the scaling, where
 * the order of columns comes from; 0 counts as 1. Afterwards `factor` is called, with more and more
 * to add to the diagonal, until it returns 0: 1 says that there is no factor, -1 that it failed.
 */
struct gptq_factoring {
    int (*factor)(void *arg, const int64_t *order, double added, struct aq_err *err);
    void *arg;
};
int gptq_find_factor(const struct gptq_factoring *by, const double *diagonal, int64_t n,
                     const struct quant_methods *methods, int64_t *order, double *damp,
                     struct aq_err *err) AQ_MUST_CHECK;

/*
 * The range nearest to this one whose scale, the range over the largest code, is a number that bf16
 * has: codes chosen under it are served as they were scored, since files hold scales in 16 bits.
 */
float quant_stored_range(const struct quant_spec *spec, float range);
/* w (rows, n), scaled already. ranges: [grid], set to the largest magnitudes as files store them;
   exactly to these with ModelOpt's order of columns, whose codes are to be ModelOpt's. */
void gptq_ranges(const struct quant_spec *spec, const float *w, int64_t rows, int64_t n,
                 float *ranges);
/* w (rows, n), fp32, scaled already. codes (rows, n): set. */
int gptq_codes(struct aq_pool *pool, const struct gptq_factor *f, const struct quant_spec *spec,
               const float *w, int64_t rows, const float *ranges, int8_t *codes,
               struct aq_err *err) AQ_MUST_CHECK;

/* sum over the tokens of the squares of (a - b) x: rows of a and b are (rows, n). */
double moments_error(struct aq_pool *pool, const double *moments, int64_t n, const float *a,
                     const float *b, int64_t rows);

/*
 * Ranges of blocks, as multiples 0.5, 0.55, ..., 1 of their largest magnitudes, under which each
 * row's output through its block alone changes least. w: (rows, n), scaled; ranges: [grid], set.
 */
int clip_ranges(struct aq_pool *pool, const double *moments, const float *scale,
                const struct quant_spec *spec, const float *w, int64_t rows, int64_t n,
                float *ranges, struct aq_err *err) AQ_MUST_CHECK;

#endif
