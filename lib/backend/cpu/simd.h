/*
 * The elementwise loops that need vector instructions to keep up with the products. Written once
 * over vectors of 16 lanes; the best instruction set is chosen at run time, and all give the
 * same bits.
 */
#ifndef AQ_BACKEND_CPU_SIMD_H
#define AQ_BACKEND_CPU_SIMD_H

#include <stdint.h>

/* n bf16 values at any address to fp32. */
void simd_widen_bf16(float *dst, const void *src, int64_t n);
/* Sum of ((found - expected) * slope)^2; difference in fp32, the rest in double. */
double simd_score(const float *found, const float *expected, const float *slope, int64_t n);

#endif
