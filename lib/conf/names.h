/* Lists of names: options of a group, files, keys that there are; and the hint that shows them. */
#ifndef AQ_CONF_NAMES_H
#define AQ_CONF_NAMES_H

#include "base/arena.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

/* A growing list of names, borrowed or in an arena; the list itself is freed by its holder. */
struct conf_names {
    const char **items;
    size_t count, cap;
};

void conf_names_add(struct conf_names *names, const char *name);
bool conf_names_have(const struct conf_names *names, const char *name);
void conf_names_sort(struct conf_names *names);
/* Of a sorted list: each name once. */
void conf_names_unique(struct conf_names *names);

enum conf_listing { CONF_OPTIONS, CONF_GROUPS };
/*
 * Adds the options of a directory (its YAML files, without the ending) or its groups (directories),
 * as readdir has them. -1 with errno if it cannot be read.
 */
int conf_names_list(struct conf_names *names, struct aq_arena *a, const char *dir,
                    enum conf_listing what);

/* The hint for an unknown name: the nearest one and the list. */
void conf_hint_options(struct aq_err *err, const char *what, const char *name,
                       const struct conf_names *options);

#endif
