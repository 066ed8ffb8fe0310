/* What a plan holds; private to lib/quant. */
#ifndef AQ_QUANT_PLAN_H
#define AQ_QUANT_PLAN_H

#include "quant/kernel.h"

/* One step made ready: how its elements are computed, and its scales as far as they are known. */
struct plan_step {
    struct quant_step step;
    enum kernel_op op;
    float lo, hi;
    struct num_format format;
    float unit; /* makes its codes integers that fit int8; 0: nothing does */

    /* The scales of element (r, c) are at [(r / rows_each) * grid_cols + c / block]. */
    int64_t block, rows_each, grid_rows, grid_cols;
    float *mul, *back; /* NULL where each call makes them from its rows */

    float amax; /* of the second level, for a weight or a static activation in NVFP4; of a weight
                   whose ranges are one, that one */
};

struct quant_plan {
    int is_weight;
    enum quant_rounding rounding;
    struct quant_methods methods; /* without those that are solved */
    int64_t rows, cols;           /* rows: of a weight, else 0 */
    int32_t steps;
    struct plan_step step[QUANT_MAX_STEPS];
};

void plan_step_init(struct plan_step *s, const struct quant_step *step);
/* A pair of scales from a range (integers and e4m3). Calibrated and dynamic ranges alike. */
void plan_scales(const struct plan_step *s, float amax, float *mul, float *back);
/* The same for all of the grid. */
void plan_grid_scales(struct plan_step *s, const float *amax);
/* Room for mul and back of all of the grid. */
int plan_take_scales(struct plan_step *s, struct aq_err *err);
/* The scale of NVFP4's second level for a weight. */
float plan_nvfp4_second(float amax);
float plan_4o6_second(float amax); /* of four over six: 256 instead of 448 */

/* Replaces the largest magnitudes of a weight's ranges by the best multiples of them. */
int plan_search_mse(const struct quant_plan *p, const struct quant_matrix *w, float *amax,
                    struct aq_err *err);
/* The best scale of every NVFP4 block, kept in the plan. */
int plan_search_nvfp4(struct quant_plan *p, const struct quant_matrix *w, struct aq_err *err);

/*
 * Row r of a matrix through the first `steps` steps; the last one writes `to`. scratch: a row of
 * floats between the steps, not read for fewer than two. ranged: the amax of a dynamic range that
 * reaches over several rows, else NULL. scales and stats may be NULL.
 */
struct plan_row {
    const void *from;
    enum num_type in;
    int64_t r;
    void *to;
    enum kernel_out out;
    const float *ranged;
    float *scratch, *scales;
    struct quant_stats *stats;
};
/*
 * Row r of a matrix as the kernels read it: where it is, or, since they know no fp16, widened to
 * `wide`, which holds a row of floats and is not touched otherwise. in: the type of what is
 * returned.
 */
const void *plan_matrix_row(const struct quant_matrix *x, int64_t r, float *wide,
                            enum num_type *in);
/* Room for `wide`; NULL if the matrix needs none. Caller frees. */
float *plan_row_room(const struct quant_matrix *x);

void plan_apply_row(const struct quant_plan *p, int steps, const struct plan_row *row);

#endif
