/*
 * The inner loops of quantization, once per instruction set; private to lib/quant. kernel_plain.c
 * is the reference, the others give the same bits.
 */
#ifndef AQ_QUANT_KERNEL_H
#define AQ_QUANT_KERNEL_H

#include "base/num.h"
#include "quant/quant.h"

enum kernel_op {
    KERNEL_INT,   /* q = clamp(rint(x * mul), lo, hi);  y = q / back */
    KERNEL_FLOAT, /* q = format(x * mul);               y = q * back */
    KERNEL_COPY,  /* y = x: for treatments without a step, and what speed is compared with */
    KERNEL_RATIO, /* q = format(|x| / back), negative unless x >= 0;  y = q * back;
                     mul: 1 / back, or NULL if one is beyond 2^100 or below 2^-100 */
};

enum kernel_out {
    KERNEL_F32,
    KERNEL_F32_VIA_BF16, /* rounded to bf16, stored as fp32 */
    KERNEL_BF16,
    KERNEL_CODE_INT8, /* q * unit; NaN: 0 */
    KERNEL_CODE_BF16, /* q */
};

/* n neighbours of one row; element i has the scales mul[i / block] and back[i / block]. */
struct kernel_run {
    const void *from;
    void *to; /* may be from, if the sizes are equal */
    enum num_type in;
    enum kernel_out out;
    size_t n, block;
    const float *mul, *back;
    enum kernel_op op;
    float lo, hi;             /* KERNEL_INT */
    struct num_format format; /* the others */
    float unit;
};

struct kernels {
    const char *name;
    void (*quantize)(const struct kernel_run *r);
    /* Adds clipped and non-finite elements; to and out are not read. */
    void (*count)(const struct kernel_run *r, struct quant_stats *stats);
    /* Bits of the largest |x|: ordered as integers, every NaN is above infinity. */
    uint32_t (*absmax)(const void *x, enum num_type in, size_t n);
    void (*absmax_cols)(float *amax, const void *x, enum num_type in, size_t n);
    /* One for every `block` neighbours and the rest; NaN is passed over. */
    void (*absmax_blocks)(float *m, const void *x, enum num_type in, size_t n, size_t block);
    /* From block maxima, not NaN, under gs > 0: the second-level range over 6 * 448. */
    void (*nvfp4_scales)(float *scale, float *recip, const float *m, size_t n, float gs);
};

extern const struct kernels kernels_plain;
#if defined(__x86_64__)
extern const struct kernels kernels_avx2, kernels_avx512;
#endif

const struct kernels *kernels_active(void);

static inline size_t kernel_out_size(enum kernel_out out)
{
    return out == KERNEL_CODE_INT8 ? 1 : out == KERNEL_BF16 || out == KERNEL_CODE_BF16 ? 2 : 4;
}

/*
 * Above this magnitude a scaled value is clipped: it would round to a code beyond the last one if
 * the grid went on. Integers: hi + 1/2, which rounds up to the even hi + 1. Floats: half a step
 * above max; there the tie goes to max if its last bit is 0.
 */
static inline float kernel_float_limit(struct num_format f)
{
    int e = (int)(num_bits(f.max) >> 23) - 127;
    return f.max + num_pow2(e - f.man - 1);
}

#endif
