/*
 * Byte-pair encoding of one word, given as the ids of its characters: the adjacent pair with the
 * lowest rank (the leftmost of equals) is replaced by its merged symbol until no pair has a rank.
 */
#ifndef AQ_TEXT_BPE_H
#define AQ_TEXT_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A growing list of ids. Start zeroed; release with ids_release. */
struct ids {
    int32_t *items;
    size_t count, cap;
};

void ids_release(struct ids *ids);
void ids_reserve(struct ids *ids, size_t more);
void ids_push(struct ids *ids, int32_t id);

struct bpe_merge {
    uint64_t pair; /* left id << 32 | right id; BPE_FREE marks an empty slot */
    uint32_t rank, id;
};

struct bpe {
    struct bpe_merge *merges; /* open addressing */
    size_t mask;
    struct bpe_work *work; /* scratch for long words */
};

void bpe_init(struct bpe *b, size_t merges);
void bpe_release(struct bpe *b);
/* False if the pair is there already. */
bool bpe_add_merge(struct bpe *b, uint32_t left, uint32_t right, uint32_t rank, uint32_t id);

/* Merges n symbols in place; how many are left. O(n log n). */
size_t bpe_merge(struct bpe *b, int32_t *symbols, size_t n);
/* The same with the heap, whatever the length; for tests. */
size_t bpe_merge_long(struct bpe *b, int32_t *symbols, size_t n);

#endif
