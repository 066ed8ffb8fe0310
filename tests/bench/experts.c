/*
 * The bare products of one cell of one layer of Qwen3-30B-A3B, 2,048 tokens: what sgemm alone takes
 * for the forward pass, the gradient and the quantized outputs, with fp32 weights, each expert's
 * rows in one call on one thread and all experts over the threads. Prints seconds of the wall and
 * of the processors.
 */
#include "bare.h"

#include <time.h>

enum { HIDDEN = 2048, Q = 4096, KV = 512, INNER = 768, EXPERTS = 128, TOKENS = 2048, ACTIVE = 8 };
enum { ROWS = TOKENS * ACTIVE / EXPERTS, KINDS = 8 /* of experts: more than the caches hold */ };

struct layer {
    const float *x,
        *w; /* numbers; products take them from the beginning, weights as many as there are */
    float *y;
    int threads;
};

static int64_t weights(void)
{
    return (int64_t)3 * HIDDEN * INNER;
}

/* y (rows, out) = x (rows, depth) w'; with `back` w is (depth, out). */
static void product(const struct layer *l, int64_t rows, int64_t out, int64_t depth, int back,
                    const float *w, float *y)
{
    blas_gemm(BLAS_N, back ? BLAS_N : BLAS_T, rows, out, depth, l->x, depth, w, back ? out : depth,
              0, y, out);
}

static void expert_unit(void *arg, int64_t unit, int worker)
{
    const struct layer *l = arg;
    const float *gate_up = l->w + unit % KINDS * weights(), *down = gate_up + 2 * HIDDEN * INNER;
    float *y = l->y + (int64_t)worker * ROWS * HIDDEN;
    for (int pass = 0; pass < 2; pass++) { /* the model's own weights, and quantized ones */
        product(l, ROWS, 2 * INNER, HIDDEN, 0, gate_up, y);
        product(l, ROWS, HIDDEN, INNER, 0, down, y);
    }
    product(l, ROWS, INNER, HIDDEN, 1, down, y);
    product(l, ROWS, HIDDEN, 2 * INNER, 1, gate_up, y);
}

/* A thread's share of the tokens: the linears of attention, twice forward, and o backward. */
static void dense_unit(void *arg, int64_t unit, int worker)
{
    const struct layer *l = arg;
    int64_t rows = TOKENS * (unit + 1) / l->threads - TOKENS * unit / l->threads;
    float *y = l->y + (int64_t)worker * TOKENS * Q;
    for (int pass = 0; pass < 2; pass++) {
        product(l, rows, Q, HIDDEN, 0, l->w, y);
        product(l, rows, KV, HIDDEN, 0, l->w, y);
        product(l, rows, KV, HIDDEN, 0, l->w, y);
        product(l, rows, HIDDEN, Q, 0, l->w, y);
    }
    product(l, rows, Q, HIDDEN, 1, l->w, y);
}

static double processor_seconds(void)
{
    struct timespec t;
    must(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) == 0);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(void)
{
    (void)blas_init();
    struct aq_pool *pool = aq_pool_new(0, &err);
    must(pool != NULL);
    int threads = aq_pool_threads(pool);
    struct layer l = {.x = random_floats((int64_t)TOKENS * Q, 1),
                      .w = random_floats(KINDS * weights(), 0.02F),
                      .threads = threads};
    l.y = random_floats((int64_t)threads * TOKENS * Q, 0);
    aq_pool_run(pool, threads, dense_unit, &l); /* the BLAS's buffers are there now */
    double wall = aq_now(), processors = processor_seconds();
    aq_pool_run(pool, threads, dense_unit, &l);
    aq_pool_run(pool, EXPERTS, expert_unit, &l);
    (void)printf("%.3f %.3f\n", aq_now() - wall, processor_seconds() - processors);
    aq_pool_free(pool);
    return 0;
}
