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
    float *out;          /* (rows, cols), or (rows, heads x cols) of a rotation */
    const float *dy, *x; /* the same */
    const float *w;      /* [cols], in fp32: a norm's weight, 1 + w included, or a bias */
    const struct backend_weight *table; /* of embed: (vocabulary, cols) */
    const struct cpu_angles *angles;    /* NULL: no rotation */
    int64_t cols;                       /* of a row, or of a head */
    int heads;
    double eps;
    float factor;
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
        if (j->factor != 1)
            simd()->scale(h, h, j->factor, j->cols);
    }
}

void cpu_embed(struct backend *b, const struct backend_tile *t, void *h,
               const struct backend_weight *table, float factor)
{
    struct rows_job j = {
        .c = cpu_of(b), .t = t, .out = h, .table = table, .cols = table->cols, .factor = factor};
    if (cpu_begin(j.c, 0, 0))
        run_rows(&j, embed_unit);
}

static void add_unit(void *arg, int64_t unit, int worker)
{
    const struct rows_job *j = arg;
    int64_t from = unit * ROWS * j->cols;
    (void)worker;
    simd()->add(j->out + from, j->x + from, j->factor, end_row(j, unit) * j->cols - from);
}

void cpu_add(struct backend *b, const struct backend_tile *t, void *y, const void *x, int64_t cols,
             float factor)
{
    struct rows_job j = {.c = cpu_of(b), .t = t, .out = y, .x = x, .cols = cols, .factor = factor};
    if (cpu_begin(j.c, 0, 0))
        run_rows(&j, add_unit);
}

static void scale_unit(void *arg, int64_t unit, int worker)
{
    const struct rows_job *j = arg;
    int64_t from = unit * ROWS * j->cols;
    (void)worker;
    simd()->scale(j->out + from, j->x + from, j->factor, end_row(j, unit) * j->cols - from);
}

void cpu_scale(struct backend *b, const struct backend_tile *t, void *y, const void *x,
               int64_t cols, float factor)
{
    struct rows_job j = {.c = cpu_of(b), .t = t, .out = y, .x = x, .cols = cols, .factor = factor};
    if (cpu_begin(j.c, 0, 0))
        run_rows(&j, scale_unit);
}

struct cols_job {
    int32_t rows;
    float *y;       /* (rows, y_cols), from its first column to be written on */
    const float *x; /* (rows, x_cols), likewise */
    int64_t y_cols, x_cols, cols;
};

static void cols_unit(void *arg, int64_t unit, int worker)
{
    const struct cols_job *j = arg;
    int64_t end = (unit + 1) * ROWS < j->rows ? (unit + 1) * ROWS : j->rows;
    (void)worker;
    for (int64_t r = unit * ROWS; r < end; r++)
        memcpy(j->y + r * j->y_cols, j->x + r * j->x_cols, (size_t)j->cols * sizeof *j->y);
}

void cpu_cols_copy(struct backend *b, const struct backend_tile *t, void *y, int64_t y_cols,
                   int64_t y_at, const void *x, int64_t x_cols, int64_t x_at, int64_t cols)
{
    struct cpu_backend *c = cpu_of(b);
    struct cols_job j = {t->rows, (float *)y + y_at, (const float *)x + x_at, y_cols, x_cols, cols};
    if (cpu_begin(c, 0, 0))
        aq_pool_run(c->pool, (t->rows + ROWS - 1) / ROWS, cols_unit, &j);
}

/* Rows without a token are zero and stay zero. */
static void bias_unit(void *arg, int64_t unit, int worker)
{
    const struct rows_job *j = arg;
    (void)worker;
    for (int32_t r = (int32_t)unit * ROWS; r < end_row(j, unit); r++) {
        float *y = j->out + r * j->cols;
        const float *x = j->x + r * j->cols;
        if (y != x)
            memcpy(y, x, (size_t)j->cols * sizeof *y);
        if (j->t->sample_of[r] >= 0)
            simd()->add(y, j->w, 1, j->cols);
    }
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

/* The weight of a norm, or a bias, as a row of fp32 in the shared scratch. */
static bool begin_row(struct rows_job *j, const struct backend_weight *w, bool one_plus)
{
    if (!cpu_begin(j->c, 0, (size_t)w->cols * sizeof(float)))
        return false;
    float *room = (void *)j->c->shared.data;
    cpu_weight_panel(w, 0, 1, 0, w->cols, room);
    for (int64_t i = 0; one_plus && i < w->cols; i++)
        room[i] += 1;
    j->w = room;
    j->cols = w->cols;
    return true;
}

void cpu_bias_add(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                  const struct backend_weight *bias)
{
    struct rows_job j = {.c = cpu_of(b), .t = t, .out = y, .x = x};
    if (begin_row(&j, bias, false))
        run_rows(&j, bias_unit);
}

void cpu_rmsnorm_forward(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                         const struct backend_norm *norm)
{
    struct rows_job j = {.c = cpu_of(b), .t = t, .out = y, .x = x, .eps = norm->eps};
    if (begin_row(&j, norm->w, norm->one_plus))
        run_rows(&j, norm_forward_unit);
}

void cpu_rmsnorm_backward(struct backend *b, const struct backend_tile *t, void *dx, const void *dy,
                          const void *x, const struct backend_norm *norm)
{
    struct rows_job j = {.c = cpu_of(b), .t = t, .out = dx, .dy = dy, .x = x, .eps = norm->eps};
    if (begin_row(&j, norm->w, norm->one_plus))
        run_rows(&j, norm_backward_unit);
}

/* ---- norm and rotation of heads ---- */

/* Angles as the model computes them: position times an fp32 frequency, in fp32. */
static const struct cpu_angles *angles_of(const struct backend_tile *tile,
                                          const struct backend_rope *rope)
{
    struct backend_tile *t = (struct backend_tile *)tile; /* what it keeps for itself */
    int64_t half = rope->dim / 2;
    size_t bytes = (size_t)half * sizeof(float), cells = (size_t)(t->rows * half);
    for (struct cpu_angles *a = t->angles; a; a = a->next)
        if (a->half == half && a->factor == rope->factor &&
            memcmp(a->inv_freq, rope->inv_freq, bytes) == 0)
            return a;
    struct cpu_angles *a = xcalloc(1, sizeof *a);
    a->next = t->angles;
    t->angles = a;
    a->half = half;
    a->factor = rope->factor;
    a->inv_freq = xmalloc(bytes);
    memcpy(a->inv_freq, rope->inv_freq, bytes);
    a->cos = xmalloc(cells * sizeof *a->cos);
    a->sin = xmalloc(cells * sizeof *a->sin);
    for (int64_t k = 0; k < half; k++) {
        for (int32_t r = 0; r < t->rows; r++) {
            float angle = (float)t->pos[r] * rope->inv_freq[k];
            a->cos[r * half + k] = cosf(angle) * rope->factor;
            a->sin[r * half + k] = sinf(angle) * rope->factor;
        }
    }
    return a;
}

static bool begin_heads(struct rows_job *j, const struct backend_norm *norm,
                        const struct backend_rope *rope, int dim)
{
    if (norm)
        j->eps = norm->eps;
    if (norm ? !begin_row(j, norm->w, norm->one_plus) : !cpu_begin(j->c, 0, 0))
        return false;
    if (rope && rope->dim > 0)
        j->angles = angles_of(j->t, rope);
    j->cols = dim;
    return true;
}

/* to = the head x with its pairs turned, way = -1: turned back; what is beyond the pairs stays. */
static void turn_head(const struct rows_job *j, int32_t row, float *to, const float *x, float way)
{
    int64_t half = j->angles ? j->angles->half : 0;
    if (half)
        simd()->turn(to, x, j->angles->cos + row * half, j->angles->sin + row * half, way, half);
    if (to != x && 2 * half < j->cols)
        memcpy(to + 2 * half, x + 2 * half, (size_t)(j->cols - 2 * half) * sizeof *to);
}

static void rope_forward_unit(void *arg, int64_t unit, int worker)
{
    const struct rows_job *j = arg;
    int64_t d = j->cols;
    (void)worker;
    for (int32_t r = (int32_t)unit * ROWS; r < end_row(j, unit); r++) {
        for (int h = 0; h < j->heads; h++) {
            int64_t at = (r * (int64_t)j->heads + h) * d;
            const float *x = j->x + at;
            float *y = j->out + at;
            if (j->w)
                norm_row(y, x, j->w, d, j->eps);
            turn_head(j, r, y, j->w ? y : x, 1);
        }
    }
}

static void rope_backward_unit(void *arg, int64_t unit, int worker)
{
    const struct rows_job *j = arg;
    int64_t d = j->cols;
    float *g = cpu_scratch(j->c, worker); /* [d]: gradient between the norm and the rotation */
    for (int32_t r = (int32_t)unit * ROWS; r < end_row(j, unit); r++) {
        for (int h = 0; h < j->heads; h++) {
            int64_t at = (r * (int64_t)j->heads + h) * d;
            if (!j->w) {
                turn_head(j, r, j->out + at, j->dy + at, -1);
                continue;
            }
            turn_head(j, r, g, j->dy + at, -1);
            memset(j->out + at, 0, (size_t)d * sizeof(float));
            norm_row_backward(j->out + at, g, j->x + at, j->w, d, j->eps);
        }
    }
}

void cpu_norm_rope_forward(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                           int heads, int dim, const struct backend_norm *norm,
                           const struct backend_rope *rope)
{
    struct rows_job j = {.c = cpu_of(b), .t = t, .out = y, .x = x, .heads = heads};
    if (begin_heads(&j, norm, rope, dim))
        run_rows(&j, rope_forward_unit);
}

void cpu_norm_rope_backward(struct backend *b, const struct backend_tile *t, void *dx,
                            const void *dy, const void *x, int heads, int dim,
                            const struct backend_norm *norm, const struct backend_rope *rope)
{
    struct rows_job j = {.c = cpu_of(b), .t = t, .out = dx, .dy = dy, .x = x, .heads = heads};
    if (cpu_begin(j.c, (size_t)dim * sizeof(float), 0) && begin_heads(&j, norm, rope, dim))
        run_rows(&j, rope_backward_unit);
}
