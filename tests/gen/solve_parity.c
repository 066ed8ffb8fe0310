/*
 * What calibrated candidates are solved from, on the GPU against the host: from the same moments,
 * ranges and measures of weights bit by bit, factors and errors to the last digits of a double, and
 * codes and choices, of which only those on the border of two may differ: they are counted. TAP on
 * stdout; exit status 2 without a GPU.
 */
#include "../unit/tap.h"

#include "base/mem.h"
#include "quant/dense.h"
#include "score/solver.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CPU, GPU, SIDES };
static struct backend *be[SIDES];
static struct aq_pool *pool;
static struct aq_err err;
static uint64_t seed = 1;

static double uniform(void) /* -1 to 1 */
{
    seed = seed * 6364136223846793005U + 1442695040888963407U;
    return (double)(int64_t)(seed ^ seed >> 29) / 9223372036854775808.0;
}

static void must(int status)
{
    if (status < 0) {
        printf("Bail out! %s\n", err.msg);
        exit(2);
    }
}

static struct layer_solver solver(int side)
{
    return (struct layer_solver){pool, be[side]};
}

/* ---- an input ---- */

struct input {
    int64_t n;
    double *moments[SIDES], *diagonal, *mean;
    float *amax;
};

/* Correlated columns, some of them large, one that is always 0. */
static struct input input_new(int64_t n, int64_t tokens)
{
    struct input in = {.n = n};
    size_t bytes = (size_t)(n * n) * sizeof(double);
    double *x = xcalloc((size_t)(tokens * n), sizeof *x);
    in.moments[CPU] = xcalloc(1, bytes);
    in.moments[GPU] = be[GPU]->ops->alloc(be[GPU], bytes, "moments", &err);
    must(in.moments[GPU] ? 0 : -1);
    in.diagonal = xcalloc((size_t)n, sizeof *in.diagonal);
    in.mean = xcalloc((size_t)n, sizeof *in.mean);
    in.amax = xcalloc((size_t)n, sizeof *in.amax);
    for (int64_t t = 0; t < tokens; t++) {
        double common = uniform();
        for (int64_t c = 0; c < n; c++) {
            double v = c == 3 ? 0 : (uniform() + common) * (c % 37 == 5 ? 30 : 1);
            x[t * n + c] = v;
            in.mean[c] += fabs(v) / (double)tokens;
            in.amax[c] = fmaxf(in.amax[c], (float)fabs(v));
        }
    }
    dense_add_square(pool, in.moments[CPU], x, tokens, n);
    be[GPU]->ops->upload(be[GPU], in.moments[GPU], in.moments[CPU], bytes);
    must(be[GPU]->ops->moments_end(be[GPU], in.moments[GPU], n, in.diagonal, &err));
    dense_mirror(pool, in.moments[CPU], n);
    double *back = xmalloc(bytes);
    must(be[GPU]->ops->download(be[GPU], back, in.moments[GPU], bytes, &err));
    tap_ok(memcmp(back, in.moments[CPU], bytes) == 0, "%lld: both triangles", (long long)n);
    free(back);
    free(x);
    return in;
}

static void input_free(struct input *in)
{
    be[GPU]->ops->free(be[GPU], in->moments[GPU], (size_t)(in->n * in->n) * sizeof(double));
    free(in->moments[CPU]);
    free(in->diagonal);
    free(in->mean);
    free(in->amax);
}

/* ---- a weight ---- */

struct pair {
    struct backend_weight w[SIDES];
    void *bytes;
};

static struct pair weight_new(int64_t rows, int64_t cols, enum num_type dtype)
{
    struct pair p = {.bytes = xmalloc((size_t)(rows * cols) * sizeof(float))};
    for (int64_t i = 0; i < rows * cols; i++) {
        float x = (float)(uniform() * uniform() * 0.07);
        if (dtype == NUM_BF16)
            ((uint16_t *)p.bytes)[i] = num_to_bf16(x);
        else
            ((float *)p.bytes)[i] = x;
    }
    for (int i = 0; i < SIDES; i++) {
        p.w[i] = (struct backend_weight){p.bytes, dtype, rows, cols, "w", NULL};
        struct backend_weight *one = &p.w[i];
        must(be[i]->ops->weights_load(be[i], &one, 1, &err));
    }
    return p;
}

static void weight_free(struct pair *p)
{
    for (int i = 0; i < SIDES; i++) {
        struct backend_weight *one = &p->w[i];
        must(be[i]->ops->sync(be[i], &err));
        be[i]->ops->weights_release(be[i], &one, 1);
    }
    free(p->bytes);
}

static struct quant_spec spec_of(const char *text)
{
    struct quant_spec s;
    must(quant_parse(text, &s, &err));
    return s;
}

/* ---- comparisons ---- */

static void check_factor(const struct input *in, const float *scale, const char *text,
                         struct gptq_factor f[SIDES])
{
    const struct quant_spec spec = spec_of(text);
    const int64_t n = in->n;
    double damp[SIDES], worst = 0, most = 0, *u = xmalloc((size_t)(n * n) * sizeof *u);
    for (int i = 0; i < SIDES; i++) {
        const struct layer_solver s = solver(i);
        must(solver_factor(&s, &f[i], in->moments[i], in->diagonal, n, scale, &spec.methods,
                           &damp[i], &err));
    }
    must(be[GPU]->ops->download(be[GPU], u, f[GPU].u, (size_t)(n * n) * sizeof *u, &err));
    for (int64_t i = 0; i < n * n; i++) {
        most = fmax(most, fabs(f[CPU].u[i]));
        worst = fmax(worst, fabs(u[i] - f[CPU].u[i]));
    }
    tap_ok(damp[CPU] == damp[GPU] &&
               memcmp(f[CPU].order, f[GPU].order, (size_t)n * sizeof *f[CPU].order) == 0,
           "%lld: %s: the same order of columns and damping", (long long)n, text);
    tap_ok(worst < 1e-10 * most, "%lld: %s: the factor (%.1e)", (long long)n, text, worst / most);
    free(u);
}

/* Codes, and ranges bit by bit. */
static void check_codes(const struct input *in, const struct pair *w, const float *scale,
                        const char *text)
{
    const struct quant_spec spec = spec_of(text);
    const int64_t n = in->n, rows = w->w[0].rows, row_bytes = quant_code_row_bytes(&spec, n);
    struct gptq_factor f[SIDES];
    struct quant_grid grid;
    uint8_t *packed[SIDES];
    float *ranges[SIDES];
    int8_t *codes[SIDES];
    (void)quant_weight_grid(&spec, rows, n, &grid);
    size_t cells = (size_t)(grid.grid_rows * grid.grid_cols), differ = 0;
    check_factor(in, scale, text, f);
    for (int i = 0; i < SIDES; i++) {
        const struct layer_solver s = solver(i);
        packed[i] = xcalloc((size_t)(rows * row_bytes), 1);
        codes[i] = xcalloc((size_t)(rows * n), 1);
        ranges[i] = xcalloc(cells, sizeof *ranges[i]);
        must(solver_codes(&s, &f[i], &w->w[i], scale, &spec, ranges[i], packed[i], &err));
        for (int64_t r = 0; r < rows; r++)
            quant_unpack_codes(&spec, packed[i] + r * row_bytes, n, codes[i] + r * n);
        solver_factor_release(&s, &f[i]);
    }
    for (int64_t i = 0; i < rows * n; i++)
        differ += codes[CPU][i] != codes[GPU][i];
    tap_ok(memcmp(ranges[CPU], ranges[GPU], cells * sizeof(float)) == 0,
           "%lld: %s: the same ranges", (long long)n, text);
    /* a column's code on the border of two may change some of those after it in its row */
    tap_ok(differ * 100000 <= (size_t)(rows * n), "%lld: %s: %zu of %lld codes differ",
           (long long)n, text, differ, (long long)rows * n);
    for (int i = 0; i < SIDES; i++) {
        free(packed[i]);
        free(codes[i]);
        free(ranges[i]);
    }
}

static void check_clip(const struct input *in, const struct pair *w, const float *scale,
                       const char *text)
{
    const struct quant_spec spec = spec_of(text);
    struct quant_grid grid;
    float *ranges[SIDES];
    size_t differ = 0;
    (void)quant_weight_grid(&spec, w->w[0].rows, in->n, &grid);
    size_t cells = (size_t)(grid.grid_rows * grid.grid_cols);
    for (int i = 0; i < SIDES; i++) {
        const struct layer_solver s = solver(i);
        ranges[i] = xcalloc(cells, sizeof *ranges[i]);
        must(solver_clip(&s, in->moments[i], &w->w[i], scale, &spec, ranges[i], &err));
    }
    for (size_t i = 0; i < cells; i++)
        differ += ranges[CPU][i] != ranges[GPU][i];
    tap_ok(differ == 0, "%lld: %s: %zu of %zu ranges differ", (long long)in->n, text, differ,
           cells);
    free(ranges[CPU]);
    free(ranges[GPU]);
}

/* Scales are made from measures that are the same to the bit, and from the trial with the least
   error; a loss on the way is held to the last digits. */
static void check_scales(const struct input *in, const struct pair *w, int count, const char *text)
{
    const struct quant_spec spec = spec_of(text);
    const struct backend_weight *of[SIDES][2];
    float *scale[SIDES];
    for (int i = 0; i < SIDES; i++) {
        const struct layer_solver s = solver(i);
        const struct scaled_input input = {in->n, in->moments[i], in->mean, in->amax, false};
        scale[i] = xcalloc((size_t)in->n, sizeof(float));
        for (int k = 0; k < count; k++)
            of[i][k] = &w[k].w[i];
        must(solver_scales(&s, &input, of[i], count, &spec, scale[i], &err));
    }
    tap_ok(memcmp(scale[CPU], scale[GPU], (size_t)in->n * sizeof(float)) == 0,
           "%lld: %s: the same scales", (long long)in->n, text);
    free(scale[CPU]);
    free(scale[GPU]);
}

static void check_error(const struct input *in, const struct pair *w, const float *scale,
                        const char *text)
{
    const struct quant_spec spec = spec_of(text);
    const struct backend_weight *from = &w->w[GPU];
    const int64_t n = in->n, rows = from->rows, step = 3, taken = (rows + step - 1) / step;
    float *a = xmalloc((size_t)(taken * n) * sizeof *a), *b = xmalloc((size_t)(taken * n) * 4);
    struct quant_plan *plan;
    double found;
    for (int64_t r = 0; r < taken; r++)
        for (int64_t c = 0; c < n; c++) {
            b[r * n + c] = num_read(w->bytes, from->dtype, (size_t)(r * step * n + c));
            a[r * n + c] = b[r * n + c] * scale[c];
        }
    const struct quant_matrix m = {a, NUM_F32, taken, n, "w"};
    must(quant_plan_weight(&plan, &spec, &m, QUANT_UNROUNDED, &err));
    quant_apply(plan, &m, 0, taken, a, NUM_F32, NULL);
    quant_plan_free(plan);
    for (int64_t i = 0; i < taken * n; i++)
        a[i] /= scale[i % n];
    double expected = moments_error(pool, in->moments[CPU], n, a, b, taken);
    must(be[GPU]->ops->scaled_error(be[GPU], in->moments[GPU], &from, &step, 1, &spec, scale,
                                    &found, &err));
    tap_ok(fabs(found / expected - 1) < 1e-12, "%lld: %s: the error of outputs (%.1e)",
           (long long)n, text, found / expected - 1);
    free(a);
    free(b);
}

/* Moments without a factor, and those that are no numbers: as the host says. */
static void check_bad(void)
{
    const struct quant_spec spec = spec_of("gptq{128,0.01,static,plain}/int4:axis0:static");
    const struct layer_solver s = solver(GPU);
    double m[16] = {1, 100, 1, 1, 100, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, diagonal[4], damp;
    struct gptq_factor f;
    double *device = be[GPU]->ops->alloc(be[GPU], sizeof m, "moments", &err);
    for (int i = 0; i < 2; i++, m[5] = NAN) {
        must(device ? 0 : -1);
        be[GPU]->ops->upload(be[GPU], device, m, sizeof m);
        must(be[GPU]->ops->moments_end(be[GPU], device, 4, diagonal, &err));
        int r = solver_factor(&s, &f, device, diagonal, 4, NULL, &spec.methods, &damp, &err);
        tap_ok(r < 0 && strstr(err.msg, i ? "second moment of column 1" : "no factor"), "'%s'",
               err.msg);
        solver_factor_release(&s, &f);
    }
    be[GPU]->ops->free(be[GPU], device, sizeof m);
}

static void check_input(int64_t n, int64_t tokens, int64_t rows, enum num_type dtype)
{
    struct input in = input_new(n, tokens);
    struct pair w[2] = {weight_new(rows, n, dtype), weight_new(rows / 2 + 7, n, dtype)};
    float *scale = xmalloc((size_t)n * sizeof *scale);
    for (int64_t c = 0; c < n; c++)
        scale[c] = (float)exp(uniform());
    check_codes(&in, &w[0], NULL, "gptq{128,0.01,static,plain}/int4:block(-1:128):static");
    check_codes(&in, &w[0], scale, "gptq{64,0.01,static,plain}/int3:block(-1:48):static");
    check_codes(&in, &w[1], NULL, "gptq{128,0.01,none,plain}/int8:axis0:static");
    check_codes(&in, &w[1], scale, "gptq{128,0.1,static,plain}/int4:tensor:static");
    check_clip(&in, &w[0], NULL, "clip/int4:block(-1:128):static");
    check_clip(&in, &w[1], scale, "clip/int4:block(-1:32):static");
    check_scales(&in, w, 2, "smooth{0.5}/int8:axis0:static");
    check_scales(&in, w, 2, "awq{0.1,joint,all,identity}/int4:block(-1:128):static");
    check_scales(&in, w, 1, "awq{0.25,own,quarter,plain}/int4:block(-1:32):static");
    check_scales(&in, w, 2, "awq{0.1,joint,all,identity}/e2m1:nvfp4(16):dynamic");
    check_error(&in, &w[0], scale, "int4:block(-1:128):static");
    check_error(&in, &w[1], scale, "int4:block(-1:128):static+e4m3:tensor:static");
    free(scale);
    weight_free(&w[0]);
    weight_free(&w[1]);
    input_free(&in);
}

int main(void)
{
    for (int bf16 = 0; bf16 < 2; bf16++) {
        struct backend_config config = {.struct_size = sizeof config, .threads = 2, .bf16 = bf16};
        must(backend_open(&be[CPU], "cpu", &config, &err));
        must(backend_open(&be[GPU], "cuda", &config, &err));
        pool = aq_pool_new(0, &err);
        must(pool ? 0 : -1);
        check_input(64, 40, 19, bf16 ? NUM_BF16 : NUM_F32);
        check_input(403, 3000, 150, bf16 ? NUM_BF16 : NUM_F32);
        check_input(1088, 700, 700, bf16 ? NUM_BF16 : NUM_F32);
        check_bad();
        aq_pool_free(pool);
        backend_close(be[CPU]);
        backend_close(be[GPU]);
    }
    return tap_done();
}
