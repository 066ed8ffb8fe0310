/*
 * One row of a store in memory, gathered tile by tile from stores that have parts of it. Only what
 * a flag vouches for goes over: a killed run may have left sums without their flags, and they would
 * make the bytes of a store depend on runs that were broken off.
 */
#ifndef AQ_STORE_STORE_CELLS_H
#define AQ_STORE_STORE_CELLS_H

#include "store/store_layout.h"

struct store_cells {
    struct store_shape shape;
    struct store_sizes sizes;
    char *parts[STORE_PARTS]; /* [groups, samples] of each part's type; NULL: not of this method */
    uint8_t *have;            /* [layers, tiles]; where it is 0 all numbers and the check are 0 */
    uint64_t *check;          /* [layers, tiles] */
};

void store_cells_init(struct store_cells *c, const struct store_shape *shape);
void store_cells_release(struct store_cells *c);
/* For another row. */
void store_cells_clear(struct store_cells *c);
bool store_cells_have(const struct store_cells *c, int64_t layer, int64_t tile);
/* All groups and samples of a tile that s has for its row r. */
void store_cells_take(struct store_cells *c, const struct store *s, const struct store_row *r,
                      int64_t layer, int64_t tile);

#endif
