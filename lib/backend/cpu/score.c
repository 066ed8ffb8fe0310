/*
 * Products of quantized operands, and scores made from them. A unit takes a block of the weight's
 * rows, makes its quantized form once, and multiplies it with the inputs of all jobs; the
 * difference from the reference is squared and summed while it is in the cache.
 */
#include "backend/cpu/blas.h"
#include "backend/cpu/operand.h"
#include "backend/cpu/simd.h"

struct score_run {
    struct cpu_backend *c;
    const struct backend_operand *w;
    const struct backend_score_job *jobs;
    int count;
    int64_t width, units, out, depth;
    int32_t rows;
    double *parts; /* (jobs, units, rows) */
    float *y;      /* for linear_quantized */
    const struct backend_operand *x;
};

static int64_t unit_cols(const struct score_run *s, int64_t unit)
{
    int64_t at = unit * s->width;
    return s->out - at < s->width ? s->out - at : s->width;
}

static void score_unit(void *arg, int64_t unit, int worker)
{
    const struct score_run *s = arg;
    int64_t at = unit * s->width, cols = unit_cols(s, unit);
    float *room = cpu_scratch(s->c, worker), *z = room + s->width * s->depth;
    const float *panel = cpu_weight_rows(s->w->w, at, cols, room);
    for (int k = 0; k < s->count; k++) {
        const struct backend_score_job *j = &s->jobs[k];
        const float *y = j->y, *dy = j->dy;
        double *parts = s->parts + (k * s->units + unit) * s->rows;
        blas_gemm(BLAS_N, BLAS_T, s->rows, cols, s->depth, j->x->x, s->depth, panel, s->depth, 0, z,
                  cols);
        for (int32_t r = 0; r < j->tile->first[j->tile->samples]; r++)
            parts[r] = simd_score(z + r * cols, y + r * s->out + at, dy + r * s->out + at, cols);
    }
}

void cpu_score(struct backend *b, const struct backend_operand *w,
               const struct backend_score_job *jobs, int count)
{
    struct score_run s = {.c = cpu_of(b), .w = w, .jobs = jobs, .count = count};
    if (count == 0)
        return;
    s.out = w->w->rows;
    s.depth = w->w->cols;
    s.rows = jobs[0].tile->rows;
    s.width = cpu_unit_cols(s.out, s.depth);
    s.units = cpu_units(s.out, s.depth);
    if (!cpu_begin(s.c, (size_t)(s.width * (s.depth + s.rows)) * sizeof(float),
                   (size_t)count * (size_t)s.units * (size_t)s.rows * sizeof(double)))
        return;
    s.parts = (double *)s.c->shared.data;
    aq_pool_run(s.c->pool, s.units, score_unit, &s);
    for (int k = 0; k < count; k++) {
        const struct backend_tile *t = jobs[k].tile;
        for (int32_t r = 0; r < t->first[t->samples]; r++)
            for (int64_t u = 0; u < s.units; u++)
                jobs[k].sums[t->sample_of[r]] += s.parts[(k * s.units + u) * s.rows + r];
    }
}

static void product_unit(void *arg, int64_t unit, int worker)
{
    const struct score_run *s = arg;
    int64_t at = unit * s->width, cols = unit_cols(s, unit);
    const float *panel = cpu_weight_rows(s->w->w, at, cols, cpu_scratch(s->c, worker));
    blas_gemm(BLAS_N, BLAS_T, s->rows, cols, s->depth, s->x->x, s->depth, panel, s->depth, 0,
              s->y + at, s->out);
}

void cpu_linear_quantized(struct backend *b, const struct backend_tile *t, void *y,
                          const struct backend_operand *x, const struct backend_operand *w)
{
    struct score_run s = {.c = cpu_of(b), .w = w, .x = x, .y = y, .rows = t->rows};
    s.out = w->w->rows;
    s.depth = w->w->cols;
    s.width = cpu_unit_cols(s.out, s.depth);
    s.units = cpu_units(s.out, s.depth);
    if (cpu_begin(s.c, (size_t)(s.width * s.depth) * sizeof(float), 0))
        aq_pool_run(s.c->pool, s.units, product_unit, &s);
}
