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
    r->at_once = nn_experts_at_once(a, b);
    r->part_count = (r->experts + r->at_once - 1) / r->at_once;
    r->parts = xcalloc((size_t)r->part_count, sizeof(struct backend_tile *));
    *out = r;
    return 0;
}

static void drop_parts(struct nn_routes *r)
{
    for (int i = 0; i < r->part_count; i++) {
        if (r->parts[i])
            r->b->ops->tile_free(r->b, r->parts[i]);
        r->parts[i] = NULL;
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

int nn_routes_part(const struct nn_routes *r, int i, const struct backend_tile *t,
                   struct backend_tile **out, struct aq_err *err)
{
    int first = i * r->at_once;
    int count = r->experts - first < r->at_once ? r->experts - first : r->at_once;
    const int32_t *begin = r->begin + first;
    *out = NULL;
    if (begin[count] == begin[0])
        return 0;
    int32_t *ends = xcalloc((size_t)count, sizeof *ends);
    for (int e = 0; e < count; e++)
        ends[e] = begin[e + 1] - begin[0];
    *out = r->b->ops->tile_part(r->b, t, r->slots + begin[0], ends, count, r->per_token, err);
    free(ends);
    return *out ? 0 : -1;
}

int nn_routes_sort(struct nn_routes *r, const struct backend_tile *t, struct aq_err *err)
{
    const struct backend_ops *op = r->b->ops;
    drop_parts(r);
    if (op->download(r->b, r->host, r->sel, slots_of(r) * sizeof *r->host, err) < 0)
        return -1;
    r->t = t;
    sort_slots(r);
    for (int i = 0; i < r->part_count; i++)
        if (nn_routes_part(r, i, t, &r->parts[i], err) < 0) {
            drop_parts(r);
            return -1;
        }
    return 0;
}

void nn_routes_count(const struct nn_routes *r, int32_t from, int32_t end, int32_t *counts)
{
    for (int64_t i = (int64_t)from * r->per_token; i < (int64_t)end * r->per_token; i++)
        if (r->host[i] >= 0)
            counts[r->host[i]]++;
}

int nn_routes_keep(const struct nn_routes *r, struct nn_kept_routes *to, struct aq_err *err)
{
    memcpy(to->sel, r->host, slots_of(r) * sizeof *to->sel);
    return r->b->ops->download(r->b, to->w, r->w, slots_of(r) * sizeof *to->w, err);
}

/* ---- sizes ---- */

/* Elements of one expert's matrices: gate with up, and down. */
static uint64_t expert_elements(const struct lm_arch *a)
{
    return 3 * (uint64_t)a->hidden_size * (uint64_t)a->moe_intermediate_size;
}

int nn_experts_at_once(const struct lm_arch *a, const struct backend *b)
{
    uint64_t each = expert_elements(a) * b->weight_size, fit = each ? b->experts_bytes / each : 0;
    uint64_t most = (uint64_t)(b->experts_at_once < a->experts ? b->experts_at_once : a->experts);
    fit = fit < most ? fit : most;
    return fit < 1 ? 1 : (int)fit;
}

int64_t nn_part_rows(const struct lm_arch *a, const struct backend *b, int32_t rows)
{
    int64_t experts = a->experts ? nn_experts_at_once(a, b) : 0, chunk = b->expert_rows;
    if (experts <= 1) /* tiles have a multiple of `chunk` rows, and an expert no token twice */
        return rows;
    int64_t each = experts < a->experts_per_token ? experts : a->experts_per_token;
    return (rows * each + experts * (chunk - 1) + chunk - 1) / chunk * chunk;
}

void nn_expert_sizes(struct backend_sizes *sizes, const struct lm_arch *a, const struct backend *b)
{
    int64_t d = a->hidden_size, moe = a->moe_intermediate_size;
    if (!a->experts)
        return;
    sizes->part_rows = nn_part_rows(a, b, sizes->rows);
    sizes->part_inputs = d > moe ? d : moe;
    sizes->part_weights = 2 * moe * d * nn_experts_at_once(a, b);
}

/* ---- operands ---- */

uint64_t nn_expert_operands_bytes(const struct lm_arch *a, const struct backend *b, int32_t rows)
{
    if (!a->experts)
        return 0;
    uint64_t cols = (uint64_t)(a->hidden_size + a->moe_intermediate_size);
    return expert_elements(a) * b->weight_size * (uint64_t)nn_experts_at_once(a, b) +
           (uint64_t)nn_part_rows(a, b, rows) * cols * b->input_size;
}

int nn_expert_operands_new(struct nn_expert_swap *swap, const struct lm_arch *a, struct backend *b,
                           int32_t rows, struct aq_err *err)
{
    const struct backend_ops *op = b->ops;
    int64_t d = a->hidden_size, moe = a->moe_intermediate_size;
    if (!a->experts)
        return 0;
    int64_t most = nn_part_rows(a, b, rows);
    int count = nn_experts_at_once(a, b);
    swap->gate_up = xcalloc((size_t)count, sizeof(struct backend_operand *));
    swap->down = xcalloc((size_t)count, sizeof(struct backend_operand *));
    for (int i = 0; i < count; i++)
        if (!(swap->gate_up[i] = op->operand_new(b, 2 * moe, d, 1, err)) ||
            !(swap->down[i] = op->operand_new(b, d, moe, 1, err)))
            return -1;
    swap->x = op->operand_new(b, most, d, 0, err);
    swap->u = swap->x ? op->operand_new(b, most, moe, 0, err) : NULL;
    return swap->u ? 0 : -1;
}

static void free_operand(struct backend *b, struct backend_operand *o)
{
    if (o)
        b->ops->operand_free(b, o);
}

void nn_expert_operands_free(struct nn_expert_swap *swap, const struct lm_arch *a,
                             struct backend *b)
{
    int count = a->experts ? nn_experts_at_once(a, b) : 0;
    for (int i = 0; i < count && swap->gate_up; i++) {
        free_operand(b, swap->gate_up[i]);
        free_operand(b, swap->down[i]);
    }
    free_operand(b, swap->x);
    free_operand(b, swap->u);
    free(swap->gate_up);
    free(swap->down);
    *swap = (struct nn_expert_swap){0};
}
