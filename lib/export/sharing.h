/*
 * What sharing costs: members of a fused NVFP4 layer have one second-level scale in the file. Their
 * squared error under it, over that under a scale for each.
 */
#ifndef AQ_EXPORT_SHARING_H
#define AQ_EXPORT_SHARING_H

#include "export/plan.h"

enum { SHARING_ROWS = 64 }; /* of each weight, spread evenly */

struct sharing {
    int groups;    /* with several members under one range; 0: the rest is not set */
    double ratio;  /* of squared errors; 1 if there are none */
    double widest; /* the largest ratio of two ranges in a group */
};

int sharing_measure(const struct export_plan *p, struct sharing *out,
                    struct aq_err *err) AQ_MUST_CHECK;

#endif
