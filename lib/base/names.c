#include "base/names.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

void aq_names_add(struct aq_names *n, const char *name)
{
    AQ_GROW(n->names, n->count, n->cap);
    n->names[n->count++] = name;
}

static int by_name(const void *a, const void *b, void *names)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    const char *const *list = names;
    int order = strcmp(list[x], list[y]);
    if (order)
        return order;
    return x < y ? -1 : x > y;
}

ptrdiff_t aq_names_sort(struct aq_names *n)
{
    free(n->sorted);
    n->sorted = xcalloc(n->count + 1, sizeof *n->sorted);
    for (size_t i = 0; i < n->count; i++)
        n->sorted[i] = i;
    if (n->count > 1)
        qsort_r(n->sorted, n->count, sizeof *n->sorted, by_name, n->names);
    ptrdiff_t first = -1;
    for (size_t i = 1; i < n->count; i++) {
        size_t at = n->sorted[i];
        if (strcmp(n->names[n->sorted[i - 1]], n->names[at]) == 0 &&
            (first < 0 || at < (size_t)first))
            first = (ptrdiff_t)at;
    }
    return first;
}

ptrdiff_t aq_names_find(const struct aq_names *n, const char *name)
{
    size_t low = 0, high = n->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, n->names[n->sorted[middle]]);
        if (order == 0)
            return (ptrdiff_t)n->sorted[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return -1;
}

void aq_names_release(struct aq_names *n)
{
    free(n->names);
    free(n->sorted);
    *n = (struct aq_names)AQ_NAMES_INIT;
}
