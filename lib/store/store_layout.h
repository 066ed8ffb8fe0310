/* The tensors and the metadata of a store, for all who write one. */
#ifndef AQ_STORE_STORE_LAYOUT_H
#define AQ_STORE_STORE_LAYOUT_H

#include "store/store.h"

/* What the rows of a store have in common; all borrowed. */
struct store_head {
    struct store_shape shape;
    const struct json *identity, *weights, *ranges;
    const struct model_groups *groups;
    const int32_t *labels, *sample_tokens, *tile_first;
};

struct store_slot { /* handles of a row's tensors; those of parts that are not there are not set */
    int parts[STORE_PARTS], have, check;
};

struct store_layout {
    struct st_writer *w;
    int labels, sample_tokens, tile_first;
    struct store_slot *slots; /* one a row */
    struct json *outer;       /* the file's metadata; the writer's */
};

struct store_head store_head_of(const struct store *s);
/*
 * rows: by rising key; only key, w and a are read. Nothing is written yet. The metadata have the
 * digest of the header, hence of labels, sample_tokens and tile_first of h too.
 */
void store_layout_init(struct store_layout *l, const struct store_head *h,
                       const struct store_row *rows, size_t count);
void store_layout_release(struct store_layout *l);
/* labels, sample_tokens, tile_first; after st_begin. */
int store_layout_write_head(const struct store_layout *l, const struct store_head *h,
                            struct aq_err *err) AQ_MUST_CHECK;

/* Bytes of a row's tensors; 0: not of this method. */
struct store_sizes {
    size_t parts[STORE_PARTS], have, check;
};
struct store_sizes store_sizes_of(const struct store_shape *s);

/* The digests of several sets of ranges, by rising prefix; with equal keys the first wins. */
struct json *store_ranges_union(const struct json *const *sets, size_t count);
/* Takes the lock of a store's writers. */
int store_lock(struct aq_lock *lock, const char *path, struct aq_err *err) AQ_MUST_CHECK;

#endif
