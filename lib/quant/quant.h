/*
 * Fake quantization, exact to the bit: what a treatment does to a weight or to an activation.
 *
 *     spec   a treatment as numbers ("int4:block(-1:128):static"; grammar in quant/overlay.h)
 *     plan   a spec made ready for one weight, or for the activations of one input: its scales
 *     apply  rows in, quantized rows out, as dequantized values or as codes and scales
 *
 * Everything computes in fp32 with one rounding per operation, as ModelOpt does; the formulas are
 * in docs/quantizers.md. Calls are single-threaded and share nothing but the plan, which they only
 * read: callers run tiles of rows in parallel. Plain C, AVX2 and AVX-512 give the same bits.
 *
 * Plain numbers and no pointers in the spec: device plugins read it too.
 */
#ifndef AQ_QUANT_QUANT_H
#define AQ_QUANT_QUANT_H

#include "base/err.h"
#include "base/num.h"

#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- treatments ---- */

enum quant_number { QUANT_INT, QUANT_E4M3, QUANT_E5M2, QUANT_E2M1, QUANT_E3M2, QUANT_E2M3 };

enum quant_scope {
    QUANT_TENSOR, /* one amax */
    QUANT_AXIS0,  /* one per row of a weight */
    QUANT_AXIS1,  /* one per column of a weight */
    QUANT_HIDDEN, /* "axis-1": one per column of an activation */
    QUANT_TOKEN,  /* one per row of an activation */
    QUANT_BLOCK,  /* one per block_rows x block_cols of a weight; or, dynamic, per block_cols of a
                     row of an activation (e4m3) */
    QUANT_NVFP4,  /* an e4m3 scale per block_cols, under one amax for all */
    QUANT_MX,     /* a power of two per block_cols */
};

struct quant_step {
    enum quant_number number;
    int32_t bits; /* QUANT_INT: 2 to 8 */
    enum quant_scope scope;
    int32_t block_rows, block_cols; /* 1 where not blocked */
    int32_t dynamic;                /* amax of what is being quantized, not a stored one */
};

enum { QUANT_MAX_STEPS = 4, QUANT_MAX_BLOCK = 1048576, QUANT_TEXT_MAX = 256 };
enum { QUANT_CLIP_MAX = 256 }; /* columns of a block whose range is clipped */

/* How the columns of a weight are scaled before it is quantized; the input is divided by that. */
enum quant_scaling { QUANT_NO_SCALING, QUANT_SMOOTH, QUANT_AWQ };

/* How codes or ranges are chosen, where not by rounding under the largest magnitude. */
enum quant_choice {
    QUANT_NEAREST,
    QUANT_CLIP,  /* ranges by the error of the outputs (AWQ's second half) */
    QUANT_GPTQ,  /* codes one column after another, errors passed on to the columns left */
    QUANT_MSE,   /* ranges by the squared error of the weight */
    QUANT_SWEEP, /* NVFP4: block scales by the squared error, among all that e4m3 has */
    QUANT_4O6,   /* NVFP4: each block's largest magnitude becomes 6 or 4 */
};

/*
 * The methods in front of the steps of a weight's treatment ("awq{0.1,joint,all,identity}/").
 * Smooth, AWQ, clip and GPTQ need statistics of the inputs: `aq-calib solve` finds their numbers
 * once. Members that do not belong to the method are 0.
 */
struct quant_methods {
    enum quant_scaling scaling;
    enum quant_choice choice;
    double alpha;        /* smooth: exponent; AWQ: step of the grid of exponents */
    int32_t own;         /* scales for each linear, instead of one for all that read an input */
    int32_t quarter;     /* AWQ: over a quarter of the batches, pads and all, as ModelOpt does */
    int32_t plain_grid;  /* AWQ: "no scaling" is not among the trials */
    int32_t block;       /* GPTQ: columns whose errors are passed on together */
    double damp;         /* GPTQ: share of the mean diagonal that is added to it */
    int32_t plain_order; /* GPTQ: columns as they come, not by falling second moment */
    int32_t quantized_input; /* GPTQ: second moments of the quantized inputs */
    int32_t modelopt_grid;   /* MSE: ModelOpt's multipliers */
};

/* Steps are applied in order, each to the result of the one before. No step: unchanged. */
struct quant_spec {
    struct quant_methods methods;
    int32_t steps;
    struct quant_step step[QUANT_MAX_STEPS];
    /* "@group": the second level of an NVFP4 weight spans all members of its group, as engines
       that fuse them compute it. Who knows the members sets group_amax to the largest magnitude of
       all of them; 0: the weight's own, as without members. */
    int32_t group;
    float group_amax;
};

/* The text must be the normal form. AQ_EINPUT names what is wrong. */
int quant_parse(const char *text, struct quant_spec *spec, struct aq_err *err) AQ_MUST_CHECK;
/* Also refuses what is not the normal form of an activation: a range that is called dynamic and is
 * not. */
int quant_parse_act(const char *text, struct quant_spec *spec, struct aq_err *err) AQ_MUST_CHECK;
/* NULL if the methods go with the steps, else the reason why not. */
const char *quant_methods_rule(const struct quant_spec *spec);
/* Are there methods whose numbers must have been solved before? */
bool quant_is_solved(const struct quant_spec *spec);
/* Has the treatment any method? Backends compute those that have none. */
bool quant_has_method(const struct quant_spec *spec);
/* The same steps under the same ranges? */
bool quant_same(const struct quant_spec *a, const struct quant_spec *b);
/* The normal form; reads back to the same spec. */
void quant_print(const struct quant_spec *spec, char out[QUANT_TEXT_MAX]);

/* ---- plans ---- */

/* Consecutive rows without gaps, (rows, cols); any alignment. */
struct quant_matrix {
    const void *data;
    enum num_type dtype; /* NUM_F16: of a weight only, and never of a result */
    int64_t rows, cols;
    const char *name;  /* for messages */
    const void *lower; /* NULL, or where a weight's rows from rows / 2 on are instead */
};
static inline const char *quant_matrix_row(const struct quant_matrix *x, int64_t r)
{
    int64_t upper = x->lower ? x->rows / 2 : x->rows;
    const char *half = (const char *)(r < upper ? x->data : x->lower);
    return half + (size_t)((r < upper ? r : r - upper) * x->cols) * num_bytes(x->dtype);
}
/* Do rows r to end lie one right after the other? */
static inline bool quant_matrix_gapless(const struct quant_matrix *x, int64_t r, int64_t end)
{
    return !x->lower || end <= x->rows / 2 || r >= x->rows / 2;
}

/* Dequantized values as they come, or rounded to the compute type after every step. */
enum quant_rounding { QUANT_UNROUNDED, QUANT_TO_BF16 };

/* The calibrated range of an activation; and what a calibrated candidate does to it before. */
struct quant_range {
    float amax;          /* per tensor, and of the second level of NVFP4 */
    const float *hidden; /* [cols], for QUANT_HIDDEN; copied */
    /* [cols]: backends multiply the input by it first, and the ranges are those of the result;
       NULL: they do not. lib/quant does not read it. */
    const float *factor;
};

struct quant_plan;

/*
 * A weight's ranges are its own. AQ_EINPUT: a treatment that weights do not have, a block longer
 * than the matrix, an empty matrix or one that is too large, a NaN or an infinity in it.
 * AQ_ERUN: no memory.
 */
int quant_plan_weight(struct quant_plan **out, const struct quant_spec *spec,
                      const struct quant_matrix *w, enum quant_rounding rounding,
                      struct aq_err *err) AQ_MUST_CHECK;
/*
 * The same for a weight that is part of something larger: a piece of a matrix, or one of several
 * weights under one range. amax, finite and not negative, takes the place of the range of a tensor
 * and of the second level of NVFP4 (and of spec->group_amax); ranges of rows and blocks are still
 * w's own.
 */
int quant_plan_weight_under(struct quant_plan **out, const struct quant_spec *spec,
                            const struct quant_matrix *w, float amax, enum quant_rounding rounding,
                            struct aq_err *err) AQ_MUST_CHECK;
/*
 * The ranges of a weight's only step: that of element (r, c) is number (r / rows_each) * grid_cols
 * + c / block. False: it has none that could be given.
 */
struct quant_grid {
    int64_t rows_each, block, grid_rows, grid_cols;
};
bool quant_weight_grid(const struct quant_spec *spec, int64_t rows, int64_t cols,
                       struct quant_grid *out);
/*
 * Codes found elsewhere: of an integer step, two's complement in as many bits as the step has, low
 * bits first, rows padded to a byte. Values are code / scale, as quant_apply makes them of codes
 * under these ranges.
 */
int64_t quant_code_row_bytes(const struct quant_spec *spec, int64_t cols);
void quant_pack_codes(const struct quant_spec *spec, const int8_t *codes, int64_t cols,
                      uint8_t *to);
void quant_unpack_codes(const struct quant_spec *spec, const uint8_t *from, int64_t cols,
                        int8_t *codes);
/* Rows r0 <= r < r1; codes: that of row r0, unpacked. */
void quant_decode(const struct quant_spec *spec, const struct quant_grid *grid, const float *ranges,
                  const int8_t *codes, int64_t r0, int64_t r1, int64_t cols, float *to);
/* A plan of one static step under these ranges, without any method. */
int quant_plan_weight_ranges(struct quant_plan **out, const struct quant_spec *spec,
                             const struct quant_matrix *w, const float *ranges,
                             enum quant_rounding rounding, struct aq_err *err) AQ_MUST_CHECK;
/* Of these checks those that look at the shape alone. */
int quant_fits_weight(const struct quant_spec *spec, const struct quant_matrix *w,
                      struct aq_err *err) AQ_MUST_CHECK;
/* range: NULL unless the spec is static. AQ_EINPUT also for a range that is negative or no number.
 */
int quant_plan_act(struct quant_plan **out, const struct quant_spec *spec, int64_t cols,
                   const struct quant_range *range, enum quant_rounding rounding,
                   struct aq_err *err) AQ_MUST_CHECK;
void quant_plan_free(struct quant_plan *p); /* NULL is fine */

/* ---- quantizing ---- */

/* Counts of one or more calls, added up. */
struct quant_stats {
    uint64_t elements;
    uint64_t clipped;   /* beyond the last code by more than its rounding (finite elements) */
    uint64_t nonfinite; /* NaN and infinities in the input */
};

/*
 * Rows r0 <= r < r1 of x (a weight: the plan's own), dequantized to `to`, which holds r1 - r0 rows.
 * bf16 output needs a plan with QUANT_TO_BF16. `to` may be x->data + r0 rows if the types are the
 * same. A dynamic amax "per tensor" is that of the rows of this call: pass a sample at a time.
 * stats may be NULL, and costs a second look at the input if not.
 */
void quant_apply(const struct quant_plan *p, const struct quant_matrix *x, int64_t r0, int64_t r1,
                 void *to, enum num_type to_dtype, struct quant_stats *stats);

/*
 * The same in two parts. For finite input, row r and column c,
 *
 *     dequantized = divide ? code / scale : code * scale       (fp32, one rounding)
 *     scale       = scales[(r - r0) * scale_cols + c / k_block]
 *
 * equals quant_apply's fp32 result; in bf16 also the sign of a zero. Codes are exact in bf16 for
 * every treatment, and in int8 where `int8` says so (NaN: 0).
 */
enum quant_code { QUANT_INT8, QUANT_CODE_BF16 };

struct quant_code_form {
    int64_t k_block, scale_cols;
    int divide, int8;
};

/* AQ_EINPUT: the plan rounds its values, or has no step. */
int quant_code_form(const struct quant_plan *p, struct quant_code_form *form,
                    struct aq_err *err) AQ_MUST_CHECK;
void quant_apply_codes(const struct quant_plan *p, const struct quant_matrix *x, int64_t r0,
                       int64_t r1, void *codes, enum quant_code code, float *scales,
                       struct quant_stats *stats);

/* The range of a plan's only step, where one spans the whole weight: after a search, if the
   treatment has one. */
float quant_plan_range(const struct quant_plan *p);

/*
 * A number u such that every dequantized value is u times a number that is exact in bf16, up to the
 * last bits of the fp32 value and but for denormals: 1 for powers of two as scales and for values
 * rounded to bf16, the tensor's scale for an NVFP4 weight (an e2m1 code times its block's e4m3
 * scale has six bits). 0: there is none, or it is not known before the call.
 */
float quant_bf16_unit(const struct quant_plan *p);

/* ---- ranges ---- */

/* Largest magnitude of n elements; NaN if there is one. */
float quant_absmax(const void *x, enum num_type dtype, size_t n);
/* The same of a weight. AQ_EINPUT names the first element that is not finite. */
int quant_weight_amax(const struct quant_matrix *w, float *amax, struct aq_err *err) AQ_MUST_CHECK;
/* amax[c] = max(amax[c], |x[c]|); a NaN anywhere stays. amax holds no negative number. */
void quant_absmax_cols(float *amax, const void *x, enum num_type dtype, size_t n);

/* ---- the machine ---- */

/*
 * Which kernels run: "plain", "avx2", "avx512"; the best that the CPU has, or less if $AQ_CPU says
 * so. quant_cpu_select is for tests and tools; not while other threads quantize.
 */
const char *quant_cpu(void);
int quant_cpu_select(const char *name, struct aq_err *err) AQ_MUST_CHECK; /* NULL: the best */

#ifdef __cplusplus
}
#endif

#endif
