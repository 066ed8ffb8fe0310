/*
 * Causal attention within each sample. A unit is one key/value head of one sample with its group of
 * query heads: it owns those columns of o (or of dq, dk and dv) in the sample's rows, so that no
 * two threads add to the same number. The products of a sample have that sample's own length n, so
 * its bits do not depend on its neighbours.
 */
#include "backend/cpu/blas.h"
#include "backend/cpu/cpu.h"
#include "backend/cpu/simd.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { LANES = 16 };

struct attention {
    struct cpu_backend *c;
    const struct backend_tile *t;
    struct backend_attention as;
    float *o, *dq;        /* (rows, heads x dim) */
    float *dk, *dv;       /* (rows, kv_heads x dim) */
    const float *d_o, *q; /* (rows, heads x dim) */
    const float *k, *v;   /* (rows, kv_heads x dim) */
};

/* One query head of one sample: its rows without the pad row, and strides. */
struct query_head {
    int64_t n, ld;    /* tokens; elements between rows of a square matrix of them */
    int64_t ldq, ldk; /* the same of q, of k and v */
    int64_t q, k;     /* offsets of its first element in q and o, in k and v */
};

/* Rows of square matrices are whole vectors. */
static int64_t whole(int64_t n)
{
    return (n + LANES - 1) / LANES * LANES;
}

static struct query_head head_at(const struct attention *a, int64_t unit, int group)
{
    int32_t s = (int32_t)(unit / a->as.kv_heads);
    int kv = (int)(unit % a->as.kv_heads), per = a->as.heads / a->as.kv_heads;
    int64_t first = a->t->first[s] + (a->t->pad[s] ? 1 : 0);
    int64_t n = a->t->first[s + 1] - first;
    struct query_head h = {.n = n,
                           .ld = whole(n),
                           .ldq = (int64_t)a->as.heads * a->as.dim,
                           .ldk = (int64_t)a->as.kv_heads * a->as.dim};
    h.q = first * h.ldq + (int64_t)(kv * per + group) * a->as.dim;
    h.k = first * h.ldk + (int64_t)kv * a->as.dim;
    return h;
}

static int64_t longest(const struct backend_tile *t)
{
    int64_t n = 0;
    for (int32_t s = 0; s < t->samples; s++)
        if (t->first[s + 1] - t->first[s] > n)
            n = t->first[s + 1] - t->first[s];
    return n;
}

/* The first key that row t sees. */
static int64_t first_seen(const struct attention *a, int64_t t)
{
    int64_t window = a->as.window;
    return window > 0 && t >= window ? t - window + 1 : 0;
}

/*
 * p (n, n): softmax over the s that t sees of scale q_t . k_s, 0 elsewhere. A row is worked on in
 * whole vectors; what is not seen takes part as -infinity, whose exp is below 1e-37: nothing in a
 * sum of 1 and more. slope (n, n): d(capped score) / d(score) where there is a cap, else NULL.
 */
static void probabilities(const struct attention *a, const struct query_head *h, float *p,
                          float *slope)
{
    assert(p && a->as.cap >= 0);
    blas_gemm(BLAS_N, BLAS_T, h->n, h->n, a->as.dim, a->q + h->q, h->ldq, a->k + h->k, h->ldk, 0, p,
              h->ld);
    for (int64_t t = 0; t < h->n; t++) {
        float *row = p + t * h->ld;
        int64_t first = first_seen(a, t);
        if (a->as.cap > 0)
            simd()->cap(row, slope ? slope + t * h->ld : NULL, row, a->as.scale, a->as.cap, t + 1);
        else
            for (int64_t s = 0; s <= t; s++)
                row[s] *= a->as.scale;
        for (int64_t s = 0; s < first; s++)
            row[s] = -INFINITY;
        for (int64_t s = t + 1; s < whole(t + 1); s++)
            row[s] = -INFINITY;
        double sum = simd()->exps(row, row, simd()->top(row, t + 1), 1, whole(t + 1));
        float inverse = (float)(1 / sum);
        memset(row, 0, (size_t)first * sizeof *row);
        for (int64_t s = first; s <= t; s++)
            row[s] *= inverse;
        memset(row + t + 1, 0, (size_t)(h->ld - t - 1) * sizeof *row);
    }
}

static void forward_unit(void *arg, int64_t unit, int worker)
{
    const struct attention *a = arg;
    float *p = cpu_scratch(a->c, worker);
    for (int g = 0; g < a->as.heads / a->as.kv_heads; g++) {
        struct query_head h = head_at(a, unit, g);
        if (h.n == 0)
            return;
        probabilities(a, &h, p, NULL);
        blas_gemm(BLAS_N, BLAS_N, h.n, a->as.dim, h.n, p, h.ld, a->v + h.k, h.ldk, 0, a->o + h.q,
                  h.ldq);
    }
}

/* One unit a sample and head of k; each takes `squares` matrices of the longest sample. */
static bool run_heads(struct attention *a, aq_pool_fn *fn, int squares)
{
    int64_t n = longest(a->t);
    if (!cpu_begin(a->c, (size_t)(squares * n * whole(n)) * sizeof(float), 0))
        return false;
    aq_pool_run(a->c->pool, (int64_t)a->t->samples * a->as.kv_heads, fn, a);
    return true;
}

/* Pad rows and rows after the last sample see nothing. */
static void zero_blind_rows(const struct backend_tile *t, float *x, int64_t cols)
{
    for (int32_t s = 0; s < t->samples; s++)
        if (t->pad[s])
            memset(x + t->first[s] * cols, 0, (size_t)cols * sizeof *x);
    int32_t used = t->first[t->samples];
    memset(x + used * cols, 0, (size_t)((t->rows - used) * cols) * sizeof *x);
}

void cpu_attention_forward(struct backend *b, const struct backend_tile *t, void *o, const void *q,
                           const void *k, const void *v, const struct backend_attention *as)
{
    struct attention a = {.c = cpu_of(b), .t = t, .as = *as, .o = o, .q = q, .k = k, .v = v};
    if (!run_heads(&a, forward_unit, 1))
        return;
    zero_blind_rows(t, o, (int64_t)as->heads * as->dim);
}

/* dp (n, n), the gradient at p, becomes the gradient at the products q . k. */
static void softmax_backward(const struct attention *a, const struct query_head *h, const float *p,
                             const float *slope, float *dp)
{
    float scale = a->as.scale;
    for (int64_t t = 0; t < h->n; t++) {
        const float *pr = p + t * h->ld;
        float *row = dp + t * h->ld;
        double dot = 0;
        for (int64_t s = 0; s <= t; s++)
            dot += (double)pr[s] * row[s];
        for (int64_t s = 0; s <= t; s++)
            row[s] = pr[s] * (row[s] - (float)dot) * scale;
        for (int64_t s = 0; slope && s <= t; s++)
            row[s] *= slope[t * h->ld + s];
        memset(row + t + 1, 0, (size_t)(h->n - t - 1) * sizeof *row);
    }
}

static void backward_unit(void *arg, int64_t unit, int worker)
{
    const struct attention *a = arg;
    for (int g = 0; g < a->as.heads / a->as.kv_heads; g++) {
        struct query_head h = head_at(a, unit, g);
        if (h.n == 0)
            return;
        float *p = cpu_scratch(a->c, worker), *dp = p + h.n * h.ld;
        float *slope = a->as.cap > 0 ? dp + h.n * h.ld : NULL;
        float add = g > 0 ? 1.0F : 0.0F; /* k and v gather from the whole group */
        probabilities(a, &h, p, slope);
        blas_gemm(BLAS_T, BLAS_N, h.n, a->as.dim, h.n, p, h.ld, a->d_o + h.q, h.ldq, add,
                  a->dv + h.k, h.ldk);
        blas_gemm(BLAS_N, BLAS_T, h.n, h.n, a->as.dim, a->d_o + h.q, h.ldq, a->v + h.k, h.ldk, 0,
                  dp, h.ld);
        softmax_backward(a, &h, p, slope, dp);
        blas_gemm(BLAS_N, BLAS_N, h.n, a->as.dim, h.n, dp, h.ld, a->k + h.k, h.ldk, 0, a->dq + h.q,
                  h.ldq);
        blas_gemm(BLAS_T, BLAS_N, h.n, a->as.dim, h.n, dp, h.ld, a->q + h.q, h.ldq, add,
                  a->dk + h.k, h.ldk);
    }
}

void cpu_attention_backward(struct backend *b, const struct backend_tile *t, void *dq, void *dk,
                            void *dv, const void *d_o, const void *q, const void *k, const void *v,
                            const struct backend_attention *as)
{
    struct attention a = {.c = cpu_of(b),
                          .t = t,
                          .as = *as,
                          .dq = dq,
                          .dk = dk,
                          .dv = dv,
                          .d_o = d_o,
                          .q = q,
                          .k = k,
                          .v = v};
    if (!run_heads(&a, backward_unit, as->cap > 0 ? 3 : 2))
        return;
    zero_blind_rows(t, dq, (int64_t)as->heads * as->dim);
    zero_blind_rows(t, dk, (int64_t)as->kv_heads * as->dim);
    zero_blind_rows(t, dv, (int64_t)as->kv_heads * as->dim);
}
