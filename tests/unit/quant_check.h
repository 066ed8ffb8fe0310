/*
 * What must hold for any treatment and any bits: all instruction sets give the same bits, codes
 * and scales give the dequantized values, tiles give what the whole gives, and so does working in
 * place. For the unit tests and for the fuzzer.
 */
#ifndef AQ_TEST_QUANT_CHECK_H
#define AQ_TEST_QUANT_CHECK_H

#include "base/mem.h"
#include "base/num.h"
#include "quant/quant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHECK_OUTS = 6 };

struct check {
    const struct quant_spec *spec;
    struct quant_matrix x;
    int is_weight;
    struct quant_range range;
    char what[400]; /* the first thing that does not hold */
};

/* Everything that one instruction set says about a matrix. */
struct check_outs {
    struct quant_code_form form;
    int refused;
    size_t size[CHECK_OUTS];
    void *out[CHECK_OUTS]; /* f32, via bf16, bf16, codes bf16, codes int8, scales */
    struct quant_stats stats;
};

static inline size_t check_size(enum num_type t)
{
    return t == NUM_BF16 ? 2 : 4;
}

static inline struct quant_plan *check_plan(const struct check *c, enum quant_rounding rounding)
{
    struct quant_plan *p = NULL;
    struct aq_err err = {0};
    int rc = c->is_weight ? quant_plan_weight(&p, c->spec, &c->x, rounding, &err)
                          : quant_plan_act(&p, c->spec, c->x.cols, &c->range, rounding, &err);
    return rc < 0 ? NULL : p;
}

static inline void check_run(const struct check *c, struct check_outs *o)
{
    size_t n = (size_t)(c->x.rows * c->x.cols);
    struct quant_plan *p = check_plan(c, QUANT_UNROUNDED), *q = check_plan(c, QUANT_TO_BF16);
    memset(o, 0, sizeof *o);
    o->refused = !p || !q;
    if (p && q) {
        int codes = quant_code_form(p, &o->form, NULL) == 0;
        size_t scales = codes ? (size_t)(c->x.rows * o->form.scale_cols) : 0;
        const size_t size[CHECK_OUTS] = {4 * n, 4 * n, 2 * n, 2 * n, n, 4 * scales};
        for (int i = 0; i < CHECK_OUTS; i++) {
            o->size[i] = size[i];
            o->out[i] = xcalloc(size[i] + 1, 1);
        }
        quant_apply(p, &c->x, 0, c->x.rows, o->out[0], NUM_F32, &o->stats);
        quant_apply(q, &c->x, 0, c->x.rows, o->out[1], NUM_F32, NULL);
        quant_apply(q, &c->x, 0, c->x.rows, o->out[2], NUM_BF16, NULL);
        float *unit_scales = xcalloc(scales + 1, 4);
        if (codes)
            quant_apply_codes(p, &c->x, 0, c->x.rows, o->out[3], QUANT_CODE_BF16, o->out[5], NULL);
        if (codes && o->form.int8)
            quant_apply_codes(p, &c->x, 0, c->x.rows, o->out[4], QUANT_INT8, unit_scales, NULL);
        free(unit_scales);
    }
    quant_plan_free(p);
    quant_plan_free(q);
}

static inline void check_outs_release(struct check_outs *o)
{
    for (int i = 0; i < CHECK_OUTS; i++)
        free(o->out[i]);
}

static inline int check_fail(struct check *c, const char *what, size_t at)
{
    char text[QUANT_TEXT_MAX];
    quant_print(c->spec, text);
    (void)snprintf(c->what, sizeof c->what, "%s: %.60s, byte or element %zu", text, what, at);
    return -1;
}

static inline int check_same(struct check *c, const char *level, const struct check_outs *a,
                             const struct check_outs *b)
{
    if (a->refused != b->refused || memcmp(&a->stats, &b->stats, sizeof a->stats) != 0)
        return check_fail(c, level, 0);
    for (int i = 0; i < CHECK_OUTS; i++)
        for (size_t k = 0; k < a->size[i]; k++)
            if (((char *)a->out[i])[k] != ((char *)b->out[i])[k])
                return check_fail(c, level, k);
    return 0;
}

/* Codes and scales against dequantized values; rows with something that is not finite are left out.
 */
static inline int check_codes(struct check *c, const struct check_outs *o, const int8_t *int8,
                              const float *int8_scales)
{
    const float *y = o->out[0], *scales = o->out[5];
    const uint16_t *codes = o->out[3];
    size_t row_bytes = (size_t)c->x.cols * check_size(c->x.dtype);
    for (int64_t r = 0; r < c->x.rows; r++) {
        const char *row = (const char *)c->x.data + (size_t)r * row_bytes;
        if (!isfinite(quant_absmax(row, c->x.dtype, (size_t)c->x.cols)))
            continue;
        for (int64_t k = 0; k < c->x.cols; k++) {
            size_t i = (size_t)(r * c->x.cols + k);
            size_t s = (size_t)(r * o->form.scale_cols + k / o->form.k_block);
            float code = num_from_bf16(codes[i]);
            float v = o->form.divide ? code / scales[s] : code * scales[s];
            if (isnan(y[i]) && isnan(v))
                continue; /* a range of the call that is not finite */
            if (num_bits(v) != num_bits(y[i]))
                return check_fail(c, "bf16 code and scale", i);
            if (!int8)
                continue;
            v = o->form.divide ? (float)int8[i] / int8_scales[s] : (float)int8[i] * int8_scales[s];
            if (v != y[i])
                return check_fail(c, "int8 code and scale", i);
        }
    }
    return 0;
}

/* Values over their unit are exact in bf16, but for the roundings of the fp32 value itself. */
static inline int check_unit(struct check *c, const struct check_outs *o, int via_bf16)
{
    struct quant_plan *p = check_plan(c, via_bf16 ? QUANT_TO_BF16 : QUANT_UNROUNDED);
    float unit = quant_bf16_unit(p);
    const float *y = o->out[via_bf16];
    quant_plan_free(p);
    for (int64_t i = 0; unit > 0 && i < c->x.rows * c->x.cols; i++) {
        float v = num_from_bf16(num_to_bf16(y[i] * (1 / unit))) * unit;
        if ((isnormal(y[i]) || y[i] == 0) && !(fabsf(v - y[i]) <= fabsf(y[i]) * 0x1p-22F))
            return check_fail(c, "a value over its unit", (size_t)i);
    }
    return 0;
}

static inline int check_int8(struct check *c, const struct check_outs *o)
{
    struct quant_plan *p = check_plan(c, QUANT_UNROUNDED);
    float *scales = xcalloc((size_t)(c->x.rows * o->form.scale_cols), sizeof *scales);
    if (o->form.int8)
        quant_apply_codes(p, &c->x, 0, c->x.rows, o->out[4], QUANT_INT8, scales, NULL);
    int rc = check_codes(c, o, o->form.int8 ? o->out[4] : NULL, scales);
    free(scales);
    quant_plan_free(p);
    return rc;
}

/* Row by row, and in place, into what the whole gave. */
static inline int check_tiles(struct check *c, const struct check_outs *o)
{
    const struct quant_step *t = &c->spec->step[0];
    int ranged =
        !c->is_weight && t->dynamic && (t->scope == QUANT_TENSOR || t->scope == QUANT_NVFP4);
    enum num_type dtype = c->x.dtype;
    enum quant_rounding rounding = dtype == NUM_BF16 ? QUANT_TO_BF16 : QUANT_UNROUNDED;
    const char *want = o->out[dtype == NUM_BF16 ? 2 : 0];
    size_t row = (size_t)c->x.cols * check_size(dtype), bytes = row * (size_t)c->x.rows;
    struct quant_plan *p = check_plan(c, rounding);
    char *copy = xmalloc(bytes);
    memcpy(copy, c->x.data, bytes);
    struct quant_matrix x = c->x;
    x.data = copy;
    if (ranged)
        quant_apply(p, &x, 0, x.rows, copy, dtype, NULL);
    else
        for (int64_t r = x.rows - 1; r >= 0; r--)
            quant_apply(p, &x, r, r + 1, copy + (size_t)r * row, dtype, NULL);
    int rc = memcmp(copy, want, bytes) == 0 ? 0 : check_fail(c, "tiles in place", 0);
    free(copy);
    quant_plan_free(p);
    return rc;
}

/* 0 if all holds; else c->what says what does not. */
static inline int quant_check(struct check *c)
{
    static const char *const levels[] = {"plain", "avx2", "avx512"};
    struct check_outs plain, other;
    int rc = quant_cpu_select("plain", NULL);
    check_run(c, &plain);
    for (int i = 1; rc == 0 && i < 3; i++) {
        if (quant_cpu_select(levels[i], NULL) < 0)
            continue;
        check_run(c, &other);
        rc = check_same(c, levels[i], &plain, &other);
        check_outs_release(&other);
        if (rc == 0 && !plain.refused)
            rc = check_tiles(c, &plain);
    }
    if (rc == 0 && !plain.refused && c->spec->steps)
        rc = check_int8(c, &plain);
    for (int via_bf16 = 0; rc == 0 && !plain.refused && via_bf16 < 2; via_bf16++)
        rc = check_unit(c, &plain, via_bf16);
    check_outs_release(&plain);
    if (quant_cpu_select(NULL, NULL) < 0)
        rc = -1;
    return rc;
}

#endif
