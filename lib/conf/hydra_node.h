/* The values under the key `hydra` before any file or override changes them. */
#ifndef AQ_CONF_HYDRA_NODE_H
#define AQ_CONF_HYDRA_NODE_H

#include "io/node.h"

#include <stddef.h>

struct override;

struct node *hydra_defaults(struct aq_arena *a);

/*
 * What only the run knows: job number, group choices, overrides as typed, the start directory.
 * Called after the overrides have been applied.
 */
void hydra_fill(struct aq_arena *a, struct node *hydra, const struct node *choices,
                const struct override *overrides, size_t count, int number, const char *primary);

#endif
