/* Embedding, residuals, norms and the rotation: row by row, sums of a row in double. */
#include "backend/cpu/cpu.h"

#include <math.h>
#include <string.h>

enum { ROWS = 16 }; /* rows of a unit */

struct rows_job {
    struct cpu_backend *c;
    const struct backend_tile *t;
    float *out;
    const float *dy, *x, *w; /* w: the norm's weight in fp32 */
    const struct backend_weight *table;
    const float *cos, *sin; /* (rows, dim / 2) */
    int64_t cols;
    int heads;
    double eps;
};

static void run_rows(struct rows_job *j, aq_pool_fn *fn)
{
    aq_pool_run(j->c->pool, (j->t->rows + ROWS - 1) / ROWS, fn, j);
}

static int32_t end_row(const struct rows_job *j, int64_t unit)
{
    int64_t end = (unit + 1) * ROWS;
    return (int32_t)(end < j->t->rows ? end : j->t->rows);
}

static void embed_unit(void *arg, int64_t unit, int worker)
{
    const struct rows_job *j = arg;
    (void)worker;
    for (int32_t r = (int32_t)unit * ROWS; r < end_row(j, unit); r++) {
        float *h = j->out + r * j->cols;
        if (j->t->ids[r] < 0)
            memset(h, 0, (size_t)j->cols * sizeof *h);
        else
            cpu_weight_panel(j->table, j->t->ids[r], 1, 0, j->cols, h);
    }
}

void cpu_embed(struct backend *b, const struct backend_tile *t, void *h,
               const struct backend_weight *table)
{
    struct rows_job j = {.c = cpu_of(b), .t = t, .out = h, .table = table, .cols = table->cols};
    if (cpu_begin(j.c, 0, 0))
        run_rows(&j, embed_unit);
}

static void add_unit(void *arg, int64_t unit, int worker)
{
    const struct rows_job *j = arg;
    (void)worker;
    for (int64_t i = unit * ROWS * j->cols; i < end_row(j, unit) * j->cols; i++)
        j->out[i] += j->x[i];
}

void cpu_add(struct backend *b, const struct backend_tile *t, void *y, const void *x, int64_t cols)
{
    struct rows_job j = {.c = cpu_of(b), .t = t, .out = y, .x = x, .cols = cols};
    if (cpu_begin(j.c, 0, 0))
        run_rows(&j, add_unit);
}

/* 1 / sqrt(mean(x^2) + eps) */
static double inverse_rms(const float *x, int64_t n, double eps)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    return 1 / sqrt(sum / (double)n + eps);
}

static void norm_row(float *y, const float *x, const float *w, int64_t n, double eps)
{
    float r = (float)inverse_rms(x, n, eps);
    for (int64_t i = 0; i < n; i++)
        y[i] = w[i] * (x[i] * r);
}

/* dx += r u - x r^3 (sum u x) / n with u = dy w */
static void norm_row_backward(float *dx, const float *dy, const float *x, const float *w, int64_t n,
                              double eps)
{
    double r = inverse_rms(x, n, eps), dot = 0;
    for (int64_t i = 0; i < n; i++)
        dot += (double)dy[i] * w[i] * x[i];
    float scale = (float)r, slope = (float)(r * r * r * dot / (double)n);
    for (int64_t i = 0; i < n; i++)
        dx[i] += scale * (dy[i] * w[i]) - x[i] * slope;
}

static void norm_forward_unit(void *arg, int64_t unit, int worker)
{
    const struct rows_job *j = arg;
    (void)worker;
    for (int32_t r = (int32_t)unit * ROWS; r < end_row(j, unit); r++)
        norm_row(j->out + r * j->cols, j->x + r * j->cols, j->w, j->cols, j->eps);
}

static void norm_backward_unit(void *arg, int64_t unit, int worker)
{
    const struct rows_job *j = arg;
    (void)worker;
    for (int32_t r = (int32_t)unit * ROWS; r < end_row(j, unit); r++)
        norm_row_backward(j->out + r * j->cols, j->dy + r * j->cols, j->x + r * j->cols, j->w,
                          j->cols, j->eps);
}

/* Takes `more` shared floats besides the norm's weight. */
static bool begin_norm(struct rows_job *j, const struct backend_weight *w, size_t more)
{
    if (!cpu_begin(j->c, 0, ((size_t)w->cols + more) * sizeof(float)))
        return false;
    float *room = (float *)j->c->shared.data;
    cpu_weight_panel(w, 0, 1, 0, w->cols, room + more);
    j->w = room + more;
    j->cols = w->cols;
    return true;
}

void cpu_rmsnorm_forward(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                         const struct backend_weight *w, double eps)
{
    struct rows_job j = {.c = cpu_of(b), .t = t, .out = y, .x = x, .eps = eps};
    if (begin_norm(&j, w, 0))
        run_rows(&j, norm_forward_unit);
}

void cpu_rmsnorm_backward(struct backend *b, const struct backend_tile *t, void *dx, const void *dy,
                          const void *x, const struct backend_weight *w, double eps)
{
    struct rows_job j = {.c = cpu_of(b), .t = t, .out = dx, .dy = dy, .x = x, .eps = eps};
    if (begin_norm(&j, w, 0))
        run_rows(&j, norm_backward_unit);
}

/* ---- norm and rotation of heads ---- */

/* Angles as the model computes them: position times an fp32 frequency, in fp32. */
static bool begin_rope(struct rows_job *j, const struct backend_weight *w, double theta)
{
    int64_t half = w->cols / 2;
    size_t table = (size_t)(j->t->rows * half);
    if (!begin_norm(j, w, 2 * table))
        return false;
    float *cosines = (float *)j->c->shared.data, *sines = cosines + table;
    for (int64_t k = 0; k < half; k++) {
        float exponent = (float)(2 * k) / (float)w->cols;
        float frequency = 1.0F / powf((float)theta, exponent);
        for (int32_t r = 0; r < j->t->rows; r++) {
            float angle = (float)j->t->pos[r] * frequency;
            cosines[r * half + k] = cosf(angle);
            sines[r * half + k] = sinf(angle);
        }
    }
    j->cos = cosines;
    j->sin = sines;
    return true;
}

static void rope_forward_unit(void *arg, int64_t unit, int worker)
{
    const struct rows_job *j = arg;
    int64_t d = j->cols, half = d / 2;
    (void)worker;
    for (int32_t r = (int32_t)unit * ROWS; r < end_row(j, unit); r++) {
        const float *c = j->cos + r * half, *s = j->sin + r * half;
        for (int h = 0; h < j->heads; h++) {
            float *y = j->out + (r * (int64_t)j->heads + h) * d;
            norm_row(y, j->x + (r * (int64_t)j->heads + h) * d, j->w, d, j->eps);
            for (int64_t k = 0; k < half; k++) {
                float a = y[k], e = y[k + half];
                y[k] = a * c[k] - e * s[k];
                y[k + half] = e * c[k] + a * s[k];
            }
        }
    }
}

static void rope_backward_unit(void *arg, int64_t unit, int worker)
{
    const struct rows_job *j = arg;
    int64_t d = j->cols, half = d / 2;
    float *g = cpu_scratch(j->c, worker); /* gradient before the rotation */
    for (int32_t r = (int32_t)unit * ROWS; r < end_row(j, unit); r++) {
        const float *c = j->cos + r * half, *s = j->sin + r * half;
        for (int h = 0; h < j->heads; h++) {
            int64_t at = (r * (int64_t)j->heads + h) * d;
            const float *dy = j->dy + at;
            for (int64_t k = 0; k < half; k++) {
                g[k] = dy[k] * c[k] + dy[k + half] * s[k];
                g[k + half] = dy[k + half] * c[k] - dy[k] * s[k];
            }
            memset(j->out + at, 0, (size_t)d * sizeof(float));
            norm_row_backward(j->out + at, g, j->x + at, j->w, d, j->eps);
        }
    }
}

void cpu_norm_rope_forward(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                           const struct backend_weight *w, int heads, double eps, double theta)
{
    struct rows_job j = {.c = cpu_of(b), .t = t, .out = y, .x = x, .heads = heads, .eps = eps};
    if (begin_rope(&j, w, theta))
        run_rows(&j, rope_forward_unit);
}

void cpu_norm_rope_backward(struct backend *b, const struct backend_tile *t, void *dx,
                            const void *dy, const void *x, const struct backend_weight *w,
                            int heads, double eps, double theta)
{
    struct rows_job j = {
        .c = cpu_of(b), .t = t, .out = dx, .dy = dy, .x = x, .heads = heads, .eps = eps};
    if (cpu_begin(j.c, (size_t)w->cols * sizeof(float), 0) && begin_rope(&j, w, theta))
        run_rows(&j, rope_backward_unit);
}
