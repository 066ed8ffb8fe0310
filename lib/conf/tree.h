/* Changing a composed tree: merging files into it, and the overrides of values. */
#ifndef AQ_CONF_TREE_H
#define AQ_CONF_TREE_H

#include "conf/interp.h"
#include "conf/override.h"

/*
 * Puts a copy of src on top of what is at package "a.b" below root, which is made where it is
 * missing: mappings merge, everything else replaces, but "???" replaces nothing. in resolves the
 * interpolations found where a mapping is to be merged into.
 */
int tree_merge(struct interp *in, struct node *root, const char *package,
               const struct node *src) AQ_MUST_CHECK;

/* k=v, +k=v, ++k=v, ~k, ~k=v on a finished tree: only + makes new keys. */
int tree_apply(struct interp *in, struct node *root, const struct override *o) AQ_MUST_CHECK;

#endif
