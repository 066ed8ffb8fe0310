/*
 * What `aq-calib solve` computes for GPTQ of one layer of the 4B model: moments, factors and codes
 * of its four inputs, against the dgemm rate of the BLAS on the same threads:
 *
 *     solve TOKENS [THREADS]
 *
 * A floor is the arithmetic that the textbook needs, at the rate of dgemm: T n^2 for moments (one
 * triangle), 2/3 n^3 for a factor and its inverse, rows n^2 for the errors that codes pass on.
 */
#include "bare.h"

#include "backend/backend.h"
#include "quant/dense.h"
#include "quant/gptq.h"

#include <cblas.h>

enum { INPUTS = 4, READERS = 3, PEER = 1536 };

static const struct {
    const char *name;
    int64_t cols, rows[READERS];
} inputs[INPUTS] = {{"qkv", 2560, {4096, 1024, 1024}},
                    {"o", 4096, {2560}},
                    {"gate_up", 2560, {9728, 9728}},
                    {"down", 9728, {2560}}};

static double *random_doubles(int64_t n)
{
    double *x = aq_big_alloc((size_t)n * sizeof *x, "a matrix", &err);
    must(x != NULL);
    for (int64_t i = 0; i < n; i++)
        x[i] = (double)uniform();
    return x;
}

struct peer {
    const double *a, *b;
    double *c;
    int threads;
};

static void peer_unit(void *arg, int64_t unit, int worker)
{
    const struct peer *p = arg;
    int from = (int)(PEER * unit / p->threads), to = (int)(PEER * (unit + 1) / p->threads);
    (void)worker;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, to - from, PEER, PEER, 1,
                p->a + (int64_t)from * PEER, PEER, p->b, PEER, 0, p->c + (int64_t)from * PEER,
                PEER);
}

/* Floating-point operations a second. */
static double dgemm_rate(struct aq_pool *pool)
{
    enum { TRIALS = 5 };
    double times[TRIALS];
    struct peer p = {random_doubles(PEER * PEER), random_doubles(PEER * PEER),
                     random_doubles(PEER * PEER), aq_pool_threads(pool)};
    for (int i = 0; i < TRIALS; i++) {
        double t = aq_now();
        aq_pool_run(pool, p.threads, peer_unit, &p);
        times[i] = aq_now() - t;
    }
    aq_big_free((void *)p.a, (size_t)PEER * PEER * sizeof *p.a);
    aq_big_free((void *)p.b, (size_t)PEER * PEER * sizeof *p.b);
    aq_big_free(p.c, (size_t)PEER * PEER * sizeof *p.c);
    return 2.0 * PEER * PEER * PEER / median(times, TRIALS);
}

struct spent {
    double took, floor;
};

static void print(const char *name, const char *what, const struct spent *s)
{
    printf("%-8s %-8s %8.2f %8.2f %8.2f\n", name, what, s->took, s->floor, s->floor / s->took);
}

/* The moments of `tokens` tokens, a tile at a time. */
static void add_moments(struct aq_pool *pool, double *moments, int64_t n, int64_t tokens)
{
    double *x = random_doubles(BENCH_ROWS * n);
    for (int64_t t = 0; t < tokens; t += BENCH_ROWS)
        dense_add_square(pool, moments, x, BENCH_ROWS, n);
    aq_big_free(x, (size_t)(BENCH_ROWS * n) * sizeof *x);
}

static void bench_input(struct aq_pool *pool, int which, int64_t tokens, double rate,
                        struct spent *squares, struct spent *gptq)
{
    const int64_t n = inputs[which].cols;
    struct quant_spec spec;
    struct gptq_factor f;
    double damp, *moments = xcalloc((size_t)(n * n), sizeof *moments);
    must(quant_parse("gptq{128,0.01,static,plain}/int4:block(-1:128):static", &spec, &err) == 0);
    double t = aq_now();
    add_moments(pool, moments, n, tokens);
    struct spent s = {aq_now() - t, (double)tokens * (double)(n * n) / rate};
    print(inputs[which].name, "moments", &s);
    squares->took += s.took, squares->floor += s.floor;
    dense_mirror(pool, moments, n);
    t = aq_now();
    must(gptq_factor(&f, pool, moments, n, NULL, &spec.methods, &damp, &err) == 0);
    s = (struct spent){aq_now() - t, 2.0 / 3 * (double)n * (double)n * (double)n / rate};
    print(inputs[which].name, "factor", &s);
    gptq->took += s.took, gptq->floor += s.floor;
    free(moments);
    s = (struct spent){0, 0};
    for (int i = 0; i < READERS && inputs[which].rows[i]; i++) {
        int64_t rows = inputs[which].rows[i];
        float *w = random_floats(rows * n, 0.1F);
        float *ranges = xcalloc((size_t)(rows * (n / 128)), sizeof *ranges);
        int8_t *codes = xmalloc((size_t)(rows * n));
        t = aq_now();
        gptq_ranges(&spec, w, rows, n, ranges);
        must(gptq_codes(pool, &f, &spec, w, rows, ranges, codes, &err) == 0);
        s.took += aq_now() - t;
        s.floor += (double)rows * (double)(n * n) / rate;
        aq_big_free(w, (size_t)(rows * n) * sizeof *w);
        free(ranges);
        free(codes);
    }
    print(inputs[which].name, "codes", &s);
    gptq->took += s.took, gptq->floor += s.floor;
    gptq_factor_release(&f);
}

int main(int argc, char **argv)
{
    int64_t tokens = argc > 1 ? atoll(argv[1]) : 2048;
    struct backend *b; /* has its way with the BLAS's own threads */
    struct backend_config config = {.struct_size = sizeof config,
                                    .threads = argc > 2 ? atoi(argv[2]) : 0};
    must(backend_open(&b, "cpu", &config, &err) == 0);
    struct aq_pool *pool = aq_pool_new(config.threads, &err);
    must(pool != NULL);
    double rate = dgemm_rate(pool);
    struct spent squares = {0, 0}, gptq = {0, 0};
    printf("%d threads, dgemm at %.1f GFLOP/s; seconds, and the share of the floor\n",
           aq_pool_threads(pool), rate / 1e9);
    printf("%-8s %-8s %8s %8s %8s\n", "input", "part", "took", "floor", "share");
    for (int i = 0; i < INPUTS; i++)
        bench_input(pool, i, tokens, rate, &squares, &gptq);
    print("layer", "moments", &squares);
    print("layer", "gptq", &gptq);
    aq_pool_free(pool);
    backend_close(b);
    return 0;
}
