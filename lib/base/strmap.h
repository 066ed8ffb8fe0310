/* A hash table from strings to pointers; keys and values are borrowed. Start with AQ_STRMAP_INIT.
 */
#ifndef AQ_BASE_STRMAP_H
#define AQ_BASE_STRMAP_H

#include <stdbool.h>
#include <stddef.h>

struct aq_strmap_slot {
    const char *key; /* NULL: free */
    void *value;
};

struct aq_strmap {
    struct aq_strmap_slot *slots;
    size_t count, cap; /* cap is a power of two, or 0 */
};

#define AQ_STRMAP_INIT                                                                             \
    {                                                                                              \
        NULL, 0, 0                                                                                 \
    }

void aq_strmap_release(struct aq_strmap *m);
bool aq_strmap_has(const struct aq_strmap *m, const char *key);
void *aq_strmap_get(const struct aq_strmap *m, const char *key); /* NULL if absent */
void aq_strmap_put(struct aq_strmap *m, const char *key, void *value);

#endif
