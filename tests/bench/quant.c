/*
 * Speed of fake quantization, one thread, a matrix larger than the caches: against a copy by the
 * same loop with the same stores (the treatment "none"), and against the plain kernels.
 *
 *     quant [ROWS COLS [ROUNDS]]     TSV: treatment dtype Melem/s GB/s of_copy of_plain
 *
 * Rounds go over all treatments in turn, so that a slow moment of the machine hits all alike;
 * medians of the time that the thread was on a CPU are printed.
 */
#include "base/mem.h"
#include "base/num.h"
#include "quant/quant.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MAX_ROUNDS = 31 };

struct job {
    const char *text;
    int is_weight;
    double seconds[2][MAX_ROUNDS]; /* plain, best */
    double median[2];
};

static struct job jobs[] = {
    {.text = "none", .is_weight = 1},
    {.text = "int8:tensor:static", .is_weight = 1},
    {.text = "int8:axis0:static", .is_weight = 1},
    {.text = "int8:axis1:static", .is_weight = 1},
    {.text = "int4:block(-1:128):static", .is_weight = 1},
    {.text = "e4m3:tensor:static", .is_weight = 1},
    {.text = "e4m3:axis0:static", .is_weight = 1},
    {.text = "int8:token:dynamic"},
    {.text = "e4m3:token:dynamic"},
    {.text = "e2m1:nvfp4(16):dynamic", .is_weight = 1},
    {.text = "e2m1:mx(32):dynamic", .is_weight = 1},
    {.text = "int8:mx(32):dynamic", .is_weight = 1},
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static void fill(struct quant_matrix *x, void *data)
{
    uint64_t seed = 1;
    for (int64_t i = 0; i < x->rows * x->cols; i++) {
        seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        float v =
            (float)((int64_t)(seed >> 33 & 0xffff) + (int64_t)(seed >> 48) - 65535) * 0x1p-20F;
        if (x->dtype == NUM_BF16)
            ((uint16_t *)data)[i] = num_to_bf16(v);
        else
            ((float *)data)[i] = v;
    }
    x->data = data;
}

static struct quant_plan *plan(const struct job *j, const struct quant_matrix *x)
{
    enum quant_rounding rounding = x->dtype == NUM_BF16 ? QUANT_TO_BF16 : QUANT_UNROUNDED;
    struct quant_spec spec;
    struct quant_plan *p = NULL;
    struct aq_err err = {0};
    if (quant_parse(j->text, &spec, &err) < 0 ||
        (j->is_weight ? quant_plan_weight(&p, &spec, x, rounding, &err)
                      : quant_plan_act(&p, &spec, x->cols, NULL, rounding, &err)) < 0) {
        (void)fprintf(stderr, "%s\n", err.msg);
        exit(1);
    }
    return p;
}

/* In cache-sized calls, as the engine makes them: a few rows at a time. */
static double one(const struct quant_plan *p, const struct quant_matrix *x, void *y)
{
    size_t row = (size_t)x->cols * (x->dtype == NUM_BF16 ? 2 : 4);
    double t = now();
    for (int64_t r = 0; r < x->rows; r += 16) {
        int64_t end = r + 16 < x->rows ? r + 16 : x->rows;
        quant_apply(p, x, r, end, (char *)y + (size_t)r * row, x->dtype, NULL);
    }
    return now() - t;
}

static void bench(struct quant_matrix *x, void *y, int rounds)
{
    static const char *const level[] = {"plain", NULL};
    struct quant_plan *plans[AQ_COUNT(jobs)];
    for (size_t i = 0; i < AQ_COUNT(jobs); i++)
        plans[i] = plan(&jobs[i], x);
    for (int k = 0; k < 2; k++) {
        int n = k ? rounds : 1; /* the plain kernels are slow, and steady */
        if (quant_cpu_select(level[k], NULL) < 0)
            exit(1);
        for (int r = 0; r < n; r++)
            for (size_t i = 0; i < AQ_COUNT(jobs); i++)
                jobs[i].seconds[k][r] = one(plans[i], x, y);
        for (size_t i = 0; i < AQ_COUNT(jobs); i++)
            jobs[i].median[k] = median(jobs[i].seconds[k], n);
    }
    double n = (double)x->rows * (double)x->cols, size = x->dtype == NUM_BF16 ? 2 : 4;
    for (size_t i = 0; i < AQ_COUNT(jobs); i++) {
        const double *t = jobs[i].median;
        printf("%s\t%s\t%.0f\t%.1f\t%.2f\t%.1f\n", jobs[i].text,
               x->dtype == NUM_BF16 ? "bf16" : "f32", n / t[1] * 1e-6, 2 * size * n / t[1] * 1e-9,
               jobs[0].median[1] / t[1], t[0] / t[1]);
        quant_plan_free(plans[i]);
    }
}

int main(int argc, char **argv)
{
    struct quant_matrix x = {.rows = argc > 2 ? atoll(argv[1]) : 4096,
                             .cols = argc > 2 ? atoll(argv[2]) : 8192,
                             .name = "x"};
    int rounds = argc > 3 ? atoi(argv[3]) : 7;
    size_t bytes = (size_t)(x.rows * x.cols) * 4;
    struct aq_err err = {0};
    if (x.rows < 1 || x.cols < 1 || rounds < 1 || rounds > MAX_ROUNDS)
        return 2;
    void *from = aq_big_alloc(bytes, "input", &err), *to = aq_big_alloc(bytes, "output", &err);
    if (!from || !to) {
        (void)fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    memset(to, 1, bytes);
    printf("treatment\tdtype\tMelem/s\tGB/s\tof_copy\tof_plain\n");
    x.dtype = NUM_F32;
    fill(&x, from);
    bench(&x, to, rounds);
    x.dtype = NUM_BF16;
    fill(&x, from);
    bench(&x, to, rounds);
    aq_big_free(from, bytes);
    aq_big_free(to, bytes);
    return 0;
}
