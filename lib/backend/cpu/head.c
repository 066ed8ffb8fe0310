/*
 * The head: loss with its gradient, and KL between two inputs. The vocabulary is large, so that
 * logits exist a block at a time: one pass for the sums of the softmax, and for the gradient a
 * second that makes the logits again.
 */
#include "backend/cpu/blas.h"
#include "backend/cpu/cpu.h"
#include "backend/cpu/simd.h"

#include <math.h>
#include <string.h>

enum { CHUNK_UNITS = 16 }; /* of the second pass, whose chunks of logits all threads share */

/* What a block of columns knows of one row: sum of exp(z - top), and of exp(z - top) * moved. */
struct partial {
    double top, sum, moved;
};

struct head_job {
    struct cpu_backend *c;
    const struct backend_tile *t;
    const struct backend_weight *w;
    const float *h;
    int64_t width, units;
    int32_t rows;
    /* loss */
    struct partial *parts; /* (units, rows) */
    float *target_logit;   /* [rows] */
    float *top, *inverse;  /* [rows]: of the whole row; 1 / its sum */
    float *dz;             /* (rows, chunk) */
    float *dh;
    int64_t chunk, chunk_at;
    /* kl */
    const void *const *hq;
    struct partial *changed; /* (count, units, rows) */
    int count;
};

/* Logits of one block of columns into z (rows, cols); returns cols. room holds the weights. */
static int64_t block_logits(const struct head_job *j, int64_t unit, const float *h,
                            const float *panel, float *z)
{
    int64_t at = unit * j->width, depth = j->w->cols;
    int64_t cols = j->w->rows - at < j->width ? j->w->rows - at : j->width;
    blas_gemm(BLAS_N, BLAS_T, j->rows, cols, depth, h, depth, panel, depth, 0, z, cols);
    return cols;
}

static const float *block_weights(const struct head_job *j, int64_t unit, float *room)
{
    int64_t at = unit * j->width;
    int64_t cols = j->w->rows - at < j->width ? j->w->rows - at : j->width;
    return cpu_weight_rows(j->w, at, cols, room);
}

/* Adds b to a, both relative to their own top. */
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

static void sums_unit(void *arg, int64_t unit, int worker)
{
    const struct head_job *j = arg;
    float *room = cpu_scratch(j->c, worker), *z = room + j->width * j->w->cols;
    int64_t cols = block_logits(j, unit, j->h, block_weights(j, unit, room), z);
    for (int32_t r = 0; r < j->rows; r++, z += cols) {
        int64_t target = j->t->target[r] - unit * j->width;
        if (j->t->target[r] < 0)
            continue;
        if (target >= 0 && target < cols)
            j->target_logit[r] = z[target];
        float top = simd()->top(z, cols);
        double sum = simd()->exps(NULL, z, top, 1, cols);
        j->parts[unit * j->rows + r] = (struct partial){top, sum, 0};
    }
}

/* dz = softmax - [target], for one block of the chunk */
static void slope_unit(void *arg, int64_t part, int worker)
{
    const struct head_job *j = arg;
    int64_t unit = j->chunk_at / j->width + part, first = unit * j->width;
    float *room = cpu_scratch(j->c, worker), *z = room + j->width * j->w->cols;
    int64_t cols = block_logits(j, unit, j->h, block_weights(j, unit, room), z);
    for (int32_t r = 0; r < j->rows; r++, z += cols) {
        float *dz = j->dz + r * j->chunk + part * j->width;
        if (j->t->target[r] < 0) {
            memset(dz, 0, (size_t)cols * sizeof *dz);
            continue;
        }
        (void)simd()->exps(dz, z, j->top[r], j->inverse[r], cols);
        int64_t target = j->t->target[r] - first;
        if (target >= 0 && target < cols)
            dz[target] -= 1;
    }
}

/* dh += dz W for one block of the columns of dh */
static void slope_back_unit(void *arg, int64_t unit, int worker)
{
    const struct head_job *j = arg;
    int64_t depth = j->w->rows - j->chunk_at < j->chunk ? j->w->rows - j->chunk_at : j->chunk;
    int64_t width = cpu_unit_cols(j->w->cols, j->chunk), at = unit * width;
    int64_t cols = j->w->cols - at < width ? j->w->cols - at : width;
    float *panel = cpu_scratch(j->c, worker);
    cpu_weight_panel(j->w, j->chunk_at, depth, at, cols, panel);
    blas_gemm(BLAS_N, BLAS_N, j->rows, cols, depth, j->dz, j->chunk, panel, cols, 1, j->dh + at,
              j->w->cols);
}

static void sum_losses(const struct head_job *j, double *loss)
{
    memset(loss, 0, (size_t)j->t->samples * sizeof *loss);
    for (int32_t r = 0; r < j->rows; r++) {
        if (j->t->target[r] < 0)
            continue;
        struct partial p = merged(j->parts, j->units, j->rows, r);
        j->top[r] = (float)p.top;
        j->inverse[r] = (float)(1 / p.sum);
        loss[j->t->sample_of[r]] += p.top + log(p.sum) - j->target_logit[r];
    }
}

void cpu_loss(struct backend *b, const struct backend_tile *t, double *loss, void *dh,
              const void *h, const struct backend_weight *head)
{
    struct head_job j = {.c = cpu_of(b), .t = t, .w = head, .h = h, .rows = t->rows, .dh = dh};
    int64_t vocab = head->rows, hidden = head->cols;
    j.width = cpu_unit_cols(vocab, hidden);
    j.units = cpu_units(vocab, hidden);
    j.chunk = j.width * CHUNK_UNITS;
    size_t rows = (size_t)t->rows, parts = (size_t)j.units * rows * sizeof *j.parts;
    int64_t back = cpu_unit_cols(hidden, j.chunk) * j.chunk;
    int64_t each = j.width * (hidden + t->rows) > back ? j.width * (hidden + t->rows) : back;
    if (!cpu_begin(j.c, (size_t)each * sizeof(float),
                   parts + rows * sizeof(float) * (size_t)(3 + j.chunk)))
        return;
    j.parts = (void *)j.c->shared.data;
    j.target_logit = (void *)(j.c->shared.data + parts);
    j.top = j.target_logit + rows;
    j.inverse = j.top + rows;
    j.dz = j.inverse + rows;
    aq_pool_run(j.c->pool, j.units, sums_unit, &j);
    sum_losses(&j, loss);
    memset(dh, 0, rows * (size_t)hidden * sizeof(float));
    for (j.chunk_at = 0; j.chunk_at < vocab; j.chunk_at += j.chunk) {
        int64_t left = j.units - j.chunk_at / j.width;
        aq_pool_run(j.c->pool, left < CHUNK_UNITS ? left : CHUNK_UNITS, slope_unit, &j);
        aq_pool_run(j.c->pool, cpu_units(hidden, j.chunk), slope_back_unit, &j);
    }
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
    int64_t cols = block_logits(j, unit, j->h, panel, z);
    for (int k = 0; k < j->count; k++) {
        (void)block_logits(j, unit, j->hq[k], panel, zq);
        for (int32_t r = 0; r < j->rows; r++) {
            const float *a = z + r * cols, *b = zq + r * cols;
            double top = simd()->top(a, cols), topq = simd()->top(b, cols);
            struct partial p = {top, 0, 0}, q = {topq, 0, 0};
            for (int64_t i = 0; i < cols; i++) {
                double e = exp(a[i] - top);
                p.sum += e;
                p.moved += e * ((double)a[i] - b[i]);
                q.sum += exp(b[i] - topq);
            }
            j->parts[(k * j->units + unit) * j->rows + r] = p;
            j->changed[(k * j->units + unit) * j->rows + r] = q;
        }
    }
}

void cpu_kl(struct backend *b, const struct backend_tile *t, double *const *kl, const void *h,
            const void *const *hq, int count, const struct backend_weight *head)
{
    struct head_job j = {
        .c = cpu_of(b), .t = t, .w = head, .h = h, .rows = t->rows, .hq = hq, .count = count};
    j.width = cpu_unit_cols(head->rows, head->cols);
    j.units = cpu_units(head->rows, head->cols);
    size_t parts = (size_t)count * (size_t)j.units * (size_t)t->rows;
    if (!cpu_begin(j.c, (size_t)(j.width * (head->cols + 2 * t->rows)) * sizeof(float),
                   2 * parts * sizeof *j.parts))
        return;
    j.parts = (void *)j.c->shared.data;
    j.changed = j.parts + parts;
    aq_pool_run(j.c->pool, j.units, kl_unit, &j);
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
