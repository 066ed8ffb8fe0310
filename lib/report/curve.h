/*
 * What any budget would give, from the manifest alone: the frontier, the formats used uniformly,
 * and the recipes at a few budgets.
 */
#ifndef AQ_REPORT_CURVE_H
#define AQ_REPORT_CURVE_H

#include "select/manifest.h"
#include "select/predict.h"

struct curve_point {
    double bits, score;
    struct prediction kl; /* predicted divergence */
};

struct curve_uniform {
    const struct manifest_option *candidate; /* its first appearance */
    struct curve_point at;
};

struct curve_recipe {
    double budget; /* effective bits asked for */
    struct curve_point at;
    int *option; /* of each group */
};

struct curve {
    struct curve_point *points; /* by rising bits */
    size_t count;
    double gap;     /* 0: exact */
    bool predicted; /* the divergence of every point is known */
    struct curve_uniform *uniforms;
    size_t uniform_count;
    struct curve_recipe *recipes;
    size_t recipe_count;
    int *recipe;     /* option of each group that this selection takes; NULL: unknown */
    bool recomputed; /* the manifest has no recipe: this is the best one at its effective bits */
    bool known;      /* false: the costs of the manifest do not say what a budget is */
};

void curve_init(struct curve *c, const struct manifest *m);
void curve_release(struct curve *c);

#endif
