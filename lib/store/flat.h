/*
 * Groups whose score does not depend on the number of bits: it is zero, or stays the same under all
 * candidates of the store that have one side in common with the cell's and another width on the
 * other. An unquantized side is 16 bits wide.
 */
#ifndef AQ_STORE_FLAT_H
#define AQ_STORE_FLAT_H

#include "store/store.h"

#include <stddef.h>
#include <stdint.h>

/* What a row of the store is compared with. */
struct flat {
    const struct store *s;
    const struct store_row *row;
    int64_t samples;
    const struct store_row **weights, **activations; /* rows of another width there */
    size_t weight_count, activation_count;
};

/* row is complete for the first `samples` samples. Borrows the store. */
void flat_init(struct flat *f, const struct store *s, const struct store_row *row, int64_t prefix,
               int64_t samples);
void flat_release(struct flat *f);

/* "zero", or the side whose bits change nothing: "weights", "activations", "both"; else NULL. */
const char *flat_group(const struct flat *f, int64_t group);

#endif
