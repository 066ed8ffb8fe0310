#include "score/solver.h"

#include "base/mem.h"
#include "base/num.h"
#include "model/lm.h"
#include "quant/dense.h"
#include "score/made.h"

#include <stdlib.h>
#include <string.h>

bool solver_on_device(const struct backend *b)
{
    return b->ops->moments != NULL;
}

static int64_t cells_of(const struct quant_grid *g)
{
    return g->grid_rows * g->grid_cols;
}

/* The weight in fp32, its columns multiplied by scale [cols], or NULL. */
static float *wide_weight(const struct layer_solver *s, const struct backend_weight *w,
                          const float *scale)
{
    float *wide = xmalloc((size_t)(w->rows * w->cols) * sizeof *wide);
    made_widen(s->pool, s->backend, w, scale, wide);
    return wide;
}

/* ---- moments of the host ---- */

static size_t square_bytes(int64_t n)
{
    return (size_t)n * (size_t)n * sizeof(double);
}

int solver_moments_set(const struct layer_solver *s, struct solver_moments *m, double *host,
                       int64_t n, struct aq_err *err)
{
    struct backend *b = s->backend;
    if (!solver_on_device(b)) {
        *m = (struct solver_moments){.at = host};
        return 0;
    }
    if (m->bytes != square_bytes(n)) {
        solver_moments_release(s, m);
        m->at = b->ops->alloc(b, square_bytes(n), "second moments", err);
        if (!m->at)
            return -1;
        m->bytes = square_bytes(n);
        m->diagonal = xcalloc((size_t)n, sizeof *m->diagonal);
    }
    b->ops->upload(b, m->at, host, m->bytes);
    for (int64_t i = 0; i < n; i++)
        m->diagonal[i] = host[i * n + i];
    return 0;
}

void solver_moments_release(const struct layer_solver *s, struct solver_moments *m)
{
    if (m->bytes)
        s->backend->ops->free(s->backend, m->at, m->bytes);
    free(m->diagonal);
    *m = (struct solver_moments){.at = NULL};
}

/* ---- scales ---- */

struct device_scaling {
    struct backend *b;
    const double *moments;
    const struct backend_weight *const *w;
    int count;
};

static int device_most(void *arg, float *most, struct aq_err *err)
{
    static const struct quant_step columns = {
        .number = QUANT_INT, .bits = 8, .scope = QUANT_AXIS1, .block_rows = 1, .block_cols = 1};
    const struct device_scaling *d = arg;
    int64_t cols = d->w[0]->cols;
    float *own = xmalloc((size_t)cols * sizeof *own);
    int r = 0;
    for (int i = 0; i < d->count && r == 0; i++) {
        r = d->b->ops->weight_ranges(d->b, d->w[i], NULL, &columns, own, err);
        for (int64_t c = 0; c < cols && r == 0; c++)
            most[c] = own[c] > most[c] ? own[c] : most[c];
    }
    free(own);
    return r;
}

static int device_measure(void *arg, int64_t block, double *mean, struct aq_err *err)
{
    const struct device_scaling *d = arg;
    return d->b->ops->weight_measure(d->b, d->w, d->count, block, mean, err);
}

static int device_error(void *arg, const struct quant_spec *spec, int all_rows, const float *scale,
                        double *error, struct aq_err *err)
{
    const struct device_scaling *d = arg;
    int64_t *step = xcalloc((size_t)d->count, sizeof *step);
    for (int i = 0; i < d->count; i++)
        step[i] = awq_row_step(d->w[i]->rows, all_rows);
    int r =
        d->b->ops->scaled_error(d->b, d->moments, d->w, step, d->count, spec, scale, error, err);
    free(step);
    return r;
}

static int scales_by_device(const struct layer_solver *s, const struct scaled_input *in,
                            const struct backend_weight *const *w, int count,
                            const struct quant_spec *spec, float *scale, struct aq_err *err)
{
    struct device_scaling d = {s->backend, in->moments, w, count};
    const struct scaling_by by = {device_most, device_measure, device_error, &d};
    double exponent;
    return spec->methods.scaling == QUANT_SMOOTH
               ? smooth_scales_by(&by, in, spec->methods.alpha, scale, err)
               : awq_scales_by(&by, in, spec, scale, &exponent, err);
}

int solver_scales(const struct layer_solver *s, const struct scaled_input *in,
                  const struct backend_weight *const *w, int count, const struct quant_spec *spec,
                  float *scale, struct aq_err *err)
{
    double exponent;
    int bad = 0;
    if (solver_on_device(s->backend))
        return scales_by_device(s, in, w, count, spec, scale, err);
    struct scaled_weight *wide = xcalloc((size_t)count, sizeof *wide);
    for (int i = 0; i < count; i++)
        wide[i] = (struct scaled_weight){wide_weight(s, w[i], NULL), w[i]->rows, w[i]->name};
    if (spec->methods.scaling == QUANT_SMOOTH)
        smooth_scales(s->pool, in, wide, count, spec->methods.alpha, scale);
    else
        bad = awq_scales(s->pool, in, wide, count, spec, scale, &exponent, err);
    for (int i = 0; i < count; i++)
        free((void *)wide[i].w);
    free(wide);
    return bad;
}

/* ---- factors ---- */

struct device_factoring {
    struct backend *b;
    double *u;
    const double *moments;
    const float *scale;
    int64_t n;
};

static int device_factor(void *arg, const int64_t *order, double added, struct aq_err *err)
{
    const struct device_factoring *d = arg;
    return d->b->ops->gptq_factor(d->b, d->u, d->moments, d->n, order, d->scale, added, err);
}

int solver_factor(const struct layer_solver *s, struct gptq_factor *f, const double *moments,
                  const double *diagonal, int64_t n, const float *scale,
                  const struct quant_methods *methods, double *damp, struct aq_err *err)
{
    struct backend *b = s->backend;
    if (!solver_on_device(b))
        return gptq_factor(f, s->pool, moments, n, scale, methods, damp, err);
    *f = (struct gptq_factor){.n = n, .order = xcalloc((size_t)n, sizeof *f->order)};
    f->u = b->ops->alloc(b, square_bytes(n), "a factor of second moments", err);
    if (!f->u)
        return -1;
    struct device_factoring d = {b, f->u, moments, scale, n};
    const struct gptq_factoring by = {device_factor, &d};
    double *scaled = xmalloc((size_t)n * sizeof *scaled);
    for (int64_t i = 0; i < n; i++)
        scaled[i] = scale ? diagonal[i] / ((double)scale[i] * (double)scale[i]) : diagonal[i];
    int r = gptq_find_factor(&by, scaled, n, methods, f->order, damp, err);
    free(scaled);
    return r;
}

void solver_factor_release(const struct layer_solver *s, struct gptq_factor *f)
{
    if (solver_on_device(s->backend) && f->u) {
        s->backend->ops->free(s->backend, f->u, square_bytes(f->n));
        f->u = NULL;
    }
    gptq_factor_release(f);
}

/* ---- codes ---- */

enum { PACK_ROWS = 64 };

struct packing {
    const struct quant_spec *spec;
    const int8_t *codes;
    uint8_t *packed;
    int64_t rows, cols, row_bytes;
};

static void pack_unit(void *arg, int64_t unit, int worker)
{
    const struct packing *j = arg;
    int64_t end = aq_least((unit + 1) * PACK_ROWS, j->rows);
    (void)worker;
    for (int64_t r = unit * PACK_ROWS; r < end; r++)
        quant_pack_codes(j->spec, j->codes + r * j->cols, j->cols, j->packed + r * j->row_bytes);
}

static int codes_by_host(const struct layer_solver *s, const struct gptq_factor *f,
                         const struct backend_weight *w, const float *scale,
                         const struct quant_spec *spec, float *ranges, uint8_t *packed,
                         struct aq_err *err)
{
    float *wide = wide_weight(s, w, scale);
    int8_t *codes = xmalloc((size_t)(w->rows * w->cols));
    gptq_ranges(spec, wide, w->rows, w->cols, ranges);
    int r = gptq_codes(s->pool, f, spec, wide, w->rows, ranges, codes, err);
    struct packing j = {spec, codes, packed, w->rows, w->cols, quant_code_row_bytes(spec, w->cols)};
    if (r == 0)
        aq_pool_run(s->pool, aq_div_up(w->rows, PACK_ROWS), pack_unit, &j);
    free(codes);
    free(wide);
    return r;
}

/* The largest magnitudes of the spec's ranges, [grid]. */
static int device_ranges(const struct layer_solver *s, const struct backend_weight *w,
                         const float *scale, const struct quant_spec *spec, float *ranges,
                         struct aq_err *err)
{
    return s->backend->ops->weight_ranges(s->backend, w, scale, &spec->step[0], ranges, err);
}

/* What files hold of them. */
static void store_ranges(const struct quant_spec *spec, const struct backend_weight *w,
                         float *ranges)
{
    struct quant_grid grid;
    (void)quant_weight_grid(spec, w->rows, w->cols, &grid);
    for (int64_t i = 0; i < cells_of(&grid); i++)
        ranges[i] = quant_stored_range(spec, ranges[i]);
}

int solver_codes(const struct layer_solver *s, const struct gptq_factor *f,
                 const struct backend_weight *w, const float *scale, const struct quant_spec *spec,
                 float *ranges, uint8_t *packed, struct aq_err *err)
{
    struct backend *b = s->backend;
    if (!solver_on_device(b))
        return codes_by_host(s, f, w, scale, spec, ranges, packed, err);
    if (device_ranges(s, w, scale, spec, ranges, err) < 0)
        return -1;
    if (!spec->methods.plain_order)
        store_ranges(spec, w, ranges);
    return b->ops->gptq_codes(b, f->u, f->order, w, scale, spec, ranges, packed, err);
}

/* ---- clip ---- */

int solver_clip(const struct layer_solver *s, const double *moments, const struct backend_weight *w,
                const float *scale, const struct quant_spec *spec, float *ranges,
                struct aq_err *err)
{
    struct backend *b = s->backend;
    int r;
    if (solver_on_device(b)) {
        r = device_ranges(s, w, scale, spec, ranges, err);
        if (r == 0)
            r = b->ops->clip_ranges(b, moments, w, scale, spec, ranges, err);
    } else {
        float *wide = wide_weight(s, w, scale);
        r = clip_ranges(s->pool, moments, scale, spec, wide, w->rows, w->cols, ranges, err);
        free(wide);
    }
    if (r == 0)
        store_ranges(spec, w, ranges);
    return r;
}

/* ---- plans ---- */

/* Rows of a weight that AWQ's losses are taken over. */
static int64_t sampled_rows(const struct quant_spec *spec, int64_t rows)
{
    return aq_div_up(rows, awq_row_step(rows, spec->methods.quarter));
}

/* The factor; the weight in fp32 and fp64, its codes and scales; errors of a block; packed operands
   of a product. */
static uint64_t host_bytes(const struct quant_spec *spec, int64_t rows, int64_t cols)
{
    uint64_t m = (uint64_t)rows, n = (uint64_t)cols, wide = m > n ? m : n;
    uint64_t block = (uint64_t)spec->methods.block;
    return n * n * sizeof(double) + m * n * 15 + m * 8 * (block < n ? block : n) +
           (wide + n) * DENSE_K * 8;
}

uint64_t solver_bytes(const struct backend *b, const struct quant_spec *spec, int64_t rows,
                      int64_t cols)
{
    if (!solver_on_device(b))
        return host_bytes(spec, rows, cols);
    /* a factor; and on the host the codes of a linear */
    return (spec->methods.choice == QUANT_GPTQ ? square_bytes(cols) : 0) +
           b->ops->solve_bytes(b, spec, rows, cols, sampled_rows(spec, rows)) +
           (uint64_t)(rows * cols);
}
