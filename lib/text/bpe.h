/*
 * Byte-pair encoding of one pre-token: its bytes become symbols, then the adjacent pair with the
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

struct bpe_merge {
    uint64_t pair; /* left id << 32 | right id; BPE_FREE marks an empty slot */
    uint32_t rank, id;
};

struct bpe {
    int32_t byte_id[256];
    struct bpe_merge *merges; /* open addressing */
    size_t mask;
    struct bpe_work *work; /* scratch for long pre-tokens */
};

void bpe_init(struct bpe *b, size_t merges);
void bpe_release(struct bpe *b);
/* False if the pair is there already. */
bool bpe_add_merge(struct bpe *b, uint32_t left, uint32_t right, uint32_t rank, uint32_t id);

/* Appends the ids of n bytes. O(n log n). */
void bpe_encode(struct bpe *b, const unsigned char *bytes, size_t n, struct ids *out);
/* The same with the heap, whatever the length; for tests. */
void bpe_encode_long(struct bpe *b, const unsigned char *bytes, size_t n, struct ids *out);

#endif
