/* lib/quant: treatments as text, the worked examples of the formats, what is refused. */
#include "tap.h"

#include "base/num.h"
#include "quant/quant.h"

#include <stdlib.h>

/* ---- treatments ---- */

static void test_parse(void)
{
    static const char *const good[] = {
        "none",
        "int8:axis0:static",
        "int4:block(-1:128):static",
        "int2:tensor:dynamic",
        "e2m1:nvfp4(16):dynamic",
        "e2m1:nvfp4(32):static",
        "e4m3:token:dynamic",
        "e4m3:block(-1:128,-2:64):static",
        "int8:block(-2:7):static",
        "e4m3:axis-1:static",
        "e5m2:mx(32):dynamic",
        "int8:mx(8):dynamic",
        "e3m2:mx(16):dynamic",
        "e2m3:mx(32):dynamic",
        "int4:block(-1:128):static+e4m3:tensor:static",
        "int8:block(-1:1048576):static",
        "e4m3:block(-1:128):dynamic",
        "e2m1:nvfp4(16):dynamic@group",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct quant_spec spec;
        struct aq_err err = {0};
        char text[QUANT_TEXT_MAX] = "";
        if (quant_parse(good[i], &spec, &err) == 0)
            quant_print(&spec, text);
        tap_same(err.code ? err.msg : text, good[i], good[i]);
    }
    static const struct {
        const char *text, *part;
    } bad[] = {
        {"", "expected a number format"},
        {"int9:tensor:static", "expected a number format"},
        {"int1:tensor:static", "expected a number format"},
        {"INT8:tensor:static", "expected a number format"},
        {"int8", "expected ':'"},
        {"int8:axis:static", "expected a scope"},
        {"int8:axis01:static", "expected a scope"},
        {"int8:tensor", "expected ':'"},
        {"int8:tensor:sometimes", "expected 'static' or 'dynamic'"},
        {"int8:tensor:static ", "expected 'static' or 'dynamic'"},
        {"int8:tensor:static+", "expected a number format"},
        {"none+int8:tensor:static", "expected a number format"},
        {"int8:block(-1:0):static", "expected a block length from 1"},
        {"int8:block(-1:-5):static", "expected a block length from 1"},
        {"int8:block(-1:08):static", "expected a block length from 1"},
        {"int8:block(-1:1048577):static", "expected a block length from 1"},
        {"int8:block(-1:99999999999999999999):static", "expected a block length from 1"},
        {"int8:block(-1:):static", "expected a block length from 1"},
        {"int8:block():static", "expected '-1:' or '-2:'"},
        {"int8:block(0:4):static", "expected '-1:' or '-2:'"},
        {"int8:block(-1:4,-1:4):static", "expected '-2:'"},
        {"int8:block(-2:4,-1:4):static", "expected ')'"},
        {"int8:block(-1:1,-2:4):static", "a length of 1 beside another one"},
        {"int8:block(-1:4:static", "expected ')'"},
        {"int8:block:static", "expected '('"},
        {"int8:tensor:static@group", "@group goes with nvfp4 alone"},
        {"int4:axis0:static+e2m1:nvfp4(16):dynamic@group", "@group goes with nvfp4 alone"},
        {"e2m1:nvfp4(16):dynamic@groups", "expected '+' or the end"},
        {"e2m1:nvfp4(16)@group:dynamic", "expected ':'"},
        {"int4:block(-1:4):dynamic", "dynamic blocks hold e4m3 or int8 numbers of one row"},
        {"e4m3:block(-1:4,-2:2):dynamic", "dynamic blocks hold e4m3 or int8 numbers of one row"},
        {"int8:axis0:dynamic", "always static"},
        {"int8:token:static", "always dynamic"},
        {"e2m1:tensor:static", "needs blocks with their own scales"},
        {"e2m1:token:dynamic", "needs blocks with their own scales"},
        {"e5m2:axis0:static", "needs blocks with their own scales"},
        {"e4m3:nvfp4(16):dynamic", "nvfp4 blocks hold e2m1"},
        {"int4:mx(32):dynamic", "mx blocks hold int8 or floats"},
        {"e4m3:mx(64):dynamic", "mx blocks are 8, 16 or 32"},
        {"e4m3:mx(32):static", "mx scales are always dynamic"},
        {"int8:tensor:static+int8:tensor:static+int8:tensor:static+int8:tensor:static"
         "+int8:tensor:static",
         "more than 4 steps"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct quant_spec spec;
        struct aq_err err = {0};
        int rc = quant_parse(bad[i].text, &spec, &err);
        if (!tap_ok(rc == -1 && err.code == AQ_EINPUT && strstr(err.msg, bad[i].part),
                    "refused: '%s'", bad[i].text))
            printf("# %s\n", err.msg);
    }
}

/* ---- worked examples ---- */

enum { WIDE = 16 };

/* One row as an activation with a static range, or as a dynamic one, in fp32 or by way of bf16. */
static int act_row(const char *text, float amax, const float *x, int n,
                   enum quant_rounding rounding, float *y)
{
    struct quant_spec spec;
    struct quant_plan *plan;
    struct aq_err err = {0};
    struct quant_range range = {.amax = amax};
    struct quant_matrix m = {x, NUM_F32, 1, n, "x"};
    if (quant_parse(text, &spec, &err) < 0 ||
        quant_plan_act(&plan, &spec, n, &range, rounding, &err) < 0) {
        printf("# %s\n", err.msg);
        return -1;
    }
    quant_apply(plan, &m, 0, 1, y, NUM_F32, NULL);
    quant_plan_free(plan);
    return 0;
}

/* Expected values are decimals with 8 digits: equal to within the last of them. */
static int near(float a, float b)
{
    return a == b || fabsf(a - b) <= 1e-7F * fabsf(b);
}

static void example(const char *what, const char *text, float amax, const float *x,
                    const float *want, int n, enum quant_rounding rounding)
{
    float y[WIDE];
    int good = act_row(text, amax, x, n, rounding, y) == 0;
    for (int i = 0; good && i < n; i++)
        if (!near(y[i], want[i])) {
            printf("# %d: %.9g gives %.9g, expected %.9g\n", i, x[i], y[i], want[i]);
            good = 0;
        }
    tap_ok(good, "%s", what);
}

#define ROW(...) ((const float[]){__VA_ARGS__})

static void test_examples(void)
{
    example("int8, range 3", "int8:tensor:static", 3,
            ROW(0.5F, -1.25F, 3, 3.5F, -3.5F, 0.01184082F),
            ROW(0.49609375F, -1.25F, 3, 3, -3.03125F, 0.02368164F), 6, QUANT_TO_BF16);
    example("int4, range 0.0698", "int4:tensor:static", 0.06982421875F,
            ROW(0.0300292969F, 0.0349121094F, 0.00500488281F, -0.0800781250F, 0.00491333008F),
            ROW(0.0299072266F, 0.0397949219F, 0.00994873047F, -0.0795898438F, 0), 5, QUANT_TO_BF16);
    example("e4m3, range 3", "e4m3:tensor:static", 3,
            ROW(0.100097656F, -1.234375F, 1.00135803e-5F, 3.296875F),
            ROW(0.10044643F, -1.28571427F, 1.30791e-5F, 3), 2, QUANT_UNROUNDED);
    example("e4m3, range 3, bf16", "e4m3:tensor:static", 3,
            ROW(0.100097656F, -1.234375F, 1.00135803e-5F, 3.296875F),
            ROW(0.100585938F, -1.2890625F, 1.30534172e-5F, 3), 4, QUANT_TO_BF16);

    const float *x =
        ROW(0.5F, -0.25F, 0.125F, 0.0625F, 1, -0.75F, 0.3125F, -1.1875F, 0.0200195313F, 0,
            0.8984375F, -0.400390625F, 0.6015625F, 0.100097656F, -0.0500488281F, 0.200195313F);
    example("nvfp4, g 2.5", "e2m1:nvfp4(16):static", 2.5F, x,
            ROW(0.58203125F, -0.291015625F, 0.0966796875F, 0.0966796875F, 1.1640625F, -0.7734375F,
                0.291015625F, -1.1640625F, 0, 0, 0.7734375F, -0.38671875F, 0.58203125F,
                0.0966796875F, -0.0966796875F, 0.193359375F),
            16, QUANT_TO_BF16);
    float tiny[WIDE], zero[WIDE] = {0};
    for (int i = 0; i < WIDE; i++)
        tiny[i] = 2e-5F;
    example("nvfp4 flushes small blocks", "e2m1:nvfp4(16):static", 2.5F, tiny, zero, 16,
            QUANT_UNROUNDED);
    example("nvfp4 flushes under a tiny range", "e2m1:nvfp4(16):static", 3e-5F, tiny, zero, 16,
            QUANT_UNROUNDED);
    example("mxfp4", "e2m1:mx(16):dynamic", 0, x,
            ROW(0.5F, -0.25F, 0.125F, 0, 1, -0.75F, 0.25F, -1, 0, 0, 1, -0.375F, 0.5F, 0.125F,
                -0.0F, 0.25F),
            16, QUANT_TO_BF16);
    example("mxfp8", "e4m3:mx(16):dynamic", 0, x,
            ROW(0.5F, -0.25F, 0.125F, 0.0625F, 1, -0.75F, 0.3125F, -1.25F, 0.01953125F, 0, 0.875F,
                -0.40625F, 0.625F, 0.1015625F, -0.05078125F, 0.203125F),
            16, QUANT_TO_BF16);
    example("mxint8", "int8:mx(16):dynamic", 0, x,
            ROW(0.5F, -0.25F, 0.125F, 0.0625F, 1, -0.75F, 0.3125F, -1.1875F, 0.015625F, 0, 0.90625F,
                -0.40625F, 0.59375F, 0.09375F, -0.046875F, 0.203125F),
            16, QUANT_TO_BF16);
    example("mxfp4, 8 wide", "e2m1:mx(8):dynamic", 0,
            ROW(0.1F, 0.2F, 0.35F, 0.16F, 0.85F, 0.9F, 0.67F, 0.76F),
            ROW(0.125F, 0.25F, 0.375F, 0.125F, 0.75F, 1, 0.75F, 0.75F), 8, QUANT_UNROUNDED);
    example("mxfp4, ties", "e2m1:mx(8):dynamic", 0,
            ROW(0, 0.25F, 0.75F, 1.25F, 1.75F, 2.5F, 3.5F, 5), ROW(0, 0, 1, 1, 2, 2, 4, 4), 8,
            QUANT_UNROUNDED);
    example("mxfp4, wide range", "e2m1:mx(8):dynamic", 0,
            ROW(2.3F, 9, 0.5F, 100.5F, 900.3F, 10000, 2000, 360000),
            ROW(0, 0, 0, 0, 0, 0, 0, 393216), 8, QUANT_UNROUNDED);
    example("mxfp8, 8 wide", "e4m3:mx(8):dynamic", 0,
            ROW(86.013F, 8.952F, 89.435F, 76.524F, 72.668F, 59.243F, 79.387F, 57.657F),
            ROW(88, 9, 88, 80, 72, 60, 80, 56), 8, QUANT_UNROUNDED);
    example("mxint8, 8 wide", "int8:mx(8):dynamic", 0,
            ROW(284.205F, 189.103F, 127.758F, 305.991F, 345.731F, 98.383F, 676.081F, 540.471F),
            ROW(288, 192, 128, 304, 344, 96, 680, 544), 8, QUANT_UNROUNDED);
}

/* ---- blocks longer than the matrix ---- */

enum { ROWS = 5, COLS = 7 };

static void apply(const char *text, const float *data, float *y)
{
    struct quant_spec spec;
    struct quant_plan *plan = NULL;
    struct aq_err err = {0};
    const struct quant_matrix w = {data, NUM_F32, ROWS, COLS, "w"};
    if (quant_parse(text, &spec, &err) < 0 ||
        quant_plan_weight(&plan, &spec, &w, QUANT_UNROUNDED, &err) < 0) {
        printf("# %s\n", err.msg);
        memset(y, 0, ROWS * COLS * sizeof *y);
        return;
    }
    quant_apply(plan, &w, 0, ROWS, y, NUM_F32, NULL);
    quant_plan_free(plan);
}

/* ModelOpt pads them with zeros, which raise no range: a block that ends with the matrix. */
static void test_long_blocks(void)
{
    static const char *const pairs[][2] = {
        {"int4:block(-1:512):static", "int4:block(-1:7):static"},
        {"int4:block(-1:8):static", "int4:axis0:static"},
        {"int8:block(-2:9):static", "int8:block(-2:5):static"},
        {"e4m3:block(-1:128,-2:128):static", "e4m3:tensor:static"},
        {"e2m1:nvfp4(16):dynamic", "e2m1:nvfp4(7):dynamic"},
        {"e2m1:mx(32):dynamic", "e2m1:mx(8):dynamic"},
    };
    float data[ROWS * COLS], a[ROWS * COLS], b[ROWS * COLS];
    for (int i = 0; i < ROWS * COLS; i++)
        data[i] = (float)((i * 37) % 23 - 11) / 7;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        apply(pairs[i][0], data, a);
        apply(pairs[i][1], data, b);
        int bits = memcmp(a, b, sizeof a); /* NOLINT(*-memory-comparison) */
        tap_ok(a[1] != 0 && bits == 0, "%s on %d x %d is %s", pairs[i][0], ROWS, COLS, pairs[i][1]);
    }
}

/*
 * Matrix units multiply values over a common unit in bf16. A block far below the range of an NVFP4
 * weight has the scale 1, and its values over the unit are no longer exact.
 */
static void test_unit(void)
{
    enum { BLOCK = 16 };
    static const float range[] = {1, 0x1p16F, 0x1p20F};
    for (size_t i = 0; i < sizeof range / sizeof *range; i++) {
        float data[2 * BLOCK];
        struct quant_spec spec;
        struct quant_plan *plan = NULL;
        struct aq_err err = {0};
        for (int k = 0; k < BLOCK; k++) {
            data[k] = range[i] * (float)(k + 1) / BLOCK;
            data[BLOCK + k] = (float)k / 3;
        }
        const struct quant_matrix w = {data, NUM_F32, 1, 2 * BLOCK, "w"};
        int rc = quant_parse("e2m1:nvfp4(16):dynamic", &spec, &err);
        if (rc == 0)
            rc = quant_plan_weight(&plan, &spec, &w, QUANT_UNROUNDED, &err);
        float unit = rc == 0 ? quant_bf16_unit(plan) : -1;
        tap_ok(range[i] <= 0x1p16F ? unit > 0 : unit == 0, "unit of a range of %g: %g",
               (double)range[i], (double)unit);
        quant_plan_free(plan);
    }
}

/* Two members under the range of both are the rows of one matrix. */
static void test_group_range(void)
{
    enum { FIRST = 3 };
    float data[ROWS * COLS], whole[ROWS * COLS], parts[ROWS * COLS] = {0};
    struct quant_spec spec;
    struct aq_err err = {0};
    for (int i = 0; i < ROWS * COLS; i++)
        data[i] = (float)((i * 37) % 23 - 11) / (i < FIRST * COLS ? 700.0F : 7.0F);
    apply("e2m1:nvfp4(16):dynamic@group", data, whole); /* no members: its own range */
    tap_ok(quant_parse("e2m1:nvfp4(16):dynamic@group", &spec, &err) == 0 && spec.group, "@group");
    const struct quant_matrix all = {data, NUM_F32, ROWS, COLS, "w"};
    tap_ok(quant_weight_amax(&all, &spec.group_amax, &err) == 0, "range of all rows");
    for (int64_t r = 0; r < ROWS; r += FIRST) {
        int64_t n = r + FIRST < ROWS ? FIRST : ROWS - r;
        const struct quant_matrix w = {data + r * COLS, NUM_F32, n, COLS, "w"};
        struct quant_plan *plan = NULL;
        if (quant_plan_weight(&plan, &spec, &w, QUANT_UNROUNDED, &err) == 0)
            quant_apply(plan, &w, 0, n, parts + r * COLS, NUM_F32, NULL);
        quant_plan_free(plan);
    }
    int bits = memcmp(whole, parts, sizeof whole); /* NOLINT(*-memory-comparison) */
    tap_ok(bits == 0, "members under one range have the bits of one matrix");
    spec.group_amax = 0;
    const struct quant_matrix first = {data, NUM_F32, FIRST, COLS, "w"};
    struct quant_plan *plan = NULL;
    if (quant_plan_weight(&plan, &spec, &first, QUANT_UNROUNDED, &err) == 0)
        quant_apply(plan, &first, 0, FIRST, parts, NUM_F32, NULL);
    quant_plan_free(plan);
    bits = memcmp(whole, parts, FIRST * COLS * sizeof *whole); /* NOLINT(*-memory-comparison) */
    tap_ok(bits != 0, "and others under ranges of their own");
}

/* ---- refusals ---- */

static void refused_as_act(void)
{
    struct quant_spec spec;
    struct aq_err err = {0};
    tap_ok(quant_parse_act("e2m1:nvfp4(16):static", &spec, &err) == 0 &&
               quant_parse_act("e2m1:nvfp4(16):dynamic", &spec, &err) < 0 &&
               err.code == AQ_EINPUT && strstr(err.msg, "second level of nvfp4 activations"),
           "one spelling of nvfp4 activations");
}

static void refused(const char *text, int64_t rows, int64_t cols, const char *part)
{
    static float data[64];
    struct quant_spec spec;
    struct quant_plan *plan = NULL;
    struct aq_err err = {0};
    struct quant_matrix w = {data, NUM_F32, rows, cols, "layers.0.mlp.up_proj.weight"};
    int rc = quant_parse(text, &spec, &err);
    if (rc == 0)
        rc = quant_plan_weight(&plan, &spec, &w, QUANT_UNROUNDED, &err);
    if (!tap_ok(rc == -1 && !plan && err.code == AQ_EINPUT && strstr(err.msg, part) &&
                    !strchr(err.msg, '\n'),
                "refused: %s on (%lld, %lld)", text, (long long)rows, (long long)cols))
        printf("# %s\n", err.msg);
}

static void refused_act(const char *text, const struct quant_range *range, const char *part)
{
    struct quant_spec spec;
    struct quant_plan *plan = NULL;
    struct aq_err err = {0};
    int rc = quant_parse(text, &spec, &err);
    if (rc == 0)
        rc = quant_plan_act(&plan, &spec, 8, range, QUANT_UNROUNDED, &err);
    if (!tap_ok(rc == -1 && !plan && err.code == AQ_EINPUT && strstr(err.msg, part),
                "refused: activation %s", text))
        printf("# %s\n", err.msg);
}

static void test_refusals(void)
{
    refused("int8:token:dynamic", 4, 8, "a scope of activations");
    refused("int8:axis-1:static", 4, 8, "a scope of activations");
    refused("int8:tensor:dynamic", 4, 8, "a weight's range is its own");
    refused("e4m3:block(-1:4):dynamic", 4, 8, "a weight's range is its own");
    refused("int8:axis0:static", 0, 8, "nothing to quantize");
    refused("int8:axis0:static", 4, -1, "nothing to quantize");
    refused("int8:axis0:static", INT64_C(1) << 40, INT64_C(1) << 40, "too large");
    struct quant_range none = {.amax = NAN}, below = {.amax = -1}, inf = {.amax = INFINITY};
    float hidden[8] = {1, 2, 3, NAN, 5, 6, 7, 8};
    struct quant_range bad = {.hidden = hidden};
    refused_act("int8:axis0:static", NULL, "a scope of weights");
    refused_act("int8:axis1:static", NULL, "a scope of weights");
    refused_act("int8:block(-1:4):static", NULL, "static blocks fit one shape only");
    refused_act("int8:tensor:static", NULL, "no calibrated range");
    refused_act("int8:axis-1:static", &below, "no calibrated range");
    refused_act("int8:tensor:static", &none, "calibrated range 0 is nan");
    refused_act("int8:tensor:static", &below, "calibrated range 0 is -1");
    refused_act("e2m1:nvfp4(8):static", &inf, "calibrated range 0 is inf");
    refused_act("int8:axis-1:static", &bad, "calibrated range 3 is nan");
    refused_act("int8:tensor:dynamic+int8:tensor:dynamic", NULL, "only weights have sequences");

    float data[12] = {1, 2, 3, 4, 5, 6, 7, NAN, 9, 10, INFINITY, 12};
    struct quant_matrix w = {data, NUM_F32, 3, 4, "w"};
    struct quant_spec spec;
    struct quant_plan *plan;
    struct aq_err err = {0};
    int rc = quant_parse("int8:axis0:static", &spec, &err);
    tap_ok(rc == 0 && quant_plan_weight(&plan, &spec, &w, QUANT_UNROUNDED, &err) < 0 && !plan,
           "non-finite weights");
    tap_same(err.msg, "w: element (1, 3) is not a number", "says where");
    data[7] = 0;
    tap_ok(quant_plan_weight(&plan, &spec, &w, QUANT_UNROUNDED, &err) < 0 &&
               strcmp(err.msg, "w: element (2, 2) is infinite") == 0,
           "an infinity too");
}

int main(void)
{
    test_parse();
    test_examples();
    test_long_blocks();
    test_unit();
    refused_as_act();
    test_group_range();
    test_refusals();
    return tap_done();
}
