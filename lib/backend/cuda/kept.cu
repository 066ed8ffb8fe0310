/*
 * Quantized inputs that are kept from one call of `score` to the next: lists of activations, one
 * after another as a product reads them. Room is handed out from the front until there is none, and
 * all of it is taken back at once: work is on one stream, so that what reads the old lists comes
 * before what writes the new ones.
 */
#include "backend/cuda/kept.cuh"

#include <string.h>

#include <algorithm>

enum { ALIGN = 1024 };

/* All that the numbers of a quantized activation follow from. */
struct kept_input {
    const struct backend_tile *t;
    const void *x;
    int64_t cols, rows;
    struct quant_spec spec;
    float range;
    std::vector<float> columns;
};

struct kept_list {
    std::vector<struct kept_input> inputs;
    struct planes planes;
    const uint32_t *clipped; /* [rows of all]; NULL: were not counted */
};

struct kept_inputs {
    char *room;
    size_t bytes;   /* of it */
    uint64_t limit; /* of it, as last asked for; 0: nothing is kept */
    bool refused;   /* the device has no memory for it: nothing is kept */
    size_t used;
    std::vector<struct kept_list> lists;
};

struct kept_inputs *kept_open()
{
    return new kept_inputs{};
}

void kept_close(struct cuda_backend *c)
{
    cuda_give(c, c->kept->room, c->kept->bytes);
    delete c->kept;
}

void cuda_inputs_keep(struct backend *b, uint64_t bytes)
{
    struct kept_inputs *k = cuda_of(b)->kept;
    k->lists.clear();
    k->used = 0;
    k->limit = bytes;
}

bool kept_wanted(const struct cuda_backend *c)
{
    return c->kept->limit > 0;
}

static bool is_input(const struct kept_input *k, const struct backend_operand *op, int64_t rows)
{
    return k->t == op->t && k->x == op->x && k->cols == op->cols && k->rows == rows &&
           memcmp(&k->spec, &op->spec, sizeof k->spec) == 0 && k->range == op->range &&
           k->columns == *op->columns;
}

bool kept_find(const struct cuda_backend *c, struct backend_operand *const *x, const int64_t *rows,
               int count, struct planes *out, const uint32_t **clipped)
{
    for (const struct kept_list &list : c->kept->lists) {
        if (list.inputs.size() != (size_t)count)
            continue;
        int i = 0;
        while (i < count && is_input(&list.inputs[(size_t)i], x[i], rows[i]))
            i++;
        if (i < count || (*clipped && !list.clipped))
            continue;
        *out = list.planes;
        *clipped = list.clipped;
        return true;
    }
    return false;
}

/* The room itself, which is taken when it is first used. */
static bool has_room(struct cuda_backend *c, struct kept_inputs *k)
{
    struct aq_err unused = {};
    if (k->bytes < k->limit && !k->refused) {
        cuda_give(c, k->room, k->bytes);
        k->room = (char *)cuda_take(c, k->limit, "quantized inputs", &unused);
        k->bytes = k->room ? k->limit : 0;
        k->refused = !k->room; /* it works without */
    }
    return k->room != NULL;
}

void *kept_room(struct cuda_backend *c, size_t bytes)
{
    struct kept_inputs *k = c->kept;
    size_t at = (k->used + ALIGN - 1) / ALIGN * ALIGN;
    if (bytes > k->limit || at > k->limit - bytes || !has_room(c, k))
        return NULL;
    k->used = at + bytes;
    return k->room + at;
}

void kept_add(struct cuda_backend *c, struct backend_operand *const *x, const int64_t *rows,
              int count, const struct planes *planes, const uint32_t *clipped)
{
    struct kept_list list = {{}, *planes, clipped};
    for (int i = 0; i < count; i++)
        list.inputs.push_back(kept_input{x[i]->t, x[i]->x, x[i]->cols, rows[i], x[i]->spec,
                                         x[i]->range, *x[i]->columns});
    c->kept->lists.push_back(std::move(list));
}
