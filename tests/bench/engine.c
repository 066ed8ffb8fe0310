/*
 * The engine against the BLAS that it calls, in one process, at a 4B model's dimensions:
 *
 *     linear   linear ops with bf16 weights   / one sgemm on fp32 weights of the same shape
 *     units    scores in fp32 / as many sgemm calls; the same on the matrix units, by product class
 *     threads  a layer forward and backward: one thread / all
 *
 * Medians; every figure is a ratio of times taken in turn.
 */
#include "bare.h"

#include "backend/backend.h"
#include "nn/model.h"
#include "quant/quant.h"

enum { ROWS = BENCH_ROWS, ROUNDS = 5, SAMPLES = 32 };

static uint16_t *random_bf16(int64_t n, float scale)
{
    uint16_t *x = aq_big_alloc((size_t)n * sizeof *x, "a matrix", &err);
    must(x != NULL);
    for (int64_t i = 0; i < n; i++) {
        float v = uniform() * scale;
        memcpy(&x[i], (char *)&v + 2, sizeof *x);
    }
    return x;
}

static struct backend *open_cpu(int threads, enum backend_matrix matrix)
{
    struct backend *b;
    struct backend_config config = {.threads = threads, .matrix = matrix};
    must(backend_open(&b, "cpu", &config, &err) == 0);
    return b;
}

static struct backend_tile *open_tile(struct backend *b)
{
    static int32_t starts[SAMPLES + 1], zeros[ROWS], pos[ROWS];
    static uint8_t pads[SAMPLES];
    for (int s = 0; s <= SAMPLES; s++)
        starts[s] = s * (ROWS / SAMPLES);
    for (int r = 0; r < ROWS; r++)
        pos[r] = r % (ROWS / SAMPLES);
    struct backend_tile_desc d = {ROWS, SAMPLES, starts, pads, zeros, pos, zeros};
    return b->ops->tile_new(b, &d, &err);
}

static const int64_t shapes[][2] = {{4096, 2560}, {1024, 2560}, {9728, 2560}, {2560, 9728}};

static void bench_linear(int threads)
{
    struct backend *b = open_cpu(threads, BACKEND_MATRIX_PLAIN);
    struct backend_tile *t = open_tile(b);
    struct aq_pool *pool = aq_pool_new(threads, &err);
    for (size_t i = 0; i < AQ_COUNT(shapes); i++) {
        int64_t out = shapes[i][0], depth = shapes[i][1];
        float *x = random_floats(ROWS * depth, 1), *y = random_floats(ROWS * out, 1);
        float *w = random_floats(out * depth, 1);
        uint16_t *half = random_bf16(out * depth, 1);
        struct backend_weight bw = {half, NUM_BF16, out, depth, "w", half};
        struct bare bare = {x, w, y, out, depth, 0};
        double plain[ROUNDS], fwd[ROUNDS], bwd[ROUNDS];
        for (int r = -1; r < ROUNDS; r++) {
            double t0 = time_bare(pool, &bare), t1 = aq_now();
            b->ops->linear_forward(b, t, y, x, &bw);
            double t2 = aq_now();
            b->ops->linear_backward(b, t, x, y, &bw, 0);
            double t3 = aq_now();
            if (r >= 0)
                plain[r] = t0, fwd[r] = t2 - t1, bwd[r] = t3 - t2;
        }
        double rate = 2.0 * ROWS * (double)(out * depth) / median(plain, ROUNDS) * 1e-9;
        printf("linear   %d thread%s %5lld x %5lld: sgemm %4.0f GFLOP/s, forward %3.0f %%, "
               "backward %3.0f %% of it\n",
               threads, threads > 1 ? "s" : " ", (long long)out, (long long)depth, rate,
               100 * median(plain, ROUNDS) / median(fwd, ROUNDS),
               100 * median(plain, ROUNDS) / median(bwd, ROUNDS));
        aq_big_free(x, (size_t)(ROWS * depth) * 4);
        aq_big_free(y, (size_t)(ROWS * out) * 4);
        aq_big_free(w, (size_t)(out * depth) * 4);
        aq_big_free(half, (size_t)(out * depth) * 2);
    }
    b->ops->tile_free(b, t);
    backend_close(b);
    aq_pool_free(pool);
}

/* ---- scores by product class ---- */

/* By the product that the codes ask for; every pair of a family. */
static const struct family {
    const char *name, *w[5], *a[5];
} families[] = {
    {"int8 codes",
     {"int8:axis0:static", "int8:tensor:static", "int4:axis0:static", "int4:tensor:static"},
     {"int8:tensor:static", "int8:token:dynamic", "int4:tensor:static", "int4:token:dynamic"}},
    {"int8 codes, blocks along K",
     {"int8:block(-1:64):static", "int8:block(-1:128):static", "int4:block(-1:64):static",
      "int4:block(-1:128):static"},
     {"int8:tensor:static", "int8:token:dynamic", "int4:tensor:static", "int4:token:dynamic"}},
    {"bf16 codes",
     {"e4m3:tensor:static", "e4m3:axis0:static", "int8:axis0:static", "e2m1:nvfp4(16):dynamic",
      "none"},
     {"e4m3:tensor:static", "e4m3:token:dynamic"}},
    {"bf16 codes, blocks along K",
     {"e4m3:block(-1:64):static", "e4m3:block(-1:128):static", "int4:block(-1:128):static"},
     {"e4m3:tensor:static", "e4m3:token:dynamic"}},
    {"activations as they are",
     {"e4m3:tensor:static", "int8:axis0:static", "int4:block(-1:128):static",
      "e2m1:nvfp4(16):dynamic"},
     {"none"}},
    {"scales along K",
     {"int8:axis1:static", "e4m3:axis1:static"},
     {"int8:tensor:static", "e4m3:token:dynamic"}},
};

struct grid {
    struct backend *b;
    struct backend_tile *t;
    const struct backend_weight *w;
    float *x, *y, *dy;
    double *sums;
};

static void parse(const char *text, struct quant_spec *spec)
{
    *spec = (struct quant_spec){0};
    must(quant_parse(text, spec, &err) == 0);
}

/* Scores of a family's pairs; returns seconds, and the number of products in *products. */
static double time_family(const struct grid *g, const struct family *f, int *products)
{
    struct backend *b = g->b;
    struct backend_operand *xq[5], *wq = b->ops->operand_new(b, g->w->rows, g->w->cols, 1, &err);
    struct backend_score_job jobs[5];
    struct quant_spec spec;
    struct quant_range range = {.amax = 1};
    int acts = 0;
    for (; acts < 5 && f->a[acts]; acts++)
        xq[acts] = b->ops->operand_new(b, ROWS, g->w->cols, 0, &err);
    double start = aq_now();
    for (int i = 0; i < acts; i++) {
        parse(f->a[i], &spec);
        b->ops->quantize_act(b, xq[i], g->t, g->x, g->w->cols, &spec,
                             spec.steps && !spec.step[0].dynamic ? &range : NULL, NULL);
        jobs[i] = (struct backend_score_job){g->t, xq[i], g->y, g->dy, g->sums};
    }
    *products = 0;
    for (int i = 0; i < 5 && f->w[i]; i++) {
        parse(f->w[i], &spec);
        b->ops->quantize_weight(b, wq, g->w, &spec);
        b->ops->score(b, wq, jobs, acts);
        *products += acts;
    }
    must(b->ops->sync(b, &err) == 0);
    double seconds = aq_now() - start;
    for (int i = 0; i < acts; i++)
        b->ops->operand_free(b, xq[i]);
    b->ops->operand_free(b, wq);
    return seconds;
}

static void bench_units(int64_t out, int64_t depth, int threads)
{
    static double sums[SAMPLES];
    uint16_t *half = random_bf16(out * depth, 1);
    struct backend_weight w = {half, NUM_BF16, out, depth, "w", half};
    struct grid plain = {open_cpu(threads, BACKEND_MATRIX_PLAIN),
                         NULL,
                         &w,
                         random_floats(ROWS * depth, 1),
                         random_floats(ROWS * out, 1),
                         random_floats(ROWS * out, 1e-3F),
                         sums};
    struct grid best = plain;
    struct aq_pool *pool = aq_pool_new(threads, &err);
    float *full = random_floats(out * depth, 1);
    struct bare bare = {plain.x, full, random_floats(ROWS * out, 1), out, depth, 0};
    best.b = open_cpu(threads, BACKEND_MATRIX_AUTO);
    plain.t = open_tile(plain.b);
    best.t = open_tile(best.b);
    printf("units    %lld x %lld, %d threads, %s\n", (long long)out, (long long)depth, threads,
           best.b->identity);
    for (size_t i = 0; i < AQ_COUNT(families); i++) {
        int products;
        double slow = time_family(&plain, &families[i], &products), gemm = 0;
        for (int k = 0; k < products; k++)
            gemm += time_bare(pool, &bare);
        double fast = time_family(&best, &families[i], &products);
        printf("units    %-30s %2d products: fp32 %.2f x bare sgemm; matrix units %.2f times "
               "faster than fp32\n",
               families[i].name, products, slow / gemm, slow / fast);
    }
    backend_close(plain.b);
    backend_close(best.b);
    aq_pool_free(pool);
}

/* ---- a layer on one thread and on all ---- */

struct weights {
    uint16_t *pool;
};

/* Every tensor is the same random bytes: only the time is looked at. */
static int find_weight(void *arg, const char *name, struct backend_weight *w, struct aq_err *e)
{
    const struct weights *s = arg;
    static const struct {
        const char *part;
        int64_t rows, cols;
    } known[] = {{"q_proj", 4096, 2560},    {"k_proj", 1024, 2560},    {"v_proj", 1024, 2560},
                 {"o_proj", 2560, 4096},    {"gate_proj", 9728, 2560}, {"up_proj", 9728, 2560},
                 {"down_proj", 2560, 9728}, {"embed", 512, 2560},      {"q_norm", 1, 128},
                 {"k_norm", 1, 128},        {"norm", 1, 2560}};
    for (size_t i = 0; i < AQ_COUNT(known); i++) {
        if (strstr(name, known[i].part)) {
            *w = (struct backend_weight){s->pool,       NUM_BF16,      known[i].rows,
                                         known[i].cols, known[i].part, NULL};
            return 0;
        }
    }
    return aq_err_set(e, AQ_EINPUT, "no tensor '%s'", name);
}

static double time_layer(int threads, struct weights *weights)
{
    struct backend *b = open_cpu(threads, BACKEND_MATRIX_PLAIN);
    struct backend_tile *t = open_tile(b);
    struct lm_arch arch = {.family = model_family_named("qwen3"),
                           .hidden_size = 2560,
                           .intermediate_size = 9728,
                           .num_hidden_layers = 1,
                           .num_attention_heads = 32,
                           .num_key_value_heads = 8,
                           .head_dim = 128,
                           .vocab_size = 512,
                           .rope_theta = 5e6,
                           .rms_norm_eps = 1e-6,
                           .tie_word_embeddings = true,
                           .qk_norm = QK_NORM_HEAD};
    struct nn_source source = {.arch = &arch, .find = find_weight, .arg = weights};
    arch_defaults(&arch);
    struct nn_model *m;
    float *h = random_floats(ROWS * 2560, 1), *dh = random_floats(ROWS * 2560, 1e-3F);
    double times[3];
    must(nn_open(&m, &source, b, ROWS, 1, &err) == 0 && nn_use_layer(m, 0, -1, &err) == 0);
    for (int r = -1; r < 3; r++) {
        double start = aq_now();
        (void)nn_layer_backward(m, 0, t, h, dh, 1, NULL);
        if (r >= 0)
            times[r] = aq_now() - start;
    }
    nn_close(m);
    b->ops->tile_free(b, t);
    backend_close(b);
    aq_big_free(h, (size_t)ROWS * 2560 * 4);
    aq_big_free(dh, (size_t)ROWS * 2560 * 4);
    return median(times, 3);
}

int main(void)
{
    int cpus = aq_pool_cpus();
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    struct weights weights = {random_bf16((int64_t)9728 * 2560, 0.02F)};
    bench_linear(1);
    bench_linear(cpus);
    double one = time_layer(1, &weights), all = time_layer(cpus, &weights);
    printf("threads  layer, forward and backward: %.2f s on 1 thread, %.2f s on %d: %.2f times\n",
           one, all, cpus, one / all);
    bench_units(4096, 2560, cpus);
    bench_units(2560, 9728, cpus);
    return 0;
}
