#include "eval/sketch.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

enum { ROWS = 8 /* of a unit of work */ };

/* Sums over the ids so far, with e = exp(z - top). */
struct sketch_sums {
    double sum, moved, changed;          /* of e, e dz, e exp(dz) */
    double plain[SKETCH], by_dz[SKETCH]; /* signed, of sqrt(e) and sqrt(e) dz */
};

struct sketch {
    int32_t rows;
    const int32_t *target;
    double *top;            /* [rows] */
    struct sketch_sums *of; /* [rows] */
    int64_t at;             /* ids so far */
    const float *z, *zq;    /* of the slice at work */
    int64_t ids;
};

struct sketch *sketch_new(int32_t rows, const int32_t *target, double *top)
{
    struct sketch *s = xcalloc(1, sizeof *s);
    *s = (struct sketch){.rows = rows, .target = target, .top = top};
    s->of = xcalloc((size_t)rows + 1, sizeof *s->of);
    return s;
}

void sketch_free(struct sketch *s)
{
    if (!s)
        return;
    free(s->of);
    free(s);
}

/* The bucket of an id, and in the bit above it the sign. */
static uint32_t place_of(int64_t id)
{
    uint64_t z = ((uint64_t)id + 1) * UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)(z >> 32) % (2 * SKETCH);
}

static void top_unit(void *arg, int64_t unit, int worker)
{
    struct sketch *s = arg;
    int32_t end = (int32_t)((unit + 1) * ROWS < s->rows ? (unit + 1) * ROWS : s->rows);
    (void)worker;
    for (int32_t r = (int32_t)unit * ROWS; r < end; r++)
        for (int64_t i = 0; s->target[r] >= 0 && i < s->ids; i++)
            s->top[r] = fmax(s->top[r], s->z[r * s->ids + i]);
}

static void add_ids(struct sketch_sums *x, double top, const float *z, const float *zq,
                    int64_t first, int64_t ids)
{
    for (int64_t i = 0; i < ids; i++) {
        double dz = (double)zq[i] - z[i], root = exp(0.5 * (z[i] - top)), e = root * root;
        uint32_t place = place_of(first + i);
        double sign = place < SKETCH ? 1 : -1;
        x->sum += e;
        x->moved += e * dz;
        x->changed += e * exp(dz);
        x->plain[place % SKETCH] += sign * root;
        x->by_dz[place % SKETCH] += sign * root * dz;
    }
}

static void rows_unit(void *arg, int64_t unit, int worker)
{
    struct sketch *s = arg;
    int32_t end = (int32_t)((unit + 1) * ROWS < s->rows ? (unit + 1) * ROWS : s->rows);
    (void)worker;
    for (int32_t r = (int32_t)unit * ROWS; r < end; r++)
        if (s->target[r] >= 0)
            add_ids(&s->of[r], s->top[r], s->z + r * s->ids, s->zq + r * s->ids, s->at, s->ids);
}

void sketch_top(struct sketch *s, struct aq_pool *pool, const float *z, int64_t ids)
{
    s->z = z;
    s->ids = ids;
    aq_pool_run(pool, (s->rows + ROWS - 1) / ROWS, top_unit, s);
}

void sketch_slice(struct sketch *s, struct aq_pool *pool, const float *z, const float *zq,
                  int64_t ids)
{
    s->z = z;
    s->zq = zq;
    s->ids = ids;
    aq_pool_run(pool, (s->rows + ROWS - 1) / ROWS, rows_unit, s);
    s->at += ids;
}

double sketch_row(const struct sketch *s, int32_t row, float *out)
{
    const struct sketch_sums *x = &s->of[row];
    double mean = x->moved / x->sum, root = sqrt(x->sum);
    for (int k = 0; k < SKETCH; k++)
        out[k] = (float)((x->by_dz[k] - mean * x->plain[k]) / root);
    return log(x->changed / x->sum) - mean;
}
