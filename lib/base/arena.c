#include "base/arena.h"
#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct aq_arena_block {
    struct aq_arena_block *older;
    size_t size;
    _Alignas(16) unsigned char bytes[];
};

enum { BLOCK = 64 * 1024, ALIGN = 16 };

static void add_block(struct aq_arena *a, size_t at_least)
{
    size_t size = at_least > BLOCK ? at_least : BLOCK;
    struct aq_arena_block *b = xmalloc(sizeof *b + size);
    b->older = a->blocks;
    b->size = size;
    a->blocks = b;
    a->used = 0;
}

void aq_arena_release(struct aq_arena *a)
{
    while (a->blocks) {
        struct aq_arena_block *b = a->blocks;
        a->blocks = b->older;
        free(b);
    }
    *a = (struct aq_arena)AQ_ARENA_INIT;
}

void aq_arena_reset(struct aq_arena *a)
{
    while (a->blocks && a->blocks->older) {
        struct aq_arena_block *b = a->blocks;
        a->blocks = b->older;
        free(b);
    }
    a->used = a->total = 0;
}

void *aq_arena_alloc(struct aq_arena *a, size_t n)
{
    size_t rounded;
    if (!aq_add(n, ALIGN - 1, &rounded))
        rounded = n; /* xmalloc will say no */
    rounded &= ~(size_t)(ALIGN - 1);
    if (!a->blocks || a->blocks->size - a->used < rounded)
        add_block(a, rounded);
    void *p = a->blocks->bytes + a->used;
    a->used += rounded;
    a->total += rounded;
    return memset(p, 0, rounded);
}

char *aq_arena_strndup(struct aq_arena *a, const char *s, size_t n)
{
    char *p = aq_arena_alloc(a, n + 1);
    memcpy(p, s, n);
    return p;
}

char *aq_arena_strdup(struct aq_arena *a, const char *s)
{
    return aq_arena_strndup(a, s, strlen(s));
}

char *aq_arena_printf(struct aq_arena *a, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *p = aq_arena_alloc(a, (size_t)(n < 0 ? 0 : n) + 1);
    if (n > 0)
        (void)vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    return p;
}
