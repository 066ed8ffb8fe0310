#include "select/predict.h"

#include <math.h>

/* Nats per unit of a gradient score: measured; 1/2 in theory. */
static const double nats_per_score = 0.46;
/* How far the two forms of a score may be apart. */
static const double apart = 3;
/* How far whole recipes were measured to be below and above their prediction: at least 95 % of the
   random ones and of those near the optimum, for each kind of quantizer (docs/evidence.md,
   docs/evidence-smollm2.md). Quantized activations of several layers add up less regularly than
   weights: in NVFP4 they saturate, so that a recipe costs less than the sum, and where next to
   nothing is lost they cost more. */
static const struct factors {
    double below, above;
} weights_alone = {1.6, 1.6}, with_activations = {2, 2.6};

bool predict_flagged(const struct predict_group *g)
{
    double x = g->per_token, y = g->per_token_dot;
    return !g->kl_div && (x > apart * y || y > apart * x); /* false for NAN */
}

double predict_nats(const struct predict_group *g)
{
    if (g->kl_div)
        return g->per_token;
    return nats_per_score * (predict_flagged(g) ? g->per_token_dot : g->per_token);
}

void prediction_add(struct prediction *p, const struct predict_group *g)
{
    p->nats += predict_nats(g);
    p->flagged += predict_flagged(g);
    p->activations = p->activations || g->activations;
}

void prediction_join(struct prediction *p, const struct prediction *part)
{
    p->nats += part->nats;
    p->flagged += part->flagged;
    p->activations = p->activations || part->activations;
}

void prediction_end(struct prediction *p)
{
    if (p->nats < 0) /* of kl_div: differences of large numbers */
        p->nats = 0;
    const struct factors *f = p->activations ? &with_activations : &weights_alone;
    p->low = p->nats / f->below;
    p->high = p->nats * f->above;
}
