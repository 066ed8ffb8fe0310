/*
 * What is compared with the reference: a model, and what each of its linears goes through. Made
 * from one of
 *
 *     a manifest              the reference's weights, quantized on the way as its recipe says
 *     lm.json                 another model as it is, or the reference itself
 *     a checkpoint directory  weights decoded from the file: code times scale, in fp32
 *     a GGUF file             likewise
 *
 * The files' activations are quantized as the files say, with their scales.
 */
#ifndef AQ_EVAL_OPERAND_H
#define AQ_EVAL_OPERAND_H

#include "base/err.h"
#include "base/sha256.h"
#include "eval/served.h"
#include "model/family.h"
#include "model/lm.h"
#include "nn/model.h"
#include "quant/quant.h"
#include "quant/sharing.h"
#include "store/candidate.h"
#include "store/range_file.h"
#include "store/solved.h"

#include <stdbool.h>

enum eval_kind { EVAL_MANIFEST, EVAL_LM, EVAL_CHECKPOINT, EVAL_GGUF };
extern const char *const eval_kind_names[]; /* "manifest", "lm", "checkpoint", "gguf" */

struct eval_file; /* of a checkpoint or a GGUF: eval/file.h */

/* One linear of one layer, or one half of its experts. */
struct eval_linear {
    bool swapped;           /* else as the source has it */
    struct quant_spec w, a; /* of no steps: as it is */
    bool ranged;
    struct quant_range
        range;             /* of a static activation; hidden is owned, factor the solved file's */
    char id[TREATMENT_ID]; /* of the treatments */
    int same_as;           /* an earlier linear of the layer with the same x and `a`; -1 */
};

struct eval_operand {
    enum eval_kind kind;
    const char *path; /* borrowed */
    char digest[AQ_SHA256_HEX];
    struct lm *own; /* of EVAL_LM */
    struct eval_file *file;
    struct nn_source source;     /* of an operand with weights of its own */
    bool has_source;             /* false: the reference's weights */
    const struct lm_arch *arch;  /* of its weights */
    struct eval_linear *linears; /* [layers][MODEL_LINEARS]; NULL: all as they are */
    struct eval_linear *experts; /* [layers][EXPERT_HALVES]; there if linears is */
    int64_t layers;
    const struct model_groups *groups; /* of a manifest: the reference's */
    struct solved_file *solved;        /* what its calibrated candidates are made of; or NULL */
    char tokenizer[AQ_SHA256_HEX];     /* "": not known, or the reference's */
    /* of a manifest; NAN elsewhere, or where it does not say */
    double bits, predicted, low, high;
    struct sharing sharing; /* of a manifest's fused layers */
};

/* What operands are judged by and made from. */
struct eval_reference {
    const struct lm *lm;
    const char *path;           /* of lm.json */
    struct range_file *ranges;  /* NULL: none were given */
    struct solved_file *solved; /* likewise */
    const char *conf_dir;       /* NULL: not needed */
    struct eval_served served;  /* the engine that runs operands, if one was named */
};

/* The kind follows from what is there: a directory, the first bytes, the schema. Close also after
   a failure. */
int eval_operand_open(struct eval_operand *o, const char *path, const struct eval_reference *ref,
                      struct aq_err *err) AQ_MUST_CHECK;
void eval_operand_close(struct eval_operand *o);

const struct eval_linear *eval_operand_linear(const struct eval_operand *o, int64_t layer,
                                              int linear);

/* ---- for the kinds' own files ---- */

/* Room for all linears of this model, none of them swapped. */
void eval_operand_take_linears(struct eval_operand *o, const struct lm_arch *arch);
/* Once all are set: which inputs of products are shared. */
void eval_operand_share(struct eval_operand *o);
void eval_operand_share_layer(struct eval_operand *o, int64_t layer);
/* What a candidate does to a group of the reference; prefix: of the ranges. */
struct manifest_choice; /* select/manifest.h */
int eval_operand_apply(struct eval_operand *o, const struct eval_reference *ref,
                       const struct manifest_choice *c, int64_t prefix, size_t group,
                       struct aq_err *err) AQ_MUST_CHECK;

#endif
