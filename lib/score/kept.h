/*
 * Kept states: one hidden state per layer boundary and tile, in the backend's memory as far as the
 * limit allows, else in an unlinked file beside the store.
 */
#ifndef AQ_SCORE_KEPT_H
#define AQ_SCORE_KEPT_H

#include "backend/backend.h"
#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

struct kept;

/* slots states of `bytes` each; more than `limit` bytes in all go to a file in `dir`. */
int kept_new(struct kept **out, struct backend *b, int64_t slots, size_t bytes, uint64_t limit,
             const char *dir, struct aq_err *err) AQ_MUST_CHECK;
void kept_free(struct kept *k);
/* The state of a slot, (rows, hidden): its own memory, or scratch, of one state, filled with it.
   NULL on failure. */
void *kept_get(struct kept *k, int64_t slot, void *scratch, struct aq_err *err);
/* Where to write the new state of a slot: its own memory, or scratch. */
void *kept_place(struct kept *k, int64_t slot, void *scratch);
/* The new state is at p, as kept_place or kept_get gave it. */
int kept_put(struct kept *k, int64_t slot, const void *p, struct aq_err *err) AQ_MUST_CHECK;

#endif
