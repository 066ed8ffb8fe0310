/* Lists of names: options of a group, files, keys that there are; and the hint that shows them. */
#ifndef AQ_BASE_NAME_LIST_H
#define AQ_BASE_NAME_LIST_H

#include "base/arena.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

/* A growing list of names, borrowed or in an arena; the list itself is freed by its holder. */
struct name_list {
    const char **items;
    size_t count, cap;
};

void name_list_add(struct name_list *names, const char *name);
bool name_list_have(const struct name_list *names, const char *name);
void name_list_sort(struct name_list *names);
/* Of a sorted list: each name once. */
void name_list_unique(struct name_list *names);

enum name_listing { NAME_LIST_OPTIONS, NAME_LIST_GROUPS };
/*
 * Adds the options of a directory (its YAML files, without the ending) or its groups (directories),
 * as readdir has them. -1 with errno if it cannot be read.
 */
int name_list_list(struct name_list *names, struct aq_arena *a, const char *dir,
                   enum name_listing what);

/* The hint for an unknown name: the nearest one and the list. */
void name_list_hint(struct aq_err *err, const char *what, const char *name,
                    const struct name_list *options);

#endif
