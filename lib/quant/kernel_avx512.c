/* AVX-512 (F, BW, DQ, VL): 16 lanes. */
#if defined(__x86_64__)

#include "quant/kernel.h"

#include <immintrin.h>

#define VEC __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define V VEC static inline __attribute__((always_inline))

enum { LANES = 16 };
typedef __m512 vf;
typedef __m512i vi;

V vf v_set1(float x)
{
    return _mm512_set1_ps(x);
}
V vf v_load_f32(const void *p)
{
    return _mm512_loadu_ps(p);
}
V vf v_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
V vf v_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
V vf v_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
V vf v_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
V vf v_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
V vf v_fnma(vf a, vf b, vf c)
{
    return _mm512_fnmadd_ps(a, b, c);
}
V vf v_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
V vf v_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
V vf v_and(vf a, vf b)
{
    return _mm512_and_ps(a, b);
}
V vf v_or(vf a, vf b)
{
    return _mm512_or_ps(a, b);
}
V vf v_rint(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
V unsigned v_lt(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
V vi v_bits(vf a)
{
    return _mm512_castps_si512(a);
}
V vi vi_load(const void *p)
{
    return _mm512_loadu_si512(p);
}
V vi vi_shl16(vi a)
{
    return _mm512_slli_epi32(a, 16);
}
V vi vi_set1(int x)
{
    return _mm512_set1_epi32(x);
}
V vi vi_add(vi a, vi b)
{
    return _mm512_add_epi32(a, b);
}
V vi vi_max(vi a, vi b)
{
    return _mm512_max_epi32(a, b);
}
V vf vi_float(vi a)
{
    return _mm512_castsi512_ps(a);
}
V uint32_t vi_reduce_max(vi a)
{
    return (uint32_t)_mm512_reduce_max_epi32(a);
}
V float v_reduce_max(vf a)
{
    return _mm512_reduce_max_ps(a);
}

/* The lower half of the lanes and the upper half. */
V vf v_set2(float low, float high)
{
    return _mm512_insertf32x8(_mm512_set1_ps(low), _mm256_set1_ps(high), 1);
}

V vf v_load_bf16(const void *p)
{
    __m256i h = _mm256_loadu_si256(p);
    return vi_float(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

V void v_store_f32(void *p, vf a)
{
    _mm512_storeu_ps(p, a);
}

/* bf16 in the upper halves, rounded to nearest even. A NaN must be quiet, its lower half zero. */
V vi bf16_above_quiet(vf a)
{
    vi u = v_bits(a), r = _mm512_add_epi32(u, vi_set1(0x7fff));
    return _mm512_mask_add_epi32(r, _mm512_test_epi32_mask(u, vi_set1(0x10000)), u,
                                 vi_set1(0x8000));
}

/* The same for any NaN, which is made quiet. */
V vi bf16_above(vf a)
{
    return _mm512_mask_or_epi32(bf16_above_quiet(a), _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q),
                                v_bits(a), vi_set1(0x400000));
}

V void v_store_bf16(void *p, vf a)
{
    _mm256_storeu_si256(p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(bf16_above(a), 16)));
}

/* Even and odd elements, joined again; NaN as for bf16_above_quiet. */
V void v_store_bf16_pair(void *p, vf even, vf odd)
{
    vi low = _mm512_srli_epi32(bf16_above_quiet(even), 16);
    _mm512_storeu_si512(p, _mm512_mask_blend_epi16(0xaaaaaaaa, low, bf16_above_quiet(odd)));
}

V vf v_via_bf16(vf a)
{
    return vi_float(_mm512_and_si512(bf16_above(a), vi_set1((int)0xffff0000)));
}

/* Whole numbers within -128..127; NaN becomes 0. */
V void v_store_int8(void *p, vf a)
{
    vi q = _mm512_maskz_cvtps_epi32(_mm512_cmp_ps_mask(a, a, _CMP_ORD_Q), a);
    _mm_storeu_si128(p, _mm512_cvtepi32_epi8(q));
}

/* x < y ? a : b */
V vf v_select_lt(vf x, vf y, vf a, vf b)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), b, a);
}

/* a with the sign bit set where x >= 0 does not hold: also for NaN, not for -0. */
V vf v_minus_unless_ge0(vf a, vf x)
{
    __mmask16 m = _mm512_cmp_ps_mask(x, v_set1(0), _CMP_NGE_UQ);
    return vi_float(_mm512_mask_or_epi32(v_bits(a), m, v_bits(a), vi_set1((int)0x80000000)));
}

#include "quant/kernel_simd.h"

const struct kernels kernels_avx512 = {
    .name = "avx512",
    .quantize = quantize,
    .count = count,
    .absmax = absmax,
    .absmax_cols = absmax_cols,
    .absmax_blocks = absmax_blocks,
    .nvfp4_scales = nvfp4_scales,
};

#endif
