/*
 * What shows that a store is as it was written.
 *
 * A cell is all groups of one layer, for one row and one tile. Its check is the first 8 bytes of
 * SHA-256 over the row's treatment id (16 characters), its prefix, the layer and the tile (8 bytes
 * each, little endian), then the tile's columns of each part in the order of enum store_part, group
 * by group: s, d, f, clip; of a divergence s, clip.
 *
 * The digest of the header is SHA-256 over the file's header, in which the digest itself is 64
 * zeros, and the data of labels, sample_tokens and tile_first.
 */
#ifndef AQ_STORE_STORE_CHECK_H
#define AQ_STORE_STORE_CHECK_H

#include "base/sha256.h"
#include "store/store.h"

/* The numbers of a cell inside arrays of `stride` samples a group; any alignment. */
struct store_cell {
    /* [groups, samples of the tile], from the cell's first group and sample; NULL: not there */
    const void *parts[STORE_PARTS];
    size_t groups, samples, stride;
};

/* Of an open store. */
struct store_cell store_cell_of(const struct store *s, const struct store_row *r, int64_t layer,
                                int64_t tile);
uint64_t store_cell_check(const struct store_key *key, int64_t layer, int64_t tile,
                          const struct store_cell *c);
/* Is every number 0? */
bool store_cell_empty(const struct store_cell *c);

#define STORE_NO_DIGEST "0000000000000000000000000000000000000000000000000000000000000000"

/* header: from the start of the file; digits: where in it the 64 digits of the digest are. */
struct store_header {
    const char *bytes, *digits;
    size_t size;
    const void *labels, *sample_tokens, *tile_first;
    size_t labels_size, sample_tokens_size, tile_first_size; /* in bytes */
};

/* Of an open file that calls itself a store; borrowed. */
int store_header_of(const struct store *s, struct store_header *h, struct aq_err *err);
void store_header_digest(const struct store_header *h, char out[AQ_SHA256_HEX]);

#endif
