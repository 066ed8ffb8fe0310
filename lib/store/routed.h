/*
 * How many tokens the experts of a layer got while a group of them was measured, from
 * ranges.safetensors through scores.json into a manifest:
 *
 *     "routed": {"experts": 128, "unseen": 3, "least": 0, "median": 411, "most": 2960}
 *
 * An expert without tokens adds nothing to the group's score and its full size to the cost.
 */
#ifndef AQ_STORE_ROUTED_H
#define AQ_STORE_ROUTED_H

#include "base/err.h"
#include "io/json.h"

#include <stdbool.h>
#include <stdint.h>

struct routed {
    int64_t experts; /* 0: unknown, or the group has none */
    int64_t unseen;  /* of them, without a token */
    int64_t least, median, most;
};

/* counts: tokens of each expert. */
struct routed routed_of(const int32_t *counts, int64_t experts);
/* Is the score that of a part of the weights, with more than a tenth of them unseen? */
bool routed_partly(const struct routed *r);

void routed_write(const struct routed *r, struct json *object, const char *key);
/* *out is zero where the object does not have the key. AQ_EINPUT: numbers that contradict. */
int routed_read(const struct jref *object, const char *key, struct routed *out,
                struct aq_err *err) AQ_MUST_CHECK;

#endif
