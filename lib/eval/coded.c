#include "eval/coded.h"

#include "base/arena.h"
#include "base/mem.h"
#include "base/num.h"
#include "export/gguf_model.h"
#include "quant/quant.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- numbers of a tensor ---- */

static float number_at(const struct st_tensor *t, int64_t i)
{
    const uint8_t *p = t->data;
    switch (t->dtype) {
    case ST_F8_E4M3:
        return num_from_e4m3(p[i]);
    case ST_U8: /* the power of two of a block */
        return num_from_e8m0(p[i]);
    default:
        return num_read(p, st_num_type(t->dtype), (size_t)i);
    }
}

static int is_number(const struct st_tensor *t, struct aq_err *err)
{
    if (t->dtype == ST_F32 || t->dtype == ST_BF16 || t->dtype == ST_F16 || t->dtype == ST_F8_E4M3 ||
        t->dtype == ST_U8)
        return 0;
    return aq_err_set(err, AQ_EINPUT, "tensor '%s' has dtype %s, which no scale has",
                      aq_show(t->name), t->dtype_name);
}

int coded_number(const struct st_tensor *t, float *out, struct aq_err *err)
{
    if (is_number(t, err) < 0)
        return -1;
    if (t->elements != 1)
        return aq_err_set(err, AQ_EINPUT, "tensor '%s' has %llu elements, expected one",
                          aq_show(t->name), (unsigned long long)t->elements);
    *out = number_at(t, 0);
    return isfinite(*out)
               ? 0
               : aq_err_set(err, AQ_EINPUT, "tensor '%s' is not finite", aq_show(t->name));
}

/* ---- opening ---- */

struct opening {
    struct coded *c;
    const char *module;
    const struct coded_args *args;
    coded_find_fn *find;
    void *arg;
    struct aq_err *err;
};

static const struct st_tensor *find(const struct opening *o, const char *suffix)
{
    char *name = xasprintf("%s.%s", o->module, suffix);
    const struct st_tensor *t = o->find(o->arg, name);
    free(name);
    return t;
}

static const struct st_tensor *need(const struct opening *o, const char *suffix)
{
    const struct st_tensor *t = find(o, suffix);
    if (!t)
        aq_err_set(o->err, AQ_EINPUT, "tensor '%s.%s' is missing", aq_show(o->module), suffix);
    return t;
}

static int odd(const struct opening *o, const struct st_tensor *t)
{
    return aq_err_set(o->err, AQ_EINPUT,
                      "tensor '%s' (%s) has a type or shape that does not fit %lld x %lld weights",
                      aq_show(t->name), t->dtype_name, (long long)o->c->rows,
                      (long long)o->c->cols);
}

/* Dimensions without those of 1; false for more than two. */
static bool squeeze(const struct st_tensor *t, int64_t shape[2])
{
    int n = 0;
    shape[0] = shape[1] = 1;
    for (int i = 0; i < t->rank; i++) {
        if (t->shape[i] == 1)
            continue;
        if (n == 2)
            return false;
        shape[n++] = (int64_t)t->shape[i];
    }
    return true;
}

static int take_scales(const struct opening *o)
{
    struct coded *c = o->c;
    const struct st_tensor *t = need(o, "weight_scale");
    struct coded_scales *s = &c->scales;
    int64_t shape[2];
    if (!t || is_number(t, o->err) < 0)
        return -1;
    *s = (struct coded_scales){.t = t, .each_rows = c->rows, .each_cols = c->cols, .cols = 1};
    if (t->elements == 1)
        return 0;
    if (!squeeze(t, shape))
        return odd(o, t);
    if (t->rank == 2) { /* a matrix of one row or column is one */
        shape[0] = (int64_t)t->shape[0];
        shape[1] = (int64_t)t->shape[1];
    }
    if (shape[0] == c->rows) {
        s->each_rows = 1;
        s->cols = shape[1];
        s->each_cols = o->args->group > 0 ? o->args->group : aq_div_up(c->cols, shape[1]);
    } else {
        s->each_rows = o->args->tile[0] ? o->args->tile[0] : 128;
        s->each_cols = o->args->tile[1] ? o->args->tile[1] : 128;
        s->cols = shape[1];
    }
    bool fits =
        aq_div_up(c->rows, s->each_rows) == shape[0] && aq_div_up(c->cols, s->each_cols) == s->cols;
    return fits ? 0 : odd(o, t);
}

/* Zero points: one a scale, as bytes, or packed along the rows. */
static int take_zeros(const struct opening *o)
{
    struct coded *c = o->c;
    const struct st_tensor *t = find(o, "weight_zero_point");
    int64_t rows = aq_div_up(c->rows, c->scales.each_rows);
    if (!t)
        return 0;
    c->zeros = t;
    if (t->dtype == ST_I8 && (int64_t)t->elements == rows * c->scales.cols)
        return 0;
    if (c->form == CODED_PACKED && t->dtype == ST_I32 && t->rank == 2 &&
        (int64_t)t->shape[0] == aq_div_up(rows * c->bits, 32) &&
        (int64_t)t->shape[1] == c->scales.cols)
        return 0;
    return odd(o, t);
}

static int take_groups(const struct opening *o)
{
    struct coded *c = o->c;
    const struct st_tensor *t = find(o, "weight_g_idx");
    if (!t)
        return 0;
    if (t->dtype != ST_I32 || (int64_t)t->elements != c->cols)
        return odd(o, t);
    for (int64_t i = 0; i < c->cols; i++) {
        int32_t g;
        memcpy(&g, (const char *)t->data + 4 * i, 4);
        if (g == -1) /* not in use */
            return 0;
        if (g < 0 || g >= c->scales.cols)
            return odd(o, t);
    }
    c->groups = t;
    return 0;
}

static int take_inputs(const struct opening *o)
{
    const struct st_tensor *t = find(o, "pre_quant_scale");
    if (!t)
        return 0;
    if (is_number(t, o->err) < 0)
        return -1;
    o->c->inputs = t;
    return (int64_t)t->elements == o->c->cols ? 0 : odd(o, t);
}

/* The second level of NVFP4: a divisor in compressed-tensors, a factor in ModelOpt's layout. */
static int take_second(const struct opening *o)
{
    const struct st_tensor *t = find(o, "weight_global_scale");
    o->c->divides = t != NULL;
    if (!t && !(t = need(o, "weight_scale_2")))
        return -1;
    if (coded_number(t, &o->c->second, o->err) < 0)
        return -1;
    return o->c->second > 0
               ? 0
               : aq_err_set(o->err, AQ_EINPUT, "tensor '%s' is not positive", aq_show(t->name));
}

/* ModelOpt's W4A8: the integers' values are FP8 numbers of one more scale. */
static int take_rounding(const struct opening *o)
{
    const struct st_tensor *t = need(o, "weight_scale_2");
    if (!t || coded_number(t, &o->c->rounded, o->err) < 0)
        return -1;
    return o->c->rounded > 0
               ? 0
               : aq_err_set(o->err, AQ_EINPUT, "tensor '%s' is not positive", aq_show(t->name));
}

static int take_codes(const struct opening *o, const struct st_tensor *t)
{
    struct coded *c = o->c;
    int64_t rows = c->rows, cols = c->cols;
    if (t->rank != 2)
        return odd(o, t);
    int64_t a = (int64_t)t->shape[0], b = (int64_t)t->shape[1];
    c->codes = t->data;
    c->dtype = t->dtype;
    c->bits = o->args->bits;
    if (a == rows && b == cols) {
        c->form = t->dtype == ST_I8        ? CODED_BYTES
                  : t->dtype == ST_F8_E4M3 ? CODED_FP8
                                           : CODED_PLAIN;
        return c->form != CODED_PLAIN || t->dtype == ST_F32 || t->dtype == ST_BF16 ||
                       t->dtype == ST_F16
                   ? 0
                   : odd(o, t);
    }
    if (t->dtype == ST_U8 && a == rows && b == aq_div_up(cols, 2) && cols % 2 == 0)
        c->form = CODED_FP4;
    else if (t->dtype == ST_U8 && a == rows / 2 && rows % 2 == 0 && b == cols)
        c->form = CODED_ROWS4;
    else if (t->dtype == ST_I32 && a == rows && c->bits >= 2 && c->bits <= 8 &&
             b == aq_div_up(cols * c->bits, 32))
        c->form = CODED_PACKED;
    else
        return odd(o, t);
    return 0;
}

int coded_open(struct coded *c, const char *module, int64_t rows, int64_t cols,
               const struct coded_args *args, coded_find_fn *find_tensor, void *arg,
               struct aq_err *err)
{
    const struct opening o = {c, module, args, find_tensor, arg, err};
    *c = (struct coded){.rows = rows, .cols = cols, .second = 1};
    const struct st_tensor *t = find(&o, "weight_packed");
    if (!t && !(t = need(&o, "weight")))
        return -1;
    if (take_codes(&o, t) < 0)
        return -1;
    if (c->form == CODED_PLAIN)
        return 0;
    if (take_scales(&o) < 0 || take_zeros(&o) < 0 || take_groups(&o) < 0 || take_inputs(&o) < 0)
        return -1;
    if (args->rounded)
        return take_rounding(&o);
    return c->form == CODED_FP4 && c->scales.t->dtype == ST_F8_E4M3 ? take_second(&o) : 0;
}

/* ---- decoding ---- */

static int packed_at(const unsigned char *words, int64_t bit, int bits)
{
    unsigned word = 0;
    for (int b = 0; b < bits; b++)
        word |= (unsigned)(words[(bit + b) / 8] >> ((bit + b) % 8) & 1) << b;
    return (int)word - (1 << (bits - 1));
}

/* Packed along the rows: word w of column g is at (w, g). */
static int zero_at(const struct coded *c, int64_t row, int64_t col)
{
    const unsigned char *p = c->zeros->data;
    unsigned word = 0;
    if (c->zeros->dtype == ST_I8)
        return (int8_t)p[row * c->scales.cols + col];
    for (int b = 0; b < c->bits; b++) {
        int64_t bit = row * c->bits + b;
        const unsigned char *w = p + (bit / 32 * c->scales.cols + col) * 4;
        word |= (unsigned)(w[bit % 32 / 8] >> (bit % 8) & 1) << b;
    }
    return (int)word - (1 << (c->bits - 1));
}

static float code_at(const struct coded *c, int64_t r, int64_t k)
{
    const unsigned char *codes = c->codes;
    int64_t at = r * c->cols + k;
    switch (c->form) {
    case CODED_BYTES:
        return (float)(int8_t)codes[at];
    case CODED_FP8:
        return num_from_e4m3(codes[at]);
    case CODED_PACKED:
        return (float)packed_at(codes + r * aq_div_up(c->cols * c->bits, 32) * 4, k * c->bits,
                                c->bits);
    case CODED_FP4:
        return num_from_e2m1(codes[at / 2] >> (at % 2 * 4) & 15);
    default: {
        int q = codes[r / 2 * c->cols + k] >> (r % 2 * 4) & 15;
        return (float)(q - (q & 8) * 2);
    }
    }
}

/* The scales of a row, with the second level. */
static void row_scales(const struct coded *c, int64_t r, float *scales)
{
    int64_t row = r / c->scales.each_rows;
    for (int64_t g = 0; g < c->scales.cols; g++) {
        float s = number_at(c->scales.t, row * c->scales.cols + g);
        scales[g] = c->divides ? s / c->second : s * c->second;
    }
}

static void decode_row(const struct coded *c, int64_t r, float *scales, float *zeros, float *out)
{
    row_scales(c, r, scales);
    for (int64_t g = 0; c->zeros && g < c->scales.cols; g++)
        zeros[g] = (float)zero_at(c, r / c->scales.each_rows, g);
    for (int64_t k = 0; k < c->cols; k++) {
        int64_t g = k / c->scales.each_cols;
        if (c->groups) {
            int32_t own;
            memcpy(&own, (const char *)c->groups->data + 4 * k, 4);
            g = own;
        }
        out[k] = (code_at(c, r, k) - (c->zeros ? zeros[g] : 0)) * scales[g];
        if (c->rounded != 0)
            out[k] = num_round(out[k] / c->rounded, NUM_E4M3) * c->rounded;
        if (c->inputs)
            out[k] *= number_at(c->inputs, k);
    }
}

/* A bias is one row here, and its elements are those that are out of order. */
static void decode_gguf_vector(const struct coded *c, float *out)
{
    float *x = xcalloc((size_t)c->cols, sizeof *x);
    gguf_dequantize(c->type, c->codes, (size_t)c->cols, x);
    for (int64_t k = 0; k < c->cols; k++)
        out[c->heads ? gguf_source_row(k, c->cols, c->heads) : k] = x[k] - c->plus;
    free(x);
}

static void decode_gguf(const struct coded *c, float *out)
{
    const struct gguf_type_info *t = gguf_type_info(c->type);
    size_t bytes = (size_t)(c->cols / t->block) * (size_t)t->block_bytes;
    for (int64_t r = 0; r < c->rows; r++) {
        int64_t to = c->heads ? gguf_source_row(r, c->rows, c->heads) : r;
        float *row = out + to * c->cols;
        gguf_dequantize(c->type, (const char *)c->codes + (size_t)r * bytes, (size_t)c->cols, row);
        for (int64_t k = 0; c->second != 1 && k < c->cols; k++)
            row[k] *= c->second;
    }
}

static const char *coded_scope(const struct coded *c, char *room, size_t size)
{
    const struct coded_scales *s = &c->scales;
    if (s->t->elements == 1)
        return "tensor";
    if (s->each_rows == 1 && s->cols == 1)
        return "axis0";
    if (s->each_rows == 1)
        (void)snprintf(room, size, "block(-1:%lld)", (long long)s->each_cols);
    else
        (void)snprintf(room, size, "block(-1:%lld,-2:%lld)", (long long)s->each_cols,
                       (long long)s->each_rows);
    return room;
}

bool coded_treatment(const struct coded *c, char *out)
{
    char scope[64];
    long long block = (long long)c->scales.each_cols;
    if (c->form == CODED_GGUF || c->zeros || c->groups)
        return false;
    if (!c->scales.t) /* numbers */
        (void)snprintf(out, QUANT_TEXT_MAX, "none");
    else if (c->scales.t->dtype == ST_U8)
        (void)snprintf(out, QUANT_TEXT_MAX, "%s:mx(%lld):dynamic",
                       c->form == CODED_FP4 ? "e2m1" : "e4m3", block);
    else if (c->form == CODED_FP4)
        (void)snprintf(out, QUANT_TEXT_MAX, "e2m1:nvfp4(%lld):dynamic", block);
    else if (c->form == CODED_FP8)
        (void)snprintf(out, QUANT_TEXT_MAX, "e4m3:%s:static", coded_scope(c, scope, sizeof scope));
    else
        (void)snprintf(out, QUANT_TEXT_MAX, "int%d:%s:static",
                       c->form == CODED_BYTES   ? 8
                       : c->form == CODED_ROWS4 ? 4
                                                : c->bits,
                       coded_scope(c, scope, sizeof scope));
    if (c->rounded != 0)
        (void)snprintf(out + strlen(out), QUANT_TEXT_MAX - strlen(out), "+e4m3:tensor:static");
    return true;
}

const float *coded_take_inputs(struct coded *c, struct aq_arena *arena)
{
    if (!c->inputs)
        return NULL;
    float *factor = aq_arena_alloc(arena, (size_t)c->cols * sizeof *factor);
    for (int64_t k = 0; k < c->cols; k++)
        factor[k] = number_at(c->inputs, k);
    c->inputs = NULL;
    return factor;
}

void coded_decode(const struct coded *c, float *out)
{
    if (c->form == CODED_GGUF) {
        if (c->rows == 1 && c->type != GGUF_NVFP4)
            decode_gguf_vector(c, out);
        else
            decode_gguf(c, out);
        return;
    }
    float *scales = xcalloc((size_t)c->scales.cols * 2, sizeof *scales);
    for (int64_t r = 0; r < c->rows; r++)
        decode_row(c, r, scales, scales + c->scales.cols, out + r * c->cols);
    free(scales);
}
