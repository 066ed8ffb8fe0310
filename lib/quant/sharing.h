/*
 * What sharing costs: the members of a fused layer have one NVFP4 second level in the files that
 * engines load. Their squared error under it, over that under a second level for each.
 */
#ifndef AQ_QUANT_SHARING_H
#define AQ_QUANT_SHARING_H

#include "quant/quant.h"

enum { SHARING_ROWS = 64 }; /* of each weight, spread evenly */

struct sharing {
    int groups;         /* that were added */
    double widest;      /* the largest ratio of two ranges in a group */
    double own, shared; /* sums of squared errors */
};

#define SHARING_INIT                                                                               \
    {                                                                                              \
        .widest = 1                                                                                \
    }

/* One fused layer: its members, and the range of each. spec: e2m1 under an NVFP4 second level. */
int sharing_add(struct sharing *s, const struct quant_spec *spec,
                const struct quant_matrix *members, const float *amax, int count,
                struct aq_err *err) AQ_MUST_CHECK;
/* Of the squared errors; 1 if there are none. */
double sharing_ratio(const struct sharing *s);

#endif
