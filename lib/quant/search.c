/*
 * Ranges and block scales by the squared error of the weight: for each range the multiple of its
 * largest magnitude, or for each NVFP4 block the e4m3 scale, under which its elements come back
 * with the smallest squared error. Sums in double, in the order of rows and columns; the first of
 * equal errors wins. The grids of trials are in docs/quantizers.md.
 */
#include "quant/multiples.h"
#include "quant/plan.h"

#include "base/mem.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>

enum { E4M3_SCALES = 126 };

static int no_memory(const struct quant_matrix *w, struct aq_err *err)
{
    return aq_err_set(err, AQ_ERUN, "%s: no memory for a search of scales", aq_show(w->name));
}

/* A row being tried under many scales. */
struct trial {
    struct kernel_run run; /* from, in and to set */
    const float *plain;    /* the row in fp32 */
    size_t cells;          /* blocks of the row */
};

static void trial_run(struct trial *t, const float *mul, const float *back)
{
    t->run.mul = mul;
    t->run.back = back;
    kernels_active()->quantize(&t->run);
}

/* Adds each block's squared error to loss[0], loss[stride], ... */
static void add_errors(const struct trial *t, double *loss, size_t stride)
{
    const float *y = t->run.to;
    for (size_t b = 0, c = 0; b < t->cells; b++) {
        size_t end = c + t->run.block < t->run.n ? c + t->run.block : t->run.n;
        double sum = 0;
        for (; c < end; c++) {
            double e = (double)y[c] - (double)t->plain[c];
            sum += e * e;
        }
        loss[b * stride] += sum;
    }
}

static size_t first_least(const double *loss, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (loss[i] < loss[best])
            best = i;
    return best;
}

/* Room for a row: in fp32, and as it comes back. */
struct rows_room {
    float *plain, *back, *wide;
};

static struct trial row_trial(const struct plan_step *s, const struct quant_matrix *w, int64_t r,
                              const struct rows_room *room)
{
    struct trial t = {.plain = room->plain, .cells = (size_t)s->grid_cols};
    enum num_type in;
    const void *row = plan_matrix_row(w, r, room->wide, &in);
    struct kernel_run copy = {.from = row,
                              .to = room->plain,
                              .in = in,
                              .out = KERNEL_F32,
                              .n = (size_t)w->cols,
                              .block = (size_t)w->cols,
                              .op = KERNEL_COPY};
    kernels_active()->quantize(&copy);
    t.run = (struct kernel_run){.from = room->plain,
                                .to = room->back,
                                .in = NUM_F32,
                                .out = KERNEL_F32,
                                .n = (size_t)w->cols,
                                .block = (size_t)s->block,
                                .op = s->op,
                                .lo = s->lo,
                                .hi = s->hi,
                                .format = s->format,
                                .unit = s->unit};
    return t;
}

static bool take_rows(struct rows_room *room, const struct quant_matrix *w)
{
    room->plain = malloc((size_t)w->cols * sizeof *room->plain);
    room->back = malloc((size_t)w->cols * sizeof *room->back);
    room->wide = plan_row_room(w);
    return room->plain && room->back;
}

static void drop_rows(struct rows_room *room)
{
    free(room->plain);
    free(room->back);
    free(room->wide);
}

int plan_search_mse(const struct quant_plan *p, const struct quant_matrix *w, float *amax,
                    struct aq_err *err)
{
    const struct plan_step *s = &p->step[0];
    float multiple[QUANT_MULTIPLES];
    size_t trials = (size_t)quant_multiples(p->methods.modelopt_grid, multiple);
    size_t cells = (size_t)s->grid_cols, n = cells * trials;
    struct rows_room room = {0};
    float *mul = malloc(n * sizeof *mul), *back = malloc(n * sizeof *back);
    double *loss = malloc(n * sizeof *loss); /* [cells][trials] */
    bool good = take_rows(&room, w) && mul && back && loss;
    for (int64_t strip = 0; good && strip < s->grid_rows; strip++) {
        float *range = amax + (size_t)strip * cells;
        int64_t end = w->rows / s->rows_each > strip ? (strip + 1) * s->rows_each : w->rows;
        for (size_t k = 0; k < trials; k++)
            for (size_t c = 0; c < cells; c++)
                plan_scales(s, range[c] * multiple[k], &mul[k * cells + c], &back[k * cells + c]);
        for (size_t i = 0; i < n; i++)
            loss[i] = 0;
        for (int64_t r = strip * s->rows_each; r < end; r++) {
            struct trial t = row_trial(s, w, r, &room);
            for (size_t k = 0; k < trials; k++) {
                trial_run(&t, mul + k * cells, back + k * cells);
                add_errors(&t, loss + k, trials);
            }
        }
        for (size_t c = 0; c < cells; c++)
            range[c] *= multiple[first_least(loss + c * trials, trials)];
    }
    drop_rows(&room);
    free(mul);
    free(back);
    free(loss);
    return good ? 0 : no_memory(w, err);
}

/* ---- NVFP4 ---- */

/* All positive numbers of e4m3, rising. */
static void e4m3_scales(float out[E4M3_SCALES])
{
    for (int i = 0; i < E4M3_SCALES; i++)
        out[i] = num_from_e4m3((uint8_t)(i + 1));
}

float plan_4o6_second(float amax)
{
    float gs = amax / 1536; /* 6 * 256 */
    return gs > 0 ? gs : 1e-12F;
}

/* The scales that are tried for the blocks of a row, [trials][cells]; returns how many. */
static size_t block_trials(const struct quant_plan *p, const struct trial *t, const float *maxima,
                           float *scales)
{
    const struct plan_step *s = &p->step[0];
    float e4m3[E4M3_SCALES];
    if (p->methods.choice == QUANT_SWEEP) {
        float second = plan_nvfp4_second(s->amax);
        e4m3_scales(e4m3);
        for (size_t k = 0; k < E4M3_SCALES; k++)
            for (size_t c = 0; c < t->cells; c++)
                scales[k * t->cells + c] = e4m3[k] * second;
        return E4M3_SCALES;
    }
    float second = plan_4o6_second(s->amax);
    for (size_t k = 0; k < 2; k++)
        for (size_t c = 0; c < t->cells; c++) {
            float m = maxima[c] * (k ? 1.5F : 1.0F) / (6 * second);
            scales[k * t->cells + c] = num_round(m, NUM_E4M3) * second;
        }
    return 2;
}

int plan_search_nvfp4(struct quant_plan *p, const struct quant_matrix *w, struct aq_err *err)
{
    struct plan_step *s = &p->step[0];
    size_t cells = (size_t)s->grid_cols;
    struct rows_room room = {0};
    float *scales = calloc(E4M3_SCALES * cells, sizeof *scales);
    float *maxima = calloc(cells, sizeof *maxima);
    double *loss = calloc(E4M3_SCALES * cells, sizeof *loss);
    assert(s->rows_each == 1);
    bool good = plan_take_scales(s, err) == 0 && take_rows(&room, w) && scales && maxima && loss;
    for (int64_t r = 0; good && r < w->rows; r++) {
        struct trial t = row_trial(s, w, r, &room);
        kernels_active()->absmax_blocks(maxima, room.plain, NUM_F32, t.run.n, t.run.block);
        size_t trials = block_trials(p, &t, maxima, scales);
        for (size_t i = 0; i < trials * cells; i++)
            loss[i] = 0;
        for (size_t k = 0; k < trials; k++) {
            /* a scale of 0 is that of a block that rounds to nothing */
            for (size_t c = 0; c < cells; c++)
                if (!(scales[k * cells + c] > 0))
                    scales[k * cells + c] = 1;
            trial_run(&t, NULL, scales + k * cells);
            add_errors(&t, loss + k, trials);
        }
        for (size_t c = 0; c < cells; c++) {
            size_t best = first_least(loss + c * trials, trials);
            s->back[(size_t)r * cells + c] = scales[best * cells + c];
            s->mul[(size_t)r * cells + c] = 1 / scales[best * cells + c];
        }
    }
    drop_rows(&room);
    free(scales);
    free(maxima);
    free(loss);
    return good ? 0 : no_memory(w, err);
}
