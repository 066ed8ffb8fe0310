#include "text/vocab.h"
#include "base/hash.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

void vocab_init(struct vocab *v, uint32_t count)
{
    size_t size = 16;
    while (size < 2 * (size_t)count)
        size *= 2;
    *v = (struct vocab){.mask = size - 1, .count = count};
    v->table = xcalloc(size, sizeof *v->table);
    v->symbols = xcalloc(count, sizeof *v->symbols);
}

void vocab_release(struct vocab *v)
{
    free(v->table);
    free(v->symbols);
    aq_arena_release(&v->arena);
    *v = (struct vocab){.table = NULL};
}

static size_t hash(const char *s, size_t n)
{
    uint64_t h = aq_hash(AQ_HASH_START, s, n);
    return (size_t)(h ^ h >> 32);
}

/* The slot of a symbol, or the free one where it would go. */
static uint32_t *slot(const struct vocab *v, const char *s, size_t n)
{
    for (size_t i = hash(s, n) & v->mask;; i = (i + 1) & v->mask) {
        uint32_t *at = &v->table[i];
        if (!*at)
            return at;
        const char *have = v->symbols[*at - 1];
        if (strncmp(have, s, n) == 0 && have[n] == '\0')
            return at;
    }
}

bool vocab_set(struct vocab *v, uint32_t id, const char *symbol)
{
    size_t n = strlen(symbol);
    uint32_t *at = slot(v, symbol, n);
    if (*at || v->symbols[id])
        return false;
    v->symbols[id] = aq_arena_strndup(&v->arena, symbol, n);
    *at = id + 1;
    return true;
}

int64_t vocab_id(const struct vocab *v, const char *symbol, size_t len)
{
    return (int64_t)*slot(v, symbol, len) - 1;
}
