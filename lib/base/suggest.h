/* "Did you mean": the nearest of a list of names, for unknown options, keys and groups. */
#ifndef AQ_BASE_SUGGEST_H
#define AQ_BASE_SUGGEST_H

#include "base/buf.h"

#include <stddef.h>

/* The nearest candidate by edit distance, or NULL if none is near enough to be a slip. */
const char *aq_nearest(const char *word, const char *const *names, size_t count);
/* Adds "a, b, c" (names made safe to print). */
void aq_join_names(struct aq_buf *out, const char *const *names, size_t count);

#endif
