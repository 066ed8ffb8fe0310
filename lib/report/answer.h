/*
 * What a report says first: how many groups take which format, what that does to the size, and
 * what it is predicted, and was measured, to cost.
 */
#ifndef AQ_REPORT_ANSWER_H
#define AQ_REPORT_ANSWER_H

#include "report/curve.h"
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
    double before, after;   /* bytes of the weights that the table lists: at 16 bits, and now */
    double kl, low, high;   /* predicted divergence in nats; NAN: unknown */
    size_t flagged;         /* groups whose score predicts their divergence badly */
    double measured, error; /* the same as aq-eval found it; NAN: not given */
    double top1, perplexity, reference_perplexity;
    bool known; /* there is a recipe */
    bool recomputed;
};

/* eval: path of the result of aq-eval for this recipe; NULL: none. Caller releases on success. */
int answer_init(struct answer *a, const struct report *r, const struct curve *c, const char *eval,
                struct aq_err *err) AQ_MUST_CHECK;
void answer_release(struct answer *a);

/* "At 7.92 bits per weight, 10 of 28 groups of layers stay at 16 bits and 18 take ...": plain text;
 * caller frees. */
char *answer_sentence(const struct answer *a, const struct report *r);
/* "Predicted KL 0.012 nats (0.008 to 0.020), measured ..."; "" if nothing is known. Caller frees.
 */
char *answer_divergence(const struct answer *a);
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
