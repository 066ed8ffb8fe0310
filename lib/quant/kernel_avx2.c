/* AVX2 and FMA: 8 lanes. */
#if defined(__x86_64__)

#include "quant/kernel.h"

#include <immintrin.h>

#define VEC __attribute__((target("avx2,fma")))
#define V VEC static inline __attribute__((always_inline))

enum { LANES = 8 };
typedef __m256 vf;
typedef __m256i vi;

V vf v_set1(float x)
{
    return _mm256_set1_ps(x);
}
V vf v_load_f32(const void *p)
{
    return _mm256_loadu_ps(p);
}
V vf v_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}
V vf v_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}
V vf v_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}
V vf v_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}
V vf v_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
V vf v_fnma(vf a, vf b, vf c)
{
    return _mm256_fnmadd_ps(a, b, c);
}
V vf v_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}
V vf v_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}
V vf v_and(vf a, vf b)
{
    return _mm256_and_ps(a, b);
}
V vf v_or(vf a, vf b)
{
    return _mm256_or_ps(a, b);
}
V vf v_rint(vf a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
V unsigned v_lt(vf a, vf b)
{
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
V vi v_bits(vf a)
{
    return _mm256_castps_si256(a);
}
V vi vi_load(const void *p)
{
    return _mm256_loadu_si256(p);
}
V vi vi_shl16(vi a)
{
    return _mm256_slli_epi32(a, 16);
}
V vi vi_set1(int x)
{
    return _mm256_set1_epi32(x);
}
V vi vi_add(vi a, vi b)
{
    return _mm256_add_epi32(a, b);
}
V vi vi_max(vi a, vi b)
{
    return _mm256_max_epi32(a, b);
}
V vf vi_float(vi a)
{
    return _mm256_castsi256_ps(a);
}

V uint32_t vi_reduce_max(vi a)
{
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(m);
}

/* Magnitudes without NaN: ordered as their bits. */
V float v_reduce_max(vf a)
{
    return num_float(vi_reduce_max(v_bits(a)));
}

/* The lower half of the lanes and the upper half. */
V vf v_set2(float low, float high)
{
    return _mm256_insertf128_ps(_mm256_set1_ps(low), _mm_set1_ps(high), 1);
}

V vf v_load_bf16(const void *p)
{
    return vi_float(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}

V void v_store_f32(void *p, vf a)
{
    _mm256_storeu_ps(p, a);
}

/* bf16 in the upper halves, rounded to nearest even. A NaN must be quiet, its lower half zero. */
V vi bf16_above_quiet(vf a)
{
    vi u = v_bits(a), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), vi_set1(1));
    return _mm256_add_epi32(u, _mm256_add_epi32(odd, vi_set1(0x7fff)));
}

/* The same for any NaN, which is made quiet. */
V vi bf16_above(vf a)
{
    vi quiet = _mm256_or_si256(v_bits(a), vi_set1(0x400000));
    return _mm256_blendv_epi8(bf16_above_quiet(a), quiet,
                              v_bits(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)));
}

V void v_store_bf16(void *p, vf a)
{
    vi h = _mm256_srli_epi32(bf16_above(a), 16);
    h = _mm256_permute4x64_epi64(_mm256_packus_epi32(h, h), 0x08);
    _mm_storeu_si128(p, _mm256_castsi256_si128(h));
}

/* Even and odd elements, joined again; NaN as for bf16_above_quiet. */
V void v_store_bf16_pair(void *p, vf even, vf odd)
{
    vi low = _mm256_srli_epi32(bf16_above_quiet(even), 16);
    _mm256_storeu_si256(p, _mm256_blend_epi16(low, bf16_above_quiet(odd), 0xaa));
}

V vf v_via_bf16(vf a)
{
    return vi_float(_mm256_and_si256(bf16_above(a), vi_set1((int)0xffff0000)));
}

/* Whole numbers within -128..127; NaN becomes 0. */
V void v_store_int8(void *p, vf a)
{
    vi q = _mm256_cvtps_epi32(v_and(a, _mm256_cmp_ps(a, a, _CMP_ORD_Q)));
    q = _mm256_permute4x64_epi64(_mm256_packs_epi32(q, q), 0x08);
    __m128i h = _mm256_castsi256_si128(q);
    _mm_storel_epi64(p, _mm_packs_epi16(h, h));
}

/* x < y ? a : b */
V vf v_select_lt(vf x, vf y, vf a, vf b)
{
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, y, _CMP_LT_OQ));
}

/* a with the sign bit set where x >= 0 does not hold: also for NaN, not for -0. */
V vf v_minus_unless_ge0(vf a, vf x)
{
    vf m = _mm256_cmp_ps(x, v_set1(0), _CMP_NGE_UQ);
    return v_or(a, v_and(m, vi_float(vi_set1((int)0x80000000))));
}

#include "quant/kernel_simd.h"

const struct kernels kernels_avx2 = {
    .name = "avx2",
    .quantize = quantize,
    .count = count,
    .absmax = absmax,
    .absmax_cols = absmax_cols,
    .absmax_blocks = absmax_blocks,
    .nvfp4_scales = nvfp4_scales,
};

#endif
