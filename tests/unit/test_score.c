/*
 * Scores of quantized operands: against sums in double over what quant_apply gives; on the matrix
 * units against fp32; the same bits for any number of threads and any grouping of jobs; the dot
 * form and the part of the first row, which must not change the rest.
 */
#include "tap.h"

#include "score_cases.h"

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

/* The dot form of a group of two members (the same linear twice, the second time with a gradient
   of its own), for two candidates; and what each sample's first row adds. */
static void test_dots(int threads)
{
    enum { CANDIDATES = 2, STRIDE = SAMPLES + 3 };
    static const char *const acts[CANDIDATES] = {"int4:tensor:static", "int8:token:dynamic"};
    static float yq[ROWS * OUT], dy2[ROWS * OUT];
    double dots[CANDIDATES][ROWS] = {{0}}, found[CANDIDATES][STRIDE] = {{0}}, sums[SAMPLES] = {0};
    double firsts[SAMPLES] = {0}, plain[SAMPLES] = {0};
    struct bench s = bench_open(threads, BACKEND_MATRIX_AUTO, 0);
    struct backend *b = s.b;
    struct backend_operand *wq = b->ops->operand_new(b, OUT, COLS, 1, &err);
    struct backend_operand *xq = b->ops->operand_new(b, ROWS, COLS, 0, &err);
    struct quant_spec spec;
    double far = 0, far_first = 0;
    for (int i = 0; i < ROWS * OUT; i++)
        dy2[i] = dy[i] * (float)(i % 5 - 2);
    parse("int8:axis0:static", &spec);
    b->ops->quantize_weight(b, wq, &s.w, &spec);
    for (int c = 0; c < CANDIDATES; c++) {
        parse(acts[c], &spec);
        b->ops->quantize_act(b, xq, s.t, x, COLS, &spec, is_static(&spec) ? &range : NULL, NULL);
        struct backend_score_job job = {.tile = s.t, .x = xq, .y = y, .dy = dy, .sums = plain};
        b->ops->score(b, wq, &job, 1);
        job.sums = sums;
        job.dots = dots[c];
        job.firsts = c == 0 ? firsts : NULL;
        b->ops->score(b, wq, &job, 1);
        b->ops->linear_quantized(b, s.t, yq, xq, wq);
        for (int i = 0; c == 0 && i < SAMPLES; i++) {
            double expected = 0;
            for (int k = starts[i] * OUT; k < (starts[i] + 1) * OUT; k++) {
                double d = (double)(yq[k] - y[k]) * dy[k];
                expected += d * d;
            }
            far_first = fmax(far_first, fabs(firsts[i] / expected - 1));
        }
        job.firsts = NULL;
        job.dy = dy2;
        b->ops->score(b, wq, &job, 1);
    }
    b->ops->dots_end(b, s.t, dots[0], found[0], STRIDE, CANDIDATES);
    must(b->ops->sync(b, &err));
    int zero = 1, untouched = 1;
    for (int c = 0; c < CANDIDATES; c++) {
        parse(acts[c], &spec);
        b->ops->quantize_act(b, xq, s.t, x, COLS, &spec, is_static(&spec) ? &range : NULL, NULL);
        b->ops->linear_quantized(b, s.t, yq, xq, wq);
        for (int i = 0; i < SAMPLES; i++) {
            double expected = 0;
            for (int r = starts[i]; r < starts[i + 1]; r++) {
                double dot = 0;
                for (int k = r * OUT; k < (r + 1) * OUT; k++)
                    dot += (double)(yq[k] - y[k]) * ((double)dy[k] + dy2[k]);
                expected += dot * dot;
            }
            far = fmax(far, fabs(found[c][i] / expected - 1));
        }
        for (int r = 0; r < ROWS; r++)
            zero &= dots[c][r] == 0;
        for (int i = SAMPLES; i < STRIDE; i++)
            untouched &= found[c][i] == 0;
    }
    tap_ok(far < 1e-9, "dot form of two members, %d threads (%.1e)", threads, far);
    tap_ok(zero && untouched, "dots are zero afterwards, and nothing else is written");
    tap_ok(far_first < 1e-9, "the part of each first row (%.1e)", far_first);
    double all = 0, same = 0; /* sums: of both candidates and both gradients */
    for (int i = 0; i < SAMPLES; i++) {
        all += sums[i];
        same += plain[i];
    }
    tap_ok(all > same && firsts[0] < sums[0] && firsts[1] > 0, "and the sums go on");
    b->ops->operand_free(b, wq);
    b->ops->operand_free(b, xq);
    bench_close(&s);
}

/* Whether dots are wanted or not: the same sums to the bit. */
static void test_dots_cost_nothing(void)
{
    struct bench s = bench_open(2, BACKEND_MATRIX_AUTO, 0);
    struct backend *b = s.b;
    struct backend_operand *wq = b->ops->operand_new(b, OUT, COLS, 1, &err);
    struct backend_operand *xq = b->ops->operand_new(b, ROWS, COLS, 0, &err);
    double sums[2][SAMPLES] = {{0}}, dots[ROWS] = {0}, firsts[SAMPLES] = {0};
    struct quant_spec spec;
    parse("int4:axis0:static", &spec);
    b->ops->quantize_weight(b, wq, &s.w, &spec);
    parse("int8:token:dynamic", &spec);
    b->ops->quantize_act(b, xq, s.t, x, COLS, &spec, NULL, NULL);
    for (int i = 0; i < 2; i++) {
        struct backend_score_job job = {
            s.t, xq, y, dy, sums[i], i ? firsts : NULL, i ? dots : NULL};
        b->ops->score(b, wq, &job, 1);
    }
    must(b->ops->sync(b, &err));
    tap_ok(same_bits(sums[0], sums[1], sizeof sums[0]), "the same sums with and without dots");
    tap_ok(firsts[1] == sums[0][1], "a sample of one row is its first row");
    b->ops->operand_free(b, wq);
    b->ops->operand_free(b, xq);
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
    test_values(QUANT_UNROUNDED);
    test_values(QUANT_TO_BF16);
    test_bits();
    test_jobs();
    test_clipped();
    test_dots(1);
    test_dots(3);
    test_dots_cost_nothing();
    return tap_done();
}
