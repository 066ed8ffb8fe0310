#include "backend/cpu/simd.h"

#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>

/*
 * A loop body works on 16 lanes; the rest of a row goes through the same body by way of a padded
 * copy. The functions below are inlined into one variant for each instruction set.
 */
enum { LANES = 16, HALF = LANES / 2 };

typedef float f32v __attribute__((vector_size(LANES * 4)));
typedef float f32h __attribute__((vector_size(HALF * 4)));
typedef float f32q __attribute__((vector_size(HALF * 2)));
typedef double f64h __attribute__((vector_size(HALF * 8)));
typedef int64_t i64h __attribute__((vector_size(HALF * 8)));
typedef int32_t i32v __attribute__((vector_size(LANES * 4)));
typedef int32_t i32h __attribute__((vector_size(HALF * 4)));
typedef int32_t i32q __attribute__((vector_size(HALF * 2)));
typedef uint16_t u16v __attribute__((vector_size(LANES * 2)));
typedef uint32_t u32v __attribute__((vector_size(LANES * 4)));

#define INLINE static inline __attribute__((always_inline))

/* Through pointers: a function of the base instruction set cannot return so wide a vector. */
INLINE void load(f32v *v, const float *from, int64_t n)
{
    if (n >= LANES) {
        memcpy(v, from, sizeof *v);
        return;
    }
    *v = (f32v){0};
    memcpy(v, from, (size_t)n * sizeof *from);
}

INLINE void store(float *to, const f32v *v, int64_t n)
{
    memcpy(to, v, n >= LANES ? sizeof *v : (size_t)n * sizeof *to);
}

INLINE void widen_halves(const f32v *v, f64h *low, f64h *high)
{
    f32h a, b;
    memcpy(&a, v, sizeof a);
    memcpy(&b, (const char *)v + sizeof a, sizeof b);
    *low = __builtin_convertvector(a, f64h);
    *high = __builtin_convertvector(b, f64h);
}

INLINE double sum_of(const f64h *low, const f64h *high)
{
    f64h both = *low + *high;
    double sum = 0;
    for (int l = 0; l < HALF; l++)
        sum += both[l];
    return sum;
}

/* mask lanes are all ones or zeros */
INLINE void choose(f32v *to, const i32v *mask, const f32v *yes, const f32v *no)
{
    i32v bits = (*mask & (i32v)*yes) | (~*mask & (i32v)*no);
    memcpy(to, &bits, sizeof bits);
}

/*
 * exp to about 2 units in the last place, for x from -87 to 88 (beyond, the value at the end; NaN
 * stays): x = n ln 2 + r, then Taylor to the 7th power, whose error at |r| = ln 2 / 2 is 5e-9.
 */
INLINE void exp_of(f32v *y, const f32v *x)
{
    const float low = -87, high = 88, to_integer = 12582912; /* 1.5 * 2^23 */
    const float log2e = 1.44269504F, ln2_high = 0.693359375F, ln2_low = -2.12194440e-4F;
    f32v v = *x, floor = (f32v){0} + low, ceiling = (f32v){0} + high;
    i32v below = v<floor, above = v> ceiling;
    choose(&v, &below, &floor, &v);
    choose(&v, &above, &ceiling, &v);
    f32v shifted = v * log2e + to_integer, n = shifted - to_integer;
    f32v r = v - n * ln2_high - n * ln2_low;
    f32v p = r * (1.0F / 5040) + 1.0F / 720;
    p = p * r + 1.0F / 120;
    p = p * r + 1.0F / 24;
    p = p * r + 1.0F / 6;
    p = p * r + 0.5F;
    p = p * r + 1.0F;
    p = p * r + 1.0F;
    i32v power = (((i32v)shifted - 0x4b400000) + 127) << 23;
    *y = p * (f32v)power;
}

/*
 * exp in double to about 1 unit in the last place, for x from -708 to 709 or NaN: as exp_of, by
 * Taylor to the 13th power, whose error at |r| = ln 2 / 2 is 4e-18.
 */
INLINE void exp_double(f64h *y, const f64h *x)
{
    const double to_integer = 6755399441055744.0; /* 1.5 * 2^52 */
    const double log2e = 1.4426950408889634;
    const double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;
    static const double inverse[] = {
        1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320,
        1.0 / 5040,       1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5};
    f64h shifted = *x * log2e + to_integer, n = shifted - to_integer;
    f64h r = *x - n * ln2_high - n * ln2_low;
    f64h p = (f64h){0} + inverse[0];
    for (size_t i = 1; i < sizeof inverse / sizeof *inverse; i++)
        p = p * r + inverse[i];
    p = p * r + 1;
    p = p * r + 1;
    i64h power = (((i64h)shifted - 0x4338000000000000) + 1023) << 52;
    *y = p * (f64h)power;
}

/*
 * tanh to about 2 units in the last place: an odd polynomial below 0.625 (Cephes' tanhf), else
 * 1 - 2 / (exp(2 |x|) + 1) with the sign of x. NaN stays.
 */
INLINE void tanh_of(f32v *y, const f32v *x)
{
    f32v v = *x, z = v * v, minus = -v, magnitude, twice;
    f32v p = z * -5.70498872745e-3F + 2.06390887954e-2F;
    p = p * z - 5.37397155531e-2F;
    p = p * z + 1.33314422036e-1F;
    p = p * z - 3.33332819422e-1F;
    p = p * z * v + v;
    i32v below = v < 0;
    choose(&magnitude, &below, &minus, &v);
    twice = magnitude + magnitude;
    exp_of(&twice, &twice);
    f32v q = 1 - 2 / (twice + 1), minus_q = -q;
    choose(&q, &below, &minus_q, &q);
    i32v small = magnitude < 0.625F;
    choose(y, &small, &p, &q);
}

/* ---- the loops: a step takes up to 16 elements, and all but the last exactly 16 ---- */

#define STEPS(n, step)                                                                             \
    do {                                                                                           \
        int64_t i = 0;                                                                             \
        for (; i + LANES <= (n); i += LANES)                                                       \
            step(LANES);                                                                           \
        if (i < (n))                                                                               \
            step((n)-i);                                                                           \
    } while (0)

INLINE void widen_body(float *to, const void *from, int64_t n)
{
    const char *bytes = from;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        u16v half;
        memcpy(&half, bytes + i * 2, sizeof half);
        u32v full = __builtin_convertvector(half, u32v) << 16;
        memcpy(to + i, &full, sizeof full);
    }
    for (; i < n; i++) {
        uint16_t half;
        memcpy(&half, bytes + i * 2, sizeof half);
        uint32_t full = (uint32_t)half << 16;
        memcpy(to + i, &full, sizeof full);
    }
}

/*
 * fp16 to fp32: the exponent and mantissa move to their places as they are, and a factor of 2^112
 * makes up for the other bias, of denormals too; infinity and NaN get the exponent of theirs.
 */
INLINE void widen_f16_step(float *to, const void *from, int64_t n)
{
    u16v half = {0};
    memcpy(&half, from, n >= LANES ? sizeof half : (size_t)n * 2);
    u32v bits = __builtin_convertvector(half, u32v), magnitude = (bits & 0x7fff) << 13;
    u32v special = (u32v)(magnitude >= 0x0f800000) & 0x7f800000;
    f32v v = (f32v)magnitude * 0x1p112F;
    v = (f32v)((u32v)v | special | (bits & 0x8000) << 16);
    store(to, &v, n);
}

INLINE void widen_f16_body(float *to, const void *from, int64_t n)
{
#define STEP(count) widen_f16_step(to + i, (const char *)from + i * 2, count)
    STEPS(n, STEP);
#undef STEP
}

INLINE void narrow_step(uint16_t *to, const float *x, float factor, int64_t n)
{
    f32v v;
    load(&v, x, n);
    v *= factor;
    u32v bits = (u32v)v, rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    /* a NaN, which alone differs from itself, must not be rounded into a number */
    u32v nan = (u32v)(v != v); /* NOLINT(misc-redundant-expression) */
    u16v half = __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0), u16v);
    memcpy(to, &half, n >= LANES ? sizeof half : (size_t)n * sizeof *to);
}

INLINE void narrow_body(uint16_t *to, const float *x, float factor, int64_t n)
{
#define STEP(count) narrow_step(to + i, x + i, factor, count)
    STEPS(n, STEP);
#undef STEP
}

/* The high half of each lane, and what is left without it. */
INLINE void take_half(uint16_t *to, f32v *v, int64_t n)
{
    u32v high = (u32v)*v & 0xffff0000;
    u16v half = __builtin_convertvector(high >> 16, u16v);
    memcpy(to, &half, n >= LANES ? sizeof half : (size_t)n * sizeof *to);
    *v -= (f32v)high;
}

INLINE void split_step(uint16_t *a, uint16_t *b, uint16_t *c, const float *x, int64_t n)
{
    f32v v;
    load(&v, x, n);
    take_half(a, &v, n);
    take_half(b, &v, n);
    take_half(c, &v, n);
}

INLINE void split_body(uint16_t *a, uint16_t *b, uint16_t *c, const float *x, int64_t n)
{
#define STEP(count) split_step(a + i, b + i, c + i, x + i, count)
    STEPS(n, STEP);
#undef STEP
}

INLINE void add_step(float *y, const float *x, float factor, int64_t n)
{
    f32v a, b;
    load(&a, y, n);
    load(&b, x, n);
    a += b * factor;
    store(y, &a, n);
}

INLINE void add_body(float *y, const float *x, float factor, int64_t n)
{
#define STEP(count) add_step(y + i, x + i, factor, count)
    STEPS(n, STEP);
#undef STEP
}

INLINE void scale_step(float *y, const float *x, float factor, int64_t n)
{
    f32v a;
    load(&a, x, n);
    a *= factor;
    store(y, &a, n);
}

INLINE void scale_body(float *y, const float *x, float factor, int64_t n)
{
#define STEP(count) scale_step(y + i, x + i, factor, count)
    STEPS(n, STEP);
#undef STEP
}

/* dot: NULL, known to the compiler, or two more sums */
INLINE void score_step(f64h sum[2], f64h *dot, const float *found, const float *expected,
                       const float *slope, int64_t n)
{
    f32v c, y, g;
    f64h d0, d1, g0, g1;
    load(&c, found, n);
    load(&y, expected, n);
    load(&g, slope, n);
    c -= y;
    widen_halves(&c, &d0, &d1);
    widen_halves(&g, &g0, &g1);
    d0 *= g0;
    d1 *= g1;
    sum[0] += d0 * d0;
    sum[1] += d1 * d1;
    if (dot) {
        dot[0] += d0;
        dot[1] += d1;
    }
}

INLINE double score_body(const float *found, const float *expected, const float *slope,
                         double *all_dots, int64_t n)
{
    f64h sum[2] = {{0}, {0}}, dots[2] = {{0}, {0}};
#define STEP(count)                                                                                \
    score_step(sum, all_dots ? dots : NULL, found + i, expected + i, slope + i, count)
    STEPS(n, STEP);
#undef STEP
    if (all_dots)
        *all_dots = sum_of(&dots[0], &dots[1]);
    return sum_of(&sum[0], &sum[1]);
}

INLINE void dot_step(f64h sum[2], const float *a, const float *b, const float *c, int64_t n)
{
    f32v x, y, z;
    f64h x0, x1, y0, y1, z0, z1;
    load(&x, a, n);
    load(&y, c, n);
    widen_halves(&x, &x0, &x1);
    widen_halves(&y, &y0, &y1);
    if (b) {
        load(&z, b, n);
        widen_halves(&z, &z0, &z1);
        x0 *= z0;
        x1 *= z1;
    }
    sum[0] += x0 * y0;
    sum[1] += x1 * y1;
}

INLINE double dot_body(const float *a, const float *b, const float *c, int64_t n)
{
    f64h sum[2] = {{0}, {0}};
#define STEP(count) dot_step(sum, a + i, b ? b + i : NULL, c + i, count)
    STEPS(n, STEP);
#undef STEP
    return sum_of(&sum[0], &sum[1]);
}

INLINE void norm_step(float *y, const float *x, const float *w, float r, int64_t n)
{
    f32v a, b;
    load(&a, x, n);
    load(&b, w, n);
    a = b * (a * r);
    store(y, &a, n);
}

INLINE void norm_body(float *y, const float *x, const float *w, float r, int64_t n)
{
#define STEP(count) norm_step(y + i, x + i, w + i, r, count)
    STEPS(n, STEP);
#undef STEP
}

INLINE void norm_backward_step(float *dx, const float *dy, const float *x, const float *w,
                               float scale, float slope, int64_t n)
{
    f32v to, g, a, b;
    load(&to, dx, n);
    load(&g, dy, n);
    load(&a, x, n);
    load(&b, w, n);
    to += g * b * scale - a * slope;
    store(dx, &to, n);
}

INLINE void norm_backward_body(float *dx, const float *dy, const float *x, const float *w,
                               float scale, float slope, int64_t n)
{
#define STEP(count) norm_backward_step(dx + i, dy + i, x + i, w + i, scale, slope, count)
    STEPS(n, STEP);
#undef STEP
}

INLINE void exps_step(f64h sum[2], float *y, const float *x, float top, float factor, int64_t n)
{
    f32v v;
    f64h v0, v1;
    load(&v, x, n);
    v -= top;
    exp_of(&v, &v);
    if (n < LANES) { /* the padding must not count */
        f32v all = v;
        load(&v, (const float *)&all, n);
    }
    widen_halves(&v, &v0, &v1);
    sum[0] += v0;
    sum[1] += v1;
    v *= factor;
    if (y)
        store(y, &v, n);
}

INLINE double exps_body(float *y, const float *x, float top, float factor, int64_t n)
{
    f64h sum[2] = {{0}, {0}};
#define STEP(count) exps_step(sum, y ? y + i : NULL, x + i, top, factor, count)
    STEPS(n, STEP);
#undef STEP
    return sum_of(&sum[0], &sum[1]);
}

/* s = 1 / (1 + exp(-a)) */
INLINE void sigmoid(f32v *s, const f32v *a)
{
    f32v minus = -*a;
    exp_of(s, &minus);
    *s = 1 / (1 + *s);
}

/* t = tanh(u), u = sqrt(2 / pi) (a + 0.044715 a^3); gelu(a) = a (1 + t) / 2 */
#define GELU_SLOPE 0.7978845608F
#define GELU_CUBE 0.044715F

INLINE void gelu_tanh(f32v *t, const f32v *a)
{
    f32v u = GELU_SLOPE * (*a + GELU_CUBE * (*a * *a * *a));
    tanh_of(t, &u);
}

/* The order of the factors below decides the last bits of scores. act is a constant. */
INLINE void glu_step(float *y, const float *gate, const float *up, enum backend_act act, int64_t n)
{
    f32v a, b, t;
    load(&a, gate, n);
    load(&b, up, n);
    if (act == BACKEND_SILU) {
        sigmoid(&t, &a);
        a = a * t * b;
    } else {
        gelu_tanh(&t, &a);
        a = 0.5F * a * (1 + t) * b;
    }
    store(y, &a, n);
}

INLINE void glu_body(float *y, const float *gate, const float *up, enum backend_act act, int64_t n)
{
#define STEP(count) glu_step(y + i, gate + i, up + i, act, count)
    STEPS(n, STEP);
#undef STEP
}

INLINE void glu_backward_step(float *dgate, float *dup, const float *dy, const float *gate,
                              const float *up, enum backend_act act, int64_t n)
{
    f32v g, a, b, t, to_gate, to_up;
    load(&g, dy, n);
    load(&a, gate, n);
    load(&b, up, n);
    if (act == BACKEND_SILU) {
        sigmoid(&t, &a);
        to_gate = g * b * t * (1 + a * (1 - t));
        to_up = g * a * t;
    } else {
        gelu_tanh(&t, &a);
        f32v inner = GELU_SLOPE * (1 + 3 * GELU_CUBE * (a * a));
        to_gate = g * b * (0.5F * (1 + t) + 0.5F * a * (1 - t * t) * inner);
        to_up = g * (0.5F * a * (1 + t));
    }
    store(dgate, &to_gate, n);
    store(dup, &to_up, n);
}

INLINE void glu_backward_body(float *dgate, float *dup, const float *dy, const float *gate,
                              const float *up, enum backend_act act, int64_t n)
{
#define STEP(count) glu_backward_step(dgate + i, dup + i, dy + i, gate + i, up + i, act, count)
    STEPS(n, STEP);
#undef STEP
}

INLINE void cap_step(float *y, float *slope, const float *x, float factor, float cap, int64_t n)
{
    f32v v;
    load(&v, x, n);
    v *= factor / cap;
    tanh_of(&v, &v);
    f32v left = 1 - v * v;
    v *= cap;
    store(y, &v, n);
    if (slope)
        store(slope, &left, n);
}

INLINE void cap_body(float *y, float *slope, const float *x, float factor, float cap, int64_t n)
{
#define STEP(count) cap_step(y + i, slope ? slope + i : NULL, x + i, factor, cap, count)
    STEPS(n, STEP);
#undef STEP
}

/* The larger of a and b, lane by lane; a NaN, which alone differs from itself, wins and stays. */
#define LARGER(ints, a, b)                                                                         \
    do {                                                                                           \
        ints take = ((b) > (a)) | ((b) != (b)), bits = (take & (ints)(b)) | (~take & (ints)(a));   \
        memcpy(&(a), &bits, sizeof bits);                                                          \
    } while (0)

/*
 * What is further below the largest than an exp reaches counts as that far below it: 1e-304, which
 * adds nothing to a sum that has an exp of 0.
 */
INLINE void exp_below(f64h *y, const f32h *x, float top)
{
    f32h v = (f32h){0} + (top - 700);
    LARGER(i32h, v, *x);
    *y = __builtin_convertvector(v, f64h) - (double)top;
    exp_double(y, y);
}

INLINE void divergence_half(f64h sums[4], const f32h *a, const f32h *b, float top, float topq)
{
    f64h e, f, away = __builtin_convertvector(*a, f64h) - __builtin_convertvector(*b, f64h);
    exp_below(&e, a, top);
    exp_below(&f, b, topq);
    sums[0] += e;
    sums[1] += e * away;
    sums[2] += f;
    sums[3] -= f * away;
}

INLINE void divergence_step(f64h sums[8], const float *a, const float *b, float top, float topq,
                            int64_t n)
{
    f32h v[2], w[2];
    if (n < LANES)
        v[0] = v[1] = w[0] = w[1] = (f32h){0} - FLT_MAX;
    memcpy(v, a, (size_t)n * sizeof *a);
    memcpy(w, b, (size_t)n * sizeof *b);
    divergence_half(sums, &v[0], &w[0], top, topq);
    divergence_half(sums + 4, &v[1], &w[1], top, topq);
}

INLINE void divergence_body(double sums[4], const float *a, const float *b, float top, float topq,
                            int64_t n)
{
    f64h v[8] = {{0}};
#define STEP(count) divergence_step(v, a + i, b + i, top, topq, count)
    STEPS(n, STEP);
#undef STEP
    for (int i = 0; i < 4; i++)
        sums[i] = sum_of(&v[i], &v[i + 4]);
}

/* By halves: compilers take comparisons of the widest vectors apart, element by element. */
INLINE float top_body(const float *x, int64_t n)
{
    f32h best[2] = {(f32h){0} - INFINITY, (f32h){0} - INFINITY}, half[2];
    f32q quarter[2];
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        memcpy(half, x + i, sizeof half);
        LARGER(i32h, best[0], half[0]);
        LARGER(i32h, best[1], half[1]);
    }
    float top = -INFINITY;
    for (; i < n; i++)
        top = x[i] > top || isnan(x[i]) ? x[i] : top;
    if (n < LANES)
        return top;
    LARGER(i32h, best[0], best[1]);
    memcpy(quarter, &best[0], sizeof quarter);
    LARGER(i32q, quarter[0], quarter[1]);
    for (int l = 0; l < LANES / 4; l++)
        top = quarter[0][l] > top || isnan(quarter[0][l]) ? quarter[0][l] : top;
    return top;
}

/* Each pair (x[k], x[k + half]) turned by the angle with this cosine and sine. */
INLINE void turn_step(float *y, const float *x, const float *cosine, const float *sine, float way,
                      int64_t half, int64_t n)
{
    f32v a, b, c, s;
    load(&a, x, n);
    load(&b, x + half, n);
    load(&c, cosine, n);
    load(&s, sine, n);
    s *= way;
    f32v low = a * c - b * s, high = b * c + a * s;
    store(y, &low, n);
    store(y + half, &high, n);
}

INLINE void turn_body(float *y, const float *x, const float *cosine, const float *sine, float way,
                      int64_t half)
{
#define STEP(count) turn_step(y + i, x + i, cosine + i, sine + i, way, half, count)
    STEPS(half, STEP);
#undef STEP
}

/* ---- one variant of each for an instruction set ---- */

/* NOLINTBEGIN(bugprone-macro-parentheses): an attribute cannot be in parentheses */
#define VARIANT(set, attribute)                                                                    \
    attribute static void widen_##set(float *to, const void *from, int64_t n)                      \
    {                                                                                              \
        widen_body(to, from, n);                                                                   \
    }                                                                                              \
    attribute static void narrow_##set(uint16_t *to, const float *x, float factor, int64_t n)      \
    {                                                                                              \
        narrow_body(to, x, factor, n);                                                             \
    }                                                                                              \
    attribute static void split_##set(uint16_t *a, uint16_t *b, uint16_t *c, const float *x,       \
                                      int64_t n)                                                   \
    {                                                                                              \
        split_body(a, b, c, x, n);                                                                 \
    }                                                                                              \
    attribute static void widen_f16_##set(float *to, const void *from, int64_t n)                  \
    {                                                                                              \
        widen_f16_body(to, from, n);                                                               \
    }                                                                                              \
    attribute static void add_##set(float *y, const float *x, float factor, int64_t n)             \
    {                                                                                              \
        add_body(y, x, factor, n);                                                                 \
    }                                                                                              \
    attribute static void scale_##set(float *y, const float *x, float factor, int64_t n)           \
    {                                                                                              \
        scale_body(y, x, factor, n);                                                               \
    }                                                                                              \
    attribute static double score_##set(const float *found, const float *expected,                 \
                                        const float *slope, double *dot, int64_t n)                \
    {                                                                                              \
        return dot ? score_body(found, expected, slope, dot, n)                                    \
                   : score_body(found, expected, slope, NULL, n);                                  \
    }                                                                                              \
    attribute static void glu_##set(float *y, const float *gate, const float *up,                  \
                                    enum backend_act act, int64_t n)                               \
    {                                                                                              \
        act == BACKEND_SILU ? glu_body(y, gate, up, BACKEND_SILU, n)                               \
                            : glu_body(y, gate, up, BACKEND_GELU_TANH, n);                         \
    }                                                                                              \
    attribute static void glu_backward_##set(float *dgate, float *dup, const float *dy,            \
                                             const float *gate, const float *up,                   \
                                             enum backend_act act, int64_t n)                      \
    {                                                                                              \
        act == BACKEND_SILU ? glu_backward_body(dgate, dup, dy, gate, up, BACKEND_SILU, n)         \
                            : glu_backward_body(dgate, dup, dy, gate, up, BACKEND_GELU_TANH, n);   \
    }                                                                                              \
    attribute static void cap_##set(float *y, float *slope, const float *x, float factor,          \
                                    float cap, int64_t n)                                          \
    {                                                                                              \
        slope ? cap_body(y, slope, x, factor, cap, n) : cap_body(y, NULL, x, factor, cap, n);      \
    }                                                                                              \
    attribute static double dot_##set(const float *a, const float *b, const float *c, int64_t n)   \
    {                                                                                              \
        return b ? dot_body(a, b, c, n) : dot_body(a, NULL, c, n);                                 \
    }                                                                                              \
    attribute static void norm_##set(float *y, const float *x, const float *w, float r, int64_t n) \
    {                                                                                              \
        norm_body(y, x, w, r, n);                                                                  \
    }                                                                                              \
    attribute static void norm_backward_##set(float *dx, const float *dy, const float *x,          \
                                              const float *w, float scale, float slope, int64_t n) \
    {                                                                                              \
        norm_backward_body(dx, dy, x, w, scale, slope, n);                                         \
    }                                                                                              \
    attribute static double exps_##set(float *y, const float *x, float top, float factor,          \
                                       int64_t n)                                                  \
    {                                                                                              \
        return y ? exps_body(y, x, top, factor, n) : exps_body(NULL, x, top, factor, n);           \
    }                                                                                              \
    attribute static void divergence_##set(double sums[4], const float *a, const float *b,         \
                                           float top, float topq, int64_t n)                       \
    {                                                                                              \
        divergence_body(sums, a, b, top, topq, n);                                                 \
    }                                                                                              \
    attribute static float top_##set(const float *x, int64_t n)                                    \
    {                                                                                              \
        return top_body(x, n);                                                                     \
    }                                                                                              \
    attribute static void turn_##set(float *y, const float *x, const float *cosine,                \
                                     const float *sine, float way, int64_t half)                   \
    {                                                                                              \
        turn_body(y, x, cosine, sine, way, half);                                                  \
    }                                                                                              \
    static const struct simd table_##set = {                                                       \
        .widen_bf16 = widen_##set,                                                                 \
        .widen_f16 = widen_f16_##set,                                                              \
        .narrow_bf16 = narrow_##set,                                                               \
        .split_bf16 = split_##set,                                                                 \
        .add = add_##set,                                                                          \
        .scale = scale_##set,                                                                      \
        .score = score_##set,                                                                      \
        .dot = dot_##set,                                                                          \
        .norm = norm_##set,                                                                        \
        .norm_backward = norm_backward_##set,                                                      \
        .exps = exps_##set,                                                                        \
        .divergence = divergence_##set,                                                            \
        .glu = glu_##set,                                                                          \
        .glu_backward = glu_backward_##set,                                                        \
        .cap = cap_##set,                                                                          \
        .top = top_##set,                                                                          \
        .turn = turn_##set,                                                                        \
    };

/* NOLINTEND(bugprone-macro-parentheses) */

VARIANT(plain, )
#if defined(__x86_64__)
VARIANT(avx2, __attribute__((target("avx2"))))
VARIANT(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))))
#endif

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const struct simd *chosen = &table_plain;

static void choose_table(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        chosen = &table_avx512;
    else if (__builtin_cpu_supports("avx2"))
        chosen = &table_avx2;
#endif
}

const struct simd *simd(void)
{
    (void)pthread_once(&once, choose_table);
    return chosen;
}
