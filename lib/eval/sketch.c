#include "eval/sketch.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 8 /* of a unit of work */ };

struct sketch {
    int32_t rows;
    int64_t hidden;
    int32_t *place; /* [rows]: number among those with a target; -1 */
    float *x;       /* (rows, hidden): the unchanged input */
    float *g;       /* [places] (hidden, SKETCH) */
};

/* ---- making ---- */

/* One slice of ids at work, and what is gathered over all. */
struct maker {
    const struct sketch_job *j;
    struct sketch *s;
    int64_t ids, at;           /* of the slice, before it */
    int64_t first[SKETCH + 1]; /* ids of the slice by bucket: [first[k], first[k + 1]) of order */
    int32_t *order;
    float *z;               /* (rows, ids) */
    float *dy;              /* for each bucket (rows, its ids) */
    char *weights;          /* rows of the slice in `order` */
    double *top, *sum;      /* [rows]: of the softmax */
    double *plain;          /* [rows][SKETCH]: signed sums of sqrt(p) */
    float *part, *mean;     /* (rows, hidden): one bucket's numbers; sum p W */
    int bucket;             /* of part */
    void *dev_z, *dev_dy;   /* as z, dy */
    void *sums[SKETCH + 1]; /* device (rows, hidden): sum sqrt(p) W by bucket; sum p W */
};

/* The bucket of an id, and in the bit above it the sign. */
static uint32_t place_of(int64_t id)
{
    uint64_t z = ((uint64_t)id + 1) * UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)(z >> 32) % (2 * SKETCH);
}

static int32_t end_row(const struct sketch *s, int64_t unit)
{
    return (int32_t)aq_least((unit + 1) * ROWS, s->rows);
}

static void run_rows(const struct sketch *s, struct aq_pool *pool, aq_pool_fn *fn, void *arg)
{
    aq_pool_run(pool, aq_div_up(s->rows, ROWS), fn, arg);
}

static void softmax_unit(void *arg, int64_t unit, int worker)
{
    const struct maker *m = arg;
    (void)worker;
    for (int32_t r = (int32_t)unit * ROWS; r < end_row(m->s, unit); r++) {
        const float *z = m->z + r * m->ids;
        double top = m->top[r], sum = 0;
        if (m->s->place[r] < 0)
            continue;
        for (int64_t i = 0; i < m->ids; i++)
            top = fmax(top, z[i]);
        for (int64_t i = 0; i < m->ids; i++)
            sum += exp(z[i] - top);
        m->sum[r] = m->sum[r] * exp(m->top[r] - top) + sum;
        m->top[r] = top;
    }
}

/* dz / d(product of the head), but for the divisor. */
static double slope_of(const struct backend_head *head, double z)
{
    const double u = head->cap > 0 ? z / head->cap : 0;
    return 1 - u * u;
}

/* sqrt(p) and its sign to dy, and p in the place of z. */
static void roots_unit(void *arg, int64_t unit, int worker)
{
    const struct maker *m = arg;
    (void)worker;
    for (int32_t r = (int32_t)unit * ROWS; r < end_row(m->s, unit); r++) {
        float *z = m->z + r * m->ids;
        const bool counts = m->s->place[r] >= 0;
        const double top = m->top[r], inverse = counts ? 1 / sqrt(m->sum[r]) : 0;
        for (int k = 0; k < SKETCH; k++) {
            const int64_t n = m->first[k + 1] - m->first[k];
            float *dy = m->dy + m->s->rows * m->first[k] + r * n;
            for (int64_t i = 0; i < n; i++) {
                const int32_t id = m->order[m->first[k] + i];
                const double root = counts ? inverse * exp(0.5 * (z[id] - top)) : 0;
                const double sign = place_of(m->at + id) < SKETCH ? root : -root;
                const double slope = slope_of(m->j->head, z[id]);
                m->plain[r * SKETCH + k] += sign;
                dy[i] = (float)(sign * slope);
                z[id] = (float)(root * root * slope);
            }
        }
    }
}

static void sort_ids(struct maker *m)
{
    int64_t next[SKETCH];
    memset(m->first, 0, sizeof m->first);
    for (int64_t i = 0; i < m->ids; i++)
        m->first[place_of(m->at + i) % SKETCH + 1]++;
    for (int k = 0; k < SKETCH; k++) {
        next[k] = m->first[k];
        m->first[k + 1] += m->first[k];
    }
    for (int64_t i = 0; i < m->ids; i++)
        m->order[next[place_of(m->at + i) % SKETCH]++] = (int32_t)i;
}

static int slice_logits(struct maker *m, const struct backend_head *head, struct aq_err *err)
{
    struct backend *b = m->j->b;
    m->ids = head->w->rows;
    b->ops->logits(b, m->j->tile, m->dev_z, m->j->x, head);
    return b->ops->download(b, m->z, m->dev_z, (size_t)(m->s->rows * m->ids) * sizeof(float), err);
}

/* sums += dy W for each bucket, and p W. */
static int add_slice(struct maker *m, const struct backend_head *head, struct aq_err *err)
{
    struct backend *b = m->j->b;
    const size_t row = (size_t)head->w->cols * num_bytes(head->w->dtype);
    struct backend_weight parts[SKETCH], *list[SKETCH];
    int count = 0;
    for (int64_t i = 0; i < m->ids; i++)
        memcpy(m->weights + (size_t)i * row,
               (const char *)head->w->host + (size_t)m->order[i] * row, row);
    for (int k = 0; k < SKETCH; k++) {
        parts[k] = *head->w;
        parts[k].dev = NULL;
        parts[k].serial = 0;
        parts[k].host = m->weights + (size_t)m->first[k] * row;
        parts[k].rows = m->first[k + 1] - m->first[k];
        if (parts[k].rows)
            list[count++] = &parts[k];
    }
    if (b->ops->weights_load(b, list, count, err) < 0)
        return -1;
    const size_t bytes = (size_t)(m->s->rows * m->ids) * sizeof(float);
    b->ops->upload(b, m->dev_dy, m->dy, bytes);
    b->ops->upload(b, m->dev_z, m->z, bytes);
    for (int k = 0; k < SKETCH; k++)
        if (parts[k].rows)
            b->ops->linear_backward(b, m->j->tile, m->sums[k],
                                    (float *)m->dev_dy + m->s->rows * m->first[k], &parts[k], 1);
    b->ops->linear_backward(b, m->j->tile, m->sums[SKETCH], m->dev_z, head->w, 1);
    const int r = b->ops->sync(b, err);
    b->ops->weights_release(b, list, count);
    return r;
}

static void fold_unit(void *arg, int64_t unit, int worker)
{
    const struct maker *m = arg;
    const int64_t hidden = m->s->hidden;
    (void)worker;
    for (int32_t r = (int32_t)unit * ROWS; r < end_row(m->s, unit); r++) {
        if (m->s->place[r] < 0)
            continue;
        float *g = m->s->g + m->s->place[r] * hidden * SKETCH + m->bucket;
        const float *part = m->part + r * hidden, *mean = m->mean + r * hidden;
        const double plain = m->plain[r * SKETCH + m->bucket];
        for (int64_t i = 0; i < hidden; i++)
            g[i * SKETCH] = (float)((part[i] - plain * mean[i]) / m->j->head->divisor);
    }
}

static int gather(struct maker *m, struct aq_err *err)
{
    struct backend *b = m->j->b;
    const size_t bytes = (size_t)(m->s->rows * m->s->hidden) * sizeof(float);
    if (b->ops->download(b, m->s->x, m->j->x, bytes, err) < 0 ||
        b->ops->download(b, m->mean, m->sums[SKETCH], bytes, err) < 0)
        return -1;
    for (m->bucket = 0; m->bucket < SKETCH; m->bucket++) {
        if (b->ops->download(b, m->part, m->sums[m->bucket], bytes, err) < 0)
            return -1;
        run_rows(m->s, m->j->pool, fold_unit, m);
    }
    return 0;
}

static int take_rooms(struct maker *m, int64_t ids, struct aq_err *err)
{
    struct backend *b = m->j->b;
    const size_t rows = (size_t)m->s->rows, hidden = rows * (size_t)m->s->hidden;
    const size_t row = (size_t)m->s->hidden * sizeof(float); /* or less */
    m->order = xcalloc((size_t)ids, sizeof *m->order);
    m->weights = xmalloc((size_t)ids * row);
    m->z = xcalloc(rows * (size_t)ids, sizeof *m->z);
    m->dy = xcalloc(rows * (size_t)ids, sizeof *m->dy);
    m->top = xcalloc(rows, sizeof *m->top);
    m->sum = xcalloc(rows, sizeof *m->sum);
    m->plain = xcalloc(rows * SKETCH, sizeof *m->plain);
    m->part = xcalloc(hidden, sizeof *m->part);
    m->mean = xcalloc(hidden, sizeof *m->mean);
    for (size_t r = 0; r < rows; r++)
        m->top[r] = -INFINITY;
    for (int k = 0; k <= SKETCH; k++) {
        m->sums[k] = b->ops->alloc(b, hidden * sizeof(float), "matrices of sketches", err);
        if (!m->sums[k])
            return -1;
        b->ops->zero(b, m->sums[k], hidden * sizeof(float));
    }
    m->dev_z = b->ops->alloc(b, rows * (size_t)ids * sizeof(float), "logits", err);
    m->dev_dy =
        m->dev_z ? b->ops->alloc(b, rows * (size_t)ids * sizeof(float), "roots", err) : NULL;
    return m->dev_dy ? 0 : -1;
}

static void give_rooms(struct maker *m, int64_t ids)
{
    struct backend *b = m->j->b;
    const size_t rows = (size_t)m->s->rows, bytes = rows * (size_t)ids * sizeof(float);
    for (int k = 0; k <= SKETCH; k++)
        if (m->sums[k])
            b->ops->free(b, m->sums[k], rows * (size_t)m->s->hidden * sizeof(float));
    if (m->dev_z)
        b->ops->free(b, m->dev_z, bytes);
    if (m->dev_dy)
        b->ops->free(b, m->dev_dy, bytes);
    free(m->order);
    free(m->weights);
    free(m->z);
    free(m->dy);
    free(m->top);
    free(m->sum);
    free(m->plain);
    free(m->part);
    free(m->mean);
}

static int make(struct maker *m, struct aq_err *err)
{
    for (int64_t i = 0; i < m->j->slices; i++) {
        if (slice_logits(m, &m->j->head[i], err) < 0)
            return -1;
        run_rows(m->s, m->j->pool, softmax_unit, m);
    }
    for (int64_t i = 0; i < m->j->slices; i++) {
        if (slice_logits(m, &m->j->head[i], err) < 0)
            return -1;
        sort_ids(m);
        run_rows(m->s, m->j->pool, roots_unit, m);
        if (add_slice(m, &m->j->head[i], err) < 0)
            return -1;
        m->at += m->ids;
    }
    return gather(m, err);
}

int sketch_new(struct sketch **out, const struct sketch_job *job, struct aq_err *err)
{
    struct sketch *s = *out = xcalloc(1, sizeof *s);
    int64_t places = 0, ids = 0;
    s->rows = job->desc->rows;
    s->hidden = job->head[0].w->cols;
    s->place = xcalloc((size_t)s->rows, sizeof *s->place);
    for (int32_t r = 0; r < s->rows; r++)
        s->place[r] = job->desc->target[r] < 0 ? -1 : (int32_t)places++;
    s->x = xcalloc((size_t)(s->rows * s->hidden), sizeof *s->x);
    s->g = malloc(sketch_bytes(places, s->hidden) + 1);
    if (!s->g)
        return aq_err_set(err, AQ_ERUN, "there is no memory for the sketches of a tile");
    for (int64_t i = 0; i < job->slices; i++)
        ids = job->head[i].w->rows > ids ? job->head[i].w->rows : ids;
    struct maker m = {.j = job, .s = s};
    int r = take_rooms(&m, ids, err);
    if (r == 0)
        r = make(&m, err);
    give_rooms(&m, ids);
    return r;
}

void sketch_free(struct sketch *s)
{
    if (!s)
        return;
    free(s->place);
    free(s->x);
    free(s->g);
    free(s);
}

uint64_t sketch_room(int64_t rows, int64_t hidden, int64_t slice)
{
    return (uint64_t)(rows * ((SKETCH + 1) * hidden + 2 * slice) + slice * hidden) * sizeof(float);
}

uint64_t sketch_host_room(int64_t rows, int64_t hidden, int64_t slice)
{
    return (uint64_t)(slice * hidden + rows * (2 * slice + 3 * hidden)) * sizeof(float) +
           (uint64_t)rows * (SKETCH + 2) * sizeof(double);
}

uint64_t sketch_bytes(int64_t positions, int64_t hidden)
{
    return (uint64_t)positions * (uint64_t)hidden * SKETCH * sizeof(float);
}

/* ---- using ---- */

struct moved {
    const struct sketch *s;
    const float *xq;
    float *out;
};

static void moved_unit(void *arg, int64_t unit, int worker)
{
    const struct moved *c = arg;
    const struct sketch *s = c->s;
    (void)worker;
    for (int32_t r = (int32_t)unit * ROWS; r < end_row(s, unit); r++) {
        const float *x = s->x + r * s->hidden, *xq = c->xq + r * s->hidden;
        float sum[SKETCH] = {0};
        if (s->place[r] < 0)
            continue;
        const float *g = s->g + s->place[r] * s->hidden * SKETCH;
        for (int64_t i = 0; i < s->hidden; i++, g += SKETCH)
            for (int k = 0; k < SKETCH; k++)
                sum[k] += (xq[i] - x[i]) * g[k];
        memcpy(c->out + (size_t)r * SKETCH, sum, sizeof sum);
    }
}

void sketch_of(const struct sketch *s, struct aq_pool *pool, const float *xq, float *out)
{
    struct moved c = {s, xq, out};
    run_rows(s, pool, moved_unit, &c);
}
