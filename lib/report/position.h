/*
 * The part of the scores that comes from the first row of each sample: position 0 of a text, where
 * models keep attention sinks and massive activations, or the one pad row of a padded sample, which
 * sees no text.
 */
#ifndef AQ_REPORT_POSITION_H
#define AQ_REPORT_POSITION_H

#include "report/report.h"

/* Are the samples padded to one length, so that a first row is a pad row? */
bool position_is_pad(const struct report *r);
/* Share of a row's sensitivity; NAN: unknown. */
double position_share(const struct report_row *row);
/* How much larger the group's inputs get at first rows of texts than elsewhere; NAN: unknown. */
double position_ratio(const struct report_row *row);
/* Does the manifest say either of any row? */
bool position_known(const struct report *r);
/* Of the sum of all sensitivities; NAN: unknown of a group that has any. */
double position_total(const struct report *r);
/* Is the row an attention sink: a range ratio of 10 or more, and a share of 0.3 or more under any
   candidate? Nothing is known of it where the samples are padded. */
bool position_is_sink(const struct report *r, const struct report_row *row);
/* A sentence on padding, and whether it is a warning; NULL: not padded, or unknown. Caller frees.
 */
char *position_padding(const struct report *r, bool *warning);

/* The text before and after the list of sinks. */
extern const char position_sinks_before[], position_sinks_after[];

#endif
