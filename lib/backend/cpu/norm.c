/* Embedding, residuals, norms and the rotation: row by row, sums of a row in double. */
#include "backend/cpu/cpu.h"
#include "backend/cpu/simd.h"
#include "base/mem.h"

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
    int64_t from = unit * ROWS * j->cols;
    (void)worker;
    simd()->add(j->out + from, j->x + from, end_row(j, unit) * j->cols - from);
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
    return 1 / sqrt(simd()->dot(x, NULL, x, n) / (double)n + eps);
}

static void norm_row(float *y, const float *x, const float *w, int64_t n, double eps)
{
    simd()->norm(y, x, w, (float)inverse_rms(x, n, eps), n);
}

/* dx += r u - x r^3 (sum u x) / n with u = dy w */
static void norm_row_backward(float *dx, const float *dy, const float *x, const float *w, int64_t n,
                              double eps)
{
    double r = inverse_rms(x, n, eps), dot = simd()->dot(dy, w, x, n);
    simd()->norm_backward(dx, dy, x, w, (float)r, (float)(r * r * r * dot / (double)n), n);
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

static bool begin_norm(struct rows_job *j, const struct backend_weight *w)
{
    if (!cpu_begin(j->c, 0, (size_t)w->cols * sizeof(float)))
        return false;
    float *room = (void *)j->c->shared.data;
    cpu_weight_panel(w, 0, 1, 0, w->cols, room);
    j->w = room;
    j->cols = w->cols;
    return true;
}

void cpu_rmsnorm_forward(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                         const struct backend_weight *w, double eps)
{
    struct rows_job j = {.c = cpu_of(b), .t = t, .out = y, .x = x, .eps = eps};
    if (begin_norm(&j, w))
        run_rows(&j, norm_forward_unit);
}

void cpu_rmsnorm_backward(struct backend *b, const struct backend_tile *t, void *dx, const void *dy,
                          const void *x, const struct backend_weight *w, double eps)
{
    struct rows_job j = {.c = cpu_of(b), .t = t, .out = dx, .dy = dy, .x = x, .eps = eps};
    if (begin_norm(&j, w))
        run_rows(&j, norm_backward_unit);
}

/* ---- norm and rotation of heads ---- */

/* Angles as the model computes them: position times an fp32 frequency, in fp32. */
static const struct cpu_angles *angles_of(const struct backend_tile *t, int64_t dim, double theta)
{
    struct cpu_angles *a = t->angles;
    int64_t half = dim / 2;
    if (a->half == half && a->theta == theta)
        return a;
    a->half = half;
    a->theta = theta;
    a->cos = xreallocarray(a->cos, (size_t)(t->rows * half), sizeof *a->cos);
    a->sin = xreallocarray(a->sin, (size_t)(t->rows * half), sizeof *a->sin);
    for (int64_t k = 0; k < half; k++) {
        float frequency = 1.0F / powf((float)theta, (float)(2 * k) / (float)dim);
        for (int32_t r = 0; r < t->rows; r++) {
            float angle = (float)t->pos[r] * frequency;
            a->cos[r * half + k] = cosf(angle);
            a->sin[r * half + k] = sinf(angle);
        }
    }
    return a;
}

static bool begin_rope(struct rows_job *j, const struct backend_weight *w, double theta)
{
    const struct cpu_angles *a = angles_of(j->t, w->cols, theta);
    j->cos = a->cos;
    j->sin = a->sin;
    return begin_norm(j, w);
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
            simd()->turn(y, y, c, s, 1, half);
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
            simd()->turn(g, j->dy + at, c, s, -1, half);
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
