/*
 * The division by a reciprocal in lib/quant/kernel_simd.h, for every mantissa of the divisor:
 * equal to true division for whole dividends up to 128, and on the same side of every boundary
 * between codes of e2m1 for the dividends nearest to it. Exponents only shift both sides.
 */
#include "tap.h"

#include "base/num.h"

#include <stdlib.h>

#if defined(__x86_64__)
#include <immintrin.h>

#define VEC __attribute__((target("avx2,fma")))

enum { MANTISSAS = 1 << 23, LANES = 8 };

VEC static __m256 ratio(__m256 a, __m256 b, __m256 r)
{
    __m256 q = _mm256_mul_ps(a, r);
    return _mm256_fmadd_ps(_mm256_fnmadd_ps(b, q, a), r, q);
}

VEC static __m256 divisors(int m)
{
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_set1_epi32(0x3f800000 + m), lane));
}

VEC static long whole_numbers(void)
{
    long bad = 0;
    for (int m = 0; m < MANTISSAS; m += LANES) {
        __m256 b = divisors(m), r = _mm256_div_ps(_mm256_set1_ps(1), b);
        __m256 differ = _mm256_setzero_ps();
        for (int q = 1; q <= 127;
             q += 2) { /* the even ones are the odd ones with other exponents */
            __m256 a = _mm256_set1_ps((float)q);
            differ = _mm256_or_ps(differ,
                                  _mm256_cmp_ps(ratio(a, b, r), _mm256_div_ps(a, b), _CMP_NEQ_UQ));
        }
        bad += _mm256_movemask_ps(differ) != 0;
    }
    return bad;
}

/* A quotient can end on the wrong side of t only near the middle of t and its neighbour. */
VEC static long boundary(float t, float neighbour)
{
    long bad = 0;
    __m256 limit = _mm256_set1_ps(t);
    __m256d middle = _mm256_set1_pd(((double)t + (double)neighbour) / 2);
    for (int m = 0; m < MANTISSAS; m += LANES) {
        __m256 b = divisors(m), r = _mm256_div_ps(_mm256_set1_ps(1), b);
        __m128 lo =
            _mm256_cvtpd_ps(_mm256_mul_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(b)), middle));
        __m128 hi =
            _mm256_cvtpd_ps(_mm256_mul_pd(_mm256_cvtps_pd(_mm256_extractf128_ps(b, 1)), middle));
        __m256i near = _mm256_castps_si256(_mm256_set_m128(hi, lo));
        for (int d = -1; d <= 1; d++) {
            __m256 a = _mm256_castsi256_ps(_mm256_add_epi32(near, _mm256_set1_epi32(d)));
            __m256 found = ratio(a, b, r), right = _mm256_div_ps(a, b);
            __m256 above = _mm256_xor_ps(_mm256_cmp_ps(found, limit, _CMP_GT_OQ),
                                         _mm256_cmp_ps(right, limit, _CMP_GT_OQ));
            __m256 below = _mm256_xor_ps(_mm256_cmp_ps(found, limit, _CMP_LT_OQ),
                                         _mm256_cmp_ps(right, limit, _CMP_LT_OQ));
            bad += _mm256_movemask_ps(_mm256_or_ps(above, below)) != 0;
        }
    }
    return bad;
}

int main(void)
{
    static const float limits[] = {0.25F, 0.75F, 1.25F, 1.75F, 2.5F, 3.5F, 5};
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        tap_skip("division by a reciprocal", "no AVX2 with FMA here");
        return tap_done();
    }
    tap_ok(whole_numbers() == 0, "whole numbers by every mantissa");
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        tap_ok(boundary(limits[i], nextafterf(limits[i], 0)) == 0 &&
                   boundary(limits[i], nextafterf(limits[i], 9)) == 0,
               "boundary %g by every mantissa", limits[i]);
    return tap_done();
}
#else
int main(void)
{
    tap_skip("division by a reciprocal", "not an x86-64 machine");
    return tap_done();
}
#endif
