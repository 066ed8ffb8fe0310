/*
 * Measurements by position: the result of a pass, from which receipts are made. A shard
 * writes them as a file, an unfinished run as well; merge unites files.
 *
 *     <operand>/<domain>/kl, rkl  F64 [positions]     <operand> counts from 1
 *     <operand>/<domain>/nll      F64 [2, positions]  of the reference, of the operand
 *     <operand>/<domain>/top1     U8 [positions]      1: the same most likely id
 *     <operand>/<domain>/routing  F64 [positions]     of mixtures, whose identity says "routing":
 *                                                     KL(operand with the reference's routes ||
 *                                                     operand with its own)
 *     noise/<domain>              F64 [positions]     KL(fp32 || bf16) of the reference, if that is
 *                                                     measured; of samples < noise_samples
 *     <domain>/offsets            I64 [samples + 1]   positions before each sample
 *
 * metadata "aq": {"schema": "aq.eval_part/1", "identity": {...}, "done": {"<domain>": [first,
 * end]}, "digest": of all this}
 *
 * Positions and samples are those of the file: samples first <= s < end of the domain.
 */
#ifndef AQ_EVAL_PART_H
#define AQ_EVAL_PART_H

#include "base/err.h"
#include "io/json.h"

#include <stddef.h>
#include <stdint.h>

#define EVAL_PART_SCHEMA "aq.eval_part/1"

struct eval_values {
    double *kl, *rkl, *nll_reference, *nll; /* [positions] */
    double *routing;                        /* likewise; NULL: not measured */
    uint8_t *top1;
};

struct eval_part_domain {
    char *name;
    int64_t first, end;         /* samples that there are values of */
    int64_t samples;            /* of the domain */
    int64_t *offsets;           /* [samples + 1]: positions of the whole domain */
    struct eval_values *values; /* [operands], for all positions of the domain */
    double *noise;              /* likewise; NULL: not measured */
};

/* identity: what was compared, as the receipt repeats it: {"reference", "operands": [...], "dtype",
   "backend", "noise", "routing" (where it is measured), "domains": {"<n>": {"tokens", "samples"[,
   "noise_samples"]}},
   "result_version"}. */
struct eval_part {
    struct json *identity;
    size_t operands;
    struct eval_part_domain *domains;
    size_t count;
    bool noise, routing;
};

/* Takes identity over. Domains are added one by one, with offsets copied. */
void eval_part_init(struct eval_part *p, struct json *identity, size_t operands, bool noise);
void eval_part_add(struct eval_part *p, const char *name, int64_t samples, const int64_t *offsets);
void eval_part_release(struct eval_part *p);

int eval_part_write(const struct eval_part *p, const char *path, struct aq_err *err) AQ_MUST_CHECK;
/* A file that is damaged or says otherwise is AQ_EINPUT. */
int eval_part_read(struct eval_part *p, const char *path, struct aq_err *err) AQ_MUST_CHECK;
/* All samples of all files. AQ_EINPUT: other identities, a gap, or values that differ. */
int eval_part_merge(struct eval_part *p, const char *const *paths, size_t count,
                    struct aq_err *err) AQ_MUST_CHECK;

#endif
