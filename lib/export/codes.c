#include "export/codes.h"

#include "base/mem.h"
#include "base/num.h"
#include "export/gguf_model.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- shapes ---- */

bool coder_shares_range(const struct scheme *s)
{
    return s->codes == CODES_NVFP4 || s->codes == CODES_FP8_ONE;
}

bool coder_needs_range(const struct scheme *s)
{
    return coder_shares_range(s) || s->one_range;
}

enum gguf_type codes_gguf_type(const struct scheme *s)
{
    switch (s->codes) {
    case CODES_Q8_0:
        return GGUF_Q8_0;
    case CODES_Q4_0:
        return GGUF_Q4_0;
    case CODES_MXFP4:
        return GGUF_MXFP4;
    default:
        assert(s->codes == CODES_NVFP4);
        return GGUF_NVFP4;
    }
}

uint64_t coder_code_bytes(const struct coder *c, int64_t rows)
{
    uint64_t r = (uint64_t)rows, cols = (uint64_t)c->cols;
    if (c->layout == LAYOUT_GGUF) {
        const struct gguf_type_info *t = gguf_type_info(codes_gguf_type(&c->scheme));
        return r * (cols / (uint64_t)t->block) * (uint64_t)t->block_bytes;
    }
    switch (c->scheme.codes) {
    case CODES_PACKED:
        return r * 4 * (uint64_t)aq_div_up(c->cols * c->scheme.bits, 32);
    case CODES_NVFP4:
    case CODES_MXFP4:
    case CODES_INT4_ROWS:
        return r * cols / 2;
    default:
        return r * cols;
    }
}

uint64_t coder_scale_bytes(const struct coder *c, int64_t rows)
{
    uint64_t r = (uint64_t)rows, cols = (uint64_t)c->cols;
    uint64_t groups = c->scheme.group ? cols / (uint64_t)c->scheme.group : 1;
    if (c->layout == LAYOUT_GGUF)
        return 0;
    switch (c->scheme.codes) {
    case CODES_INT8:
    case CODES_FP8:
        return r * 4;
    case CODES_FP8_BLOCK:
        return (uint64_t)aq_div_up(rows, 128) * (uint64_t)aq_div_up(c->cols, 128) * 4;
    case CODES_PACKED:
        return r * groups * 2;
    case CODES_INT4_ROWS:
        return r * groups * 4;
    case CODES_NVFP4:
        return r * cols / 16;
    case CODES_MXFP4:
    case CODES_MXFP8:
        return r * cols / 32;
    default:
        return 0; /* one scale for all */
    }
}

float coder_second_level(const struct coder *c)
{
    float gs = c->amax / (c->scheme.methods.choice == QUANT_4O6 ? 6 * 256 : 6 * 448);
    return gs > 0 ? gs : 1e-12F;
}

/* ---- the treatment's codes, from lib/quant ---- */

/* The treatment of a scheme's weights. */
static struct quant_spec spec_of(const struct scheme *s)
{
    struct quant_step t = {.block_rows = 1, .block_cols = 1, .bits = s->bits};
    t.number = QUANT_E4M3;
    t.scope = s->one_range ? QUANT_TENSOR : QUANT_AXIS0;
    switch (s->codes) {
    case CODES_INT8:
    case CODES_PACKED:
    case CODES_INT4_ROWS:
    case CODES_Q8_0:
    case CODES_Q4_0:
        t.number = QUANT_INT;
        if (s->group) {
            t.scope = QUANT_BLOCK;
            t.block_cols = s->group;
        }
        break;
    case CODES_FP8:
        break;
    case CODES_FP8_ONE:
        t.scope = QUANT_TENSOR;
        break;
    case CODES_FP8_BLOCK:
        t.scope = QUANT_BLOCK;
        t.block_rows = t.block_cols = 128;
        break;
    case CODES_NVFP4:
        t.number = QUANT_E2M1;
        t.scope = QUANT_NVFP4;
        t.block_cols = 16;
        t.dynamic = 1;
        break;
    case CODES_MXFP4:
    case CODES_MXFP8:
        t.number = s->codes == CODES_MXFP4 ? QUANT_E2M1 : QUANT_E4M3;
        t.scope = QUANT_MX;
        t.block_cols = 32;
        t.dynamic = 1;
        break;
    }
    return (struct quant_spec){.steps = 1, .step = {t}};
}

struct quant_spec coder_spec(const struct coder *c)
{
    struct quant_spec spec = spec_of(&c->scheme);
    const struct quant_methods *m = &c->scheme.methods;
    /* a range over the whole weight was searched before: it is amax */
    bool searched = (m->choice == QUANT_MSE && !c->scheme.one_range) || m->choice == QUANT_SWEEP ||
                    m->choice == QUANT_4O6;
    if (searched)
        spec.methods =
            (struct quant_methods){.choice = m->choice, .modelopt_grid = m->modelopt_grid};
    return spec;
}

void coder_scale_rows(const struct coder *c, int64_t r0, int64_t r1, float *w)
{
    for (int64_t r = r0; c->scale && r < r1; r++, w += c->cols)
        for (int64_t k = 0; k < c->cols; k++)
            w[k] *= c->row_scale ? c->scale[k] * c->row_scale[r] : c->scale[k];
}

/* A tile being quantized. */
struct code_tile {
    const struct coder *c;
    struct quant_matrix w; /* fp32, scaled */
    int64_t first, rows;
    float *ranges;     /* of integers: (rows, groups), as they were solved; NULL */
    void *quant_codes; /* int8 or bf16 */
    float *quant_scales;
    int64_t scale_cols;
    struct aq_err *err;
};

/* Tiles of 128 x 128 at the end of a weight may be ragged, and the plan wants blocks that fit. */
static void fit_block(struct quant_spec *spec, const struct code_tile *t)
{
    struct quant_step *s = &spec->step[0];
    if (s->scope != QUANT_BLOCK)
        return;
    if (s->block_rows > t->rows)
        s->block_rows = (int32_t)t->rows;
    if (s->block_cols > t->c->cols)
        s->block_cols = (int32_t)t->c->cols;
}

static int run_quant(struct code_tile *t, enum quant_code code)
{
    struct quant_spec spec = coder_spec(t->c);
    struct quant_plan *p = NULL;
    struct quant_code_form form;
    fit_block(&spec, t);
    int r = t->ranges
                ? quant_plan_weight_ranges(&p, &spec, &t->w, t->ranges, QUANT_UNROUNDED, t->err)
                : quant_plan_weight_under(&p, &spec, &t->w, t->c->amax, QUANT_UNROUNDED, t->err);
    if (r < 0 || quant_code_form(p, &form, t->err) < 0) {
        quant_plan_free(p);
        return -1;
    }
    size_t n = (size_t)t->rows * (size_t)t->c->cols;
    t->scale_cols = form.scale_cols;
    t->quant_codes = xmalloc(n * (code == QUANT_INT8 ? 1 : 2));
    t->quant_scales = xmalloc((size_t)t->rows * (size_t)form.scale_cols * sizeof(float));
    quant_apply_codes(p, &t->w, 0, t->rows, t->quant_codes, code, t->quant_scales, NULL);
    quant_plan_free(p);
    return 0;
}

/* ---- codes as bytes ---- */

/* A number that e4m3 has, from its bf16 form. */
static uint8_t e4m3_byte(uint16_t h)
{
    unsigned sign = h >> 8 & 0x80, a = h & 0x7fff;
    if (a >= 121 << 7) /* 2^-6 and more */
        return (uint8_t)(sign | ((a >> 4) - (120 << 3)));
    return (uint8_t)(sign | (unsigned)(num_from_bf16((uint16_t)a) * 512));
}

/*
 * The same for e2m1. a >> 6, exponent and first bit of the mantissa: 252 for 0.5, 254 for 1, and on
 * by one for each code.
 */
static uint8_t e2m1_code(uint16_t h)
{
    unsigned sign = h >> 12 & 8, top = (h & 0x7fffU) >> 6;
    unsigned index = top - 252 + (top == 252);
    return (uint8_t)(sign | (top < 252 ? 0 : index));
}

static void e4m3_bytes(const uint16_t *from, size_t n, uint8_t *to)
{
    for (size_t i = 0; i < n; i++)
        to[i] = e4m3_byte(from[i]);
}

/* Neighbours share a byte, the first in the low half. n is even. */
static void fp4_pairs(const uint16_t *from, size_t n, uint8_t *to)
{
    for (size_t i = 0; i < n / 2; i++)
        to[i] = (uint8_t)(e2m1_code(from[2 * i]) | e2m1_code(from[2 * i + 1]) << 4);
}

/* Element i of a row in the bits i * bits and up, little endian; the last word is padded. */
static void pack_row(const int8_t *q, int64_t n, int bits, unsigned char *to)
{
    uint64_t held = 0, offset = (uint64_t)1 << (bits - 1);
    int count = 0;
    size_t bytes = (size_t)aq_div_up(n * bits, 32) * 4;
    int64_t i = 0;
    memset(to, 0, bytes);
    if (bits == 4) /* the usual widths without a carry: loops that the compiler makes wide */
        for (; i + 1 < n; i += 2)
            *to++ = (unsigned char)((q[i] + 8) | (q[i + 1] + 8) << 4);
    else if (bits == 8)
        for (; i < n; i++)
            *to++ = (unsigned char)(q[i] + 128);
    for (; i < n; i++) {
        held |= ((uint64_t)q[i] + offset) << count;
        count += bits;
        for (; count >= 8; count -= 8, held >>= 8)
            *to++ = (unsigned char)held;
    }
    if (count)
        *to = (unsigned char)held;
}

/* ---- integers ---- */

static float int_max(const struct scheme *s)
{
    return (float)((1 << (s->bits - 1)) - 1);
}

/* Ranges that count as zero (docs/quantizers.md). */
static bool is_zero_range(float a)
{
    return a <= 0x1p-24F;
}

static float int_scale(const struct coder *c, float a)
{
    return is_zero_range(a) ? 1 : a / int_max(&c->scheme);
}

/* What the file stores of a scale, and reads back. */
static float stored_scale(const struct coder *c, float scale)
{
    if (c->layout == LAYOUT_GGUF)
        return num_from_fp16(num_to_fp16(scale));
    return c->scheme.codes == CODES_PACKED ? num_from_bf16(num_to_bf16(scale)) : scale;
}

/* Nearest integer, ties to even, for |x| below 2^22; without a call. */
static float nearest(float x)
{
    const float big = 0x1.8p23F;
    return (x + big) - big;
}

static void int_run(const float *w, int64_t n, float scale, float hi, int8_t *q)
{
    for (int64_t i = 0; i < n; i++) {
        float x = w[i] / scale;
        x = x > hi ? hi : x < -hi - 1 ? -hi - 1 : x; /* before rounding: far values stay exact */
        q[i] = (int8_t)nearest(x);
    }
}

/* Finds the element that is not finite and says so. */
static int bad_element(const struct code_tile *t)
{
    struct quant_plan *p = NULL;
    struct quant_spec spec = spec_of(&t->c->scheme);
    int r = quant_plan_weight(&p, &spec, &t->w, QUANT_UNROUNDED, t->err);
    quant_plan_free(p);
    return r < 0 ? r : aq_err_set(t->err, AQ_EINPUT, "%s: not finite", aq_show(t->c->name));
}

/* The model's row of row i of the tile. */
static int64_t model_row(const struct code_tile *t, int64_t i)
{
    const struct coder *c = t->c;
    return c->heads ? gguf_source_row(t->first + i, c->rows, c->heads) : t->first + i;
}

/* (rows, per_row): the tile's ranges as `aq-calib solve` left them. */
static void take_solved_ranges(struct code_tile *t, int64_t group, int64_t per_row)
{
    const struct quant_grid *g = &t->c->grid;
    t->ranges = xmalloc((size_t)(t->rows * per_row) * sizeof *t->ranges);
    for (int64_t i = 0; i < t->rows; i++)
        for (int64_t k = 0; k < per_row; k++)
            t->ranges[i * per_row + k] =
                t->c->ranges[model_row(t, i) / g->rows_each * g->grid_cols + k * group / g->block];
}

static void take_solved_codes(const struct code_tile *t, int8_t *q)
{
    struct quant_spec spec = spec_of(&t->c->scheme);
    int64_t row_bytes = quant_code_row_bytes(&spec, t->c->cols);
    for (int64_t i = 0; i < t->rows; i++)
        quant_unpack_codes(&spec, t->c->codes + model_row(t, i) * row_bytes, t->c->cols,
                           q + i * t->c->cols);
}

/*
 * Codes and stored scales of all rows, `group` columns under each. Codes for the rounded scale; or
 * those of the treatment, where the scale is not rounded, they are to be kept, or they were solved.
 */
static int code_integers(struct code_tile *t, int8_t *q, float *scales)
{
    const struct coder *c = t->c;
    int64_t group = c->scheme.group ? c->scheme.group : c->cols, per_row = c->cols / group;
    bool rounds = c->layout == LAYOUT_GGUF || c->scheme.codes == CODES_PACKED;
    /* solved ranges have scales that are stored as they are */
    bool again = rounds && !c->keep && !c->ranges;
    bool searched = coder_spec(c).methods.choice == QUANT_MSE;
    const float *w = t->w.data;
    if (c->ranges)
        take_solved_ranges(t, group, per_row);
    if (c->codes)
        take_solved_codes(t, q);
    else if (!again || searched) {
        if (run_quant(t, QUANT_INT8) < 0)
            return -1;
        memcpy(q, t->quant_codes, (size_t)(t->rows * c->cols)); /* the rounded scale has others */
    }
    for (int64_t i = 0; i < t->rows * per_row; i++, w += group, q += group) {
        float most = quant_absmax(w, NUM_F32, (size_t)group), a = most;
        if (!isfinite(most))
            return bad_element(t);
        if (t->ranges)
            a = t->ranges[i];
        else if (c->scheme.one_range)
            a = c->amax;
        else if (searched) /* the scale of a range of 0 is 1, and all its codes are 0 */
            a = is_zero_range(most) ? 0 : int_max(&c->scheme) / t->quant_scales[i];
        scales[i] = stored_scale(c, int_scale(c, a));
        if (!isfinite(scales[i]))
            return aq_err_set(t->err, AQ_EINPUT, "%s: a range of %g has no scale in 16 bits",
                              aq_show(c->name), (double)a);
        if (again && is_zero_range(a))
            memset(q, 0, (size_t)group);
        else if (again)
            int_run(w, group, scales[i] > 0 ? scales[i] : 1, int_max(&c->scheme), q);
    }
    return 0;
}

static int code_int(struct code_tile *t, unsigned char *codes, unsigned char *scales)
{
    const struct coder *c = t->c;
    size_t n = (size_t)(t->rows * c->cols);
    int64_t per_row = c->scheme.group ? c->cols / c->scheme.group : 1, count = t->rows * per_row;
    int8_t *q = xmalloc(n);
    float *s = xmalloc((size_t)count * sizeof *s);
    int r = code_integers(t, q, s);
    if (r == 0 && c->scheme.codes == CODES_INT8) {
        memcpy(codes, q, n);
        memcpy(scales, s, (size_t)count * 4);
    } else if (r == 0 && c->scheme.codes == CODES_INT4_ROWS) {
        for (int64_t i = 0; i + 1 < t->rows; i += 2)
            for (int64_t k = 0; k < c->cols; k++)
                *codes++ = (unsigned char)((q[i * c->cols + k] & 15) |
                                           (q[(i + 1) * c->cols + k] & 15) << 4);
        memcpy(scales, s, (size_t)count * 4);
    } else if (r == 0) {
        size_t row_bytes = (size_t)coder_code_bytes(c, 1);
        for (int64_t i = 0; i < t->rows; i++)
            pack_row(q + i * c->cols, c->cols, c->scheme.bits, codes + (size_t)i * row_bytes);
        for (int64_t i = 0; i < count; i++) {
            uint16_t h = num_to_bf16(s[i]);
            memcpy(scales + 2 * i, &h, 2);
        }
    }
    free(q);
    free(s);
    return r;
}

/* ---- floats ---- */

static int code_fp8(struct code_tile *t, unsigned char *codes, unsigned char *scales)
{
    const struct coder *c = t->c;
    if (run_quant(t, QUANT_CODE_BF16) < 0)
        return -1;
    e4m3_bytes(t->quant_codes, (size_t)(t->rows * c->cols), codes);
    if (c->scheme.codes == CODES_FP8)
        memcpy(scales, t->quant_scales, (size_t)t->rows * 4);
    else if (c->scheme.codes == CODES_FP8_BLOCK) /* all rows of the tile have the same */
        memcpy(scales, t->quant_scales, (size_t)t->scale_cols * 4);
    else if (c->scheme.codes == CODES_MXFP8)
        for (int64_t i = 0; i < t->rows * t->scale_cols; i++)
            scales[i] = (unsigned char)(num_bits(t->quant_scales[i]) >> 23);
    return 0;
}

static bool all_zero(const uint16_t *codes, int n)
{
    for (int i = 0; i < n; i++)
        if (codes[i] & 0x7fff)
            return false;
    return true;
}

/* The e4m3 byte of every 16 weights. Where its scale is below 1e-5 all codes are 0. */
static void nvfp4_bytes(const struct code_tile *t, unsigned char *out)
{
    float second = coder_second_level(t->c), under = 6 * second;
    const float *w = t->w.data;
    if (coder_spec(t->c)
            .methods.choice) { /* a scale that was found: its code under the second level */
        const uint16_t *q = t->quant_codes;
        for (int64_t i = 0; i < t->rows * t->scale_cols; i++)
            out[i] = all_zero(q + 16 * i, 16) ? 0 : num_to_e4m3(t->quant_scales[i] / second);
        return;
    }
    for (int64_t i = 0; i < t->rows * t->c->cols / 16; i++) {
        float x = quant_absmax(w + 16 * i, NUM_F32, 16) / under;
        out[i] = num_to_e4m3(x < 448 ? x : 448);
    }
}

static int code_fp4(struct code_tile *t, unsigned char *codes, unsigned char *scales)
{
    if (run_quant(t, QUANT_CODE_BF16) < 0)
        return -1;
    fp4_pairs(t->quant_codes, (size_t)(t->rows * t->c->cols), codes);
    if (t->c->scheme.codes == CODES_NVFP4)
        nvfp4_bytes(t, scales);
    else
        for (int64_t i = 0; i < t->rows * t->scale_cols; i++)
            scales[i] = (unsigned char)(num_bits(t->quant_scales[i]) >> 23);
    return 0;
}

/* ---- GGUF: blocks of scale and codes ---- */

/* Halves of a block share bytes: code i in the low half, code i + n / 2 in the high one. */
static void halves(const uint8_t *code, int n, unsigned char *to)
{
    for (int i = 0; i < n / 2; i++)
        to[i] = (unsigned char)(code[i] | code[i + n / 2] << 4);
}

static int gguf_int_blocks(struct code_tile *t, unsigned char *to)
{
    const struct coder *c = t->c;
    int64_t group = c->scheme.group ? c->scheme.group : c->cols;
    size_t n = (size_t)(t->rows * c->cols);
    int8_t *q = xmalloc(n);
    float *s = xmalloc(n / (size_t)group * sizeof *s);
    int r = code_integers(t, q, s);
    for (size_t at = 0; r == 0 && at < n; at += 32) {
        uint16_t d = num_to_fp16(s[at / (size_t)group]);
        memcpy(to, &d, 2);
        to += 2;
        if (c->scheme.codes == CODES_Q8_0) {
            memcpy(to, q + at, 32);
            to += 32;
        } else {
            uint8_t code[32] = {0};
            for (int i = 0; i < 32; i++)
                code[i] = (uint8_t)(q[at + (size_t)i] + 8);
            halves(code, 32, to);
            to += 16;
        }
    }
    free(q);
    free(s);
    return r;
}

static int gguf_fp4_blocks(struct code_tile *t, unsigned char *to)
{
    bool nvfp4 = t->c->scheme.codes == CODES_NVFP4;
    int run = nvfp4 ? 16 : 32;
    size_t n = (size_t)(t->rows * t->c->cols);
    if (run_quant(t, QUANT_CODE_BF16) < 0)
        return -1;
    const uint16_t *q = t->quant_codes;
    unsigned char *scale = xmalloc(n / (size_t)run);
    if (nvfp4)
        nvfp4_bytes(t, scale);
    else
        for (size_t i = 0; i < n / 32; i++)
            scale[i] = (unsigned char)(num_bits(t->quant_scales[i]) >> 23);
    for (size_t i = 0; i < n / (size_t)run; i++) {
        uint8_t code[32] = {0};
        for (int k = 0; k < run; k++)
            code[k] = e2m1_code(q[i * (size_t)run + (size_t)k]);
        if (nvfp4 && i % 4 == 0) {
            memcpy(to, scale + i, 4);
            to += 4;
        } else if (!nvfp4) {
            *to++ = scale[i];
        }
        halves(code, run, to);
        to += run / 2;
    }
    free(scale);
    return 0;
}

/* ---- a tile ---- */

static int code_tile(struct code_tile *t, void *codes, void *scales)
{
    if (t->c->layout == LAYOUT_GGUF)
        return t->c->scheme.codes == CODES_Q8_0 || t->c->scheme.codes == CODES_Q4_0
                   ? gguf_int_blocks(t, codes)
                   : gguf_fp4_blocks(t, codes);
    switch (t->c->scheme.codes) {
    case CODES_INT8:
    case CODES_PACKED:
    case CODES_INT4_ROWS:
        return code_int(t, codes, scales);
    case CODES_NVFP4:
    case CODES_MXFP4:
        return code_fp4(t, codes, scales);
    default:
        return code_fp8(t, codes, scales);
    }
}

int coder_tile(const struct coder *c, const void *source, enum num_type type, int64_t r0,
               int64_t r1, void *codes, void *scales, struct aq_err *err)
{
    assert(r0 % CODES_TILE == 0 && r0 < r1 && r1 <= c->rows && r1 - r0 <= CODES_TILE);
    size_t n = (size_t)((r1 - r0) * c->cols);
    float *w = xmalloc(n * sizeof *w);
    num_widen(source, type, n, w);
    coder_scale_rows(c, r0, r1, w);
    struct code_tile t = {.c = c, .first = r0, .rows = r1 - r0, .err = err};
    t.w = (struct quant_matrix){w, NUM_F32, t.rows, c->cols, c->name};
    int r = code_tile(&t, codes, scales);
    if (r < 0 && r0)
        aq_err_prefix(err, "counted from row %lld", (long long)r0);
    free(t.quant_codes);
    free(t.quant_scales);
    free(t.ranges);
    free(w);
    return r;
}

/* ---- back ---- */

static float f32_at(const void *p, int64_t i)
{
    return num_read(p, NUM_F32, (size_t)i);
}

static int packed_at(const unsigned char *row, int64_t i, int bits)
{
    int64_t at = i * bits;
    unsigned word = 0;
    for (int b = 0; b < bits; b++)
        word |= (unsigned)(row[(at + b) / 8] >> ((at + b) % 8) & 1) << b;
    return (int)word - (1 << (bits - 1));
}

static float decode_at(const struct coder *c, const unsigned char *codes, const void *scales,
                       int64_t r, int64_t k)
{
    int64_t at = r * c->cols + k;
    int64_t group = c->scheme.group ? c->scheme.group : c->cols;
    int64_t scale = r * (c->cols / group) + k / group;
    const unsigned char *bytes = scales;
    uint16_t h;
    switch (c->scheme.codes) {
    case CODES_INT8:
        return (float)(int8_t)codes[at] * f32_at(scales, r);
    case CODES_FP8:
        return num_from_e4m3(codes[at]) * f32_at(scales, r);
    case CODES_FP8_ONE:
        return num_from_e4m3(codes[at]) * f32_at(scales, 0);
    case CODES_FP8_BLOCK:
        return num_from_e4m3(codes[at]) *
               f32_at(scales, r / 128 * aq_div_up(c->cols, 128) + k / 128);
    case CODES_PACKED:
        memcpy(&h, bytes + 2 * scale, 2);
        return (float)packed_at(codes + (size_t)r * coder_code_bytes(c, 1), k, c->scheme.bits) *
               num_from_bf16(h);
    case CODES_INT4_ROWS: {
        int q = codes[r / 2 * c->cols + k] >> (r % 2 * 4) & 15;
        return (float)(q - (q & 8) * 2) * f32_at(scales, scale);
    }
    case CODES_NVFP4: {
        /* compressed-tensors divides by the inverse of the second level; ModelOpt multiplies */
        float gs = coder_second_level(c), s = num_from_e4m3(bytes[at / 16]);
        s = c->layout == LAYOUT_CT ? s / (1 / gs) : s * gs;
        return num_from_e2m1(codes[at / 2] >> (at % 2 * 4) & 15) * s;
    }
    case CODES_MXFP4:
        return num_from_e2m1(codes[at / 2] >> (at % 2 * 4) & 15) * num_from_e8m0(bytes[at / 32]);
    case CODES_MXFP8:
        return num_from_e4m3(codes[at]) * num_from_e8m0(bytes[at / 32]);
    default:
        return NAN; /* GGUF's alone */
    }
}

void coder_decode(const struct coder *c, const void *codes, const void *scales, int64_t r0,
                  int64_t r1, float *out)
{
    if (c->layout == LAYOUT_GGUF) {
        size_t n = (size_t)((r1 - r0) * c->cols);
        gguf_dequantize(codes_gguf_type(&c->scheme),
                        (const char *)codes + coder_code_bytes(c, 1) * (uint64_t)r0, n, out);
        float gs = coder_second_level(c);
        for (size_t i = 0; c->scheme.codes == CODES_NVFP4 && i < n; i++)
            out[i] *= gs;
        return;
    }
    for (int64_t r = r0; r < r1; r++)
        for (int64_t k = 0; k < c->cols; k++)
            *out++ = decode_at(c, codes, scales, r, k);
}
