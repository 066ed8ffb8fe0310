/*
 * Scores of quantized operands: against sums in double over what quant_apply gives; on the matrix
 * units against fp32; the same bits for any number of threads and any grouping of jobs.
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
    return tap_done();
}
