#include "base/strmap.h"
#include "base/hash.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

static struct aq_strmap_slot *find(const struct aq_strmap *m, const char *key)
{
    size_t at = aq_hash(AQ_HASH_START, key, strlen(key)) & (m->cap - 1);
    while (m->slots[at].key && strcmp(m->slots[at].key, key) != 0)
        at = (at + 1) & (m->cap - 1);
    return &m->slots[at];
}

void aq_strmap_release(struct aq_strmap *m)
{
    free(m->slots);
    *m = (struct aq_strmap)AQ_STRMAP_INIT;
}

bool aq_strmap_has(const struct aq_strmap *m, const char *key)
{
    return m->cap && find(m, key)->key;
}

void *aq_strmap_get(const struct aq_strmap *m, const char *key)
{
    return m->cap ? find(m, key)->value : NULL;
}

static void grow(struct aq_strmap *m)
{
    struct aq_strmap bigger = {NULL, m->count, m->cap ? m->cap * 2 : 32};
    bigger.slots = xcalloc(bigger.cap, sizeof *bigger.slots);
    for (size_t i = 0; i < m->cap; i++)
        if (m->slots[i].key)
            *find(&bigger, m->slots[i].key) = m->slots[i];
    free(m->slots);
    *m = bigger;
}

void aq_strmap_put(struct aq_strmap *m, const char *key, void *value)
{
    if (m->count * 2 >= m->cap)
        grow(m);
    struct aq_strmap_slot *s = find(m, key);
    m->count += !s->key;
    s->key = key;
    s->value = value;
}
