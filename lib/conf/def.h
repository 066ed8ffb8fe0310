/*
 * An item of a defaults list in its place: from what is written there, and from the file that
 * holds the list, follow the file that it names, the place of that file in the whole configuration,
 * and the key by which the choice is overridden. Private to lib/conf.
 */
#ifndef AQ_CONF_DEF_H
#define AQ_CONF_DEF_H

#include "io/node.h"

struct def {
    const char *group; /* NULL: a single file, named by path */
    const char *path;
    const char *package; /* after @, or NULL */
    const char *header;  /* package of the file itself, or NULL */
    const char *parent_dir, *parent_package;
    const struct node *value; /* of a group: a string, a list, or null */
    bool optional, override, appended, deleted;
    struct place place;
};

/* Where the item is: the directory of the file that holds the list, and its package. */
void def_set_parent(struct aq_arena *a, struct def *d, const char *dir, const char *package);

bool def_is_self(const struct def *d);         /* _self_ */
bool def_is_interpolated(const struct def *d); /* group: ${other} */

/* The group from the root of the tree: "model/qwen3_8b/arch". */
const char *def_group(struct aq_arena *a, const struct def *d);
/* The option or file name; NULL for `group: null`. */
const char *def_option(const struct def *d);
/* Both: the name of the file. */
const char *def_config(struct aq_arena *a, const struct def *d);
/* The place in the whole tree: what follows the last _global_ counts from the root. */
const char *def_package(struct aq_arena *a, const struct def *d, bool with_header);
/* How the choice is overridden: the group, and its package if that is not the default one. */
const char *def_key(struct aq_arena *a, const struct def *d);

#endif
