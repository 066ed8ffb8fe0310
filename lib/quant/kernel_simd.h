/*
 * The vector kernels, written once; included by kernel_avx2.c and kernel_avx512.c, which define
 * before it LANES, vf (floats), vi (32-bit integers), VEC (function attributes) and the v_ and vi_
 * functions used here. v_min and v_max return the second operand if one is NaN; v_lt gives a mask
 * with a bit for every lane.
 *
 * Number format, input and output type are constant arguments of inlined functions, so that every
 * loop is compiled for its own. Tails shorter than a vector go to the plain kernels, which give
 * the same bits.
 */
#ifndef VEC
#error "include from a kernel_<instruction set>.c"
#endif

#define VEC_INLINE VEC static inline __attribute__((always_inline))

VEC_INLINE vf load(const void *x, enum num_type in, size_t i)
{
    return in == NUM_BF16 ? v_load_bf16((const char *)x + 2 * i)
                          : v_load_f32((const char *)x + 4 * i);
}

VEC_INLINE vf v_abs(vf x)
{
    return v_and(x, vi_float(vi_set1(0x7fffffff)));
}

VEC_INLINE vf v_sign(vf x)
{
    return v_and(x, vi_float(vi_set1((int)0x80000000)));
}

/*
 * Rounding by adding and subtracting a number so large that its last bit is the step: its exponent
 * is that of x plus 23 - man, but not less than that of the smallest normal number; its mantissa
 * is 1.5, far from the ends of the binade.
 */
VEC_INLINE vf round_magnitude(vf a, struct num_format f)
{
    vf max = v_set1(f.max);
    a = f.has_nan ? v_min(max, a) : v_min(a, max); /* NaN goes through, or becomes max */
    vi e = vi_max(v_bits(v_and(a, vi_float(vi_set1(0x7f800000)))), vi_set1((f.emin + 127) << 23));
    vf magic = vi_float(vi_add(e, vi_set1(((23 - f.man) << 23) | 0x400000)));
    return v_sub(v_add(a, magic), magic);
}

/*
 * a / b by the reciprocal r = 1 / b, itself correctly rounded: the second line takes off the
 * remainder, which FMA gives exactly. That leaves an error of 2^-47, and rounds correctly for
 * whole numbers a up to 128, and on the right side of every boundary between codes of e2m1 for any
 * a: tests/unit/test_quant_ratio.c tries all b. b and r are to be far from the ends of the range.
 * The sign of a zero may be lost.
 */
VEC_INLINE vf ratio(vf a, vf b, vf r)
{
    vf q = v_mul(a, r);
    return v_fma(v_fnma(b, q, a), r, q);
}

static inline int ratio_is_safe(float back)
{
    return back >= 0x1p-100F && back <= 0x1p100F;
}

/* What all elements of a span share; recip is 1 / back. */
struct vector_scales {
    vf mul, back, recip, lo, hi;
};

VEC_INLINE void quantize_vector(vf x, const struct vector_scales *s, enum kernel_op op,
                                struct num_format format, int by_recip, vf *code, vf *value)
{
    if (op == KERNEL_COPY) {
        *code = *value = x;
    } else if (op == KERNEL_INT) {
        vf q = v_max(s->lo, v_min(s->hi, v_rint(v_mul(x, s->mul))));
        *code = q;
        *value = by_recip ? v_or(ratio(q, s->back, s->recip), v_sign(q)) : v_div(q, s->back);
    } else if (op == KERNEL_FLOAT) {
        vf v = v_mul(x, s->mul);
        *code = v_or(round_magnitude(v_abs(v), format), v_sign(v));
        *value = v_mul(*code, s->back);
    } else {
        /* Quotients that overflow here become NaN, and with that the largest code, as they should;
           those that underflow are far below the smallest one. */
        vf a = v_abs(x), u = by_recip ? ratio(a, s->back, s->recip) : v_div(a, s->back);
        *code = v_minus_unless_ge0(round_magnitude(u, format), x);
        *value = v_mul(*code, s->back);
    }
}

VEC_INLINE void store(void *to, size_t i, enum kernel_out out, vf code, vf value, float unit)
{
    if (out == KERNEL_F32)
        v_store_f32((char *)to + 4 * i, value);
    else if (out == KERNEL_F32_VIA_BF16)
        v_store_f32((char *)to + 4 * i, v_via_bf16(value));
    else if (out == KERNEL_BF16)
        v_store_bf16((char *)to + 2 * i, value);
    else if (out == KERNEL_CODE_BF16)
        v_store_bf16((char *)to + 2 * i, code);
    else
        v_store_int8((char *)to + i, v_mul(code, v_set1(unit)));
}

/* Elements i0 to i1 of a run, all of one block or of one column each, by the plain kernel. */
static void by_plain(const struct kernel_run *r, size_t i0, size_t i1, struct quant_stats *stats)
{
    struct kernel_run tail = *r;
    if (i0 == i1)
        return;
    tail.from = (const char *)r->from + i0 * num_bytes(r->in);
    tail.to = (char *)r->to + i0 * kernel_out_size(r->out);
    tail.n = i1 - i0;
    tail.mul = r->mul ? r->mul + i0 / r->block : NULL;
    tail.back = r->back ? r->back + i0 / r->block : NULL;
    if (stats)
        kernels_plain.count(&tail, stats);
    else
        kernels_plain.quantize(&tail);
}

/*
 * 2 * LANES elements from bf16 to bf16: the even and the odd ones are taken apart where they are,
 * by a shift and a mask instead of two conversions. A NaN among them comes from x, by operations
 * that make it quiet and keep its payload, so its lower half is zero; or it is one that the
 * machine makes, with the same property.
 */
VEC_INLINE void quantize_pair(const struct kernel_run *r, size_t i, const struct vector_scales *s,
                              enum kernel_op op, struct num_format format, enum kernel_out out,
                              int by_recip)
{
    vf even, odd, even_code, odd_code;
    vi x = vi_load((const char *)r->from + 2 * i);
    quantize_vector(vi_float(vi_shl16(x)), s, op, format, by_recip, &even_code, &even);
    quantize_vector(v_and(vi_float(x), vi_float(vi_set1((int)0xffff0000))), s, op, format, by_recip,
                    &odd_code, &odd);
    if (out == KERNEL_CODE_BF16)
        v_store_bf16_pair((char *)r->to + 2 * i, even_code, odd_code);
    else
        v_store_bf16_pair((char *)r->to + 2 * i, even, odd);
}

VEC_INLINE int takes_pairs(enum kernel_op op, enum num_type in, enum kernel_out out)
{
    return op != KERNEL_COPY && in == NUM_BF16 && (out == KERNEL_BF16 || out == KERNEL_CODE_BF16);
}

/* Elements i to end, which share their scales; returns where it stopped. */
VEC_INLINE size_t span(const struct kernel_run *r, size_t i, size_t end,
                       const struct vector_scales *s, enum kernel_op op, struct num_format format,
                       enum num_type in, enum kernel_out out, int by_recip)
{
    if (takes_pairs(op, in, out))
        for (; i + 2 * LANES <= end; i += 2 * LANES)
            quantize_pair(r, i, s, op, format, out, by_recip);
    for (; i + LANES <= end; i += LANES) {
        vf code, value;
        quantize_vector(load(r->from, in, i), s, op, format, by_recip, &code, &value);
        store(r->to, i, out, code, value, r->unit);
    }
    return i;
}

/*
 * Blocks of a few vectors in one loop, since starting one for each would cost more than the work.
 * The even elements of two vectors are those of the first one, then those of the second.
 */
enum { SHORT_BLOCK = 32 };

VEC_INLINE size_t short_blocks(const struct kernel_run *r, struct vector_scales s,
                               enum kernel_op op, struct num_format format, enum num_type in,
                               enum kernel_out out, int by_recip)
{
    if (r->block < LANES || r->block > SHORT_BLOCK || (r->block & (r->block - 1)))
        return 0;
    const float *mul = by_recip || op != KERNEL_RATIO ? r->mul : r->back;
    size_t unit = r->block > 2 * LANES ? r->block : 2 * LANES, i = 0;
    int shift = __builtin_ctzll(r->block);
    for (; i + unit <= r->n; i += unit)
        for (size_t k = i; k < i + unit; k += 2 * LANES) {
            size_t b = k >> shift, c = (k + LANES) >> shift;
            if (takes_pairs(op, in, out)) {
                s.back = v_set2(r->back[b], r->back[c]);
                s.mul = s.recip = v_set2(mul[b], mul[c]);
                quantize_pair(r, k, &s, op, format, out, by_recip);
                continue;
            }
            s.back = v_set1(r->back[b]);
            s.mul = s.recip = v_set1(mul[b]);
            span(r, k, k + LANES, &s, op, format, in, out, by_recip);
            s.back = v_set1(r->back[c]);
            s.mul = s.recip = v_set1(mul[c]);
            span(r, k + LANES, k + 2 * LANES, &s, op, format, in, out, by_recip);
        }
    return i;
}

VEC_INLINE void loop(const struct kernel_run *r, enum kernel_op op, struct num_format format,
                     enum num_type in, enum kernel_out out)
{
    struct vector_scales s = {v_set1(1), v_set1(1), v_set1(1), v_set1(r->lo), v_set1(r->hi)};
    if (r->block == 1) {
        size_t i = 0;
        for (; i + LANES <= r->n; i += LANES) {
            s.mul = op == KERNEL_RATIO ? s.mul : v_load_f32(r->mul + i);
            s.back = v_load_f32(r->back + i);
            span(r, i, i + LANES, &s, op, format, in, out, 0);
        }
        by_plain(r, i, r->n, NULL);
        return;
    }
    size_t at = 0;
    if (op == KERNEL_RATIO && r->mul)
        at = short_blocks(r, s, op, format, in, out, 1);
    else if (op != KERNEL_COPY)
        at = short_blocks(r, s, op, format, in, out, 0);
    for (size_t b = at / r->block; at < r->n; b++, at += r->block) {
        size_t end = r->n - at < r->block ? r->n : at + r->block, i;
        int by_recip = 0;
        if (op == KERNEL_INT || op == KERNEL_FLOAT)
            s.mul = v_set1(r->mul[b]);
        if (op != KERNEL_COPY)
            s.back = v_set1(r->back[b]);
        if (op == KERNEL_INT && (by_recip = ratio_is_safe(r->back[b])))
            s.recip = v_set1(1 / r->back[b]);
        if (op == KERNEL_RATIO && (by_recip = r->mul != NULL))
            s.recip = v_set1(r->mul[b]);
        if (by_recip)
            i = span(r, at, end, &s, op, format, in, out, 1);
        else
            i = span(r, at, end, &s, op, format, in, out, 0);
        if (i < end)
            by_plain(r, i, end, NULL);
    }
}

/* One function for each operation, so that the compiler's work stays small. */
#define LOOPS(name, op, format)                                                                    \
    VEC static void name##_from(const struct kernel_run *r, enum kernel_out out)                   \
    {                                                                                              \
        if (r->in == NUM_BF16)                                                                     \
            switch (out) {                                                                         \
            case KERNEL_F32:                                                                       \
                loop(r, op, format, NUM_BF16, KERNEL_F32);                                         \
                break;                                                                             \
            case KERNEL_F32_VIA_BF16:                                                              \
                loop(r, op, format, NUM_BF16, KERNEL_F32_VIA_BF16);                                \
                break;                                                                             \
            case KERNEL_BF16:                                                                      \
                loop(r, op, format, NUM_BF16, KERNEL_BF16);                                        \
                break;                                                                             \
            case KERNEL_CODE_INT8:                                                                 \
                loop(r, op, format, NUM_BF16, KERNEL_CODE_INT8);                                   \
                break;                                                                             \
            case KERNEL_CODE_BF16:                                                                 \
                loop(r, op, format, NUM_BF16, KERNEL_CODE_BF16);                                   \
                break;                                                                             \
            }                                                                                      \
        else                                                                                       \
            switch (out) {                                                                         \
            case KERNEL_F32:                                                                       \
                loop(r, op, format, NUM_F32, KERNEL_F32);                                          \
                break;                                                                             \
            case KERNEL_F32_VIA_BF16:                                                              \
                loop(r, op, format, NUM_F32, KERNEL_F32_VIA_BF16);                                 \
                break;                                                                             \
            case KERNEL_BF16:                                                                      \
                loop(r, op, format, NUM_F32, KERNEL_BF16);                                         \
                break;                                                                             \
            case KERNEL_CODE_INT8:                                                                 \
                loop(r, op, format, NUM_F32, KERNEL_CODE_INT8);                                    \
                break;                                                                             \
            case KERNEL_CODE_BF16:                                                                 \
                loop(r, op, format, NUM_F32, KERNEL_CODE_BF16);                                    \
                break;                                                                             \
            }                                                                                      \
    }

LOOPS(copy, KERNEL_COPY, NUM_E4M3)
LOOPS(ints, KERNEL_INT, NUM_E4M3)
LOOPS(e4m3, KERNEL_FLOAT, NUM_E4M3)
LOOPS(floats, KERNEL_FLOAT, r->format)
LOOPS(e2m1_ratio, KERNEL_RATIO, NUM_E2M1)

static void quantize(const struct kernel_run *r)
{
    switch (r->op) {
    case KERNEL_COPY:
        copy_from(r, r->out);
        break;
    case KERNEL_INT:
        ints_from(r, r->out);
        break;
    case KERNEL_FLOAT:
        if (r->format.max == NUM_E4M3.max)
            e4m3_from(r, r->out);
        else
            floats_from(r, r->out);
        break;
    case KERNEL_RATIO:
        e2m1_ratio_from(r, r->out);
        break;
    }
}

/* ---- counts ---- */

VEC_INLINE void count_span(const struct kernel_run *r, size_t i, size_t end, vf mul, vf back,
                           struct quant_stats *stats)
{
    vf limit = v_set1(kernel_float_limit(r->format)), inf = v_set1(INFINITY);
    vf lo = v_set1(-r->lo), hi = v_set1(r->hi);
    for (; i + LANES <= end; i += LANES) {
        vf x = load(r->from, r->in, i), a = v_abs(x);
        unsigned finite = v_lt(a, inf), clipped;
        if (r->op == KERNEL_INT) {
            vf q = v_rint(v_mul(x, mul));
            clipped = v_lt(hi, q) | v_lt(lo, v_sub(v_set1(0), q));
        } else {
            clipped =
                v_lt(limit, r->op == KERNEL_FLOAT ? v_mul(a, v_abs(mul)) : v_div(a, v_abs(back)));
        }
        stats->nonfinite += LANES - (unsigned)__builtin_popcount(finite);
        stats->clipped += (unsigned)__builtin_popcount(finite & clipped);
        stats->elements += LANES;
    }
    by_plain(r, i, end, stats);
}

VEC static void count(const struct kernel_run *r, struct quant_stats *stats)
{
    if (r->block == 1 && r->op != KERNEL_RATIO) {
        size_t i = 0;
        for (; i + LANES <= r->n; i += LANES)
            count_span(r, i, i + LANES, v_load_f32(r->mul + i), v_set1(1), stats);
        by_plain(r, i, r->n, stats);
        return;
    }
    for (size_t b = 0, at = 0; at < r->n; b++, at += r->block) {
        size_t end = r->n - at < r->block ? r->n : at + r->block;
        count_span(r, at, end, v_set1(r->op == KERNEL_RATIO ? 1 : r->mul[b]),
                   v_set1(r->op == KERNEL_RATIO ? r->back[b] : 1), stats);
    }
}

/* ---- ranges ---- */

VEC_INLINE uint32_t absmax_loop(const void *x, enum num_type in, size_t n)
{
    vi m0 = vi_set1(0), m1 = m0, m2 = m0, m3 = m0;
    size_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        m0 = vi_max(m0, v_bits(v_abs(load(x, in, i))));
        m1 = vi_max(m1, v_bits(v_abs(load(x, in, i + LANES))));
        m2 = vi_max(m2, v_bits(v_abs(load(x, in, i + 2 * LANES))));
        m3 = vi_max(m3, v_bits(v_abs(load(x, in, i + 3 * LANES))));
    }
    for (; i + LANES <= n; i += LANES)
        m0 = vi_max(m0, v_bits(v_abs(load(x, in, i))));
    m0 = vi_max(vi_max(m0, m1), vi_max(m2, m3));
    uint32_t m = vi_reduce_max(m0);
    uint32_t tail = kernels_plain.absmax((const char *)x + i * num_bytes(in), in, n - i);
    return m > tail ? m : tail;
}

VEC static uint32_t absmax(const void *x, enum num_type in, size_t n)
{
    return in == NUM_BF16 ? absmax_loop(x, NUM_BF16, n) : absmax_loop(x, NUM_F32, n);
}

VEC static void absmax_cols(float *amax, const void *x, enum num_type in, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vi m = vi_max(v_bits(v_load_f32(amax + i)), v_bits(v_abs(load(x, in, i))));
        v_store_f32(amax + i, vi_float(m));
    }
    kernels_plain.absmax_cols(amax + i, (const char *)x + i * num_bytes(in), in, n - i);
}

VEC_INLINE void absmax_blocks_f32(float *m, const float *x, size_t n, size_t block)
{
    for (size_t at = 0; at < n; at += block) {
        size_t end = n - at < block ? n : at + block, i = at;
        vf v = v_set1(0);
        for (; i + LANES <= end; i += LANES)
            v = v_max(v_abs(v_load_f32((const char *)x + 4 * i)), v); /* passes over NaN */
        float best = v_reduce_max(v), tail = 0;
        if (i < end)
            kernels_plain.absmax_blocks(&tail, (const char *)x + 4 * i, NUM_F32, end - i, end - i);
        *m++ = best > tail ? best : tail;
    }
}

/*
 * Magnitudes of bf16 are ordered as 15-bit integers; a NaN, above them all, is seen at the end.
 * There is an instruction for the smallest of eight, so this looks for the smallest complement.
 */
VEC_INLINE void absmax_blocks_bf16(float *m, const char *x, size_t n, size_t block)
{
    const __m128i all = _mm_set1_epi16(0x7fff);
    for (size_t at = 0; at < n; at += block, m++) {
        size_t end = n - at < block ? n : at + block, i = at;
        __m128i v = all;
        for (; i + 8 <= end; i += 8)
            v = _mm_min_epu16(v, _mm_andnot_si128(_mm_loadu_si128((const void *)(x + 2 * i)), all));
        *m = num_from_bf16((uint16_t)(0x7fff ^ _mm_cvtsi128_si32(_mm_minpos_epu16(v))));
        if (i < end || isnan(*m))
            kernels_plain.absmax_blocks(m, x + 2 * at, NUM_BF16, end - at, end - at);
    }
}

VEC static void absmax_blocks(float *m, const void *x, enum num_type in, size_t n, size_t block)
{
    if (in == NUM_BF16)
        absmax_blocks_bf16(m, x, n, block);
    else
        absmax_blocks_f32(m, x, n, block);
}

/* ---- block scales of NVFP4 ---- */

VEC static void nvfp4_scales(float *scale, float *recip, const float *m, size_t n, float gs)
{
    size_t i = 0;
    vf six = v_set1(6 * gs), second = v_set1(gs), one = v_set1(1), least = v_set1(1e-5F);
    for (; i + LANES <= n; i += LANES) {
        vf t = v_div(v_load_f32(m + i), six); /* no NaN */
        vf s = v_mul(round_magnitude(t, NUM_E4M3), second);
        s = v_select_lt(s, least, one, s);
        v_store_f32(scale + i, s);
        v_store_f32(recip + i, v_div(one, s));
    }
    kernels_plain.nvfp4_scales(scale + i, recip + i, m + i, n - i, gs);
}
