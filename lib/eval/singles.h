/*
 * aq-eval singles: what each candidate of each group costs alone, and how they add up.
 *
 *     kl            F64 [groups, candidates, samples]  sums of KL(reference || changed) over each
 *                                                      sample's counted positions, in nats
 *     positions     I64 [samples]                      how many those are
 *     cov           F64 [n, n]  n = groups x candidates, (group, candidate) in that order: the
 *                               mean over positions of the inner products of eval/sketch.h; KL of
 *                               several together is half the sum over all their pairs, to second
 *                               order
 *     pair/<layer>  F64 [k, k]  the same of the groups of one layer: what two of them cost more
 *                               together than apart; 0 for two candidates of one group
 *     metadata "aq": {"schema": "aq.singles/1", "lm", "tokens", "dtype", "backend", "groups":
 *                    [names], "layers": [of each], "candidates": [{"name", "treatment_id"}],
 *                    "digest": of all tensors, "provenance"}
 */
#ifndef AQ_EVAL_SINGLES_H
#define AQ_EVAL_SINGLES_H

#include "eval/inputs.h"
#include "select/select_pairs.h"

enum { SINGLES_RESULT_VERSION = 4 };

struct singles_options {
    struct eval_where where;
    const char *domain; /* NAME=TOKENS */
    const char *output;
    const char *const *scores;
    size_t count;
};

int eval_singles(const struct singles_options *o, struct aq_err *err) AQ_MUST_CHECK;

#endif
