/*
 * ranges.safetensors, made by aq-calib ranges: largest magnitudes at the inputs of the linears.
 *
 *     amax                     F32 [layers * 4, samples]  per tensor; inputs qkv, o, gate_up, down
 *     pad                      F32 [layers * 4]           of the pad row; with max_length only
 *     channel/<layer>.<input>  F32 [prefixes, in]         per column, pads included
 *     metadata "aq"            {"schema": "aq.ranges/1", "prefixes": [16, ...], "lm": digest,
 *                              "tokens": digest, "backend": s}
 */
#ifndef AQ_STORE_RANGE_FILE_H
#define AQ_STORE_RANGE_FILE_H

#include "base/err.h"
#include "base/sha256.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "nn/qwen3.h"
#include "quant/quant.h"
#include <stddef.h>
#include <stdint.h>

#define RANGES_SCHEMA "aq.ranges/1"

enum { RANGES_MAX_PREFIXES = 64 };

struct range_file {
    char *path;
    struct st_file file;
    struct json *meta;
    int64_t layers, samples;
    int64_t prefixes[RANGES_MAX_PREFIXES];
    size_t prefix_count;
    const char *lm, *tokens; /* digests of what it was made from */
    float *amax;             /* [layers * 4, samples] */
    float *pad;              /* [layers * 4]; NULL: none */
    float *hidden;           /* room for one input's columns */
};

int range_file_open(struct range_file *r, const char *path, struct aq_err *err) AQ_MUST_CHECK;
void range_file_close(struct range_file *r);
/* Made from this model and these tokens? AQ_EINPUT names what differs. */
int range_file_matches(const struct range_file *r, const char *lm, const char *tokens,
                       const struct qwen3_config *c, struct aq_err *err) AQ_MUST_CHECK;
/* Position of a prefix; -1 with AQ_EINPUT that lists those it has. */
int range_file_prefix(const struct range_file *r, int64_t prefix, struct aq_err *err) AQ_MUST_CHECK;
/* The range of an input over the first samples; out->hidden stays valid until the next call. */
void range_file_get(struct range_file *r, int64_t layer, enum qwen3_input input, int position,
                    struct quant_range *out);
/* SHA-256 of all ranges of a prefix. */
void range_file_digest(struct range_file *r, int position, char out[AQ_SHA256_HEX]);

#endif
