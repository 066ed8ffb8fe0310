#include "eval/compare.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

enum { ROWS = 8 /* of a unit of work */ };

struct compare {
    int32_t rows;
    int others;
    const int32_t *target;
    int64_t at;             /* ids so far */
    struct backend_side *p; /* (others, rows): the reference against each of them */
    struct backend_side *q; /* (others, rows) */
    const float *z;         /* of the slice at work */
    const float *const *zq;
    int64_t ids;
    double **exps; /* [workers]: of the reference's slice */
    int64_t exps_ids;
    int workers;
};

struct compare *compare_new(int32_t rows, int others, const int32_t *target)
{
    struct compare *c = xcalloc(1, sizeof *c);
    size_t n = (size_t)rows * (size_t)others;
    *c = (struct compare){.rows = rows, .others = others, .target = target};
    c->p = xcalloc(n + 1, sizeof *c->p);
    c->q = xcalloc(n + 1, sizeof *c->q);
    for (size_t i = 0; i < n; i++)
        c->p[i] = c->q[i] = (struct backend_side){.top = -INFINITY};
    return c;
}

static void free_exps(struct compare *c)
{
    for (int i = 0; c->exps && i < c->workers; i++)
        free(c->exps[i]);
    free(c->exps);
    c->exps = NULL;
}

void compare_free(struct compare *c)
{
    if (!c)
        return;
    free_exps(c);
    free(c->p);
    free(c->q);
    free(c);
}

/* The largest of n > 0 logits; a NaN makes every later sum a NaN, whatever is found here. */
static int64_t find_top(const float *z, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (z[i] > z[best])
            best = i;
    return best;
}

/* A slice joins what is known. moved sums differences, which do not change with the top. */
static void join(struct backend_side *all, const struct backend_side *slice)
{
    if (slice->top > all->top || isnan(slice->top)) {
        double f = all->sum > 0 ? exp(all->top - slice->top) : 0;
        all->sum = all->sum * f + slice->sum;
        all->moved = all->moved * f + slice->moved;
        all->top = slice->top;
        all->best = slice->best;
    } else {
        double f = exp(slice->top - all->top);
        all->sum += slice->sum * f;
        all->moved += slice->moved * f;
    }
}

/* exps: of the slice relative to its top. */
static void join_sides(struct compare *c, int other, int32_t r, const double *exps,
                       const struct backend_side *ref)
{
    const float *z = c->z + r * c->ids, *zq = c->zq[other] + r * c->ids;
    struct backend_side p = *ref, q = {.best = c->at};
    int64_t best = find_top(zq, c->ids), target = c->target[r] - c->at;
    size_t i = (size_t)other * (size_t)c->rows + (size_t)r;
    q.top = zq[best];
    q.best += best;
    for (int64_t k = 0; k < c->ids; k++) {
        double away = (double)z[k] - zq[k], e = exp(zq[k] - q.top);
        p.moved += exps[k] * away;
        q.sum += e;
        q.moved -= e * away;
    }
    join(&c->p[i], &p);
    join(&c->q[i], &q);
    if (target >= 0 && target < c->ids) {
        c->p[i].target = z[target];
        c->q[i].target = zq[target];
    }
}

static void rows_unit(void *arg, int64_t unit, int worker)
{
    struct compare *c = arg;
    int32_t end = (int32_t)((unit + 1) * ROWS < c->rows ? (unit + 1) * ROWS : c->rows);
    double *exps = c->exps[worker];
    for (int32_t r = (int32_t)unit * ROWS; r < end; r++) {
        if (c->target[r] < 0)
            continue;
        const float *z = c->z + r * c->ids;
        int64_t best = find_top(z, c->ids);
        struct backend_side ref = {.top = z[best], .best = c->at + best};
        for (int64_t k = 0; k < c->ids; k++) {
            exps[k] = exp(z[k] - ref.top);
            ref.sum += exps[k];
        }
        for (int i = 0; i < c->others; i++)
            join_sides(c, i, r, exps, &ref);
    }
}

void compare_slice(struct compare *c, struct aq_pool *pool, const float *z, const float *const *zq,
                   int64_t ids)
{
    if (!c->exps || ids > c->exps_ids) {
        free_exps(c);
        c->workers = aq_pool_threads(pool);
        c->exps_ids = ids;
        c->exps = xcalloc((size_t)c->workers, sizeof *c->exps);
        for (int i = 0; i < c->workers; i++)
            c->exps[i] = xmalloc((size_t)ids * sizeof(double));
    }
    c->z = z;
    c->zq = zq;
    c->ids = ids;
    aq_pool_run(pool, (c->rows + ROWS - 1) / ROWS, rows_unit, c);
    c->at += ids;
}

struct comparison compare_sides(const struct backend_side *p, const struct backend_side *q)
{
    double all = p->top + log(p->sum), allq = q->top + log(q->sum);
    return (struct comparison){
        .kl = p->moved / p->sum + allq - all,
        .rkl = q->moved / q->sum + all - allq,
        .nll_reference = all - p->target,
        .nll = allq - q->target,
        .same_top = p->best == q->best,
    };
}

struct comparison compare_row(const struct compare *c, int other, int32_t row)
{
    size_t i = (size_t)other * (size_t)c->rows + (size_t)row;
    return compare_sides(&c->p[i], &c->q[i]);
}
