/*
 * Scores of pairs of treatments by a CPU backend, and the same from quant_apply in double: for the
 * tests of scores, and of matrix units that this machine lacks.
 */
#ifndef AQ_TEST_SCORE_CASES_H
#define AQ_TEST_SCORE_CASES_H

#include "tap.h"

#include "backend/backend.h"
#include "base/mem.h"
#include "quant/quant.h"

#include <math.h>
#include <stdlib.h>

enum { SAMPLES = 4, ROWS = 40, USED = 37, COLS = 300, OUT = 170 };

static const int32_t starts[SAMPLES + 1] = {0, 12, 13, 30, USED};
static const uint8_t pads[SAMPLES] = {0};
static int32_t zeros[ROWS];
static struct aq_err err;
static uint16_t weights[OUT * COLS];
static float x[ROWS * COLS], y[ROWS * OUT], dy[ROWS * OUT], hidden[COLS];

static double uniform(void)
{
    static uint64_t seed = 3;
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(int64_t)(seed ^ seed >> 29) / 9223372036854775808.0;
}

static void must(int status)
{
    if (status < 0) {
        printf("Bail out! %s\n", err.msg);
        exit(2);
    }
}

static void make_data(void)
{
    for (int i = 0; i < OUT * COLS; i++) {
        float v = (float)(uniform() * uniform());
        memcpy(&weights[i], (char *)&v + 2, 2);
    }
    for (int i = 0; i < USED * COLS; i++)
        x[i] = (float)(uniform() * uniform() * 3);
    for (int i = 0; i < COLS; i++)
        hidden[i] = 2 + (float)(i % 7) / 8;
    for (int i = 0; i < USED * OUT; i++)
        dy[i] = (float)(uniform() * 1e-3);
}

/* One machine-side set-up: backend, tile, the weight. */
struct bench {
    struct backend *b;
    struct backend_tile *t;
    struct backend_weight w;
};

static struct bench bench_open(int threads, enum backend_matrix matrix, int rounding)
{
    struct bench s = {.w = {weights, NUM_BF16, OUT, COLS, "w", weights}};
    struct backend_config config = {
        .threads = threads, .matrix = matrix, .bf16 = rounding, .operand_rounding = rounding};
    struct backend_tile_desc d = {ROWS, SAMPLES, starts, pads, zeros, zeros, zeros};
    must(backend_open(&s.b, "cpu", &config, &err));
    s.t = s.b->ops->tile_new(s.b, &d, &err);
    s.b->ops->linear_forward(s.b, s.t, y, x, &s.w);
    return s;
}

static void bench_close(struct bench *s)
{
    s->b->ops->tile_free(s->b, s->t);
    backend_close(s->b);
}

struct pair {
    const char *w, *a;
};

/* Where one side alone is quantized, coarsely: the error of a finer one is near the rounding of
   fp32 sums. */
static const struct pair pairs[] = {
    {"none", "none"},
    {"int4:axis0:static", "none"},
    {"none", "int8:tensor:static"},
    {"int8:axis0:static", "int8:tensor:static"},
    {"int8:tensor:static", "int8:token:dynamic"},
    {"int4:block(-1:128):static", "int8:tensor:static"},
    {"int8:block(-1:64):static", "int8:tensor:dynamic"},
    {"int4:block(-1:128):static", "e4m3:tensor:static"},
    {"e4m3:tensor:static", "e4m3:tensor:static"},
    {"e4m3:axis0:static", "e4m3:token:dynamic"},
    {"e4m3:block(-1:64):static", "int8:token:dynamic"},
    {"e4m3:block(-1:128,-2:128):static", "e4m3:block(-1:128):dynamic"},
    {"int8:axis1:static", "int8:tensor:static"},
    {"e2m1:nvfp4(16):dynamic", "int8:tensor:static"},
    {"e2m1:nvfp4(16):dynamic", "e2m1:nvfp4(16):static"},
    {"e2m1:nvfp4(16):static", "e4m3:token:dynamic"},
    {"e2m1:nvfp4(64):dynamic", "int4:token:dynamic"},
    {"none", "e2m1:nvfp4(16):static"},
    {"int4:axis0:static", "e2m1:nvfp4(16):static"},
    {"e4m3:mx(32):dynamic", "e2m1:mx(16):dynamic"},
    {"int4:axis1:static", "none"},
    {"int4:block(-1:64):static", "none"},
    {"e4m3:axis0:static", "int8:axis-1:static"},
    {"int4:axis1:static", "e4m3:axis-1:static"},
};

static void parse(const char *text, struct quant_spec *spec)
{
    *spec = (struct quant_spec){0};
    must(quant_parse(text, spec, &err));
}

static int is_static(const struct quant_spec *s)
{
    return s->steps && !s->step[0].dynamic;
}

static const struct quant_range range = {.amax = 2.5F, .hidden = hidden};

/* Scores of one pair by the backend, and its quantized product in yq. */
static void score_pair(const struct bench *s, const struct pair *p, double sums[SAMPLES],
                       float yq[ROWS * OUT])
{
    struct backend *b = s->b;
    struct quant_spec ws, as;
    parse(p->w, &ws);
    parse(p->a, &as);
    struct backend_operand *wq = b->ops->operand_new(b, OUT, COLS, 1, &err);
    struct backend_operand *xq = b->ops->operand_new(b, ROWS, COLS, 0, &err);
    b->ops->quantize_weight(b, wq, &s->w, &ws);
    b->ops->quantize_act(b, xq, s->t, x, COLS, &as, is_static(&as) ? &range : NULL, NULL);
    memset(sums, 0, SAMPLES * sizeof *sums);
    struct backend_score_job job = {s->t, xq, y, dy, sums};
    b->ops->score(b, wq, &job, 1);
    b->ops->linear_quantized(b, s->t, yq, xq, wq);
    must(b->ops->sync(b, &err));
    b->ops->operand_free(b, wq);
    b->ops->operand_free(b, xq);
}

/* The same from quant_apply, in double. */
static void expect_pair(const struct pair *p, enum quant_rounding rounding, double sums[SAMPLES])
{
    static float wq[OUT * COLS], xq[ROWS * COLS];
    struct quant_spec ws, as;
    struct quant_plan *plan = NULL;
    struct quant_matrix wm = {weights, NUM_BF16, OUT, COLS, "w"};
    struct quant_matrix xm = {x, NUM_F32, ROWS, COLS, "x"};
    parse(p->w, &ws);
    parse(p->a, &as);
    for (int i = 0; i < OUT * COLS; i++) {
        uint32_t bits = (uint32_t)weights[i] << 16;
        memcpy(&wq[i], &bits, 4);
    }
    memcpy(xq, x, sizeof xq);
    if (ws.steps) {
        must(quant_plan_weight(&plan, &ws, &wm, rounding, &err));
        quant_apply(plan, &wm, 0, OUT, wq, NUM_F32, NULL);
        quant_plan_free(plan);
    }
    if (as.steps) {
        must(quant_plan_act(&plan, &as, COLS, is_static(&as) ? &range : NULL, rounding, &err));
        for (int i = 0; i < SAMPLES; i++)
            quant_apply(plan, &xm, starts[i], starts[i + 1], xq + starts[i] * COLS, NUM_F32, NULL);
        quant_plan_free(plan);
    }
    for (int s = 0; s < SAMPLES; s++) {
        sums[s] = 0;
        for (int r = starts[s]; r < starts[s + 1]; r++) {
            for (int o = 0; o < OUT; o++) {
                double dot = 0;
                for (int k = 0; k < COLS; k++)
                    dot += (double)xq[r * COLS + k] * wq[o * COLS + k];
                double d = (dot - y[r * OUT + o]) * dy[r * OUT + o];
                sums[s] += d * d;
            }
        }
    }
}

static double far_apart(const double *found, const double *expected)
{
    double far = 0;
    for (int s = 0; s < SAMPLES; s++)
        far = fmax(far, fabs(found[s] - expected[s]) / (expected[s] > 0 ? expected[s] : 1));
    return far;
}

/* In fp32 and on the matrix units. */
static void test_values(enum quant_rounding rounding)
{
    static float yq[ROWS * OUT];
    const char *what = rounding == QUANT_TO_BF16 ? ", rounded" : "";
    struct bench plain = bench_open(2, BACKEND_MATRIX_PLAIN, rounding == QUANT_TO_BF16);
    struct bench best = bench_open(2, BACKEND_MATRIX_AUTO, rounding == QUANT_TO_BF16);
    printf("# %s, %s\n", plain.b->identity, best.b->identity);
    for (size_t i = 0; i < AQ_COUNT(pairs); i++) {
        double expected[SAMPLES], found[SAMPLES];
        expect_pair(&pairs[i], rounding, expected);
        score_pair(&plain, &pairs[i], found, yq);
        double far = far_apart(found, expected);
        if (i == 0) {
            double none[SAMPLES] = {0};
            tap_ok(same_bits(found, none, sizeof none), "unquantized: exactly 0");
            tap_ok(same_bits(yq, y, sizeof yq), "unquantized: the same output");
            continue;
        }
        tap_ok(far < 1e-5, "%s | %s%s: fp32 (%.1e)", pairs[i].w, pairs[i].a, what, far);
        score_pair(&best, &pairs[i], found, yq);
        far = far_apart(found, expected);
        tap_ok(far < 1e-5, "%s | %s%s: matrix units (%.1e)", pairs[i].w, pairs[i].a, what, far);
    }
    bench_close(&plain);
    bench_close(&best);
}

#endif
