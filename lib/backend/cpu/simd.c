#include "backend/cpu/simd.h"

#include <string.h>

enum { LANES = 16 };

typedef float f32v __attribute__((vector_size(LANES * 4)));
typedef float f32h __attribute__((vector_size(LANES * 2)));
typedef double f64h __attribute__((vector_size(LANES * 4))); /* 8 lanes */
typedef uint16_t u16v __attribute__((vector_size(LANES * 2)));
typedef uint32_t u32v __attribute__((vector_size(LANES * 4)));

#define INLINE static inline __attribute__((always_inline))

INLINE void widen_body(float *dst, const void *src, int64_t n)
{
    const char *from = src;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        u16v half;
        memcpy(&half, from + i * 2, sizeof half);
        u32v full = __builtin_convertvector(half, u32v) << 16;
        memcpy(dst + i, &full, sizeof full);
    }
    for (; i < n; i++) {
        uint16_t half;
        memcpy(&half, from + i * 2, sizeof half);
        uint32_t full = (uint32_t)half << 16;
        memcpy(dst + i, &full, sizeof full);
    }
}

/* Through a pointer: a function of the base instruction set cannot return so wide a vector. */
INLINE void add_square(f64h *sum, const float *found, const float *expected, const float *slope)
{
    f32h c, y, g;
    memcpy(&c, found, sizeof c);
    memcpy(&y, expected, sizeof y);
    memcpy(&g, slope, sizeof g);
    f64h p = __builtin_convertvector(c - y, f64h) * __builtin_convertvector(g, f64h);
    *sum += p * p;
}

INLINE double score_body(const float *found, const float *expected, const float *slope, int64_t n)
{
    enum { HALF = LANES / 2 };
    f64h a = {0}, b = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        add_square(&a, found + i, expected + i, slope + i);
        add_square(&b, found + i + HALF, expected + i + HALF, slope + i + HALF);
    }
    double sum = 0;
    for (; i < n; i++) {
        float d = found[i] - expected[i];
        double p = (double)d * slope[i];
        sum += p * p;
    }
    a += b;
    for (int l = 0; l < HALF; l++)
        sum += a[l];
    return sum;
}

#if defined(__x86_64__)
#define VARIANT(name, result, params, args, target_name)                                           \
    __attribute__((target(target_name))) static result name params                                 \
    {                                                                                              \
        return args;                                                                               \
    }
#define WIDEN (float *dst, const void *src, int64_t n)
#define SCORE (const float *found, const float *expected, const float *slope, int64_t n)
VARIANT(widen_avx2, void, WIDEN, widen_body(dst, src, n), "avx2")
VARIANT(widen_avx512, void, WIDEN, widen_body(dst, src, n), "avx512f,avx512bw,avx512vl")
VARIANT(score_avx2, double, SCORE, score_body(found, expected, slope, n), "avx2")
VARIANT(score_avx512, double, SCORE, score_body(found, expected, slope, n),
        "avx512f,avx512bw,avx512vl")

static int level(void)
{
    static int known = -1;
    int l = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (l < 0) {
        l = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl")
                ? 2
            : __builtin_cpu_supports("avx2") ? 1
                                             : 0;
        __atomic_store_n(&known, l, __ATOMIC_RELAXED);
    }
    return l;
}
#endif

void simd_widen_bf16(float *dst, const void *src, int64_t n)
{
#if defined(__x86_64__)
    if (level() == 2) {
        widen_avx512(dst, src, n);
        return;
    }
    if (level() == 1) {
        widen_avx2(dst, src, n);
        return;
    }
#endif
    widen_body(dst, src, n);
}

double simd_score(const float *found, const float *expected, const float *slope, int64_t n)
{
#if defined(__x86_64__)
    if (level() == 2)
        return score_avx512(found, expected, slope, n);
    if (level() == 1)
        return score_avx2(found, expected, slope, n);
#endif
    return score_body(found, expected, slope, n);
}
