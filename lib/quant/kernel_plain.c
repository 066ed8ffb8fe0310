/* The reference: one element at a time, in the words of the formulas. */
#include "quant/kernel.h"

#include <stdbool.h>

static void store_bf16(void *to, size_t i, float v)
{
    uint16_t h = num_to_bf16(v);
    memcpy((char *)to + 2 * i, &h, sizeof h);
}

static void store_f32(void *to, size_t i, float v)
{
    memcpy((char *)to + 4 * i, &v, sizeof v);
}

static void store(const struct kernel_run *r, size_t i, float code, float value)
{
    switch (r->out) {
    case KERNEL_F32:
        store_f32(r->to, i, value);
        break;
    case KERNEL_F32_VIA_BF16:
        store_f32(r->to, i, num_from_bf16(num_to_bf16(value)));
        break;
    case KERNEL_BF16:
        store_bf16(r->to, i, value);
        break;
    case KERNEL_CODE_INT8:
        ((int8_t *)r->to)[i] = isnan(code) ? 0 : (int8_t)(code * r->unit);
        break;
    case KERNEL_CODE_BF16:
        store_bf16(r->to, i, code);
        break;
    }
}

/* NaN goes through. */
static float round_int(float v, float lo, float hi)
{
    float q = rintf(v);
    return q < lo ? lo : q > hi ? hi : q;
}

/* A scale of 0 divides zeros: the rounding goes on from IEEE's NaN and infinities. */
#define DIVIDES_BY_ZERO __attribute__((no_sanitize("float-divide-by-zero")))

DIVIDES_BY_ZERO static void quantize(const struct kernel_run *r)
{
    for (size_t i = 0; i < r->n; i++) {
        float x = num_read(r->from, r->in, i), q;
        float back = r->op == KERNEL_COPY ? 1 : r->back[i / r->block];
        switch (r->op) {
        case KERNEL_COPY:
            store(r, i, x, x);
            break;
        case KERNEL_INT:
            q = round_int(x * r->mul[i / r->block], r->lo, r->hi);
            store(r, i, q, q / back);
            break;
        case KERNEL_FLOAT:
            q = num_round(x * r->mul[i / r->block], r->format);
            store(r, i, q, q * back);
            break;
        case KERNEL_RATIO:
            q = fabsf(num_round(fabsf(x) / back, r->format));
            q = x >= 0 ? q : -q;
            store(r, i, q, q * back);
            break;
        }
    }
}

DIVIDES_BY_ZERO static void count(const struct kernel_run *r, struct quant_stats *stats)
{
    float limit = kernel_float_limit(r->format);
    for (size_t i = 0; i < r->n; i++) {
        float x = num_read(r->from, r->in, i);
        if (!isfinite(x)) {
            stats->nonfinite++;
            continue;
        }
        bool clipped;
        if (r->op == KERNEL_INT) {
            float q = rintf(x * r->mul[i / r->block]);
            clipped = q < r->lo || q > r->hi;
        } else if (r->op == KERNEL_FLOAT) {
            clipped = fabsf(x * r->mul[i / r->block]) > limit;
        } else {
            clipped = fabsf(x / r->back[i / r->block]) > limit;
        }
        stats->clipped += clipped;
    }
    stats->elements += r->n;
}

static uint32_t absmax(const void *x, enum num_type in, size_t n)
{
    uint32_t m = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t u = num_bits(num_read(x, in, i)) & 0x7fffffff;
        m = u > m ? u : m;
    }
    return m;
}

static void absmax_cols(float *amax, const void *x, enum num_type in, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t u = num_bits(num_read(x, in, i)) & 0x7fffffff;
        if (u > num_bits(amax[i]))
            amax[i] = num_float(u);
    }
}

static void absmax_blocks(float *m, const void *x, enum num_type in, size_t n, size_t block)
{
    for (size_t i = 0; i < n; i++) {
        float a = fabsf(num_read(x, in, i));
        if (i % block == 0)
            m[i / block] = 0;
        if (a > m[i / block])
            m[i / block] = a;
    }
}

static void nvfp4_scales(float *scale, float *recip, const float *m, size_t n, float gs)
{
    for (size_t i = 0; i < n; i++) {
        float t = m[i] / (6 * gs);
        float s = num_round(t, NUM_E4M3) * gs;
        scale[i] = s < 1e-5F ? 1 : s;
        recip[i] = 1 / scale[i];
    }
}

const struct kernels kernels_plain = {
    .name = "plain",
    .quantize = quantize,
    .count = count,
    .absmax = absmax,
    .absmax_cols = absmax_cols,
    .absmax_blocks = absmax_blocks,
    .nvfp4_scales = nvfp4_scales,
};
