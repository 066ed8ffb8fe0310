/*
 * Lists of names: files, keys, options of a group. The names are borrowed, or in an arena; the list
 * itself is freed by its holder. A list can be given an index, which keeps its order and finds
 * names, and the repeated one, in n log n.
 */
#ifndef AQ_BASE_NAMES_H
#define AQ_BASE_NAMES_H

#include "base/arena.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

struct aq_names {
    const char **items;
    size_t count, cap;
    size_t *sorted; /* the index: positions by rising name, then by rising position; or NULL */
};

#define AQ_NAMES_INIT                                                                              \
    {                                                                                              \
        NULL, 0, 0, NULL                                                                           \
    }

void aq_names_add(struct aq_names *n, const char *name); /* borrowed; not into the index */
void aq_names_release(struct aq_names *n);
/* The position of a name, which is added unless it is there: distinct names as they appear. O(n).
 */
size_t aq_names_place(struct aq_names *n, const char *name);

/* In the list itself. */
bool aq_names_have(const struct aq_names *n, const char *name); /* O(n) */
void aq_names_order(struct aq_names *n);                        /* rising; drops the index */
void aq_names_unique(struct aq_names *n); /* of a rising list: each name once */

/*
 * The index. Call the first once after the last add: it returns the position of the first name that
 * an earlier one equals, or -1. The second, only after that: the position of a name, or -1.
 */
ptrdiff_t aq_names_sort(struct aq_names *n);
ptrdiff_t aq_names_find(const struct aq_names *n, const char *name);

enum aq_names_kind { AQ_NAMES_OPTIONS, AQ_NAMES_GROUPS };
/*
 * Adds the options of a directory (its YAML files, without the ending) or its groups (directories),
 * as readdir has them. -1 with errno if it cannot be read.
 */
int aq_names_read_dir(struct aq_names *n, struct aq_arena *a, const char *dir,
                      enum aq_names_kind kind);

/* The hint for an unknown name: the nearest one and the list. */
void aq_names_hint(struct aq_err *err, const char *what, const char *name,
                   const struct aq_names *options);

#endif
