#include "store/store_cells.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void store_cells_init(struct store_cells *c, const struct store_shape *shape)
{
    c->shape = *shape;
    c->sizes = store_sizes_of(shape);
    for (int p = 0; p < STORE_PARTS; p++)
        c->parts[p] = c->sizes.parts[p] ? xcalloc(c->sizes.parts[p], 1) : NULL;
    c->have = xcalloc(c->sizes.have, 1);
    c->check = xcalloc(c->sizes.check, 1);
}

void store_cells_release(struct store_cells *c)
{
    for (int p = 0; p < STORE_PARTS; p++)
        free(c->parts[p]);
    free(c->have);
    free(c->check);
    *c = (struct store_cells){0};
}

void store_cells_clear(struct store_cells *c)
{
    for (int p = 0; p < STORE_PARTS; p++)
        if (c->parts[p])
            memset(c->parts[p], 0, c->sizes.parts[p]);
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
    size_t first = s->model.first[layer], end = s->model.first[layer + 1];
    size_t from = (size_t)s->tile_first[tile], n = (size_t)s->tile_first[tile + 1] - from;
    for (int p = 0; p < STORE_PARTS; p++)
        for (size_t g = first; g < end && c->parts[p]; g++) {
            size_t size = store_part_kinds[p].size;
            size_t at = (g * (size_t)s->shape.samples + from) * size;
            memcpy(c->parts[p] + at, (const char *)r->parts[p] + at, n * size);
        }
    size_t cell = (size_t)(layer * c->shape.tiles + tile);
    c->have[cell] = 1;
    memcpy(&c->check[cell], (const char *)r->check + cell * sizeof *c->check, sizeof *c->check);
}
