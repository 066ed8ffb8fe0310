/* An index over a list of names: duplicates found, names looked up, both in n log n. */
#ifndef AQ_BASE_NAMES_H
#define AQ_BASE_NAMES_H

#include <stddef.h>

struct aq_names {
    const char **names; /* borrowed, in their own order */
    size_t *sorted;     /* positions by rising name, then by rising position */
    size_t count, cap;
};

#define AQ_NAMES_INIT                                                                              \
    {                                                                                              \
        NULL, NULL, 0, 0                                                                           \
    }

void aq_names_add(struct aq_names *n, const char *name); /* borrowed */
/* Call once after the last add. Returns the position of the first repeated name, or -1. */
ptrdiff_t aq_names_sort(struct aq_names *n);
/* Position of a name, -1 if absent. Only after aq_names_sort. */
ptrdiff_t aq_names_find(const struct aq_names *n, const char *name);
void aq_names_release(struct aq_names *n);

#endif
