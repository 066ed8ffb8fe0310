/* A vocabulary: symbols (byte-level strings) and their ids, both ways. */
#ifndef AQ_TEXT_VOCAB_H
#define AQ_TEXT_VOCAB_H

#include "base/arena.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vocab {
    const char **symbols; /* by id */
    uint32_t *table;      /* open addressing: id + 1, 0 is free */
    size_t mask;
    uint32_t count; /* ids are 0 .. count-1 */
    struct aq_arena arena;
};

void vocab_init(struct vocab *v, uint32_t count);
void vocab_release(struct vocab *v);
/* False if the id is taken already, or the symbol has an id. */
bool vocab_set(struct vocab *v, uint32_t id, const char *symbol);
/* -1 if unknown. */
int64_t vocab_id(const struct vocab *v, const char *symbol, size_t len);

#endif
