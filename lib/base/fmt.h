/* Numbers as text, and text as numbers: one home for both directions. */
#ifndef AQ_BASE_FMT_H
#define AQ_BASE_FMT_H

#include <stdbool.h>
#include <stdint.h>

enum { AQ_FMT_MAX = 40 };

/*
 * The shortest decimal that reads back to the same double, in Python's spelling: fixed notation
 * for 1e-4 <= |x| < 1e16, always with ".0" if integral; else "5.6e-05", "1e+16". NaN and
 * infinities come out as "NaN", "Infinity", "-Infinity"; product writers refuse those earlier.
 */
const char *aq_fmt_double(double x, char out[AQ_FMT_MAX]);

/* The whole text must be a number in plain decimal notation; no blanks, no sign '+', no hex. */
bool aq_parse_i64(const char *s, int64_t *out);
bool aq_parse_double(const char *s, double *out); /* finite only */
/* "1500000", "64K", "8G", "2.9M": powers of 1024, cut to whole bytes; B or iB may follow. */
bool aq_parse_size(const char *s, uint64_t *out);

#endif
