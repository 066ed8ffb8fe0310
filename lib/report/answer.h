/*
 * What a report says first: how many groups take which format, what that does to the size, and
 * what it is predicted, and was measured, to cost.
 */
#ifndef AQ_REPORT_ANSWER_H
#define AQ_REPORT_ANSWER_H

#include "report/chart.h"
#include "report/curve.h"
#include "report/measured.h"
#include "report/report.h"

/* One format of the recipe. */
struct answer_format {
    const struct manifest_option *option; /* its first appearance */
    size_t groups;
    double weights, bytes; /* NAN: the manifest does not say */
};

struct answer {
    struct answer_format *formats; /* by rising bits, unquantized last */
    size_t count, groups;
    double before, after; /* bytes of the weights that the table lists: at 16 bits, and now */
    double kl, low, high; /* predicted divergence in nats; NAN: unknown */
    size_t flagged;       /* groups whose score predicts their divergence badly */
    const struct measured_result *measured; /* as aq-eval found it; NULL: nobody looked */
    bool known;                             /* there is a recipe */
    bool recomputed;
};

/* measured: the result for this recipe, borrowed; NULL: none. */
void answer_init(struct answer *a, const struct report *r, const struct curve *c,
                 const struct measured_result *measured);
void answer_release(struct answer *a);

/* "At 7.92 bits per weight, 10 of 28 groups of layers stay at 16 bits and 18 take ...": plain text;
 * caller frees. */
char *answer_sentence(const struct answer *a, const struct report *r);
/* "Predicted KL 0.012 nats (0.008 to 0.020), measured ..."; "" if nothing is known. Caller frees.
 */
char *answer_divergence(const struct answer *a);
/* Predicted and measured divergence on one scale, with their intervals; nothing if none is known.
 */
void answer_divergence_draw(struct aq_buf *out, const struct answer *a, struct chart_style style);
/* What one second level for all members of fused layers does; "" if there are none. Caller frees.
 */
char *answer_sharing(const struct answer *a);
/* "Five of 28 groups carry 85 % of the sensitivity: ..."; caller frees. */
char *answer_worst(const struct report *r);
/* The make command that gives this manifest again; NULL if its names do not say. Caller frees. */
char *answer_command(const struct report *r);
/* The make command that writes the recipe for an engine of conf/engine; NULL as above. Caller
 * frees. */
char *answer_export(const struct report *r, const char *engine);
/* The recipe as rules of a menu for aq-select; NULL if unknown. Caller frees. */
char *answer_menu(const struct report *r, const struct curve *c);

#endif
