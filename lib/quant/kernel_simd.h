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

VEC_INLINE vf load(const void *x, enum quant_dtype in, size_t i)
{
    return in == QUANT_BF16 ? v_load_bf16((const char *)x + 2 * i)
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
 * Rounding by adding and subtracting a number so large that its last bit is the step. Its
 * exponent is that of x plus 23 - man, but not less than that of the smallest normal number; its
 * mantissa is 1.5, so that neither sign leaves the binade.
 */
VEC_INLINE vf round_format(vf x, struct num_format f)
{
    vf max = v_set1(f.max), min = v_set1(-f.max), sign = v_sign(x);
    if (f.has_nan)
        x = v_max(min, v_min(max, x)); /* NaN goes through */
    else
        x = v_max(v_min(x, max), min); /* NaN becomes max */
    vi e = v_bits(v_and(x, vi_float(vi_set1(0x7f800000))));
    e = vi_max(e, vi_set1((f.emin + 127) << 23));
    vf magic = vi_float(vi_add(e, vi_set1(((23 - f.man) << 23) | 0x400000)));
    vf q = v_sub(v_add(x, magic), magic);
    return v_or(v_abs(q), sign);
}

VEC_INLINE vf code_of(vf x, vf mul, vf back, const struct kernel_run *r, enum kernel_op op,
                      struct num_format format)
{
    if (op == KERNEL_INT)
        return v_max(v_set1(r->lo), v_min(v_set1(r->hi), v_rint(v_mul(x, mul))));
    if (op == KERNEL_FLOAT)
        return round_format(v_mul(x, mul), format);
    vf q = v_abs(round_format(v_div(v_abs(x), back), format));
    return v_or(q, v_sign_unless_ge0(x));
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

VEC_INLINE void one_vector(const struct kernel_run *r, size_t i, vf mul, vf back, enum kernel_op op,
                           struct num_format format, enum quant_dtype in, enum kernel_out out)
{
    vf x = load(r->from, in, i);
    if (op == KERNEL_COPY) {
        store(r->to, i, out, x, x, 1);
        return;
    }
    vf q = code_of(x, mul, back, r, op, format);
    store(r->to, i, out, q, op == KERNEL_INT ? v_div(q, back) : v_mul(q, back), r->unit);
}

/* Elements i0 to i1 of a run, all of one block or of one column each, by the plain kernel. */
static void by_plain(const struct kernel_run *r, size_t i0, size_t i1, struct quant_stats *stats)
{
    struct kernel_run tail = *r;
    if (i0 == i1)
        return;
    tail.from = (const char *)r->from + i0 * kernel_in_size(r->in);
    tail.to = (char *)r->to + i0 * kernel_out_size(r->out);
    tail.n = i1 - i0;
    tail.mul = r->mul ? r->mul + i0 / r->block : NULL;
    tail.back = r->back ? r->back + i0 / r->block : NULL;
    if (stats)
        kernels_plain.count(&tail, stats);
    else
        kernels_plain.quantize(&tail);
}

VEC_INLINE void loop(const struct kernel_run *r, enum kernel_op op, struct num_format format,
                     enum quant_dtype in, enum kernel_out out)
{
    if (r->block == 1) {
        size_t i = 0;
        for (; i + LANES <= r->n; i += LANES)
            one_vector(r, i, v_load_f32(r->mul + i), v_load_f32(r->back + i), op, format, in, out);
        by_plain(r, i, r->n, NULL);
        return;
    }
    for (size_t b = 0, at = 0; at < r->n; b++, at += r->block) {
        size_t end = r->n - at < r->block ? r->n : at + r->block, i = at;
        vf mul = v_set1(op == KERNEL_INT || op == KERNEL_FLOAT ? r->mul[b] : 1);
        vf back = v_set1(op == KERNEL_COPY ? 1 : r->back[b]);
        for (; i + LANES <= end; i += LANES)
            one_vector(r, i, mul, back, op, format, in, out);
        if (i < end)
            by_plain(r, i, end, NULL);
    }
}

/* One function for each operation, so that the compiler's work stays small. */
#define LOOPS(name, op, format)                                                                    \
    VEC static void name##_from(const struct kernel_run *r, enum kernel_out out)                   \
    {                                                                                              \
        if (r->in == QUANT_BF16)                                                                   \
            switch (out) {                                                                         \
            case KERNEL_F32:                                                                       \
                loop(r, op, format, QUANT_BF16, KERNEL_F32);                                       \
                break;                                                                             \
            case KERNEL_F32_VIA_BF16:                                                              \
                loop(r, op, format, QUANT_BF16, KERNEL_F32_VIA_BF16);                              \
                break;                                                                             \
            case KERNEL_BF16:                                                                      \
                loop(r, op, format, QUANT_BF16, KERNEL_BF16);                                      \
                break;                                                                             \
            case KERNEL_CODE_INT8:                                                                 \
                loop(r, op, format, QUANT_BF16, KERNEL_CODE_INT8);                                 \
                break;                                                                             \
            case KERNEL_CODE_BF16:                                                                 \
                loop(r, op, format, QUANT_BF16, KERNEL_CODE_BF16);                                 \
                break;                                                                             \
            }                                                                                      \
        else                                                                                       \
            switch (out) {                                                                         \
            case KERNEL_F32:                                                                       \
                loop(r, op, format, QUANT_F32, KERNEL_F32);                                        \
                break;                                                                             \
            case KERNEL_F32_VIA_BF16:                                                              \
                loop(r, op, format, QUANT_F32, KERNEL_F32_VIA_BF16);                               \
                break;                                                                             \
            case KERNEL_BF16:                                                                      \
                loop(r, op, format, QUANT_F32, KERNEL_BF16);                                       \
                break;                                                                             \
            case KERNEL_CODE_INT8:                                                                 \
                loop(r, op, format, QUANT_F32, KERNEL_CODE_INT8);                                  \
                break;                                                                             \
            case KERNEL_CODE_BF16:                                                                 \
                loop(r, op, format, QUANT_F32, KERNEL_CODE_BF16);                                  \
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

VEC_INLINE uint32_t absmax_loop(const void *x, enum quant_dtype in, size_t n)
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
    uint32_t tail = kernels_plain.absmax((const char *)x + i * kernel_in_size(in), in, n - i);
    return m > tail ? m : tail;
}

VEC static uint32_t absmax(const void *x, enum quant_dtype in, size_t n)
{
    return in == QUANT_BF16 ? absmax_loop(x, QUANT_BF16, n) : absmax_loop(x, QUANT_F32, n);
}

VEC static void absmax_cols(float *amax, const void *x, enum quant_dtype in, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vi m = vi_max(v_bits(v_load_f32(amax + i)), v_bits(v_abs(load(x, in, i))));
        v_store_f32(amax + i, vi_float(m));
    }
    kernels_plain.absmax_cols(amax + i, (const char *)x + i * kernel_in_size(in), in, n - i);
}

VEC_INLINE void absmax_blocks_loop(float *m, const void *x, enum quant_dtype in, size_t n,
                                   size_t block)
{
    for (size_t at = 0; at < n; at += block) {
        size_t end = n - at < block ? n : at + block, i = at;
        vf v = v_set1(0);
        for (; i + LANES <= end; i += LANES)
            v = v_max(v_abs(load(x, in, i)), v); /* passes over NaN */
        float best = v_reduce_max(v), tail = 0;
        if (i < end)
            kernels_plain.absmax_blocks(&tail, (const char *)x + i * kernel_in_size(in), in,
                                        end - i, end - i);
        *m++ = best > tail ? best : tail;
    }
}

VEC static void absmax_blocks(float *m, const void *x, enum quant_dtype in, size_t n, size_t block)
{
    if (in == QUANT_BF16)
        absmax_blocks_loop(m, x, QUANT_BF16, n, block);
    else
        absmax_blocks_loop(m, x, QUANT_F32, n, block);
}
