/*
 * From a weight and a treatment with methods to an operand. Backends know steps alone: what a
 * method does is done here, on the host, from the model's own weight and from what `aq-calib solve`
 * found. A scaling leaves a weight that the steps quantize as any other; other methods leave the
 * values themselves, in fp32.
 */
#ifndef AQ_SCORE_MADE_H
#define AQ_SCORE_MADE_H

#include "backend/backend.h"
#include "base/err.h"
#include "base/pool.h"
#include "nn/model.h"
#include "quant/quant.h"
#include "store/range_file.h"
#include "store/solved.h"

#include <stdbool.h>

/* What is needed of the run; all borrowed. */
struct made_from {
    struct backend *b;
    struct nn_model *model;
    const struct model_groups *groups;
    struct solved_file *solved; /* NULL: no candidate needs it */
    bool to_bf16;               /* operands are rounded to bf16 */
    struct aq_pool *pool;       /* threads for what is made on the host; NULL: the caller's alone */
};

/* The weight that an operand was quantized from; starts from {0}. */
struct made {
    struct backend_weight w; /* (out, in) in fp32: the values below */
    float *values;           /* [elements] */
    size_t elements;
    struct quant_spec rest; /* what is left to do to them */
};

/*
 * Quantizes a linear's weight into op, whose source stays in `made` until the next call. id: the
 * treatment's. AQ_EINPUT: a weight that is not finite, or something that was not solved.
 */
int made_quantize(const struct made_from *from, struct made *made, struct backend_operand *op,
                  int64_t layer, int linear, const struct quant_spec *spec, const char *id,
                  struct aq_err *err) AQ_MUST_CHECK;
void made_release(struct backend *b, struct made *made);

/*
 * The same for experts. A part of them has operands at a time, and each stays as it is while
 * several tiles and activations are computed with it: places know what they hold. Starts from {0},
 * and takes its room when it is first used.
 */
struct made_experts {
    struct made_from from;
    const char *id[EXPERT_HALVES]; /* of the treatments of both halves */
    int at_once;
    struct made_place *places; /* [at_once][EXPERT_HALVES] */
};
/* `quantize` of struct nn_expert_swap, whose arg is a made_experts: any treatment. */
int made_expert(void *arg, struct backend_operand *op, const struct quant_spec *spec, int64_t layer,
                int expert, int half, struct aq_err *err) AQ_MUST_CHECK;
void made_experts_release(struct made_experts *m);
/* Bytes of the values of a part's experts, on the host and on the device each. */
uint64_t made_experts_bytes(const struct lm_arch *a, const struct backend *b);

/* A weight in fp32, from the numbers that the backend computes with, its columns multiplied by
   scale [cols] (NULL: by 1): to is (w->rows, w->cols). */
void made_widen(struct aq_pool *pool, const struct backend *b, const struct backend_weight *w,
                const float *scale, float *to);

/*
 * What a scaled candidate does to its input: *out becomes that of `range` (NULL: the activation has
 * no calibrated one) with the factor, in terms of the scaled input. hidden: [cols], room for the
 * ranges of channels.
 */
void made_scale_range(struct quant_range *out, const struct quant_range *range, const float *factor,
                      int64_t cols, float *hidden);

#endif
