/* Where the tokens of a tile go. */
#include "nn/experts.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

static size_t slots_of(const struct nn_routes *r)
{
    return (size_t)r->rows * (size_t)r->per_token;
}

static size_t bytes_of(const struct lm_arch *a, int32_t rows)
{
    size_t each = (size_t)a->experts * sizeof(float) +
                  (size_t)a->experts_per_token * (2 * sizeof(float) + sizeof(int32_t));
    return (size_t)rows * each;
}

uint64_t nn_routes_bytes(const struct lm_arch *a, int32_t rows)
{
    return a->experts ? bytes_of(a, rows) : 0;
}

int nn_routes_new(struct nn_routes **out, const struct lm_arch *a, struct backend *b, int32_t rows,
                  struct aq_err *err)
{
    *out = NULL;
    if (!a->experts)
        return 0;
    struct nn_routes *r = xcalloc(1, sizeof *r);
    r->b = b;
    r->rows = rows;
    r->experts = (int)a->experts;
    r->per_token = (int)a->experts_per_token;
    r->bytes = bytes_of(a, rows);
    r->p = b->ops->alloc(b, r->bytes, "routes of a tile", err);
    if (!r->p) {
        free(r);
        return -1;
    }
    r->w = r->p + (size_t)rows * (size_t)r->experts;
    r->q = r->w + slots_of(r);
    r->sel = (void *)(r->q + slots_of(r));
    r->host = xcalloc(slots_of(r), sizeof *r->host);
    r->slots = xcalloc(slots_of(r), sizeof *r->slots);
    r->begin = xcalloc((size_t)r->experts + 2, sizeof *r->begin);
    r->parts = xcalloc((size_t)r->experts, sizeof(struct backend_tile *));
    *out = r;
    return 0;
}

static void drop_parts(struct nn_routes *r)
{
    for (int e = 0; e < r->experts; e++) {
        if (r->parts[e])
            r->b->ops->tile_free(r->b, r->parts[e]);
        r->parts[e] = NULL;
    }
    r->t = NULL;
}

void nn_routes_free(struct nn_routes *r)
{
    if (!r)
        return;
    drop_parts(r);
    r->b->ops->free(r->b, r->p, r->bytes);
    free(r->host);
    free(r->slots);
    free(r->begin);
    free(r->parts);
    free(r);
}

const int32_t *nn_routes_slots(const struct nn_routes *r, int e, int32_t *count)
{
    *count = r->begin[e + 1] - r->begin[e];
    return r->slots + r->begin[e];
}

/* Counting sort; an expert's slots stay in the order of the tile. */
static void sort_slots(struct nn_routes *r)
{
    int32_t *at = r->begin; /* of the expert before, while slots are placed */
    memset(at, 0, ((size_t)r->experts + 2) * sizeof *at);
    for (size_t i = 0; i < slots_of(r); i++)
        if (r->host[i] >= 0)
            at[r->host[i] + 2]++;
    for (int e = 0; e < r->experts; e++)
        at[e + 2] += at[e + 1];
    for (size_t i = 0; i < slots_of(r); i++)
        if (r->host[i] >= 0)
            r->slots[at[r->host[i] + 1]++] = (int32_t)i;
}

int nn_routes_sort(struct nn_routes *r, const struct backend_tile *t, struct aq_err *err)
{
    const struct backend_ops *op = r->b->ops;
    drop_parts(r);
    if (op->download(r->b, r->host, r->sel, slots_of(r) * sizeof *r->host, err) < 0)
        return -1;
    r->t = t;
    sort_slots(r);
    for (int e = 0; e < r->experts; e++) {
        int32_t count;
        const int32_t *slots = nn_routes_slots(r, e, &count);
        if (count && !(r->parts[e] = op->tile_part(r->b, t, slots, count, r->per_token, err))) {
            drop_parts(r);
            return -1;
        }
    }
    return 0;
}

void nn_routes_count(const struct nn_routes *r, int64_t *counts)
{
    for (size_t i = 0; i < slots_of(r); i++)
        if (r->host[i] >= 0)
            counts[r->host[i]]++;
}
