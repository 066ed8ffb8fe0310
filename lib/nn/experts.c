/* Where the tokens of a tile go. */
#include "nn/experts.h"

#include "base/mem.h"

#include <stdlib.h>

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
    r->slots = xcalloc((size_t)rows, sizeof *r->slots);
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
    free(r->parts);
    free(r);
}

int32_t nn_routes_slots(const struct nn_routes *r, int e)
{
    int32_t count = 0;
    for (size_t i = 0; i < slots_of(r); i++)
        if (r->host[i] == e)
            r->slots[count++] = (int32_t)i;
    return count;
}

int nn_routes_sort(struct nn_routes *r, const struct backend_tile *t, struct aq_err *err)
{
    const struct backend_ops *op = r->b->ops;
    drop_parts(r);
    if (op->download(r->b, r->host, r->sel, slots_of(r) * sizeof *r->host, err) < 0)
        return -1;
    r->t = t;
    for (int e = 0; e < r->experts; e++) {
        int32_t count = nn_routes_slots(r, e);
        if (count && !(r->parts[e] = op->tile_part(r->b, t, r->slots, count, r->per_token, err))) {
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
