/*
 * Small number formats, one scalar at a time: bf16, fp16, the 8-bit and smaller floats of
 * quantization, and powers of two (e8m0). Plain C, readable by C++ and
 * by device code; the meaning of every vector kernel. Rounding is to nearest, ties to even,
 * everywhere.
 */
#ifndef AQ_BASE_NUM_H
#define AQ_BASE_NUM_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define NUM_FN __host__ __device__ static inline
#else
#define NUM_FN static inline
#endif

NUM_FN uint32_t num_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

NUM_FN float num_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* 2^e for -126 <= e <= 127. */
NUM_FN float num_pow2(int e)
{
    return num_float((uint32_t)(e + 127) << 23);
}

/* ---- 16 bits ---- */

NUM_FN float num_from_bf16(uint16_t h)
{
    return num_float((uint32_t)h << 16);
}

/* A NaN keeps its sign and upper payload and becomes quiet. */
NUM_FN uint16_t num_to_bf16(float x)
{
    uint32_t u = num_bits(x);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

NUM_FN float num_from_fp16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t e = h >> 10 & 31, frac = h & 0x3ff;
    if (e == 31)
        return num_float(sign | 0x7f800000 | frac << 13 | (frac ? 0x400000 : 0));
    if (e == 0) /* subnormals are multiples of 2^-24 */
        return num_float(sign | num_bits((float)frac * 0x1p-24f));
    return num_float(sign | (e + 112) << 23 | frac << 13);
}

NUM_FN uint16_t num_to_fp16(float x)
{
    uint32_t u = num_bits(x), sign = u >> 16 & 0x8000;
    u &= 0x7fffffff;
    if (u > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (u >> 13 & 0x3ff));
    if (u >= 0x477ff000) /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (u < 0x38800000) /* below 2^-14: a multiple of 2^-24 */
        return (uint16_t)(sign | (uint32_t)rintf(num_float(u) * 0x1p24f));
    return (uint16_t)(sign | (u - 0x38000000 + 0xfff + (u >> 13 & 1)) >> 13);
}

/* ---- elements of tensors that are computed with, at any alignment ---- */

enum num_type { NUM_F32, NUM_BF16, NUM_F16 };

NUM_FN size_t num_bytes(enum num_type t)
{
    return t == NUM_F32 ? 4 : 2;
}

NUM_FN float num_read(const void *from, enum num_type t, size_t i)
{
    uint16_t h;
    float x;
    if (t == NUM_F32) {
        memcpy(&x, (const char *)from + 4 * i, 4);
        return x;
    }
    memcpy(&h, (const char *)from + 2 * i, 2);
    return t == NUM_BF16 ? num_from_bf16(h) : num_from_fp16(h);
}

/* Rounds to the type. */
NUM_FN void num_write(void *to, enum num_type t, size_t i, float x)
{
    uint16_t h = t == NUM_BF16 ? num_to_bf16(x) : num_to_fp16(x);
    if (t == NUM_F32)
        memcpy((char *)to + 4 * i, &x, 4);
    else
        memcpy((char *)to + 2 * i, &h, 2);
}

/* x as the type can hold it. */
NUM_FN float num_as(float x, enum num_type t)
{
    num_write(&x, t, 0, x);
    return num_read(&x, t, 0);
}

#ifndef __cplusplus
/* n elements to fp32. */
void num_widen(const void *from, enum num_type t, size_t n, float *to);
#endif

/* ---- floats of 8 bits and less ---- */

/*
 * emin is the exponent of the smallest normal number; below it lie subnormals with the step
 * 2^(emin - man). Encodings that have NaN keep it; the others take it for a large number.
 */
struct num_format {
    int man, emin;
    float max;
    int has_nan;
};

#ifdef __cplusplus
#define NUM_FORMAT(...) (num_format{__VA_ARGS__})
#else
#define NUM_FORMAT(...) ((struct num_format){__VA_ARGS__})
#endif
#define NUM_E4M3 NUM_FORMAT(3, -6, 448.0F, 1)
#define NUM_E5M2 NUM_FORMAT(2, -14, 57344.0F, 1)
#define NUM_E2M1 NUM_FORMAT(1, 0, 6.0F, 0)
#define NUM_E3M2 NUM_FORMAT(2, -2, 28.0F, 0)
#define NUM_E2M3 NUM_FORMAT(3, 0, 7.5F, 0)

/* The nearest number of the format, saturating; the sign of zero is kept. */
NUM_FN float num_round(float x, struct num_format f)
{
    if (isnan(x))
        return f.has_nan ? x : copysignf(f.max, x);
    float a = fabsf(x);
    if (a >= f.max)
        return copysignf(f.max, x);
    int e = (int)(num_bits(a) >> 23) - 127;
    if (e < f.emin)
        e = f.emin;
    return copysignf(rintf(a * num_pow2(f.man - e)) * num_pow2(e - f.man), x);
}

/* Index of a magnitude that is a number of the format: 0 for zero, then counting upwards. */
NUM_FN unsigned num_index(float a, struct num_format f)
{
    if (a < num_pow2(f.emin))
        return (unsigned)(a * num_pow2(f.man - f.emin));
    return (num_bits(a) >> (23 - f.man)) - ((unsigned)(f.emin + 126) << f.man);
}

NUM_FN float num_magnitude(unsigned index, struct num_format f)
{
    int e = (int)(index >> f.man); /* 0: subnormal */
    float frac = (float)(index & ((1U << f.man) - 1)) * num_pow2(-f.man);
    return e ? (1 + frac) * num_pow2(e - 1 + f.emin) : frac * num_pow2(f.emin);
}

NUM_FN uint8_t num_to_e4m3(float x)
{
    unsigned sign = num_bits(x) >> 24 & 0x80;
    if (isnan(x))
        return (uint8_t)(sign | 0x7f);
    return (uint8_t)(sign | num_index(fabsf(num_round(x, NUM_E4M3)), NUM_E4M3));
}

NUM_FN float num_from_e4m3(uint8_t c)
{
    float a = (c & 0x7f) == 0x7f ? NAN : num_magnitude(c & 0x7f, NUM_E4M3);
    return copysignf(a, c & 0x80 ? -1.0F : 1.0F);
}

/* Saturating: infinity becomes the largest finite number. */
NUM_FN uint8_t num_to_e5m2(float x)
{
    unsigned sign = num_bits(x) >> 24 & 0x80;
    if (isnan(x))
        return (uint8_t)(sign | 0x7f);
    return (uint8_t)(sign | num_index(fabsf(num_round(x, NUM_E5M2)), NUM_E5M2));
}

NUM_FN float num_from_e5m2(uint8_t c)
{
    unsigned m = c & 0x7f;
    float a = m > 0x7c ? NAN : m == 0x7c ? INFINITY : num_magnitude(m, NUM_E5M2);
    return copysignf(a, c & 0x80 ? -1.0F : 1.0F);
}

/* The formats without NaN: sign bit above `width` bits of magnitude. */
NUM_FN uint8_t num_to_small(float x, struct num_format f, int width)
{
    unsigned sign = num_bits(x) >> 31;
    return (uint8_t)(sign << width | num_index(fabsf(num_round(x, f)), f));
}

NUM_FN float num_from_small(uint8_t c, struct num_format f, int width)
{
    return copysignf(num_magnitude(c & ((1U << width) - 1), f), c >> width & 1 ? -1.0F : 1.0F);
}

NUM_FN uint8_t num_to_e2m1(float x)
{
    return num_to_small(x, NUM_E2M1, 3);
}
NUM_FN uint8_t num_to_e3m2(float x)
{
    return num_to_small(x, NUM_E3M2, 5);
}
NUM_FN uint8_t num_to_e2m3(float x)
{
    return num_to_small(x, NUM_E2M3, 5);
}
NUM_FN float num_from_e2m1(uint8_t c)
{
    return num_from_small(c, NUM_E2M1, 3);
}
NUM_FN float num_from_e3m2(uint8_t c)
{
    return num_from_small(c, NUM_E3M2, 5);
}
NUM_FN float num_from_e2m3(uint8_t c)
{
    return num_from_small(c, NUM_E2M3, 5);
}

/* ---- e8m0: 2^(c - 127), 255 is NaN ---- */

NUM_FN float num_from_e8m0(uint8_t c)
{
    if (c == 255)
        return NAN;
    return c ? num_pow2(c - 127) : 0x1p-127F;
}

/*
 * The exponent E of the smallest power of two that is not below r, within -127..127: the block
 * scale of the MX formats. r is finite and not negative; 0 gives -127.
 */
NUM_FN int num_ceil_log2(float r)
{
    uint32_t u = num_bits(r);
    int ef = (int)(u >> 23 & 255);
    uint32_t mf = u & 0x7fffff;
    int up = mf > 0 && ef != 254 && !(ef == 0 && mf <= 0x400000);
    return ef - 127 + up;
}

#endif
