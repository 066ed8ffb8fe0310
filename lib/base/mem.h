/*
 * Memory. Small allocations end the program when they fail (nobody can recover from them); large
 * planned blocks use aq_big_alloc, which reports size and purpose on the error road.
 */
#ifndef AQ_BASE_MEM_H
#define AQ_BASE_MEM_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *xmalloc(size_t n);
void *xcalloc(size_t count, size_t size);
void *xrealloc(void *p, size_t n);
void *xreallocarray(void *p, size_t count, size_t size); /* checked product */
char *xstrdup(const char *s);
char *xstrndup(const char *s, size_t n);
char *xasprintf(const char *fmt, ...) AQ_PRINTF(1, 2);

/* False on overflow; *out is then untouched. */
bool aq_mul(size_t a, size_t b, size_t *out);
bool aq_add(size_t a, size_t b, size_t *out);

/* n / to, upwards; and the multiple of `to` that is n or follows it. For n >= 0, to > 0. */
static inline int64_t aq_div_up(int64_t n, int64_t to)
{
    return (n + to - 1) / to;
}
static inline int64_t aq_round_up(int64_t n, int64_t to)
{
    return aq_div_up(n, to) * to;
}
static inline int64_t aq_least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/*
 * One large, zeroed, page-aligned block with huge pages advised. NULL with an error of class
 * AQ_ERUN that names the purpose and the size. Freed by aq_big_free with the same size.
 */
void *aq_big_alloc(size_t bytes, const char *purpose, struct aq_err *err);
void aq_big_free(void *p, size_t bytes);

/* Is the process under a limit on its address space or data (ulimit -v, -d)? */
bool aq_mem_limited(void);
/* The lower of these limits, if there is one, as the error's hint. Returns -1. */
int aq_mem_hint(struct aq_err *err);

/* Make room for one more element in a growing array: AQ_GROW(v->items, v->count, v->cap). */
#define AQ_GROW(items, count, cap)                                                                 \
    do {                                                                                           \
        if ((count) == (cap)) {                                                                    \
            (cap) = (cap) ? (cap)*2 : 8;                                                           \
            (items) = xreallocarray((items), (cap), sizeof *(items));                              \
        }                                                                                          \
    } while (0)

#define AQ_COUNT(array) (sizeof(array) / sizeof *(array))

#endif
