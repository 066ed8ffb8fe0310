/*
 * Products of quantized operands, and scores made from them. A unit takes a block of the weight's
 * rows, takes its quantized form, and multiplies it with the inputs of all jobs; the
 * difference from the reference is squared and summed while it is in the cache.
 */
#include "backend/cpu/blas.h"
#include "backend/cpu/operand.h"
#include "backend/cpu/simd.h"

#include <stdlib.h>
#include <string.h>

/* Most jobs of one call; more are done in turns. */
enum { JOBS = 64 };

struct score_run {
    struct cpu_backend *c;
    const struct backend_operand *w;
    const struct backend_score_job *jobs;
    struct product_form forms[JOBS];
    int count;
    int64_t width, units, out, depth;
    int32_t rows, chunk; /* of the tile; of one product in fp32 */
    size_t room; /* bytes of a worker's scratch for the block of weights; the result follows it */
    /* What each unit found for each row, added up in the order of the units afterwards. */
    double *parts;     /* (jobs, units, rows): sums of squares */
    double *dot_parts; /* the same without the squares; only for jobs that want dots */
    float *y;          /* of linear_quantized; then jobs is one that has x alone */
};

/* Rows of the samples that the job wants. */
static int32_t wanted_rows(const struct backend_score_job *j)
{
    return j->tile->first[j->samples ? j->samples : j->tile->samples];
}

/* z (padded rows, padded cols) on the matrix units, whose results of a row are the same however
   many rows there are: the first `rows` */
static void multiply_codes(const struct score_run *s, const struct product_form *form, int64_t rows,
                           const struct backend_operand *x, const struct weight_rows *w,
                           int64_t cols, float *z, int32_t *sums)
{
    struct matrix_product p = {.level = form->level,
                               .kind = form->kind,
                               .rows = matrix_round(rows),
                               .cols = matrix_round(cols),
                               .ld = matrix_ld(form->kind, s->depth),
                               .block = form->block,
                               .a_terms = form->x_terms,
                               .w_terms = form->w_terms,
                               .a = x->forms->packed,
                               .w = w->packed,
                               .row_scale = x->forms->row_scale,
                               .col_scale = w->scales,
                               .sums = sums,
                               .c = z};
    matrix_multiply(&p);
}

/* What to do with a job's block of results: rows of `cols` numbers, `ld` apart. */
static void use_result(const struct score_run *s, int job, int64_t unit, const float *z,
                       int64_t cols, int64_t ld)
{
    int64_t at = unit * s->width;
    if (s->y) {
        for (int32_t r = 0; r < s->rows; r++)
            memcpy(s->y + r * s->out + at, z + r * ld, (size_t)cols * sizeof *z);
        return;
    }
    const struct backend_score_job *j = &s->jobs[job];
    const float *y = j->y, *dy = j->dy; /* (rows, out) */
    double *parts = s->parts + (job * s->units + unit) * s->rows;
    double *dots = j->dots ? s->dot_parts + (job * s->units + unit) * s->rows : NULL;
    for (int32_t r = 0; r < wanted_rows(j); r++)
        parts[r] = simd()->score(z + r * ld, y + r * s->out + at, dy + r * s->out + at,
                                 dots ? dots + r : NULL, cols);
}

static void product_unit(void *arg, int64_t unit, int worker)
{
    const struct score_run *s = arg;
    int64_t at = unit * s->width;
    int64_t cols = s->out - at < s->width ? s->out - at : s->width;
    void *room = cpu_scratch(s->c, worker);
    float *z = (void *)((char *)room + s->room);
    int32_t *sums = (void *)(z + matrix_round(s->rows) * matrix_round(s->width));
    const struct weight_unit own = {unit, at, cols};
    struct weight_rows rows = {0};
    for (int k = 0; k < s->count; k++) {
        const struct product_form *form = &s->forms[k];
        const struct backend_operand *x = s->jobs[k].x;
        if (k == 0 || !operand_same_rows(form, &s->forms[k - 1]))
            rows = operand_weight_rows(s->w, form, &own, room);
        if (form->level == MATRIX_NONE) {
            for (int32_t r = 0; r < s->rows; r += s->chunk)
                blas_gemm(BLAS_N, BLAS_T, s->chunk, cols, s->depth,
                          operand_values(x) + r * s->depth, s->depth, rows.values, s->depth, 0,
                          z + r * cols, cols);
            use_result(s, k, unit, z, cols, cols);
        } else {
            int64_t some = s->y ? s->rows : wanted_rows(&s->jobs[k]);
            multiply_codes(s, form, some, x, &rows, cols, z, sums);
            use_result(s, k, unit, z, cols, matrix_round(cols));
        }
    }
}

/* Runs up to JOBS products with one weight; s has c, w, jobs, count, y. */
static bool run_products(struct score_run *s)
{
    const struct backend_weight *w = s->w->w;
    if (s->c->failed.code || !w)
        return false;
    s->out = w->rows;
    s->depth = w->cols;
    s->rows = s->jobs[0].tile->rows;
    s->chunk = s->jobs[0].tile->chunk;
    s->width = cpu_unit_cols(s->out, s->depth);
    s->units = cpu_units(s->out, s->depth);
    s->room = 0;
    for (int k = 0; k < s->count; k++) {
        struct product_form *form = &s->forms[k];
        *form = operand_product_form(s->c, s->jobs[k].x, s->w);
        if (operand_weight_room(s->w, form, s->width) > s->room)
            s->room = operand_weight_room(s->w, form, s->width);
        if (!operand_prepare(s->c, s->jobs[k].x, form))
            return false;
    }
    operand_keep(s->c, s->w, &s->forms[0], s->width, s->units);
    s->room = cpu_aligned(s->room);
    size_t result = (size_t)(matrix_round(s->rows) * (matrix_round(s->width) + 1)) * sizeof(float);
    size_t parts = s->y ? 0 : (size_t)s->count * (size_t)(s->units * s->rows);
    if (!cpu_begin(s->c, s->room + result, 2 * parts * sizeof(double)))
        return false;
    s->parts = (void *)s->c->shared.data;
    s->dot_parts = s->parts + parts;
    aq_pool_run(s->c->pool, s->units, product_unit, s);
    return true;
}

/* The units' parts of one job, a row at a time and in the order of the units. */
static void add_parts(const struct score_run *s, int job)
{
    const struct backend_score_job *j = &s->jobs[job];
    const struct backend_tile *t = j->tile;
    for (int32_t r = 0; r < wanted_rows(j); r++) {
        int32_t sample = t->sample_of[r];
        for (int64_t u = 0; u < s->units; u++) {
            int64_t at = (job * s->units + u) * s->rows + r;
            j->sums[sample] += s->parts[at];
            if (j->firsts && r == t->first[sample])
                j->firsts[sample] += s->parts[at];
            if (j->dots)
                j->dots[r] += s->dot_parts[at];
        }
    }
}

/* Terms are no products of their own here: what one costs depends on the machine's instructions. */
int cpu_products(const struct backend *b, const struct quant_spec *weight,
                 const struct quant_spec *act)
{
    (void)b;
    (void)weight;
    (void)act;
    return 1;
}

void cpu_score(struct backend *b, const struct backend_operand *w,
               const struct backend_score_job *jobs, int count)
{
    for (int done = 0; done < count; done += JOBS) {
        struct score_run s = {.c = cpu_of(b), .w = w, .jobs = jobs + done};
        s.count = count - done < JOBS ? count - done : JOBS;
        if (!run_products(&s))
            return;
        for (int k = 0; k < s.count; k++)
            add_parts(&s, k);
    }
}

void cpu_linear_quantized(struct backend *b, const struct backend_tile *t, void *y,
                          const struct backend_operand *x, const struct backend_operand *w)
{
    struct backend_score_job job = {.tile = t, .x = x};
    struct score_run s = {.c = cpu_of(b), .w = w, .jobs = &job, .count = 1, .y = y};
    (void)run_products(&s);
}

struct output_job {
    const struct backend_score_job *job;
    const float *yq;
    int64_t cols;
};

/* One sample, its rows one after another. */
static void output_unit(void *arg, int64_t unit, int worker)
{
    const struct output_job *o = arg;
    const struct backend_score_job *j = o->job;
    const struct backend_tile *t = j->tile;
    const float *y = j->y, *dy = j->dy;
    (void)worker;
    for (int32_t r = t->first[unit]; r < t->first[unit + 1]; r++) {
        int64_t at = r * o->cols;
        double dot = 0;
        double sum = simd()->score(o->yq + at, y + at, dy + at, j->dots ? &dot : NULL, o->cols);
        j->sums[unit] += sum;
        if (j->firsts && r == t->first[unit])
            j->firsts[unit] += sum;
        if (j->dots)
            j->dots[r] += dot;
    }
}

void cpu_score_output(struct backend *b, const struct backend_score_job *job, const void *yq,
                      int64_t cols)
{
    struct cpu_backend *c = cpu_of(b);
    struct output_job o = {job, yq, cols};
    if (cpu_begin(c, 0, 0))
        aq_pool_run(c->pool, job->tile->samples, output_unit, &o);
}

struct dots_job {
    const struct backend_tile *t;
    double *dots; /* (count, rows) */
    double *sums; /* (count, samples), stride apart */
    int64_t stride;
};

static void dots_unit(void *arg, int64_t unit, int worker)
{
    const struct dots_job *j = arg;
    double *dots = j->dots + unit * j->t->rows, *sums = j->sums + unit * j->stride;
    (void)worker;
    for (int32_t r = 0; r < j->t->first[j->t->samples]; r++)
        sums[j->t->sample_of[r]] += dots[r] * dots[r];
    memset(dots, 0, (size_t)j->t->rows * sizeof *dots);
}

void cpu_dots_end(struct backend *b, const struct backend_tile *t, double *dots, double *sums,
                  int64_t stride, int count)
{
    struct cpu_backend *c = cpu_of(b);
    struct dots_job j = {t, dots, sums, stride};
    if (!c->failed.code)
        aq_pool_run(c->pool, count, dots_unit, &j);
}
