/* Largest magnitudes of activations, per sample and per channel, and sums of magnitudes. */
#include "backend/cpu/cpu.h"
#include "quant/quant.h"

#include <math.h>

enum { CHANNELS = 256 }; /* of a unit */

struct amax_job {
    const struct backend_tile *t;
    const float *x;
    int64_t cols;
    int32_t from, to;
    float *per_sample, *per_channel;
    float *parts; /* (units, samples) */
};

/* A NaN wins and stays. */
static float larger(float a, float b)
{
    return b > a || isnan(b) ? b : a;
}

static void amax_unit(void *arg, int64_t unit, int worker)
{
    const struct amax_job *j = arg;
    int64_t begin = unit * CHANNELS;
    int64_t end = aq_least(begin + CHANNELS, j->cols);
    (void)worker;
    size_t n = (size_t)(end - begin);
    for (int32_t s = j->from; s < j->to; s++) {
        float top = 0;
        for (int32_t r = j->t->first[s]; r < j->t->first[s + 1]; r++) {
            const float *x = j->x + r * j->cols + begin;
            top = larger(top, quant_absmax(x, NUM_F32, n));
            if (j->per_channel)
                quant_absmax_cols(j->per_channel + begin, x, NUM_F32, n);
        }
        j->parts[unit * j->t->samples + s] = top;
    }
}

void cpu_amax(struct backend *b, const struct backend_tile *t, const void *x, int64_t cols,
              int32_t from, int32_t to, float *per_sample, float *per_channel)
{
    struct cpu_backend *c = cpu_of(b);
    int64_t units = aq_div_up(cols, CHANNELS);
    if (!cpu_begin(c, 0, (size_t)(units * t->samples) * sizeof(float)))
        return;
    struct amax_job j = {t, x, cols, from, to, per_sample, per_channel, (void *)c->shared.data};
    aq_pool_run(c->pool, units, amax_unit, &j);
    for (int32_t s = from; per_sample && s < to; s++) {
        per_sample[s] = 0;
        for (int64_t u = 0; u < units; u++)
            per_sample[s] = larger(per_sample[s], j.parts[u * t->samples + s]);
    }
}

struct sums_job {
    const struct backend_tile *t;
    const float *x;
    int64_t cols;
    int32_t from, to;
    double *sums;
};

static void sums_unit(void *arg, int64_t unit, int worker)
{
    const struct sums_job *j = arg;
    int64_t begin = unit * CHANNELS;
    int64_t end = aq_least(begin + CHANNELS, j->cols);
    (void)worker;
    for (int32_t s = j->from; s < j->to; s++)
        for (int32_t r = j->t->first[s]; r < j->t->first[s + 1] && !j->t->pad[s]; r++)
            for (int64_t c = begin; c < end; c++)
                j->sums[c] += fabs((double)j->x[r * j->cols + c]);
}

void cpu_magnitudes(struct backend *b, const struct backend_tile *t, const void *x, int64_t cols,
                    int32_t from, int32_t to, double *sums)
{
    struct cpu_backend *c = cpu_of(b);
    struct sums_job j = {t, x, cols, from, to, sums};
    if (cpu_begin(c, 0, 0))
        aq_pool_run(c->pool, aq_div_up(cols, CHANNELS), sums_unit, &j);
}
