/*
 * From a primary configuration and group choices to the list of files that make up a run, in the
 * order in which they are merged.
 */
#ifndef AQ_CONF_DEFAULTS_H
#define AQ_CONF_DEFAULTS_H

#include "conf/override.h"
#include "conf/source.h"

enum { DEFAULTS_MAX_DEPTH = 256 }; /* files that include files that include ... */

/* One file to merge, and the package it lands in ("": the root). */
struct conf_step {
    const struct conf_file *file;
    const char *package;
};

struct conf_plan {
    struct conf_step *steps;
    size_t count, cap;              /* freed by conf_plan_release */
    const struct node *choices;     /* key -> option, a map of all groups */
    const struct override **values; /* the overrides that are no group choices, in order */
    size_t value_count;             /* freed by conf_plan_release */
};

int conf_make_plan(struct conf_search *s, struct aq_arena *a, const char *primary,
                   const struct override *overrides, size_t count, struct conf_plan *plan,
                   struct aq_err *err) AQ_MUST_CHECK;
void conf_plan_release(struct conf_plan *p);

#endif
