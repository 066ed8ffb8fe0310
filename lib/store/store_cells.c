#include "store/store_cells.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void store_cells_init(struct store_cells *c, const struct store_shape *shape)
{
    c->shape = *shape;
    c->sizes = store_sizes_of(shape);
    c->sums = xcalloc(c->sizes.sums, 1);
    c->clip = xcalloc(c->sizes.clip, 1);
    c->have = xcalloc(c->sizes.have, 1);
    c->check = xcalloc(c->sizes.check, 1);
}

void store_cells_release(struct store_cells *c)
{
    free(c->sums);
    free(c->clip);
    free(c->have);
    free(c->check);
    *c = (struct store_cells){0};
}

void store_cells_clear(struct store_cells *c)
{
    memset(c->sums, 0, c->sizes.sums);
    memset(c->clip, 0, c->sizes.clip);
    memset(c->have, 0, c->sizes.have);
    memset(c->check, 0, c->sizes.check);
}

bool store_cells_have(const struct store_cells *c, int64_t layer, int64_t tile)
{
    return c->have[layer * c->shape.tiles + tile] != 0;
}

void store_cells_take(struct store_cells *c, const struct store *s, const struct store_row *r,
                      int64_t layer, int64_t tile)
{
    assert(store_have(s, r, layer, tile));
    for (int64_t g = (int64_t)s->model.first[layer]; g < (int64_t)s->model.first[layer + 1]; g++)
        for (int64_t i = s->tile_first[tile]; i < s->tile_first[tile + 1]; i++) {
            int64_t at = g * s->shape.samples + i;
            c->sums[at] = store_sum(s, r, g, i);
            c->clip[at] = (float)store_clip(s, r, g, i);
        }
    size_t cell = (size_t)(layer * c->shape.tiles + tile);
    c->have[cell] = 1;
    memcpy(&c->check[cell], (const char *)r->check + cell * sizeof *c->check, sizeof *c->check);
}
