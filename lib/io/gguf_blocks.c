/*
 * What the blocks of GGUF's types hold. Roundings and their order are those of the Python package
 * gguf, whose answers equal those of llama.cpp.
 */
#include "base/num.h"
#include "io/gguf.h"

#include <assert.h>

static const struct gguf_type_info types[] = {
    {GGUF_F32, "F32", 1, 4},       {GGUF_F16, "F16", 1, 2},       {GGUF_Q4_0, "Q4_0", 32, 18},
    {GGUF_Q4_1, "Q4_1", 32, 20},   {GGUF_Q5_0, "Q5_0", 32, 22},   {GGUF_Q5_1, "Q5_1", 32, 24},
    {GGUF_Q8_0, "Q8_0", 32, 34},   {GGUF_Q4_K, "Q4_K", 256, 144}, {GGUF_Q5_K, "Q5_K", 256, 176},
    {GGUF_Q6_K, "Q6_K", 256, 210}, {GGUF_BF16, "BF16", 1, 2},     {GGUF_MXFP4, "MXFP4", 32, 17},
    {GGUF_NVFP4, "NVFP4", 64, 36},
};

const struct gguf_type_info *gguf_type_info(enum gguf_type t)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].type == t)
            return &types[i];
    return NULL;
}

static uint16_t u16(const unsigned char *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static float half(const unsigned char *p)
{
    return num_from_fp16(u16(p));
}

/* ---- one block each ---- */

static void f32(const unsigned char *b, float *y)
{
    memcpy(y, b, 4);
}

static void f16(const unsigned char *b, float *y)
{
    *y = half(b);
}

static void bf16(const unsigned char *b, float *y)
{
    *y = num_from_bf16(u16(b));
}

static void q4_0(const unsigned char *b, float *y)
{
    float d = half(b);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)((b[2 + i] & 15) - 8);
        y[i + 16] = d * (float)((b[2 + i] >> 4) - 8);
    }
}

static void q4_1(const unsigned char *b, float *y)
{
    float d = half(b), m = half(b + 2);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)(b[4 + i] & 15) + m;
        y[i + 16] = d * (float)(b[4 + i] >> 4) + m;
    }
}

/* The fifth bits: bit i of a little-endian word belongs to weight i. */
static int fifth(const unsigned char *h, int i)
{
    return (h[i / 8] >> (i % 8) & 1) << 4;
}

static void q5_0(const unsigned char *b, float *y)
{
    float d = half(b);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)(((b[6 + i] & 15) | fifth(b + 2, i)) - 16);
        y[i + 16] = d * (float)((b[6 + i] >> 4 | fifth(b + 2, i + 16)) - 16);
    }
}

static void q5_1(const unsigned char *b, float *y)
{
    float d = half(b), m = half(b + 2);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)((b[8 + i] & 15) | fifth(b + 4, i)) + m;
        y[i + 16] = d * (float)(b[8 + i] >> 4 | fifth(b + 4, i + 16)) + m;
    }
}

static void q8_0(const unsigned char *b, float *y)
{
    float d = half(b);
    for (int i = 0; i < 32; i++)
        y[i] = (float)(signed char)b[2 + i] * d;
}

/* Eight scales and minima of six bits in twelve bytes. */
static void k_scales(const unsigned char *s, int *scale, int *min)
{
    for (int i = 0; i < 4; i++) {
        scale[i] = s[i] & 63;
        min[i] = s[4 + i] & 63;
        scale[4 + i] = (s[8 + i] & 15) | (s[i] >> 2 & 0x30);
        min[4 + i] = s[8 + i] >> 4 | (s[4 + i] >> 2 & 0x30);
    }
}

/* high: the fifth bits, bit j of byte i for weight i of the j-th 32; NULL for Q4_K */
static void k_block(const unsigned char *b, const unsigned char *high, const unsigned char *low,
                    float *y)
{
    int scale[8], min[8];
    float d = half(b), dmin = half(b + 2);
    k_scales(b + 4, scale, min);
    for (int j = 0; j < 8; j++) {
        float s = d * (float)scale[j], m = dmin * (float)min[j];
        for (int i = 0; i < 32; i++) {
            int q = low[j / 2 * 32 + i] >> (j % 2 * 4) & 15;
            if (high)
                q |= (high[i] >> j & 1) << 4;
            y[j * 32 + i] = s * (float)q - m;
        }
    }
}

static void q4_k(const unsigned char *b, float *y)
{
    k_block(b, NULL, b + 16, y);
}

static void q5_k(const unsigned char *b, float *y)
{
    k_block(b, b + 16, b + 48, y);
}

static void q6_k(const unsigned char *b, float *y)
{
    const unsigned char *low = b, *high = b + 128, *scale = b + 192;
    float d = half(b + 208);
    for (int j = 0; j < 8; j++) /* each half of 128: two nibbles of 64 bytes, four pairs of 32 */
        for (int i = 0; i < 32; i++) {
            int lo = low[j / 4 * 64 + j % 2 * 32 + i] >> (j % 4 / 2 * 4) & 15;
            int hi = high[j / 4 * 32 + i] >> (j % 4 * 2) & 3;
            int at = j * 32 + i;
            y[at] = d * (float)(signed char)scale[at / 16] * (float)((lo | hi << 4) - 32);
        }
}

/* Twice the values of e2m1, so that they are integers; minus zero is zero. */
static const float fp4_doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static void mxfp4(const unsigned char *b, float *y)
{
    float d = num_float(b[0] < 2 ? 0x00200000U << b[0] : (uint32_t)(b[0] - 1) << 23);
    for (int i = 0; i < 16; i++) {
        y[i] = d * fp4_doubled[b[1 + i] & 15];
        y[i + 16] = d * fp4_doubled[b[1 + i] >> 4];
    }
}

static float half_ue4m3(unsigned char x)
{
    if (x == 0x7f)
        return 0;
    int e = x >> 3 & 15;
    float m = (float)(x & 7);
    return (e ? (1 + m / 8) * num_pow2(e - 7) : m * 0x1p-9F) * 0.5F;
}

static void nvfp4(const unsigned char *b, float *y)
{
    for (int k = 0; k < 4; k++) {
        float d = half_ue4m3(b[k]);
        for (int i = 0; i < 8; i++) {
            unsigned char c = b[4 + k * 8 + i];
            y[k * 16 + i] = d * fp4_doubled[c & 15];
            y[k * 16 + i + 8] = d * fp4_doubled[c >> 4];
        }
    }
}

typedef void block_fn(const unsigned char *block, float *out);

static block_fn *block_fn_of(enum gguf_type t)
{
    switch (t) {
    case GGUF_F32:
        return f32;
    case GGUF_F16:
        return f16;
    case GGUF_Q4_0:
        return q4_0;
    case GGUF_Q4_1:
        return q4_1;
    case GGUF_Q5_0:
        return q5_0;
    case GGUF_Q5_1:
        return q5_1;
    case GGUF_Q8_0:
        return q8_0;
    case GGUF_Q4_K:
        return q4_k;
    case GGUF_Q5_K:
        return q5_k;
    case GGUF_Q6_K:
        return q6_k;
    case GGUF_BF16:
        return bf16;
    case GGUF_MXFP4:
        return mxfp4;
    case GGUF_NVFP4:
        return nvfp4;
    }
    return NULL;
}

void gguf_dequantize(enum gguf_type t, const void *blocks, size_t n, float *out)
{
    const struct gguf_type_info *info = gguf_type_info(t);
    block_fn *fn = block_fn_of(t);
    assert(info && fn && n % (size_t)info->block == 0);
    const unsigned char *b = blocks;
    for (size_t i = 0; i < n; i += (size_t)info->block, b += info->block_bytes)
        fn(b, out + i);
}
