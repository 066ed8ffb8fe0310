/*
 * Many receipts side by side: what was predicted of each operand and what was measured, and how
 * well the predictions did over all of them.
 */
#ifndef AQ_EVAL_RECEIPTS_H
#define AQ_EVAL_RECEIPTS_H

#include "base/buf.h"
#include "base/err.h"
#include "io/json.h"

#include <stdbool.h>
#include <stddef.h>

#define RECEIPTS_SCHEMA "aq.receipts/1"

struct receipt_row {
    char *file, *digest;
    double bits, predicted, low, high, kl, se; /* NAN: the receipt does not say */
};

struct receipts {
    struct receipt_row *rows; /* in the order of the files */
    size_t count;
    /* Over the rows with a prediction; NAN for fewer than 3, or if all are equal. */
    double rank_correlation; /* Spearman's, of predicted and measured */
    double slope, residual;  /* of log measured on log predicted: least squares */
    double coverage;         /* share of rows that are within their interval */
};

/* AQ_EINPUT: a file that is not a receipt, or receipts of another reference, text or dtype. */
int receipts_read(struct receipts *r, const char *const *paths, size_t count,
                  struct aq_err *err) AQ_MUST_CHECK;
void receipts_release(struct receipts *r);

struct json *receipts_json(const struct receipts *r);
/* digest, bits, predicted, low, high, kl, se; empty where not known. */
void receipts_tsv(const struct receipts *r, struct aq_buf *out);

#endif
