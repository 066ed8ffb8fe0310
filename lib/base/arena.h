/*
 * Memory that lives and dies together: a parsed file, a composed configuration. Pieces are never
 * freed one by one; the whole arena is released or emptied. Start with AQ_ARENA_INIT.
 */
#ifndef AQ_BASE_ARENA_H
#define AQ_BASE_ARENA_H

#include "base/err.h"

#include <stddef.h>

struct aq_arena_block;

struct aq_arena {
    struct aq_arena_block *blocks; /* the newest first */
    size_t used;                   /* in the newest block */
    size_t total;                  /* bytes handed out since the last reset */
};

#define AQ_ARENA_INIT                                                                              \
    {                                                                                              \
        NULL, 0, 0                                                                                 \
    }

void aq_arena_release(struct aq_arena *a);
/* Empty it, but keep one block for the next round. */
void aq_arena_reset(struct aq_arena *a);

/* Zeroed, aligned for any type; never NULL. */
void *aq_arena_alloc(struct aq_arena *a, size_t n);
char *aq_arena_strdup(struct aq_arena *a, const char *s);
char *aq_arena_strndup(struct aq_arena *a, const char *s, size_t n);
char *aq_arena_printf(struct aq_arena *a, const char *fmt, ...) AQ_PRINTF(2, 3);

#endif
