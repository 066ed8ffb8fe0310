/*
 * One step of a treatment over matrices on the device, for weights and for the activations of
 * several tiles in one launch: largest magnitudes of its cells, scales from them, codes or values
 * from both. The formulas are lib/quant's, operation by operation.
 */
#ifndef AQ_BACKEND_CUDA_QUANTIZE_CUH
#define AQ_BACKEND_CUDA_QUANTIZE_CUH

#include "backend/cuda/cuda.cuh"
#include "base/num.h"

enum { BATCH = 32 }; /* matrices of one launch */

/* Matrices of one shape, of which the first rows are taken; their results follow each other. */
struct sources {
    int count, is_bf16, is_weight;
    int64_t rows, cols;
    const void *at[BATCH];
    int64_t taken[BATCH]; /* rows; 0: all */
    int64_t base[BATCH];  /* row of the results at which its own begin */
    /* of activations: */
    const int32_t *sample_of[BATCH]; /* [rows]; -1: no token, the row is zero */
    int32_t samples;                 /* the most of any tile */
    float range[BATCH];              /* static */
    const float *hidden[BATCH];      /* device, [cols]: static, one per column */
};

enum step_op { STEP_COPY, STEP_INT, STEP_FLOAT, STEP_RATIO }; /* enum kernel_op of lib/quant */

/* Which multiples of their largest magnitudes ranges become, by `mse`. */
enum range_search { SEARCH_NONE, SEARCH_OWN, SEARCH_MODELOPT };

enum cell_rows { CELL_ALL_ROWS, CELL_SAMPLES, CELL_BLOCKS };

/* A step made ready. Scales have a cell per group of rows and block of columns. */
struct device_step {
    struct quant_step t;
    enum step_op op;
    float lo, hi;
    struct num_format format;
    enum cell_rows groups;
    int64_t rows_each; /* CELL_BLOCKS */
    int64_t block, grid_cols;
    int64_t cells; /* of one matrix */
    enum range_search search;
};

/* What becomes of an element. */
enum form {
    FORM_F32,
    FORM_F32_VIA_BF16, /* rounded to bf16, stored as fp32 */
    FORM_BF16,         /* the value in bf16 */
    FORM_CODES,        /* the code in bf16, in NVFP4 times its block's e4m3 scale, which is exact;
                          the scale of its row apart */
    FORM_BLOCKS,       /* the code in bf16; the scales of the row's blocks apart */
    FORM_TERMS,        /* the value as a sum of three bf16 numbers, in three planes */
};

struct scales {
    const float *mul, *back; /* [count][cells]; NVFP4 has no mul: its e4m3 scales are there */
    const float *whole;      /* [count][rows]: of NVFP4, what all scales of a row have in common */
};

struct quantized {
    void *to;
    enum form form;
    int64_t plane;     /* elements from a term to the next */
    float *row_scale;  /* [rows of all results], of FORM_CODES and FORM_BLOCKS: what multiplies a
                          result, which is the scale of the last block */
    float *ratio;      /* [blocks][stride], of FORM_BLOCKS: the scale before over the block's own */
    int64_t stride;
    uint32_t *clipped; /* [rows of all results], or NULL */
};

static inline int form_terms(enum form f)
{
    return f == FORM_TERMS ? 3 : 1;
}

static inline size_t form_bytes(enum form f)
{
    return f == FORM_TERMS ? 6 : f == FORM_F32 || f == FORM_F32_VIA_BF16 ? 4 : 2;
}

#ifdef __CUDACC__

static const float tiny_amax = 0x1p-24F; /* ranges up to this count as zero */

/* Of integers: to codes, and back. */
__device__ static inline void int_scales(float hi, float amax, float *mul, float *back)
{
    *mul = amax <= tiny_amax ? 0 : hi / amax;
    *back = amax <= tiny_amax ? 1 : *mul;
}

__device__ static inline void range_scales(const struct device_step &s, float amax, float *mul,
                                    float *back)
{
    if (s.op == STEP_INT) {
        int_scales(s.hi, amax, mul, back);
    } else if (s.t.scope == QUANT_BLOCK && s.t.dynamic) {
        float recip = 1 / (amax > 1e-10F ? amax : 1e-10F); /* as lib/quant's act_block_scales */
        *mul = recip * s.format.max;
        *back = 1 / *mul;
    } else {
        float recip = 1 / (amax <= tiny_amax ? 1 : amax);
        *mul = recip * s.format.max;
        *back = 1 / *mul;
    }
}

__device__ static inline float code_of(const struct device_step &s, float x, float mul, float back)
{
    float q;
    switch (s.op) {
    case STEP_INT:
        q = rintf(x * mul);
        return q < s.lo ? s.lo : q > s.hi ? s.hi : q;
    case STEP_FLOAT:
        return num_round(x * mul, s.format);
    case STEP_RATIO:
        q = fabsf(num_round(fabsf(x) / back, s.format));
        return isfinite(back) ? (x >= 0 ? q : -q) : back;
    default:
        return x;
    }
}

__device__ static inline float value_of(const struct device_step &s, float code, float back)
{
    return s.op == STEP_COPY ? code : s.op == STEP_INT ? code / back : code * back;
}

#endif

struct device_step step_of(const struct quant_step *t, int is_weight, int64_t rows, int64_t cols,
                           int32_t samples);
/* Scales in SCRATCH_RANGES, valid until the next call. bad: raised by a weight that is not finite,
   to this number; NULL for activations. False after a failure. */
bool step_scales(struct cuda_backend *c, const struct sources *m, const struct device_step *s,
                 struct scales *out, int32_t *bad, int32_t number);
void step_apply(struct cuda_backend *c, const struct sources *m, const struct device_step *s,
                const struct scales *scales, const struct quantized *q);
/* The largest magnitude of each cell, as bits, whose order does not matter. */
bool step_ranges(struct cuda_backend *c, uint32_t *cells, const struct sources *m,
                 const struct device_step *s);
/* search.cu: the ranges of one weight, largest magnitudes as bits, become multiples of them. */
bool search_ranges(struct cuda_backend *c, uint32_t *cells, const struct sources *m,
                   const struct device_step *s);
/* search.cu: a weight (rows, cols) under sweep or 4o6, in fp32. m->range[0]: as of step_scales. */
bool search_nvfp4(struct cuda_backend *c, const struct sources *m, const struct quant_spec *spec,
                  bool to_bf16, float *to, int32_t number);
/* Bytes of SCRATCH_RANGES that a step takes. */
size_t step_room(const struct device_step *s, int64_t count, int32_t samples);

#endif
