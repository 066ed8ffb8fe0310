/*
 * Who solves a layer's calibrated candidates: the backend's device where it has the ops for that,
 * else the host, by lib/quant. Moments and factors are in the memory of whoever it is.
 */
#ifndef AQ_SCORE_SOLVER_H
#define AQ_SCORE_SOLVER_H

#include "backend/backend.h"
#include "base/err.h"
#include "base/pool.h"
#include "quant/gptq.h"
#include "quant/scaling.h"

#include <stdbool.h>
#include <stdint.h>

struct layer_solver {
    struct aq_pool *pool;
    struct backend *backend;
};

/* Is it the device? */
bool solver_on_device(const struct backend *b);
/* Bytes for a candidate of a weight of this size, beside the moments of its input. */
uint64_t solver_bytes(const struct backend *b, const struct quant_spec *spec, int64_t rows,
                      int64_t cols);

/* Second moments (n, n) that the host added up, both triangles, in the memory of who solves. */
struct solver_moments {
    double *at;
    double *diagonal; /* [n]; set on a device alone */
    size_t bytes;     /* of the device; 0: it is the host's own array */
};
/* Takes other moments each time; host stays in use. */
int solver_moments_set(const struct layer_solver *s, struct solver_moments *m, double *host,
                       int64_t n, struct aq_err *err) AQ_MUST_CHECK;
void solver_moments_release(const struct layer_solver *s, struct solver_moments *m);

/* Of an input, for the linears that read it: the scales of a candidate with a scaling, [cols]. */
int solver_scales(const struct layer_solver *s, const struct scaled_input *in,
                  const struct backend_weight *const *w, int count, const struct quant_spec *spec,
                  float *scale, struct aq_err *err) AQ_MUST_CHECK;

/* gptq_factor. diagonal: [n], of the moments as they are. */
int solver_factor(const struct layer_solver *s, struct gptq_factor *f, const double *moments,
                  const double *diagonal, int64_t n, const float *scale,
                  const struct quant_methods *methods, double *damp,
                  struct aq_err *err) AQ_MUST_CHECK;
void solver_factor_release(const struct layer_solver *s, struct gptq_factor *f);

/* ranges: [grid], set. packed: (rows, row bytes), set to the codes as they are stored. */
int solver_codes(const struct layer_solver *s, const struct gptq_factor *f,
                 const struct backend_weight *w, const float *scale, const struct quant_spec *spec,
                 float *ranges, uint8_t *packed, struct aq_err *err) AQ_MUST_CHECK;
/* clip_ranges as files store them: [grid], set. */
int solver_clip(const struct layer_solver *s, const double *moments, const struct backend_weight *w,
                const float *scale, const struct quant_spec *spec, float *ranges,
                struct aq_err *err) AQ_MUST_CHECK;

#endif
