#include "quant/scaling.h"

#include "base/mem.h"
#include "quant/gptq.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static float clamp_scale(double x)
{
    return x < 1e-4 ? 1e-4F : x > 1e4 ? 1e4F : (float)x;
}

/* W / c, x c with c = b^(1 - alpha) / a^alpha: a the largest input, b the largest weight of a
   column, over all weights that read it. */
void smooth_scales(const struct scaled_input *in, const struct scaled_weight *w, int count,
                   double alpha, float *scale)
{
    float *most = xcalloc((size_t)in->cols, sizeof *most);
    for (int i = 0; i < count; i++)
        for (int64_t k = 0; k < w[i].rows; k++)
            quant_absmax_cols(most, w[i].w + k * in->cols, NUM_F32, (size_t)in->cols);
    for (int64_t c = 0; c < in->cols; c++) {
        double a = (double)in->amax[c], b = (double)most[c];
        float factor = 1; /* of a column that is 0 on either side */
        if (a > 0x1p-31 && b > 0)
            factor = clamp_scale(pow(b, 1 - alpha) / pow(a, alpha));
        scale[c] = 1 / factor;
    }
    free(most);
}

/* Mean over all rows of |w| over the largest of its block. */
static void weight_measure(const struct scaled_input *in, const struct scaled_weight *w, int count,
                           const struct quant_step *step, double *mean)
{
    bool blocks =
        step->scope == QUANT_BLOCK || step->scope == QUANT_NVFP4 || step->scope == QUANT_MX;
    int64_t cols = in->cols, rows = 0;
    int64_t block = blocks && step->block_cols < cols ? step->block_cols : cols;
    memset(mean, 0, (size_t)cols * sizeof *mean);
    for (int i = 0; i < count; rows += w[i++].rows)
        for (int64_t k = 0; k < w[i].rows; k++) {
            const float *at = w[i].w + k * cols;
            for (int64_t c = 0; c < cols; c += block) {
                int64_t end = c + block < cols ? c + block : cols;
                float most = quant_absmax(at + c, NUM_F32, (size_t)(end - c)) + FLT_MIN;
                for (int64_t j = c; j < end; j++)
                    mean[j] += (double)(fabsf(at[j]) / most);
            }
        }
    for (int64_t c = 0; c < cols; c++)
        mean[c] /= (double)rows;
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
        scale[c] /= middle;
}

/* The rows of a weight that the losses are taken over. */
struct sampled {
    float *w, *scaled; /* (rows, cols); scaled: room */
    int64_t rows;
    const char *name;
};

static void sample_rows(const struct scaled_weight *w, int64_t cols, struct sampled *out)
{
    int64_t step = (w->rows + AWQ_ROWS - 1) / AWQ_ROWS;
    *out = (struct sampled){.rows = (w->rows + step - 1) / step, .name = w->name};
    out->w = xmalloc((size_t)(out->rows * cols) * sizeof *out->w);
    out->scaled = xmalloc((size_t)(out->rows * cols) * sizeof *out->w);
    for (int64_t i = 0; i < out->rows; i++)
        memcpy(out->w + i * cols, w->w + i * step * cols, (size_t)cols * sizeof *out->w);
}

/* The squared error of the outputs, weights alone quantized, after this scaling. */
static int awq_loss(struct aq_pool *pool, const struct scaled_input *in, const struct sampled *all,
                    int count, const struct quant_spec *spec, const float *scale, double *loss,
                    struct aq_err *err)
{
    int64_t cols = in->cols;
    *loss = 0;
    for (int i = 0; i < count; i++) {
        const struct sampled *s = &all[i];
        struct quant_plan *plan = NULL;
        const struct quant_matrix m = {s->scaled, NUM_F32, s->rows, cols, s->name};
        for (int64_t k = 0; k < s->rows; k++)
            for (int64_t c = 0; c < cols; c++)
                s->scaled[k * cols + c] = s->w[k * cols + c] * scale[c];
        if (quant_plan_weight(&plan, spec, &m, QUANT_UNROUNDED, err) < 0)
            return -1;
        quant_apply(plan, &m, 0, s->rows, s->scaled, NUM_F32, NULL);
        quant_plan_free(plan);
        for (int64_t k = 0; k < s->rows; k++)
            for (int64_t c = 0; c < cols; c++)
                s->scaled[k * cols + c] /= scale[c];
        *loss += moments_error(pool, in->moments, cols, s->scaled, s->w, s->rows);
    }
    return 0;
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

int awq_scales(struct aq_pool *pool, const struct scaled_input *in, const struct scaled_weight *w,
               int count, const struct quant_spec *spec, float *scale, double *exponent,
               struct aq_err *err)
{
    struct sampled *all = xcalloc((size_t)count, sizeof *all);
    struct quant_spec plain = *spec;
    size_t cols = (size_t)in->cols;
    double *weight = xcalloc(cols, sizeof *weight), best = INFINITY, at, loss;
    float *trial = xcalloc(cols, sizeof *trial);
    int r = 0, last = (int)lround(1 / spec->methods.alpha);
    plain.methods = (struct quant_methods){0};
    weight_measure(in, w, count, &spec->step[0], weight);
    for (int i = 0; i < count; i++)
        sample_rows(&w[i], in->cols, &all[i]);
    for (int k = spec->methods.plain_grid ? 0 : -1; k <= last && r == 0; k++) {
        take_trial(in, weight, &spec->methods, k, trial, &at);
        r = awq_loss(pool, in, all, count, &plain, trial, &loss, err);
        if (r == 0 && loss < best) {
            best = loss;
            *exponent = at;
            memcpy(scale, trial, cols * sizeof *scale);
        }
    }
    if (r == 0 && !isfinite(best))
        r = aq_err_set(err, AQ_ERUN, "no scale leaves a finite error");
    for (int i = 0; i < count; i++) {
        free(all[i].w);
        free(all[i].scaled);
    }
    free(all);
    free(weight);
    free(trial);
    return r;
}
