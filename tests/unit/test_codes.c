/*
 * Codes and scales of every scheme, decoded as a reader would, against the treatment itself; for
 * odd numbers of rows, sources of all types, at odd addresses. And packing, by hand.
 */
#include "export/codes.h"
#include "tap.h"

#include "base/mem.h"
#include "base/num.h"
#include "quant/quant.h"

#include <math.h>
#include <stdlib.h>

static uint64_t seed = 20261130;

static float uniform(void) /* -1 to 1 */
{
    seed = seed * 6364136223846793005U + 1442695040888963407U;
    return (float)((double)(int64_t)(seed ^ seed >> 29) / 9223372036854775808.0);
}

/* ---- a weight in a type, one byte off ---- */

struct source {
    char *block;
    const void *data;
    float *values; /* as the type holds them */
    int64_t rows, cols;
    enum num_type dtype;
};

static void source_make(struct source *s, int64_t rows, int64_t cols, enum num_type dtype)
{
    size_t n = (size_t)(rows * cols), size = num_bytes(dtype);
    *s = (struct source){.rows = rows, .cols = cols, .dtype = dtype};
    s->block = xmalloc(n * size + 1);
    s->values = xmalloc(n * sizeof *s->values);
    for (size_t i = 0; i < n; i++) {
        float x = uniform() * uniform() * uniform();
        if (i / (size_t)cols == 1) /* a row of zeros */
            x = 0;
        num_write(s->block + 1, dtype, i, x);
        s->values[i] = num_as(x, dtype);
    }
    s->data = s->block + 1;
}

static void source_free(struct source *s)
{
    free(s->block);
    free(s->values);
}

/* ---- there and back ---- */

struct coded {
    unsigned char *codes, *scales;
};

static int code_all(const struct coder *c, const struct source *s, struct coded *out,
                    struct aq_err *err)
{
    size_t row = (size_t)s->cols * (s->dtype == NUM_F32 ? 4 : 2);
    out->codes = xmalloc((size_t)coder_code_bytes(c, s->rows));
    out->scales = xmalloc((size_t)coder_scale_bytes(c, s->rows) + 4);
    for (int64_t r = 0; r < s->rows; r += CODES_TILE) {
        int64_t end = r + CODES_TILE < s->rows ? r + CODES_TILE : s->rows;
        if (coder_tile(c, (const char *)s->data + (size_t)r * row, s->dtype, r, end,
                       out->codes + coder_code_bytes(c, r), out->scales + coder_scale_bytes(c, r),
                       err) < 0)
            return -1;
    }
    return 0;
}

/* ModelOpt's FP8 per tensor has its one scale elsewhere. */
static void put_single_scale(const struct coder *c, struct coded *x)
{
    float scale = 1 / (1 / c->amax * 448);
    if (c->scheme.codes == CODES_FP8_ONE)
        memcpy(x->scales, &scale, 4);
}

/* The largest difference, in steps of an integer's row or relative to the value. */
static double worst(const struct coder *c, const float *found, const float *expected)
{
    double most = 0;
    int64_t group = c->scheme.group ? c->scheme.group : c->cols;
    bool rounds = c->layout == LAYOUT_GGUF
                      ? c->scheme.codes == CODES_Q8_0 || c->scheme.codes == CODES_Q4_0
                      : c->scheme.codes == CODES_PACKED;
    for (int64_t i = 0; i < c->rows * c->cols; i++) {
        double away = fabs((double)found[i] - expected[i]);
        float a = c->scheme.one_range
                      ? c->amax
                      : quant_absmax(expected + i / group * group, NUM_F32, (size_t)group);
        double step = a / (double)((1 << (c->scheme.bits - 1)) - 1);
        double unit = rounds ? step * 1.005 + fabs((double)expected[i]) * 0x1p-8
                             : fabs((double)expected[i]) * 3e-7;
        if (away > unit)
            most = fmax(most, unit > 0 ? away / unit : INFINITY);
    }
    return most;
}

static void check(enum scheme_layout layout, const char *weight, const char *act, int64_t rows,
                  int64_t cols, enum num_type dtype, bool keep)
{
    struct quant_spec w, a;
    struct coder c = {.layout = layout, .rows = rows, .cols = cols, .keep = keep, .name = "w"};
    struct aq_err err = {0};
    char reason[SCHEME_REASON];
    if (quant_parse(weight, &w, &err) < 0 || quant_parse(act, &a, &err) < 0 ||
        !scheme_find(layout, &w, &a, true, &c.scheme, reason)) {
        tap_ok(0, "%s %s | %s: %s%s", layout_names[layout], weight, act, err.msg, reason);
        return;
    }
    struct source s;
    struct coded x = {NULL, NULL};
    source_make(&s, rows, cols, dtype);
    size_t n = (size_t)(rows * cols);
    if (coder_needs_range(&c.scheme))
        c.amax = quant_absmax(s.values, NUM_F32, n) * (coder_shares_range(&c.scheme) ? 1.5F : 1);
    float *expected = xmalloc(n * sizeof *expected), *found = xmalloc(n * sizeof *found);
    struct quant_matrix m = {s.values, NUM_F32, rows, cols, "w"};
    struct quant_plan *plan = NULL;
    int r = code_all(&c, &s, &x, &err);
    if (r == 0)
        r = quant_plan_weight_under(&plan, &w, &m, c.amax, QUANT_UNROUNDED, &err);
    double most = NAN;
    if (r == 0) {
        quant_apply(plan, &m, 0, rows, expected, NUM_F32, NULL);
        put_single_scale(&c, &x);
        coder_decode(&c, x.codes, x.scales, 0, rows, found);
        most = worst(&c, found, expected);
    }
    tap_ok(r == 0 && most == 0, "%s: %s (%lld, %lld) %s%s", c.scheme.name, weight, (long long)rows,
           (long long)cols,
           dtype == NUM_F32    ? "F32"
           : dtype == NUM_BF16 ? "BF16"
                               : "F16",
           keep ? ", codes kept" : "");
    if (r < 0 || most != 0)
        printf("# %s, %g times what it may be\n", err.msg, most);
    quant_plan_free(plan);
    free(expected);
    free(found);
    free(x.codes);
    free(x.scales);
    source_free(&s);
}

#define BITS(x) "int" #x
static const char *const ints[] = {BITS(2), BITS(3), BITS(4), BITS(5), BITS(6), BITS(7), BITS(8)};
static const enum num_type dtypes[] = {NUM_BF16, NUM_F16, NUM_F32};

static void test_ct(void)
{
    static const char *const scopes[] = {"axis0", "tensor", "block(-1:32)", "block(-1:64)"};
    for (size_t b = 0; b < 7; b++)
        for (size_t s = 0; s < 4; s++) {
            char text[64];
            (void)snprintf(text, sizeof text, "%s:%s:static", ints[b], scopes[s]);
            check(LAYOUT_CT, text, "none", 130 + (int64_t)b, 192, dtypes[(b + s) % 3], s == 1);
        }
    check(LAYOUT_CT, "int3:axis0:static", "none", 3, 37, NUM_BF16, false);
    check(LAYOUT_CT, "int5:tensor:static", "none", 1, 1, NUM_F32, false);
    for (size_t d = 0; d < 3; d++) {
        check(LAYOUT_CT, "int8:axis0:static", "int8:token:dynamic", 129, 48, dtypes[d], false);
        check(LAYOUT_CT, "int8:tensor:static", "int8:tensor:static", 257, 31, dtypes[d], false);
        check(LAYOUT_CT, "e4m3:axis0:static", "none", 128, 33, dtypes[d], false);
        check(LAYOUT_CT, "e4m3:tensor:static", "e4m3:tensor:static", 129, 7, dtypes[d], false);
        check(LAYOUT_CT, "e2m1:nvfp4(16):dynamic", "none", 131, 64, dtypes[d], false);
        check(LAYOUT_CT, "e2m1:mx(32):dynamic", "none", 131, 96, dtypes[d], false);
        check(LAYOUT_CT, "e4m3:mx(32):dynamic", "none", 2, 32, dtypes[d], false);
    }
}

static void test_others(void)
{
    for (size_t d = 0; d < 3; d++) {
        check(LAYOUT_MODELOPT, "e4m3:tensor:static", "e4m3:tensor:static", 130, 24, dtypes[d],
              false);
        check(LAYOUT_MODELOPT, "e4m3:axis0:static", "e4m3:token:dynamic", 130, 24, dtypes[d],
              false);
        check(LAYOUT_MODELOPT, "e2m1:nvfp4(16):dynamic", "none", 130, 48, dtypes[d], false);
        check(LAYOUT_MODELOPT, "e4m3:mx(32):dynamic", "e4m3:mx(32):dynamic", 130, 64, dtypes[d],
              false);
        check(LAYOUT_MODELOPT, "int4:block(-1:128):static", "none", 130, 256, dtypes[d], false);
        check(LAYOUT_MODELOPT, "int8:axis0:static", "none", 129, 9, dtypes[d], false);
        for (int keep = 0; keep < 2; keep++) {
            check(LAYOUT_GGUF, "int8:axis0:static", "none", 129, 64, dtypes[d], keep);
            check(LAYOUT_GGUF, "int6:block(-1:32):static", "none", 129, 64, dtypes[d], keep);
            check(LAYOUT_GGUF, "int4:block(-1:64):static", "none", 129, 128, dtypes[d], keep);
            check(LAYOUT_GGUF, "int2:tensor:static", "none", 129, 32, dtypes[d], keep);
        }
        check(LAYOUT_GGUF, "e2m1:mx(32):dynamic", "none", 129, 64, dtypes[d], false);
        /* searched ranges and block scales */
        check(LAYOUT_CT, "mse{aq}/int8:axis0:static", "int8:token:dynamic", 129, 48, dtypes[d],
              false);
        check(LAYOUT_CT, "mse{aq}/int4:block(-1:32):static", "none", 129, 96, dtypes[d], true);
        check(LAYOUT_CT, "mse{modelopt}/e4m3:axis0:static", "none", 130, 33, dtypes[d], false);
        check(LAYOUT_CT, "sweep/e2m1:nvfp4(16):dynamic", "none", 131, 64, dtypes[d], false);
        check(LAYOUT_CT, "4o6/e2m1:nvfp4(16):dynamic", "none", 131, 64, dtypes[d], false);
        check(LAYOUT_MODELOPT, "mse{aq}/int4:block(-1:128):static", "none", 130, 256, dtypes[d],
              false);
        check(LAYOUT_MODELOPT, "sweep/e2m1:nvfp4(16):dynamic", "none", 130, 48, dtypes[d], false);
        check(LAYOUT_GGUF, "sweep/e2m1:nvfp4(16):dynamic", "none", 129, 128, dtypes[d], false);
        check(LAYOUT_GGUF, "4o6/e2m1:nvfp4(16):dynamic", "none", 129, 128, dtypes[d], false);
        check(LAYOUT_GGUF, "mse{aq}/int4:block(-1:64):static", "none", 129, 128, dtypes[d], true);
        check(LAYOUT_GGUF, "e2m1:nvfp4(16):dynamic", "none", 129, 128, dtypes[d], false);
    }
}

/* ---- packing, by hand ---- */

static void same_bytes(const char *what, const void *found, const void *expected, size_t n)
{
    tap_ok(memcmp(found, expected, n) == 0, "%s", what);
}

static void test_packing(void)
{
    struct aq_err err = {0};
    unsigned char codes[64], scales[64];
    float w[32];
    /* int4 -8 to -1, under a scale of 1: a row whose largest is 7 has the codes themselves */
    struct coder c = {.layout = LAYOUT_CT, .rows = 1, .cols = 9, .name = "w", .keep = true};
    c.scheme = (struct scheme){.codes = CODES_PACKED, .bits = 4};
    for (int i = 0; i < 8; i++)
        w[i] = (float)(i - 7);
    w[8] = 7;
    bool good = coder_tile(&c, w, NUM_F32, 0, 1, codes, scales, &err) == 0;
    tap_ok(good && coder_code_bytes(&c, 1) == 8, "int4: two words for nine weights");
    same_bytes("int4: offset codes, low bits first", codes, "\x21\x43\x65\x87\x0f\0\0\0", 8);
    /* int3: codes 0 to 7 repeated straddle words */
    c.scheme.bits = 3;
    c.cols = 32;
    for (int i = 0; i < 32; i++)
        w[i] = (float)(i % 8 - 4);
    c.scheme.one_range = true;
    c.amax = 3;
    good = coder_tile(&c, w, NUM_F32, 0, 1, codes, scales, &err) == 0;
    tap_ok(good && coder_code_bytes(&c, 1) == 12, "int3: three words for 32 weights");
    static const uint32_t words[3] = {0x88fac688, 0xc688fac6, 0xfac688fa};
    same_bytes("int3: bits straddle words", codes, words, 12);
    /* two e2m1 codes in a byte: 0.5 and -6 */
    c = (struct coder){.layout = LAYOUT_CT, .rows = 1, .cols = 32, .name = "w"};
    c.scheme = (struct scheme){.codes = CODES_MXFP4, .bits = 4};
    memset(w, 0, sizeof w);
    w[0] = 0.5F;
    w[1] = -6;
    good = coder_tile(&c, w, NUM_F32, 0, 1, codes, scales, &err) == 0;
    tap_ok(good && codes[0] == 0xf1 && scales[0] == 127, "e2m1: the first weight in the low half");
}

static void test_bad(void)
{
    static const enum scheme_codes all[] = {CODES_INT8, CODES_FP8, CODES_PACKED, CODES_MXFP4};
    float w[64];
    unsigned char codes[256], scales[256];
    for (size_t i = 0; i < 4; i++)
        for (int kind = 0; kind < 2; kind++) {
            struct aq_err err = {0};
            struct coder c = {.layout = LAYOUT_CT, .rows = 2, .cols = 32, .name = "layers.7.x"};
            c.scheme = (struct scheme){.codes = all[i], .bits = all[i] == CODES_MXFP4 ? 4 : 8};
            memset(w, 0, sizeof w);
            w[40] = kind ? NAN : -INFINITY;
            int r = coder_tile(&c, w, NUM_F32, 0, 2, codes, scales, &err);
            tap_ok(r < 0 && err.code == AQ_EINPUT && strstr(err.msg, "layers.7.x") &&
                       strstr(err.msg, "(1, 8)"),
                   "a number that is not finite is named: %s", err.msg);
        }
    struct aq_err err = {0};
    struct coder c = {.layout = LAYOUT_GGUF, .rows = 1, .cols = 32, .name = "w"};
    c.scheme = (struct scheme){.codes = CODES_Q8_0, .bits = 8};
    w[0] = 1e9F;
    w[40] = 0;
    tap_ok(coder_tile(&c, w, NUM_F32, 0, 1, codes, scales, &err) < 0 && strstr(err.msg, "16 bits"),
           "a range beyond fp16: %s", err.msg);
}

int main(void)
{
    test_ct();
    test_others();
    test_packing();
    test_bad();
    return tap_done();
}
