/*
 * Added tokens: strings such as "<|endoftext|>" that are ids of their own wherever they occur in a
 * text. The leftmost match wins, and of several there the longest.
 */
#ifndef AQ_TEXT_ADDED_H
#define AQ_TEXT_ADDED_H

#include "base/arena.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Longer ones would make a search through a hostile text slow; real ones have some 20 bytes. */
enum { ADDED_MAX_BYTES = 256 };

struct added_token {
    const char *text;
    uint32_t len;
    int32_t id;
    bool lstrip, rstrip; /* takes the white space on that side with it */
};

struct added {
    struct added_token *items; /* sorted by text after added_sort */
    size_t count, cap;
    bool starts[256]; /* bytes that begin some token */
    struct aq_arena arena;
};

void added_release(struct added *a);
/* The text is copied. */
void added_push(struct added *a, struct added_token token);
/* Returns a text that is there twice, or NULL. */
const char *added_sort(struct added *a);
/* NULL if there is none of this text. */
const struct added_token *added_find(const struct added *a, const char *text);
/* The first match at or after `from`, its place in *at; NULL if there is none. */
const struct added_token *added_search(const struct added *a, const char *text, size_t len,
                                       size_t from, size_t *at);

#endif
