/* Candidates that an engine does not serve as they were scored are banned before the search. */
#ifndef AQ_SELECT_SELECT_ENGINE_H
#define AQ_SELECT_SELECT_ENGINE_H

#include "select/select_table.h"

struct sel_engine;

/* engine: "vllm:sm90"; layout: its first. NULL with an error. */
struct sel_engine *sel_engine_open(const char *conf_dir, const char *engine, struct aq_err *err);
void sel_engine_close(struct sel_engine *e); /* NULL is fine */

struct sel_served {
    bool serves;   /* exactly or nearly as it was scored */
    double bits;   /* of a weight in the engine's file, where it does */
    char why[240]; /* not; empty where it does */
};
/*
 * What becomes of a candidate of this group. AQ_EINPUT: an input that does not say what its
 * candidates do, or which shapes the groups have.
 */
int sel_engine_serves(const struct sel_engine *e, const struct sel_candidate *c,
                      const struct sel_row *row, struct sel_served *out,
                      struct aq_err *err) AQ_MUST_CHECK;

#endif
