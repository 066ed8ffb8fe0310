/*
 * The head: loss with its gradient, and KL between two inputs. The vocabulary is large, so that
 * logits exist a block at a time, and are made once: sums of exponentials, and the gradient made
 * from them, are relative to the largest logit so far and shrink when a larger one comes.
 */
#include "backend/cpu/blas.h"
#include "backend/cpu/cpu.h"
#include "backend/cpu/simd.h"

#include <math.h>
#include <string.h>

enum {
    CHUNK_UNITS = 16, /* blocks of the loss's chunks of logits, which all threads share */
    ROWS = 16,        /* of a unit that works on rows */
};

/* What a block of columns knows of one row: sum of exp(z - top), and of exp(z - top) * moved. */
struct partial {
    double top, sum, moved;
};

struct head_job {
    struct cpu_backend *c;
    const struct backend_tile *t;
    const struct backend_weight *w; /* (vocabulary, hidden) */
    float divisor, cap;             /* of the logits */
    const float *h;                 /* (rows, hidden) */
    int64_t width, units;           /* columns of a block of logits; blocks */
    int32_t rows;
    /* loss */
    struct partial *sums; /* [rows]: of the chunks so far */
    float *target_logit;  /* [rows] */
    float *z;             /* (rows, chunk): logits, then exp(z - top) times their slope */
    float *dh;            /* (rows, hidden) */
    int64_t chunk, chunk_at;
    /* kl */
    struct partial *parts; /* (count, units, rows) */
    const void *const *hq;
    struct partial *changed; /* (count, units, rows) */
    int count;
    struct backend_logits *kept; /* of h; NULL: nowhere */
};

static int64_t block_cols(const struct head_job *j, int64_t unit)
{
    int64_t left = j->w->rows - unit * j->width;
    return left < j->width ? left : j->width;
}

/* n products of the head become logits. */
static void shape_logits(const struct head_job *j, float *z, int64_t n)
{
    if (j->cap > 0)
        simd()->cap(z, NULL, z, 1 / j->divisor, j->cap, n);
    else if (j->divisor != 1)
        simd()->scale(z, z, 1 / j->divisor, n);
}

/* d(logit) / d(product of the head), but for the divisor. */
static float logit_slope(const struct head_job *j, float z)
{
    return j->cap > 0 ? 1 - z / j->cap * (z / j->cap) : 1;
}

/* Logits of one block of columns into z, rows ld apart. */
static void block_logits(const struct head_job *j, int64_t unit, const float *h, const float *panel,
                         float *z, int64_t ld)
{
    int64_t depth = j->w->cols, cols = block_cols(j, unit);
    blas_gemm(BLAS_N, BLAS_T, j->rows, cols, depth, h, depth, panel, depth, 0, z, ld);
    for (int32_t r = 0; r < j->rows; r++)
        shape_logits(j, z + r * ld, cols);
}

static const float *block_weights(const struct head_job *j, int64_t unit, float *room)
{
    return cpu_weight_rows(j->w, unit * j->width, block_cols(j, unit), room);
}

/* Merges two running log-sum-exps; each is stored relative to its own maximum. */
static void merge(struct partial *a, const struct partial *b)
{
    if (b->top > a->top) {
        double f = exp(a->top - b->top);
        *a = (struct partial){b->top, a->sum * f + b->sum, a->moved * f + b->moved};
    } else {
        double f = exp(b->top - a->top);
        a->sum += b->sum * f;
        a->moved += b->moved * f;
    }
}

static struct partial merged(const struct partial *parts, int64_t units, int32_t rows, int32_t row)
{
    struct partial all = parts[row];
    for (int64_t u = 1; u < units; u++)
        merge(&all, &parts[u * rows + row]);
    return all;
}

/* ---- loss ---- */

static int64_t chunk_cols(const struct head_job *j)
{
    int64_t left = j->w->rows - j->chunk_at;
    return left < j->chunk ? left : j->chunk;
}

static int32_t end_row(const struct head_job *j, int64_t unit)
{
    int64_t end = (unit + 1) * ROWS;
    return (int32_t)(end < j->rows ? end : j->rows);
}

static void logits_unit(void *arg, int64_t part, int worker)
{
    const struct head_job *j = arg;
    int64_t unit = j->chunk_at / j->width + part;
    const float *panel = block_weights(j, unit, cpu_scratch(j->c, worker));
    block_logits(j, unit, j->h, panel, j->z + part * j->width, j->chunk);
}

/* A row's logits of the chunk become exp(z - top), times their slope. slope: room for a chunk. */
static void exps_row(const struct head_job *j, int32_t r, float *slope)
{
    int64_t cols = chunk_cols(j), target = j->t->target[r] - j->chunk_at;
    float *z = j->z + r * j->chunk, *dh = j->dh + r * j->w->cols;
    struct partial *sums = &j->sums[r];
    if (j->t->target[r] < 0) {
        memset(z, 0, (size_t)cols * sizeof *z);
        return;
    }
    if (target >= 0 && target < cols)
        j->target_logit[r] = z[target];
    float top = simd()->top(z, cols);
    if (!(top <= sums->top)) { /* the first chunk, a larger logit, or a NaN */
        float shrink = (float)exp(sums->top - top);
        for (int64_t i = 0; i < j->w->cols; i++)
            dh[i] *= shrink;
        *sums = (struct partial){top, sums->sum * shrink, 0};
    }
    for (int64_t i = 0; j->cap > 0 && i < cols; i++)
        slope[i] = logit_slope(j, z[i]);
    sums->sum += simd()->exps(z, z, (float)sums->top, 1, cols);
    for (int64_t i = 0; j->cap > 0 && i < cols; i++)
        z[i] *= slope[i];
}

static void exps_unit(void *arg, int64_t unit, int worker)
{
    const struct head_job *j = arg;
    for (int32_t r = (int32_t)unit * ROWS; r < end_row(j, unit); r++)
        exps_row(j, r, cpu_scratch(j->c, worker));
}

/* dh += exp(z - top) W for one block of the columns of dh */
static void back_unit(void *arg, int64_t unit, int worker)
{
    const struct head_job *j = arg;
    int64_t width = cpu_unit_cols(j->w->cols, j->chunk), at = unit * width, depth = chunk_cols(j);
    int64_t cols = j->w->cols - at < width ? j->w->cols - at : width;
    float *panel = cpu_scratch(j->c, worker);
    cpu_weight_panel(j->w, j->chunk_at, depth, at, cols, panel);
    blas_gemm(BLAS_N, BLAS_N, j->rows, cols, depth, j->z, j->chunk, panel, cols, 1, j->dh + at,
              j->w->cols);
}

/*
 * dh = (dh / sum - slope W[target]) / divisor: the gradient at the logits is softmax - [target],
 * and dh holds the sum of exp(z - top) slope W so far.
 */
static void slope_unit(void *arg, int64_t unit, int worker)
{
    const struct head_job *j = arg;
    float *room = cpu_scratch(j->c, worker);
    int64_t cols = j->w->cols;
    for (int32_t r = (int32_t)unit * ROWS; r < end_row(j, unit); r++) {
        if (j->t->target[r] < 0)
            continue;
        const float *w = cpu_weight_rows(j->w, j->t->target[r], 1, room);
        float *dh = j->dh + r * cols, inverse = (float)(1 / j->sums[r].sum);
        float slope = logit_slope(j, j->target_logit[r]), outer = 1 / j->divisor;
        for (int64_t i = 0; i < cols; i++)
            dh[i] = (dh[i] * inverse - slope * w[i]) * outer;
    }
}

static void sum_losses(const struct head_job *j, double *loss)
{
    memset(loss, 0, (size_t)j->t->samples * sizeof *loss);
    for (int32_t r = 0; r < j->rows; r++)
        if (j->t->target[r] >= 0)
            loss[j->t->sample_of[r]] += j->sums[r].top + log(j->sums[r].sum) - j->target_logit[r];
}

static struct head_job job_of(struct backend *b, const struct backend_tile *t,
                              const struct backend_head *head, const void *h)
{
    return (struct head_job){.c = cpu_of(b),
                             .t = t,
                             .w = head->w,
                             .divisor = head->divisor,
                             .cap = head->cap,
                             .h = h,
                             .rows = t->rows};
}

void cpu_loss(struct backend *b, const struct backend_tile *t, double *loss, void *dh,
              const void *h, const struct backend_head *head)
{
    struct head_job j = job_of(b, t, head, h);
    int64_t vocab = j.w->rows, hidden = j.w->cols, row_units = (t->rows + ROWS - 1) / ROWS;
    j.dh = dh;
    j.width = cpu_unit_cols(vocab, hidden);
    j.units = cpu_units(vocab, hidden);
    j.chunk = j.width * (j.units < CHUNK_UNITS ? j.units : CHUNK_UNITS);
    size_t rows = (size_t)t->rows;
    int64_t back = cpu_unit_cols(hidden, j.chunk) * j.chunk, each = j.width * hidden;
    if (!cpu_begin(j.c, (size_t)(each > back ? each : back) * sizeof(float), /* back >= chunk */
                   rows * (sizeof *j.sums + sizeof(float) * (size_t)(1 + j.chunk))))
        return;
    j.sums = (void *)j.c->shared.data;
    j.target_logit = (void *)(j.sums + rows);
    j.z = j.target_logit + rows;
    for (size_t r = 0; r < rows; r++)
        j.sums[r] = (struct partial){-INFINITY, 0, 0};
    memset(dh, 0, rows * (size_t)hidden * sizeof(float));
    for (j.chunk_at = 0; j.chunk_at < vocab; j.chunk_at += j.chunk) {
        int64_t left = j.units - j.chunk_at / j.width;
        aq_pool_run(j.c->pool, left < CHUNK_UNITS ? left : CHUNK_UNITS, logits_unit, &j);
        aq_pool_run(j.c->pool, row_units, exps_unit, &j);
        aq_pool_run(j.c->pool, cpu_units(hidden, j.chunk), back_unit, &j);
    }
    sum_losses(&j, loss);
    aq_pool_run(j.c->pool, row_units, slope_unit, &j);
}

/* ---- KL ---- */

/*
 * KL = sum p (z - zq) + log_sum(zq) - log_sum(z). Both sums run over the same blocks, and the
 * weights exp(z) in double: KL is a small difference of large terms.
 */
static void kl_unit(void *arg, int64_t unit, int worker)
{
    const struct head_job *j = arg;
    float *room = cpu_scratch(j->c, worker), *z = room + j->width * j->w->cols;
    float *zq = z + j->width * j->rows;
    const float *panel = block_weights(j, unit, room);
    int64_t cols = block_cols(j, unit);
    if (j->kept)
        z = (float *)j->kept->z + unit * j->width * j->rows;
    if (!j->kept || !j->kept->made)
        block_logits(j, unit, j->h, panel, z, cols);
    for (int k = 0; k < j->count; k++) {
        block_logits(j, unit, j->hq[k], panel, zq, cols);
        for (int32_t r = 0; r < j->rows; r++) {
            const float *a = z + r * cols, *b = zq + r * cols;
            float top = simd()->top(a, cols), topq = simd()->top(b, cols);
            double sums[4];
            simd()->divergence(sums, a, b, top, topq, cols);
            j->parts[(k * j->units + unit) * j->rows + r] = (struct partial){top, sums[0], sums[1]};
            j->changed[(k * j->units + unit) * j->rows + r] = (struct partial){topq, sums[2], 0};
        }
    }
}

void cpu_kl(struct backend *b, const struct backend_tile *t, double *const *kl, const void *h,
            const void *const *hq, int count, const struct backend_head *head,
            struct backend_logits *kept)
{
    struct head_job j = job_of(b, t, head, h);
    j.hq = hq;
    j.count = count;
    j.kept = kept;
    j.width = cpu_unit_cols(j.w->rows, j.w->cols);
    j.units = cpu_units(j.w->rows, j.w->cols);
    size_t parts = (size_t)count * (size_t)j.units * (size_t)t->rows;
    if (!cpu_begin(j.c, (size_t)(j.width * (j.w->cols + 2 * t->rows)) * sizeof(float),
                   2 * parts * sizeof *j.parts))
        return;
    j.parts = (void *)j.c->shared.data;
    j.changed = j.parts + parts;
    aq_pool_run(j.c->pool, j.units, kl_unit, &j);
    if (kept)
        kept->made = 1;
    for (int k = 0; k < count; k++) {
        for (int32_t r = 0; r < t->rows; r++) {
            int64_t at = k * j.units * t->rows;
            struct partial p = merged(j.parts + at, j.units, t->rows, r);
            struct partial q = merged(j.changed + at, j.units, t->rows, r);
            double value = p.moved / p.sum + (q.top + log(q.sum)) - (p.top + log(p.sum));
            kl[k][r] = t->sample_of[r] < 0 ? 0 : value;
        }
    }
}

/* ---- logits ---- */

/* Two distributions, as compare() has them, over a slice of ids. */
struct compare_job {
    const struct backend_tile *t;
    struct backend_side *sides; /* [rows][2] */
    const float *z, *zq;        /* (rows, ids) */
    int64_t at, ids;
};

/* The lowest id of the largest logit; any where that is a NaN, which makes every sum one. */
static struct backend_side side_of(const float *z, int64_t ids, int64_t at)
{
    float top = simd()->top(z, ids);
    int64_t best = 0;
    while (best + 1 < ids && z[best] != top)
        best++;
    return (struct backend_side){.top = top, .best = at + best};
}

/* A slice joins what is known. moved sums differences, which do not change with the top. */
static void join_side(struct backend_side *all, const struct backend_side *slice)
{
    struct partial sums = {all->top, all->sum, all->moved};
    merge(&sums, &(struct partial){slice->top, slice->sum, slice->moved});
    if (slice->top > all->top)
        all->best = slice->best;
    all->top = sums.top;
    all->sum = sums.sum;
    all->moved = sums.moved;
}

static void compare_row(const struct compare_job *j, int32_t r)
{
    const float *z = j->z + r * j->ids, *zq = j->zq + r * j->ids;
    struct backend_side *all = j->sides + 2 * (int64_t)r;
    struct backend_side p = side_of(z, j->ids, j->at), q = side_of(zq, j->ids, j->at);
    int64_t target = j->t->target[r] - j->at;
    double sums[4];
    simd()->divergence(sums, z, zq, (float)p.top, (float)q.top, j->ids);
    p.sum = sums[0];
    p.moved = sums[1];
    q.sum = sums[2];
    q.moved = sums[3];
    if (j->at == 0) {
        all[0] = p;
        all[1] = q;
    } else {
        join_side(&all[0], &p);
        join_side(&all[1], &q);
    }
    if (target >= 0 && target < j->ids) {
        all[0].target = z[target];
        all[1].target = zq[target];
    }
}

static void compare_unit(void *arg, int64_t unit, int worker)
{
    const struct compare_job *j = arg;
    int64_t end = aq_least((unit + 1) * ROWS, j->t->rows);
    (void)worker;
    for (int32_t r = (int32_t)unit * ROWS; r < end; r++)
        if (j->t->target[r] >= 0)
            compare_row(j, r);
}

void cpu_compare(struct backend *b, const struct backend_tile *t, struct backend_side *sides,
                 const void *z, const void *zq, int64_t at, int64_t ids)
{
    struct compare_job j = {.t = t, .sides = sides, .z = z, .zq = zq, .at = at, .ids = ids};
    aq_pool_run(cpu_of(b)->pool, aq_div_up(t->rows, ROWS), compare_unit, &j);
}

static void shape_unit(void *arg, int64_t unit, int worker)
{
    const struct head_job *j = arg;
    (void)worker;
    for (int32_t r = (int32_t)unit * ROWS; r < end_row(j, unit); r++)
        shape_logits(j, j->z + r * j->w->rows, j->w->rows);
}

void cpu_logits(struct backend *b, const struct backend_tile *t, void *z, const void *h,
                const struct backend_head *head)
{
    struct head_job j = job_of(b, t, head, h);
    j.z = z;
    cpu_linear_forward(b, t, z, h, head->w);
    if (!j.c->failed.code)
        aq_pool_run(j.c->pool, (t->rows + ROWS - 1) / ROWS, shape_unit, &j);
}
