/*
 * A mixture of experts: which experts a token goes to, and rows on their way to an expert and back.
 * Every row is made by one thread and from its own numbers, and a part's rows are added one expert
 * after another, so that the same bits come out however the work is shared.
 */
#include "backend/cpu/cpu.h"
#include "base/mem.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- parts of a tile ---- */

struct backend_tile *cpu_tile_part(struct backend *b, const struct backend_tile *t,
                                   const int32_t *slots, const int32_t *ends, int experts,
                                   int per_token, struct aq_err *err)
{
    (void)err;
    assert(experts == 1);
    (void)experts;
    struct backend_tile *p = xcalloc(1, sizeof *p);
    int32_t chunk = b->expert_rows, count = ends[0], at = 0;
    p->chunk = chunk;
    p->rows = (count + chunk - 1) / chunk * chunk;
    p->samples = t->samples;
    p->per_token = per_token;
    p->first = xcalloc((size_t)t->samples + 1, sizeof *p->first);
    p->slots = xmalloc((size_t)p->rows * sizeof *p->slots);
    p->sample_of = xmalloc((size_t)p->rows * sizeof *p->sample_of);
    for (int32_t s = 0; s < t->samples; s++) {
        for (; at < count && slots[at] / per_token < t->first[s + 1]; at++) {
            p->slots[at] = slots[at];
            p->sample_of[at] = s;
        }
        p->first[s + 1] = at;
    }
    for (; at < p->rows; at++)
        p->slots[at] = p->sample_of[at] = -1;
    return p;
}

enum { ROWS = 16 }; /* of a unit */

/* What becomes of the rows of a part: `row` is called for each that holds a token, with its slot
   and the row of the tile that the slot is of. */
struct part_job {
    const struct backend_tile *part;
    void (*row)(const struct part_job *j, int32_t r, int32_t slot, int32_t token);
    float *y;
    const float *x, *w, *f;
    int64_t cols;
    bool fill; /* rows without a token become zero in y */
};

static void part_unit(void *arg, int64_t unit, int worker)
{
    const struct part_job *j = arg;
    const struct backend_tile *p = j->part;
    int32_t end = (int32_t)(unit + 1) * ROWS;
    (void)worker;
    for (int32_t r = (int32_t)unit * ROWS; r < end && r < p->rows; r++) {
        int32_t slot = p->slots[r];
        if (slot >= 0)
            j->row(j, r, slot, slot / p->per_token);
        else if (j->fill)
            memset(j->y + r * j->cols, 0, (size_t)j->cols * sizeof *j->y);
    }
}

static void run_part(struct backend *b, struct part_job *j)
{
    struct cpu_backend *c = cpu_of(b);
    if (cpu_begin(c, 0, 0))
        aq_pool_run(c->pool, (j->part->rows + ROWS - 1) / ROWS, part_unit, j);
}

static void take_row(const struct part_job *j, int32_t r, int32_t slot, int32_t token)
{
    float *y = j->y + r * j->cols;
    const float *x = j->x + token * j->cols;
    if (!j->w)
        memcpy(y, x, (size_t)j->cols * sizeof *y);
    for (int64_t i = 0; j->w && i < j->cols; i++)
        y[i] = j->w[slot] * x[i];
}

void cpu_part_take(struct backend *b, const struct backend_tile *part, void *y, const void *x,
                   int64_t cols, const float *w)
{
    run_part(b, &(struct part_job){part, take_row, y, x, w, NULL, cols, true});
}

static void add_row(const struct part_job *j, int32_t r, int32_t slot, int32_t token)
{
    float *y = j->y + token * j->cols, w = j->w ? j->w[slot] : 1;
    const float *x = j->x + r * j->cols;
    for (int64_t i = 0; i < j->cols; i++)
        y[i] += w * x[i];
}

void cpu_part_add(struct backend *b, const struct backend_tile *part, void *y, const void *x,
                  int64_t cols, const float *w)
{
    run_part(b, &(struct part_job){part, add_row, y, x, w, NULL, cols, false});
}

static void put_row(const struct part_job *j, int32_t r, int32_t slot, int32_t token)
{
    (void)token;
    memcpy(j->y + slot * j->cols, j->x + r * j->cols, (size_t)j->cols * sizeof *j->y);
}

void cpu_part_put(struct backend *b, const struct backend_tile *part, void *y, const void *x,
                  int64_t cols)
{
    run_part(b, &(struct part_job){part, put_row, y, x, NULL, NULL, cols, false});
}

static void dot_row(const struct part_job *j, int32_t r, int32_t slot, int32_t token)
{
    const float *g = j->x + token * j->cols, *f = j->f + r * j->cols;
    double sum = 0;
    for (int64_t i = 0; i < j->cols; i++)
        sum += (double)g[i] * f[i];
    j->y[slot] = (float)sum;
}

void cpu_part_dot(struct backend *b, const struct backend_tile *part, float *q, const void *g,
                  const void *f, int64_t cols)
{
    run_part(b, &(struct part_job){part, dot_row, q, g, NULL, f, cols, false});
}

/* ---- the router ---- */

struct route_job {
    const struct backend_tile *t;
    float *p, *w, *dlogits;
    int32_t *sel;
    const float *logits, *q;
    int experts, per_token, normed;
};

/* Softmax in fp32, relative to the largest. */
static void softmax(float *p, const float *l, int n)
{
    float top = l[0], sum = 0;
    for (int e = 1; e < n; e++)
        top = l[e] > top ? l[e] : top;
    for (int e = 0; e < n; e++) {
        p[e] = expf(l[e] - top);
        sum += p[e];
    }
    for (int e = 0; e < n; e++)
        p[e] /= sum;
}

/*
 * The k largest, by rising number; of equal ones the lower number wins. A NaN is larger than none:
 * a row of them goes to the first k, and the output that it makes is not finite.
 */
static void choose(const float *p, int n, int k, int32_t *sel)
{
    int count = 0;
    for (int e = 0; e < n; e++) {
        int at = count; /* by falling p */
        while (at > 0 && p[e] > p[sel[at - 1]])
            at--;
        if (at == k)
            continue;
        count += count < k;
        for (int i = count - 1; i > at; i--)
            sel[i] = sel[i - 1];
        sel[at] = e;
    }
    for (int i = 1; i < k; i++) /* by rising number */
        for (int m = i; m > 0 && sel[m] < sel[m - 1]; m--) {
            int32_t swap = sel[m];
            sel[m] = sel[m - 1];
            sel[m - 1] = swap;
        }
}

static void route_unit(void *arg, int64_t unit, int worker)
{
    const struct route_job *j = arg;
    int32_t end = (int32_t)(unit + 1) * ROWS, used = j->t->first[j->t->samples];
    (void)worker;
    for (int32_t r = (int32_t)unit * ROWS; r < end && r < j->t->rows; r++) {
        float *p = j->p + (int64_t)r * j->experts, *w = j->w + (int64_t)r * j->per_token, sum = 0;
        int32_t *sel = j->sel + (int64_t)r * j->per_token;
        if (r >= used) {
            memset(p, 0, (size_t)j->experts * sizeof *p);
            for (int i = 0; i < j->per_token; i++) {
                sel[i] = -1;
                w[i] = 0;
            }
            continue;
        }
        softmax(p, j->logits + (int64_t)r * j->experts, j->experts);
        choose(p, j->experts, j->per_token, sel);
        for (int i = 0; i < j->per_token; i++)
            sum += p[sel[i]];
        for (int i = 0; i < j->per_token; i++)
            w[i] = j->normed ? p[sel[i]] / sum : p[sel[i]];
    }
}

static void run_route(struct backend *b, struct route_job *j, aq_pool_fn *fn)
{
    struct cpu_backend *c = cpu_of(b);
    if (cpu_begin(c, 0, 0))
        aq_pool_run(c->pool, (j->t->rows + ROWS - 1) / ROWS, fn, j);
}

void cpu_route(struct backend *b, const struct backend_tile *t, float *p, int32_t *sel, float *w,
               const void *logits, int experts, int per_token, int normed)
{
    struct route_job j = {.t = t,
                          .p = p,
                          .w = w,
                          .sel = sel,
                          .logits = logits,
                          .experts = experts,
                          .per_token = per_token,
                          .normed = normed};
    run_route(b, &j, route_unit);
}

/* The choice has no gradient; the weights have, and through the softmax all logits of the row. */
static void route_backward_unit(void *arg, int64_t unit, int worker)
{
    const struct route_job *j = arg;
    int32_t end = (int32_t)(unit + 1) * ROWS, used = j->t->first[j->t->samples];
    int k = j->per_token;
    (void)worker;
    for (int32_t r = (int32_t)unit * ROWS; r < end && r < j->t->rows; r++) {
        const float *p = j->p + (int64_t)r * j->experts, *w = j->w + (int64_t)r * k;
        const float *q = j->q + (int64_t)r * k;
        const int32_t *sel = j->sel + (int64_t)r * k;
        float *dl = j->dlogits + (int64_t)r * j->experts;
        double sum = 0, mean = 0, all = 0;
        memset(dl, 0, (size_t)j->experts * sizeof *dl);
        if (r >= used)
            continue;
        for (int i = 0; i < k; i++) {
            sum += p[sel[i]];
            mean += (double)w[i] * q[i];
        }
        /* dp of the chosen, and sum of p dp */
        for (int i = 0; i < k; i++) {
            double dp = j->normed ? (q[i] - mean) / sum : q[i];
            dl[sel[i]] = (float)dp;
            all += p[sel[i]] * dp;
        }
        for (int e = 0; e < j->experts; e++)
            dl[e] = (float)(p[e] * (dl[e] - all));
    }
}

void cpu_route_backward(struct backend *b, const struct backend_tile *t, void *dlogits,
                        const float *p, const int32_t *sel, const float *w, const float *q,
                        int experts, int per_token, int normed)
{
    struct route_job j = {.t = t,
                          .p = (float *)p,
                          .w = (float *)w,
                          .sel = (int32_t *)sel,
                          .dlogits = dlogits,
                          .q = q,
                          .experts = experts,
                          .per_token = per_token,
                          .normed = normed};
    run_route(b, &j, route_backward_unit);
}
