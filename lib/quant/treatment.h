/*
 * From the attributes of a quantizer to its treatment (quant/overlay.h), or to the reason why there
 * is none: ModelOpt 0.40 refuses it or fails on it, or it is not computed here.
 */
#ifndef AQ_QUANT_TREATMENT_H
#define AQ_QUANT_TREATMENT_H

#include "quant/quant.h"
#include "quant/quantizer.h"

#include <stdbool.h>

enum treatment_of { TREATMENT_WEIGHT, TREATMENT_INPUT };

struct treatment_rules {
    bool calibrated;    /* false: no calibration pass, static ranges come from the tensor itself */
    bool shared_scale;  /* the second level of an NVFP4 weight spans all members of its group */
    bool stored_scales; /* block scales of NVFP4 weights are found by a search, and kept */
    bool fp4_always_16; /* read every NVFP4 block length as 16, like ModelOpt's Triton kernel */
};

enum { TREATMENT_STEPS = QUANT_MAX_STEPS, TREATMENT_REASON = 240 };

struct treatment {
    bool runs;
    struct quant_spec spec;
    char text[QUANT_TEXT_MAX];     /* the same in normal form; empty if it does not run */
    char reason[TREATMENT_REASON]; /* empty if it runs */
    double storage_bits;           /* of one element, block scales included; 16 for none */
};

/* steps: the quantizers of a sequence, usually one; count 0 means none. */
void treatment_find(const struct quantizer *steps, size_t count, enum treatment_of of,
                    const struct treatment_rules *rules, struct treatment *out);

/*
 * What ModelOpt's AutoQuant charges for an element: the smallest over the enabled steps, scales
 * left out, except that 0.47 charges 4.5 for NVFP4 blocks of 16. 16 if nothing is enabled.
 */
double treatment_modelopt40_bits(const struct quantizer *steps, size_t count);
double treatment_modelopt47_bits(const struct quantizer *steps, size_t count);

#endif
