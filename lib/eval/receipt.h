/*
 * Receipts: what an operand costs against the reference, domain by domain and over all, as
 * aq.eval/1. A mean is a sum over positions divided by their number; its standard error comes from
 * the spread over samples by the ratio formula of store/score_sums.h; percentiles are by nearest
 * rank.
 */
#ifndef AQ_EVAL_RECEIPT_H
#define AQ_EVAL_RECEIPT_H

#include "eval/part.h"

#define EVAL_SCHEMA "aq.eval/1"

enum { EVAL_RESULT_VERSION = 11 };

/* The receipt of one operand, counted from 0. Warns of what it cannot say. */
struct json *eval_receipt(const struct eval_part *p, size_t operand);
/* All of them: one to `output` (NULL: standard output), several to output/1.json and so on. */
int eval_receipts_write(const struct eval_part *p, const char *output,
                        struct aq_err *err) AQ_MUST_CHECK;

#endif
