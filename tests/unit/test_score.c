/*
 * Scores of quantized operands: against sums in double over what quant_apply gives; on the matrix
 * units against fp32; the same bits for any number of threads and any grouping of jobs.
 */
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
static float x[ROWS * COLS], y[ROWS * OUT], dy[ROWS * OUT];

static double uniform(void)
{
    static uint64_t seed = 3;
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(int64_t)(seed ^ seed >> 29) / 9223372036854775808.0;
}

/* Through void: the very bits are what is compared. */
static int same_bits(const void *a, const void *b, size_t bytes)
{
    return memcmp(a, b, bytes) == 0;
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
    struct bench s = {.w = {weights, BACKEND_BF16, OUT, COLS, "w", weights}};
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

static const struct pair pairs[] = {
    {"none", "none"},
    {"int8:axis0:static", "none"},
    {"none", "int8:tensor:static"},
    {"int8:axis0:static", "int8:tensor:static"},
    {"int8:tensor:static", "int8:token:dynamic"},
    {"int4:block(-1:128):static", "int8:tensor:static"},
    {"int8:block(-1:64):static", "int8:tensor:dynamic"},
    {"int4:block(-1:128):static", "e4m3:tensor:static"},
    {"e4m3:tensor:static", "e4m3:tensor:static"},
    {"e4m3:axis0:static", "e4m3:token:dynamic"},
    {"e4m3:block(-1:64):static", "int8:token:dynamic"},
    {"int8:axis1:static", "int8:tensor:static"},
    {"e2m1:nvfp4(16):dynamic", "int8:tensor:static"},
    {"e2m1:nvfp4(16):dynamic", "e2m1:nvfp4(16):static"},
    {"e2m1:nvfp4(16):static", "e4m3:token:dynamic"},
    {"e2m1:nvfp4(64):dynamic", "int4:token:dynamic"},
    {"none", "e2m1:nvfp4(16):static"},
    {"int4:axis0:static", "e2m1:nvfp4(16):static"},
    {"e4m3:mx(32):dynamic", "e2m1:mx(16):dynamic"},
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

static const struct quant_range range = {.amax = 2.5F};

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
static void expect_pair(const struct pair *p, double sums[SAMPLES])
{
    static float wq[OUT * COLS], xq[ROWS * COLS];
    struct quant_spec ws, as;
    struct quant_plan *plan = NULL;
    struct quant_matrix wm = {weights, QUANT_BF16, OUT, COLS, "w"};
    struct quant_matrix xm = {x, QUANT_F32, ROWS, COLS, "x"};
    parse(p->w, &ws);
    parse(p->a, &as);
    for (int i = 0; i < OUT * COLS; i++) {
        uint32_t bits = (uint32_t)weights[i] << 16;
        memcpy(&wq[i], &bits, 4);
    }
    memcpy(xq, x, sizeof xq);
    if (ws.steps) {
        must(quant_plan_weight(&plan, &ws, &wm, QUANT_UNROUNDED, &err));
        quant_apply(plan, &wm, 0, OUT, wq, QUANT_F32, NULL);
        quant_plan_free(plan);
    }
    if (as.steps) {
        must(quant_plan_act(&plan, &as, COLS, is_static(&as) ? &range : NULL, QUANT_UNROUNDED,
                            &err));
        for (int i = 0; i < SAMPLES; i++)
            quant_apply(plan, &xm, starts[i], starts[i + 1], xq + starts[i] * COLS, QUANT_F32,
                        NULL);
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

static void test_values(void)
{
    static float yq[ROWS * OUT];
    struct bench plain = bench_open(2, BACKEND_MATRIX_PLAIN, 0);
    struct bench best = bench_open(2, BACKEND_MATRIX_AUTO, 0);
    printf("# %s, %s\n", plain.b->identity, best.b->identity);
    for (size_t i = 0; i < AQ_COUNT(pairs); i++) {
        double expected[SAMPLES], found[SAMPLES], fast[SAMPLES];
        expect_pair(&pairs[i], expected);
        score_pair(&plain, &pairs[i], found, yq);
        double far = far_apart(found, expected);
        if (i == 0) {
            double none[SAMPLES] = {0};
            tap_ok(same_bits(found, none, sizeof none), "unquantized: exactly 0");
            tap_ok(same_bits(yq, y, sizeof yq), "unquantized: the same output");
            continue;
        }
        tap_ok(far < 1e-5, "%s | %s: fp32 (%.1e)", pairs[i].w, pairs[i].a, far);
        score_pair(&best, &pairs[i], fast, yq);
        far = far_apart(fast, found);
        tap_ok(far < 1e-5, "%s | %s: matrix units (%.1e)", pairs[i].w, pairs[i].a, far);
    }
    bench_close(&plain);
    bench_close(&best);
}

/* Operands rounded to bf16 are numbers that the bf16 unit multiplies as they are. */
static void test_rounded(void)
{
    static float yq[ROWS * OUT];
    struct bench plain = bench_open(2, BACKEND_MATRIX_PLAIN, 1);
    struct bench best = bench_open(2, BACKEND_MATRIX_AUTO, 1);
    for (size_t i = 1; i < AQ_COUNT(pairs); i++) {
        double found[SAMPLES], fast[SAMPLES];
        score_pair(&plain, &pairs[i], found, yq);
        score_pair(&best, &pairs[i], fast, yq);
        double far = far_apart(fast, found);
        tap_ok(far < 1e-5, "%s | %s, rounded: matrix units (%.1e)", pairs[i].w, pairs[i].a, far);
    }
    bench_close(&plain);
    bench_close(&best);
}

/* All pairs with one weight treatment in one call, on any number of threads. */
static void test_bits(void)
{
    static const int threads[] = {1, 2, 3, 8};
    static float yq[2][ROWS * OUT];
    double sums[2][SAMPLES];
    for (size_t i = 0; i < AQ_COUNT(pairs); i++) {
        int same = 1;
        for (size_t k = 0; k < AQ_COUNT(threads); k++) {
            struct bench s = bench_open(threads[k], BACKEND_MATRIX_AUTO, 0);
            score_pair(&s, &pairs[i], sums[k > 0], yq[k > 0]);
            same &= k == 0 || (same_bits(sums[0], sums[1], sizeof sums[0]) &&
                               same_bits(yq[0], yq[1], sizeof yq[0]));
            bench_close(&s);
        }
        tap_ok(same, "%s | %s: same bits with 1, 2, 3 and 8 threads", pairs[i].w, pairs[i].a);
    }
}

static void test_jobs(void)
{
    static const char *const acts[] = {"int8:tensor:static", "none", "e4m3:token:dynamic",
                                       "int4:tensor:static"};
    enum { ACTS = AQ_COUNT(acts) };
    static float yq[ROWS * OUT];
    struct bench s = bench_open(2, BACKEND_MATRIX_AUTO, 0);
    struct backend *b = s.b;
    struct backend_operand *xq[ACTS], *wq = b->ops->operand_new(b, OUT, COLS, 1, &err);
    struct backend_score_job jobs[ACTS];
    struct quant_spec spec;
    double together[ACTS][SAMPLES] = {{0}}, alone[SAMPLES];
    parse("int8:axis0:static", &spec);
    b->ops->quantize_weight(b, wq, &s.w, &spec);
    for (int i = 0; i < (int)ACTS; i++) {
        xq[i] = b->ops->operand_new(b, ROWS, COLS, 0, &err);
        parse(acts[i], &spec);
        b->ops->quantize_act(b, xq[i], s.t, x, COLS, &spec, is_static(&spec) ? &range : NULL, NULL);
        jobs[i] = (struct backend_score_job){s.t, xq[i], y, dy, together[i]};
    }
    b->ops->score(b, wq, jobs, ACTS);
    must(b->ops->sync(b, &err));
    for (int i = 0; i < (int)ACTS; i++) {
        struct pair p = {"int8:axis0:static", acts[i]};
        score_pair(&s, &p, alone, yq);
        tap_ok(same_bits(alone, together[i], sizeof alone),
               "%s: same bits alone and among other jobs", acts[i]);
        b->ops->operand_free(b, xq[i]);
    }
    b->ops->operand_free(b, wq);
    bench_close(&s);
}

static void test_clipped(void)
{
    struct bench s = bench_open(2, BACKEND_MATRIX_AUTO, 0);
    struct backend *b = s.b;
    struct backend_operand *xq = b->ops->operand_new(b, ROWS, COLS, 0, &err);
    struct quant_spec spec;
    struct quant_range narrow = {.amax = 0.25F};
    double clipped[SAMPLES] = {0}, expected[SAMPLES] = {0};
    parse("e4m3:tensor:static", &spec);
    b->ops->quantize_act(b, xq, s.t, x, COLS, &spec, &narrow, clipped);
    must(b->ops->sync(b, &err));
    for (int i = 0; i < SAMPLES; i++)
        for (int at = starts[i] * COLS; at < starts[i + 1] * COLS; at++)
            expected[i] += fabsf(x[at]) > 0.25F * 464 / 448;
    int near = 1;
    for (int i = 0; i < SAMPLES; i++)
        near &= clipped[i] > 0 && fabs(clipped[i] - expected[i]) <= 2;
    tap_ok(near, "clipped elements of each sample are counted");
    b->ops->operand_free(b, xq);
    bench_close(&s);
}

int main(void)
{
    make_data();
    test_values();
    test_rounded();
    test_bits();
    test_jobs();
    test_clipped();
    return tap_done();
}
