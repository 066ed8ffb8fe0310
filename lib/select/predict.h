/*
 * The divergence that a recipe is predicted to cost: KL(unquantized || quantized) in nats per
 * predicted token.
 *
 * A gradient score is a sum of squared first-order loss changes, and half of it is the leading term
 * of the divergence. Measured on whole models the factor is 0.46, and divergences of groups add
 * (docs/interpretation.md). A kl_div score is a divergence already.
 *
 * Where the changes of a token's outputs cancel or reinforce one another, the two forms of the
 * score part; such a group is flagged, and its second form is used.
 */
#ifndef AQ_SELECT_PREDICT_H
#define AQ_SELECT_PREDICT_H

#include <stdbool.h>
#include <stddef.h>

/* What is known of one group under the format that it takes. */
struct predict_group {
    double per_token;     /* NAN: not known, and nothing can be predicted */
    double per_token_dot; /* NAN: not known */
    bool kl_div;          /* per_token is a divergence; else a gradient score */
    bool activations;     /* quantized too */
};

/* Do the two forms differ by more than a factor of 3? */
bool predict_flagged(const struct predict_group *g);
/* The group's part in nats; NAN: unknown. */
double predict_nats(const struct predict_group *g);

struct prediction {
    double nats, low, high; /* NAN: unknown */
    size_t flagged;         /* groups */
    bool activations;       /* any group's */
};

/* Adds one quantized group; what is not quantized adds nothing. Starts from {0}. */
void prediction_add(struct prediction *p, const struct predict_group *g);
/* The same for what one or more groups were added to before. */
void prediction_join(struct prediction *p, const struct prediction *part);
/* The interval, once all groups are in. */
void prediction_end(struct prediction *p);

#endif
