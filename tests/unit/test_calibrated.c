/*
 * lib/quant: what calibrated candidates are made of, held against ModelOpt and float64
 * (tests/oracle/calibrated.py, on a GPU calibrated_gpu.py) and llm-compressor (calibrated_llmc.py),
 * and the dense products and factors below it.
 */
#include "tap.h"

#include "base/mem.h"
#include "io/safetensors.h"
#include "quant/dense.h"
#include "quant/gptq.h"
#include "quant/scaling.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FILES = 3 };
static const char *const paths[FILES] = {"tests/oracle/calibrated/vectors.safetensors",
                                         "tests/oracle/calibrated/llmc.safetensors",
                                         "tests/oracle/calibrated/gpu.safetensors"};
static struct st_file files[FILES];
static struct aq_pool *pools[2]; /* one thread and three */

struct array {
    float *at;
    int64_t rows, cols;
};

static struct array load(const char *linear, const char *name)
{
    char full[64];
    struct aq_err err = {0};
    (void)snprintf(full, sizeof full, "%s/%s", linear, name);
    const struct st_file *f = files;
    while (f < files + FILES - 1 && !st_find(f, full))
        f++;
    const struct st_tensor *t = st_need(f, full, ST_F32, -1, &err);
    struct array a;
    if (!t) { /* nothing can be compared without it */
        printf("Bail out! %s\n", err.msg);
        exit(1);
    }
    a.rows = t->rank > 1 ? (int64_t)t->shape[0] : 1;
    a.cols = (int64_t)t->shape[t->rank - 1];
    a.at = xmalloc(t->elements * sizeof *a.at);
    memcpy(a.at, t->data, t->elements * sizeof *a.at);
    return a;
}

/* ---- dense ---- */

static double *random_matrix(int64_t rows, int64_t cols, uint64_t seed)
{
    double *m = xmalloc((size_t)(rows * cols) * sizeof *m);
    for (int64_t i = 0; i < rows * cols; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        m[i] = (double)(seed >> 40) / (1 << 23) - 1;
    }
    return m;
}

static double *moments_of(struct aq_pool *pool, const double *x, int64_t rows, int64_t n)
{
    double *s = xcalloc((size_t)(n * n), sizeof *s);
    dense_add_square(pool, s, x, rows, n);
    dense_mirror(pool, s, n);
    return s;
}

static double *doubles(const struct array *a)
{
    double *x = xmalloc((size_t)(a->rows * a->cols) * sizeof *x);
    for (int64_t i = 0; i < a->rows * a->cols; i++)
        x[i] = (double)a->at[i];
    return x;
}

static void test_dense(int64_t n, int64_t rows)
{
    size_t bytes = (size_t)(n * n) * sizeof(double);
    double *x = random_matrix(rows, n, (uint64_t)n), *s[2], *worst = xcalloc(3, sizeof *worst);
    double *all[2][2];
    for (int p = 0; p < 2; p++) {
        s[p] = moments_of(pools[p], x, rows, n);
        for (int64_t i = 0; i < n; i++)
            s[p][i * n + i] += 1;
        all[0][p] = xmalloc(bytes);
        all[1][p] = xmalloc(bytes);
        memcpy(all[0][p], s[p], bytes);
        tap_ok(dense_cholesky(pools[p], all[0][p], n) == -1, "%lld: a factor", (long long)n);
        memcpy(all[1][p], all[0][p], bytes);
        dense_invert_lower(pools[p], all[1][p], n);
    }
    tap_ok(memcmp(s[0], s[1], bytes) == 0 && memcmp(all[0][0], all[0][1], bytes) == 0 &&
               memcmp(all[1][0], all[1][1], bytes) == 0,
           "%lld: the same bits for one thread and for three", (long long)n);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++) {
            double square = i == j, product = 0, unit = 0;
            for (int64_t k = 0; k < rows; k++)
                square += x[k * n + i] * x[k * n + j];
            for (int64_t k = 0; k <= j; k++)
                product += all[0][0][i * n + k] * all[0][0][j * n + k];
            for (int64_t k = j; k <= i; k++)
                unit += all[0][0][i * n + k] * all[1][0][k * n + j];
            worst[0] = fmax(worst[0], fabs(square - s[0][i * n + j]));
            worst[1] = fmax(worst[1], fabs(product - square));
            worst[2] = fmax(worst[2], fabs(unit - (i == j)));
        }
    tap_ok(worst[0] < 1e-10, "%lld: x'x (%.1e)", (long long)n, worst[0]);
    tap_ok(worst[1] < 1e-10, "%lld: LL' (%.1e)", (long long)n, worst[1]);
    tap_ok(worst[2] < 1e-10, "%lld: L times its inverse (%.1e)", (long long)n, worst[2]);
    s[0][0] = -1;
    tap_ok(dense_cholesky(pools[0], s[0], n) == 0, "%lld: a negative pivot is found", (long long)n);
    for (int p = 0; p < 2; p++) {
        free(s[p]);
        free(all[0][p]);
        free(all[1][p]);
    }
    free(worst);
    free(x);
}

/* ---- codes ---- */

static struct quant_spec spec_of(const char *text)
{
    struct quant_spec spec;
    struct aq_err err = {0};
    if (quant_parse(text, &spec, &err) < 0)
        printf("# %s\n", err.msg);
    return spec;
}

/* Elements that are another code than expected: half a step of the block away, or more. */
static int64_t other_codes(const struct array *expected, const float *found, const float *ranges,
                           int64_t block)
{
    int64_t n = 0;
    for (int64_t r = 0; r < expected->rows; r++)
        for (int64_t c = 0; c < expected->cols; c++) {
            int64_t i = r * expected->cols + c;
            float step = ranges[r * (expected->cols / block) + c / block] / 7;
            n += !(fabsf(found[i] - expected->at[i]) < step / 2);
        }
    return n;
}

/* GPTQ of a linear in the given order of columns: the dequantized weight must be the vectors'. */
static void test_gptq(const char *linear, const char *order, const char *expected_name, int block)
{
    char text[96];
    struct aq_err err = {0};
    struct array w = load(linear, "w"), x = load(linear, "x"),
                 expected = load(linear, expected_name);
    int64_t n = w.cols, grid = n / block;
    (void)snprintf(text, sizeof text, "gptq{128,0.01,%s,plain}/int4:block(-1:%d):static", order,
                   block);
    struct quant_spec spec = spec_of(text);
    double *wide = doubles(&x), damp;
    int8_t *codes[2];
    float *ranges = xcalloc((size_t)(w.rows * grid), sizeof *ranges);
    float *found = xcalloc((size_t)(w.rows * n), sizeof *found);
    struct quant_grid g;
    struct quant_spec exact = spec; /* the vectors' ranges, not those of 16-bit scales */
    int r = 0;
    exact.methods.plain_order = 1;
    gptq_ranges(&exact, w.at, w.rows, n, ranges);
    for (int p = 0; p < 2; p++) {
        struct gptq_factor f = {0};
        double *s = moments_of(pools[p], wide, x.rows, n);
        codes[p] = xcalloc((size_t)(w.rows * n), 1);
        r |= gptq_factor(&f, pools[p], s, n, NULL, &spec.methods, &damp, &err);
        if (r == 0)
            r |= gptq_codes(pools[p], &f, &spec, w.at, w.rows, ranges, codes[p], &err);
        gptq_factor_release(&f);
        free(s);
    }
    (void)quant_weight_grid(&spec, w.rows, n, &g);
    quant_decode(&spec, &g, ranges, codes[0], 0, w.rows, n, found);
    int64_t other = other_codes(&expected, found, ranges, block);
    tap_ok(r == 0 && damp == 0.01, "%s, %s: solved", linear, order);
    tap_ok(memcmp(codes[0], codes[1], (size_t)(w.rows * n)) == 0,
           "%s, %s: the same codes for any threads", linear, order);
    tap_ok(other == 0, "%s, %s: the codes of the vectors (%lld of %lld differ)", linear, order,
           (long long)other, (long long)w.rows * n);
    /* and back from the packed form */
    uint8_t packed[256];
    int8_t again[512];
    quant_pack_codes(&spec, codes[0], n, packed);
    quant_unpack_codes(&spec, packed, n, again);
    tap_ok(memcmp(again, codes[0], (size_t)n) == 0, "%s, %s: codes as they are stored", linear,
           order);
    free(codes[0]);
    free(codes[1]);
    free(ranges);
    free(found);
    free(wide);
    free(w.at);
    free(x.at);
    free(expected.at);
}

/* Moments without a factor, and those that are no numbers. */
static void test_bad_moments(void)
{
    struct quant_spec spec = spec_of("gptq{128,0.01,static,plain}/int4:axis0:static");
    struct aq_err err = {0};
    struct gptq_factor f = {0};
    double s[16] = {0}, damp; /* an input that is always 0 */
    int r = gptq_factor(&f, pools[0], s, 4, NULL, &spec.methods, &damp, &err);
    tap_ok(r == 0 && damp == 0.01, "columns without any input have a factor");
    const float w[4] = {1, -7, 3, 0.4F};
    float range = 0;
    int8_t codes[4];
    gptq_ranges(&spec, w, 1, 4, &range);
    tap_ok(r == 0 && gptq_codes(pools[0], &f, &spec, w, 1, &range, codes, &err) == 0 &&
               range == 7 && codes[0] == 1 && codes[1] == -7 && codes[2] == 3 && codes[3] == 0,
           "and are rounded as they are");
    gptq_factor_release(&f);
    for (int i = 0; i < 4; i++) /* rank 1 */
        for (int k = 0; k < 4; k++)
            s[i * 4 + k] = 1;
    r = gptq_factor(&f, pools[0], s, 4, NULL, &spec.methods, &damp, &err);
    tap_ok(r == 0, "singular moments have one");
    gptq_factor_release(&f);
    s[5] = NAN;
    r = gptq_factor(&f, pools[0], s, 4, NULL, &spec.methods, &damp, &err);
    tap_ok(r < 0 && strstr(err.msg, "second moment of column 1"), "not a number: '%s'", err.msg);
    gptq_factor_release(&f);
    s[5] = 1;
    s[4] = s[1] = 100; /* not the moments of anything */
    r = gptq_factor(&f, pools[0], s, 4, NULL, &spec.methods, &damp, &err);
    tap_ok(r < 0 && strstr(err.msg, "no factor"), "no moments: '%s'", err.msg);
    gptq_factor_release(&f);
}

/* ---- scales ---- */

static double furthest(const float *found, const struct array *expected, bool inverse)
{
    double worst = 0;
    for (int64_t i = 0; i < expected->cols; i++) {
        double x = inverse ? 1 / (double)found[i] : (double)found[i];
        worst = fmax(worst, fabs(x / (double)expected->at[i] - 1));
    }
    return worst;
}

static void test_scales(const char *linear, int block)
{
    char text[96];
    struct aq_err err = {0};
    struct array w = load(linear, "w"), x = load(linear, "x"), awq = load(linear, "awq");
    struct array alpha = load(linear, "alpha");
    (void)snprintf(text, sizeof text, "awq{0.1,joint,all,plain}/int4:block(-1:%d):static", block);
    struct quant_spec spec = spec_of(text);
    double *wide = doubles(&x), *s = moments_of(pools[0], wide, x.rows, w.cols), exponent = -2;
    double *mean = xcalloc((size_t)w.cols, sizeof *mean);
    float *amax = xcalloc((size_t)w.cols, sizeof *amax), *scale = xcalloc((size_t)w.cols, 4);
    for (int64_t i = 0; i < x.rows * x.cols; i++) {
        mean[i % x.cols] += fabs(wide[i]) / (double)x.rows;
        amax[i % x.cols] = fmaxf(amax[i % x.cols], fabsf(x.at[i]));
    }
    const struct scaled_input in = {w.cols, s, mean, amax};
    const struct scaled_weight one = {w.at, w.rows, "w"};
    int r = awq_scales(pools[0], &in, &one, 1, &spec, scale, &exponent, &err);
    tap_ok(r == 0 && fabs(exponent - (double)alpha.at[0]) < 1e-6,
           "%s: AWQ's exponent %g, ModelOpt's %g", linear, exponent, (double)alpha.at[0]);
    double worst = furthest(scale, &awq, false);
    tap_ok(worst < 1e-6, "%s: AWQ's scales (%.1e)", linear, worst);
    static const char *const names[] = {"smooth1", "smooth5"};
    for (int i = 0; i < 2; i++) {
        struct array expected = load(linear, names[i]);
        smooth_scales(pools[1], &in, &one, 1, i ? 0.5 : 1, scale);
        worst = furthest(scale, &expected, true);
        tap_ok(worst < 1e-6, "%s: SmoothQuant's factors, alpha %s (%.1e)", linear, i ? "0.5" : "1",
               worst);
        free(expected.at);
    }
    free(wide);
    free(s);
    free(mean);
    free(amax);
    free(scale);
    free(w.at);
    free(x.at);
    free(awq.at);
    free(alpha.at);
}

/* A weight that rounding leaves as it is stays as it is. */
static void test_awq_identity(void)
{
    struct aq_err err = {0};
    struct array w = load("a", "w"), x = load("a", "x");
    struct quant_spec spec = spec_of("awq{0.1,joint,all,identity}/int4:block(-1:128):static");
    double *wide = doubles(&x), *s = moments_of(pools[0], wide, x.rows, w.cols), exponent = -2;
    double *mean = xcalloc((size_t)w.cols, sizeof *mean);
    float *scale = xcalloc((size_t)w.cols, sizeof *scale);
    for (int64_t c = 0; c < w.cols; c++)
        mean[c] = (double)(c % 5 + 1);
    for (int64_t i = 0; i < w.rows * w.cols; i++) /* codes of int4 already */
        w.at[i] = (float)(i % 128 == 0 ? 7 : i * 7 % 15 - 7);
    const struct scaled_input in = {w.cols, s, mean, NULL};
    const struct scaled_weight one = {w.at, w.rows, "w"};
    bool good = awq_scales(pools[0], &in, &one, 1, &spec, scale, &exponent, &err) == 0;
    for (int64_t c = 0; c < w.cols; c++)
        good &= scale[c] == 1;
    tap_ok(good && exponent == -1, "AWQ may leave a weight as it is (exponent %g)", exponent);
    free(wide);
    free(s);
    free(mean);
    free(scale);
    free(w.at);
    free(x.at);
}

/* ---- searched ranges ---- */

static void test_search(const char *linear, const char *name, const char *text)
{
    struct aq_err err = {0};
    struct array w = load(linear, "w"), expected = load(linear, name);
    struct quant_spec spec = spec_of(text);
    struct quant_plan *plan = NULL;
    const struct quant_matrix m = {w.at, NUM_F32, w.rows, w.cols, "w"};
    float *found = xcalloc((size_t)(w.rows * w.cols), sizeof *found);
    int64_t other = 0;
    if (quant_plan_weight(&plan, &spec, &m, QUANT_UNROUNDED, &err) == 0)
        quant_apply(plan, &m, 0, w.rows, found, NUM_F32, NULL);
    else
        printf("# %s\n", err.msg);
    quant_plan_free(plan);
    for (int64_t i = 0; i < w.rows * w.cols; i++)
        other += !(fabsf(found[i] - expected.at[i]) <= 1e-5F * fabsf(expected.at[i]) + 1e-9F);
    tap_ok(other == 0, "%s: %s (%lld of %lld differ)", linear, text, (long long)other,
           (long long)w.rows * w.cols);
    free(found);
    free(w.at);
    free(expected.at);
}

/* Ranges that ModelOpt clips, of the weight as it is or after AWQ's scales. */
static void test_clip_vectors(const char *linear, int block, const char *name, const char *scales)
{
    char text[96];
    struct aq_err err = {0};
    struct array w = load(linear, "w"), x = load(linear, "x"), expected = load(linear, name);
    struct array scale = scales ? load(linear, scales) : (struct array){NULL, 0, 0};
    (void)snprintf(text, sizeof text, "clip/int4:block(-1:%d):static", block);
    struct quant_spec spec = spec_of(text);
    double *wide = doubles(&x), *s = moments_of(pools[0], wide, x.rows, w.cols);
    int64_t n = w.rows * (w.cols / block), other = 0, clipped = 0;
    float *ranges = xcalloc((size_t)n, sizeof *ranges);
    for (int64_t i = 0; i < w.rows * w.cols && scales; i++)
        w.at[i] *= scale.at[i % w.cols];
    int r = clip_ranges(pools[1], s, scale.at, &spec, w.at, w.rows, w.cols, ranges, &err);
    for (int64_t i = 0; i < n; i++) {
        other += !(fabsf(ranges[i] / expected.at[i] - 1) < 1e-5F);
        clipped += ranges[i] < quant_absmax(w.at + i * block, NUM_F32, (size_t)block);
    }
    tap_ok(r == 0 && expected.rows * expected.cols == n && other == 0 && clipped > n / 4,
           "%s, %s: %s, %lld ranges of %lld clipped, %lld of ModelOpt's are others", linear, name,
           text, (long long)clipped, (long long)n, (long long)other);
    free(ranges);
    free(wide);
    free(s);
    free(w.at);
    free(x.at);
    free(expected.at);
    free(scale.at);
}

/* Ranges after clip: no block's error through its own columns is larger than unclipped. */
static void test_clip(void)
{
    struct aq_err err = {0};
    struct array w = load("a", "w"), x = load("a", "x");
    struct quant_spec spec = spec_of("clip/int4:block(-1:128):static"), plain = spec;
    double *wide = doubles(&x), *s = moments_of(pools[0], wide, x.rows, w.cols);
    int64_t grid = w.cols / 128, smaller = 0, outside = 0;
    float *ranges = xcalloc((size_t)(w.rows * grid), sizeof *ranges);
    float *found = xcalloc((size_t)(w.rows * w.cols), sizeof *found);
    struct quant_plan *plan = NULL;
    const struct quant_matrix m = {w.at, NUM_F32, w.rows, w.cols, "w"};
    plain.methods = (struct quant_methods){0};
    double before = 0, after = 0;
    int r = clip_ranges(pools[1], s, NULL, &spec, w.at, w.rows, w.cols, ranges, &err);
    for (int64_t i = 0; i < w.rows * grid; i++) {
        float most = quant_absmax(w.at + i * 128, NUM_F32, 128);
        smaller += ranges[i] < most;
        outside += ranges[i] > most || ranges[i] < most / 2;
    }
    /* moments of the blocks alone */
    for (int64_t i = 0; i < w.cols; i++)
        for (int64_t k = 0; k < w.cols; k++)
            if (i / 128 != k / 128)
                s[i * w.cols + k] = 0;
    if (quant_plan_weight(&plan, &plain, &m, QUANT_UNROUNDED, &err) == 0)
        quant_apply(plan, &m, 0, w.rows, found, NUM_F32, NULL);
    quant_plan_free(plan);
    before = moments_error(pools[0], s, w.cols, found, w.at, w.rows);
    if (quant_plan_weight_ranges(&plan, &spec, &m, ranges, QUANT_UNROUNDED, &err) == 0)
        quant_apply(plan, &m, 0, w.rows, found, NUM_F32, NULL);
    quant_plan_free(plan);
    after = moments_error(pools[0], s, w.cols, found, w.at, w.rows);
    tap_ok(r == 0 && outside == 0 && smaller > w.rows * grid / 2 && after < before,
           "clip: %lld of %lld ranges are smaller, the error is %.3f of what it was",
           (long long)smaller, (long long)w.rows * grid, after / before);
    free(ranges);
    free(found);
    free(wide);
    free(s);
    free(w.at);
    free(x.at);
}

int main(void)
{
    struct aq_err err = {0};
    pools[0] = aq_pool_new(1, &err);
    pools[1] = aq_pool_new(3, &err);
    bool bad = !pools[0] || !pools[1];
    for (int i = 0; i < FILES; i++)
        bad = bad || st_open(&files[i], paths[i], &err) < 0;
    if (bad) {
        printf("# %s\n", err.msg);
        return 1;
    }
    test_dense(5, 3);
    test_dense(130, 200);
    test_dense(403, 70);
    test_dense(610, 300);
    test_gptq("a", "none", "gptq", 128);
    test_gptq("b", "none", "gptq", 32);
    test_gptq("a", "static", "static", 128);
    test_gptq("b", "static", "static", 32);
    test_gptq("a", "static", "llmc", 128);
    test_gptq("b", "static", "llmc", 32);
    test_bad_moments();
    test_scales("a", 128);
    test_scales("b", 32);
    test_awq_identity();
    test_search("a", "mse4", "mse{modelopt}/int4:block(-1:128):static");
    test_search("b", "mse4", "mse{modelopt}/int4:block(-1:32):static");
    test_search("a", "mse8", "mse{modelopt}/int8:axis0:static");
    test_search("b", "mse8", "mse{modelopt}/int8:axis0:static");
    test_search("a", "sweep", "sweep/e2m1:nvfp4(16):dynamic");
    test_search("a", "4o6", "4o6/e2m1:nvfp4(16):dynamic");
    for (const char *const *name = (const char *const[]){"a", "b", "c", NULL}; *name; name++) {
        test_search(*name, "gpu_sweep", "sweep/e2m1:nvfp4(16):dynamic");
        test_search(*name, "gpu_4o6", "4o6/e2m1:nvfp4(16):dynamic");
    }
    test_clip();
    test_clip_vectors("a", 128, "clip", NULL);
    test_clip_vectors("b", 32, "clip", NULL);
    test_clip_vectors("a", 128, "full", "fullscale");
    test_clip_vectors("b", 32, "full", "fullscale");
    for (int i = 0; i < FILES; i++)
        st_close(&files[i]);
    aq_pool_free(pools[0]);
    aq_pool_free(pools[1]);
    return tap_done();
}
