/*
 * The pass: reference and operands go through their layers side by side, some tiles at a time, so
 * that the reference is computed once for all operands and a layer's weights are loaded once for
 * all tiles of a batch. What a tile gives depends on the tile alone.
 */
#ifndef AQ_EVAL_PASS_H
#define AQ_EVAL_PASS_H

#include "eval/domain.h"
#include "eval/operand.h"
#include "eval/part.h"

struct eval_pass_job {
    const char *device;
    struct backend_config config; /* of the reference and the operands */
    uint64_t memory;              /* 0: no limit */
    const struct lm *lm;          /* the reference */
    struct eval_domains *domains; /* not tiled yet */
    struct eval_operand *operands;
    size_t count;
    bool routing; /* of mixtures, also measure each operand with the reference's routes */
};

struct eval_pass;

/* Opens the backend and the models and cuts the domains into tiles. Close also after a failure. */
int eval_pass_open(struct eval_pass **out, const struct eval_pass_job *job,
                   struct aq_err *err) AQ_MUST_CHECK;
void eval_pass_close(struct eval_pass *p);                /* NULL is fine */
const char *eval_pass_backend(const struct eval_pass *p); /* its identity */
/* Is the noise of bf16 arithmetic measured? It is where the backend has any. */
bool eval_pass_noise(const struct eval_pass *p);
/* On the first samples of a domain. */
int64_t eval_pass_noise_samples(const struct eval_pass *p, size_t domain);

/* Is the operands' own routing compared with the reference's? It is where it is asked for, and all
   of them are mixtures of the reference's shape. */
bool eval_pass_routing(const struct eval_pass *p);

/* Called when the tiles before `end` are in the part. */
typedef int eval_saved_fn(void *arg, size_t end, struct aq_err *err);
/* Measures tiles first <= t < end into part, whose domains have the order of the job's. */
int eval_pass_run(struct eval_pass *p, size_t first, size_t end, struct eval_part *part,
                  eval_saved_fn *saved, void *arg, struct aq_err *err) AQ_MUST_CHECK;

#endif
