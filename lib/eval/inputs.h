/*
 * What every command of aq-eval begins with: the reference model, the texts, the ranges of static
 * activations, and whether they belong together.
 */
#ifndef AQ_EVAL_INPUTS_H
#define AQ_EVAL_INPUTS_H

#include "backend/backend.h"
#include "base/names.h"
#include "eval/domain.h"
#include "eval/operand.h"

#include <stdbool.h>
#include <stdint.h>

/* As typed. */
struct eval_where {
    const char *reference; /* lm.json */
    const char *ranges;    /* NULL: nothing needs them */
    const char *solved;    /* likewise */
    const char *conf_dir;  /* where the rules of engines are; NULL: no engine can be named */
    const char *engine;    /* "vllm:sm90", which runs the operands; NULL: as they are */
    const char *dtype, *device;
    int64_t threads; /* 0: all that the process may use */
    uint64_t memory; /* in bytes; 0: no limit */
    bool verify;     /* the reference against its full digest */
};

struct eval_inputs {
    const struct eval_where *where;
    struct lm lm;
    struct range_file ranges;
    struct solved_file solved;
    struct eval_domains domains;
    bool bf16;
    struct eval_served served;
    char tokenizer[AQ_SHA256_HEX]; /* of the reference; "": it has none beside it */
};

/* domains: NAME=TOKENS words. Close also after a failure. */
int eval_inputs_open(struct eval_inputs *in, const struct eval_where *where,
                     const struct aq_names *domains, struct aq_err *err) AQ_MUST_CHECK;
void eval_inputs_close(struct eval_inputs *in);

struct eval_reference eval_inputs_reference(struct eval_inputs *in);
struct backend_config eval_inputs_config(const struct eval_inputs *in);
/* An operand of these inputs: of the same vocabulary, and of the tokenizer that made the texts. */
int eval_inputs_operand(struct eval_inputs *in, struct eval_operand *o, const char *path,
                        struct aq_err *err) AQ_MUST_CHECK;

#endif
