#include "quant/scaling.h"

#include "base/mem.h"
#include "quant/gptq.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static float clamp_scale(double x)
{
    return x < 1e-4 ? 1e-4F : x > 1e4 ? 1e4F : (float)x;
}

/* Columns of all weights that read an input, some of them to a unit. */
struct columns {
    const struct scaled_input *in;
    const struct scaled_weight *w;
    int count;
    int64_t each, block; /* columns of a unit; of a range */
    float *most;         /* [cols]: largest magnitudes, or NULL */
    double *mean;        /* [cols], or NULL */
};

enum { COLUMNS = 256 };

static void run_columns(struct aq_pool *pool, struct columns *j, aq_pool_fn *fn)
{
    aq_pool_run(pool, aq_div_up(j->in->cols, j->each), fn, j);
}

static void most_unit(void *arg, int64_t unit, int worker)
{
    const struct columns *j = arg;
    int64_t cols = j->in->cols, from = unit * j->each, left = cols - from;
    size_t n = (size_t)(left < j->each ? left : j->each);
    (void)worker;
    for (int i = 0; i < j->count; i++)
        for (int64_t k = 0; k < j->w[i].rows; k++)
            quant_absmax_cols(j->most + from, j->w[i].w + k * cols + from, NUM_F32, n);
}

/* The power of two nearest to a scale by its logarithm, where nothing else will do. */
static float usable_scale(const struct scaled_input *in, float scale)
{
    return in->powers ? ldexpf(1, (int)lround(log2((double)scale))) : scale;
}

/* W / c, x c with c = b^(1 - alpha) / a^alpha: a the largest input, b the largest weight of a
   column, over all weights that read it. */
int smooth_scales_by(const struct scaling_by *by, const struct scaled_input *in, double alpha,
                     float *scale, struct aq_err *err)
{
    float *most = xcalloc((size_t)in->cols, sizeof *most);
    int r = by->most(by->arg, most, err);
    for (int64_t c = 0; c < in->cols && r == 0; c++) {
        double a = (double)in->amax[c], b = (double)most[c];
        float factor = 1; /* of a column that is 0 on either side */
        if (a > 0x1p-31 && b > 0)
            factor = clamp_scale(pow(b, 1 - alpha) / pow(a, alpha));
        scale[c] = usable_scale(in, 1 / factor);
    }
    free(most);
    return r;
}

static void measure_unit(void *arg, int64_t unit, int worker)
{
    const struct columns *j = arg;
    int64_t cols = j->in->cols, from = unit * j->each;
    int64_t to = from + j->each < cols ? from + j->each : cols, rows = 0;
    (void)worker;
    memset(j->mean + from, 0, (size_t)(to - from) * sizeof *j->mean);
    for (int i = 0; i < j->count; rows += j->w[i++].rows)
        for (int64_t k = 0; k < j->w[i].rows; k++) {
            const float *at = j->w[i].w + k * cols;
            for (int64_t c = from; c < to; c += j->block) {
                int64_t end = c + j->block < cols ? c + j->block : cols;
                float most = quant_absmax(at + c, NUM_F32, (size_t)(end - c)) + FLT_MIN;
                for (int64_t e = c; e < end; e++)
                    j->mean[e] += (double)(fabsf(at[e]) / most);
            }
        }
    for (int64_t c = from; c < to; c++)
        j->mean[c] /= (double)rows;
}

/* Columns of the blocks whose largest magnitudes the weights' are measured by. */
static int64_t measured_block(const struct quant_step *step, int64_t cols)
{
    bool blocks =
        step->scope == QUANT_BLOCK || step->scope == QUANT_NVFP4 || step->scope == QUANT_MX;
    return blocks && step->block_cols < cols ? step->block_cols : cols;
}

static void trial_scale(const struct scaled_input *in, const double *weight, double exponent,
                        float *scale)
{
    float low = INFINITY, high = 0;
    for (int64_t c = 0; c < in->cols; c++) {
        double x = pow(in->mean[c], exponent) / (pow(weight[c], 1 - exponent) + (double)FLT_MIN);
        scale[c] = clamp_scale(x);
        low = scale[c] < low ? scale[c] : low;
        high = scale[c] > high ? scale[c] : high;
    }
    float middle = sqrtf(high * low);
    for (int64_t c = 0; c < in->cols; c++)
        scale[c] = usable_scale(in, scale[c] / middle);
}

/* The rows of a weight that the losses are taken over. */
struct sampled {
    float *w, *scaled; /* (rows, cols); scaled: room */
    int64_t rows;
    const char *name;
};

int64_t awq_row_step(int64_t rows, int all_rows)
{
    return all_rows ? 1 : aq_div_up(rows, AWQ_ROWS);
}

static void sample_rows(const struct scaled_weight *w, int64_t cols, bool all, struct sampled *out)
{
    int64_t step = awq_row_step(w->rows, all);
    *out = (struct sampled){.rows = aq_div_up(w->rows, step), .name = w->name};
    out->w = xmalloc((size_t)(out->rows * cols) * sizeof *out->w);
    out->scaled = xmalloc((size_t)(out->rows * cols) * sizeof *out->w);
    for (int64_t i = 0; i < out->rows; i++)
        memcpy(out->w + i * cols, w->w + i * step * cols, (size_t)cols * sizeof *out->w);
}

struct trying {
    const struct sampled *s;
    int64_t cols;
    const float *scale;
    const struct quant_matrix *m;
    const struct quant_plan *plan;
};

enum { TRY_ROWS = 16 };

static int64_t end_of(const struct trying *j, int64_t unit)
{
    return (unit + 1) * TRY_ROWS < j->s->rows ? (unit + 1) * TRY_ROWS : j->s->rows;
}

static void scale_unit(void *arg, int64_t unit, int worker)
{
    const struct trying *j = arg;
    (void)worker;
    for (int64_t k = unit * TRY_ROWS; k < end_of(j, unit); k++)
        for (int64_t c = 0; c < j->cols; c++)
            j->s->scaled[k * j->cols + c] = j->s->w[k * j->cols + c] * j->scale[c];
}

static void round_unit(void *arg, int64_t unit, int worker)
{
    const struct trying *j = arg;
    int64_t from = unit * TRY_ROWS, end = end_of(j, unit);
    float *to = j->s->scaled + from * j->cols;
    (void)worker;
    quant_apply(j->plan, j->m, from, end, to, NUM_F32, NULL);
    for (int64_t k = from; k < end; k++, to += j->cols)
        for (int64_t c = 0; c < j->cols; c++)
            to[c] /= j->scale[c];
}

/* The trial k: -1 does not scale, else the k-th exponent of the grid. */
static void take_trial(const struct scaled_input *in, const double *weight,
                       const struct quant_methods *m, int k, float *scale, double *exponent)
{
    *exponent = k < 0 ? -1 : (double)(float)(k * m->alpha);
    if (k >= 0)
        trial_scale(in, weight, *exponent, scale);
    for (int64_t c = 0; k < 0 && c < in->cols; c++)
        scale[c] = 1;
}

int awq_scales_by(const struct scaling_by *by, const struct scaled_input *in,
                  const struct quant_spec *spec, float *scale, double *exponent, struct aq_err *err)
{
    struct quant_spec plain = *spec;
    size_t cols = (size_t)in->cols;
    double *weight = xcalloc(cols, sizeof *weight), best = INFINITY, at, loss;
    float *trial = xcalloc(cols, sizeof *trial);
    int last = (int)lround(1 / spec->methods.alpha);
    plain.methods = (struct quant_methods){0};
    int r = by->measure(by->arg, measured_block(&spec->step[0], in->cols), weight, err);
    for (int k = spec->methods.plain_grid ? 0 : -1; k <= last && r == 0; k++) {
        take_trial(in, weight, &spec->methods, k, trial, &at);
        r = by->error(by->arg, &plain, spec->methods.quarter, trial, &loss, err);
        if (r == 0 && loss < best) {
            best = loss;
            *exponent = at;
            memcpy(scale, trial, cols * sizeof *scale);
        }
    }
    if (r == 0 && !isfinite(best))
        r = aq_err_set(err, AQ_ERUN, "no scale leaves a finite error");
    free(weight);
    free(trial);
    return r;
}

/* ---- by the host ---- */

struct host_scaling {
    struct aq_pool *pool;
    const struct scaled_input *in;
    const struct scaled_weight *w;
    int count;
    struct sampled *sampled; /* [count]; NULL: not yet */
};

static int host_most(void *arg, float *most, struct aq_err *err)
{
    const struct host_scaling *h = arg;
    struct columns j = {.in = h->in, .w = h->w, .count = h->count, .each = COLUMNS, .most = most};
    (void)err;
    run_columns(h->pool, &j, most_unit);
    return 0;
}

static int host_measure(void *arg, int64_t block, double *mean, struct aq_err *err)
{
    const struct host_scaling *h = arg;
    struct columns j = {.in = h->in, .w = h->w, .count = h->count, .block = block, .mean = mean};
    (void)err;
    j.each = block < COLUMNS ? COLUMNS / block * block : block;
    run_columns(h->pool, &j, measure_unit);
    return 0;
}

static void take_samples(struct host_scaling *h, bool all)
{
    h->sampled = xcalloc((size_t)h->count, sizeof *h->sampled);
    for (int i = 0; i < h->count; i++)
        sample_rows(&h->w[i], h->in->cols, all, &h->sampled[i]);
}

static void drop_samples(struct host_scaling *h)
{
    for (int i = 0; i < h->count && h->sampled; i++) {
        free(h->sampled[i].w);
        free(h->sampled[i].scaled);
    }
    free(h->sampled);
}

/* The squared error of the outputs, weights alone quantized, after this scaling. */
static int host_error(void *arg, const struct quant_spec *spec, int all_rows, const float *scale,
                      double *error, struct aq_err *err)
{
    struct host_scaling *h = arg;
    int64_t cols = h->in->cols;
    if (!h->sampled)
        take_samples(h, all_rows);
    *error = 0;
    for (int i = 0; i < h->count; i++) {
        const struct sampled *s = &h->sampled[i];
        struct quant_plan *plan = NULL;
        const struct quant_matrix m = {s->scaled, NUM_F32, s->rows, cols, s->name};
        struct trying j = {.s = s, .cols = cols, .scale = scale, .m = &m};
        int64_t units = aq_div_up(s->rows, TRY_ROWS);
        aq_pool_run(h->pool, units, scale_unit, &j);
        if (quant_plan_weight(&plan, spec, &m, QUANT_UNROUNDED, err) < 0)
            return -1;
        j.plan = plan;
        aq_pool_run(h->pool, units, round_unit, &j);
        quant_plan_free(plan);
        *error += moments_error(h->pool, h->in->moments, cols, s->scaled, s->w, s->rows);
    }
    return 0;
}

static struct scaling_by by_host(struct host_scaling *h)
{
    return (struct scaling_by){host_most, host_measure, host_error, h};
}

void smooth_scales(struct aq_pool *pool, const struct scaled_input *in,
                   const struct scaled_weight *w, int count, double alpha, float *scale)
{
    struct host_scaling h = {.pool = pool, .in = in, .w = w, .count = count};
    const struct scaling_by by = by_host(&h);
    struct aq_err err = {0}; /* the host does not fail */
    (void)!smooth_scales_by(&by, in, alpha, scale, &err);
}

int awq_scales(struct aq_pool *pool, const struct scaled_input *in, const struct scaled_weight *w,
               int count, const struct quant_spec *spec, float *scale, double *exponent,
               struct aq_err *err)
{
    struct host_scaling h = {.pool = pool, .in = in, .w = w, .count = count};
    const struct scaling_by by = by_host(&h);
    int r = awq_scales_by(&by, in, spec, scale, exponent, err);
    drop_samples(&h);
    return r;
}
