#include "text/added.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

void added_release(struct added *a)
{
    free(a->items);
    aq_arena_release(&a->arena);
    *a = (struct added){.items = NULL};
}

void added_push(struct added *a, struct added_token token)
{
    AQ_GROW(a->items, a->count, a->cap);
    token.text = aq_arena_strndup(&a->arena, token.text, token.len);
    a->items[a->count++] = token;
    a->starts[(unsigned char)*token.text] = true;
}

static int by_text(const void *x, const void *y)
{
    return strcmp(((const struct added_token *)x)->text, ((const struct added_token *)y)->text);
}

const char *added_sort(struct added *a)
{
    if (a->count)
        qsort(a->items, a->count, sizeof *a->items, by_text);
    for (size_t i = 1; i < a->count; i++)
        if (strcmp(a->items[i - 1].text, a->items[i].text) == 0)
            return a->items[i].text;
    return NULL;
}

const struct added_token *added_find(const struct added *a, const char *text)
{
    struct added_token key = {.text = text};
    return a->count ? bsearch(&key, a->items, a->count, sizeof *a->items, by_text) : NULL;
}

/* First item of [lo, hi) whose byte k is at least (above = 0) or above (above = 1) c. */
static size_t bound(const struct added *a, size_t lo, size_t hi, size_t k, unsigned char c,
                    int above)
{
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if ((unsigned char)a->items[mid].text[k] < c + above)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The longest token that the text begins with. */
static const struct added_token *match(const struct added *a, const char *text, size_t len)
{
    const struct added_token *best = NULL;
    size_t lo = 0, hi = a->count;
    for (size_t k = 0; k < len; k++) {
        unsigned char c = (unsigned char)text[k];
        if (c == 0)
            break; /* no token holds one, and the table's texts end with it */
        lo = bound(a, lo, hi, k, c, 0);
        hi = bound(a, lo, hi, k, c, 1);
        if (lo == hi)
            break;
        if (a->items[lo].len == k + 1) /* the shortest with this beginning sorts first */
            best = &a->items[lo];
    }
    return best;
}

const struct added_token *added_search(const struct added *a, const char *text, size_t len,
                                       size_t from, size_t *at)
{
    for (size_t i = from; i < len; i++) {
        if (!a->starts[(unsigned char)text[i]])
            continue;
        const struct added_token *t = match(a, text + i, len - i);
        if (t) {
            *at = i;
            return t;
        }
    }
    return NULL;
}
