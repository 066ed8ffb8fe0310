/*
 * ranges.safetensors, made by aq-calib ranges: largest magnitudes at the inputs of the linears. i
 * is an index into the model's inputs.
 *
 *     first        F32 [inputs, samples]  first text row of each sample
 *     rest         F32 [inputs, samples]  all other text rows
 *     pad          F32 [inputs]           of the pad row; with max_length only
 *     channel/<i>  F32 [prefixes, in]     per column, pads included
 *     mean/<i>     F64 [prefixes, in]     mean magnitude per column, pads left out; of the inputs
 *                                         of experts over the rows that are routed to them
 *     routed/<l>   I32 [prefixes, experts]  of layer l with experts: tokens of each, without pads
 *     metadata "aq"  {"schema": "aq.ranges/2", "prefixes": [16, ...], "lm", "tokens", "backend",
 *                    "dtype", "inputs", "groups" (as lm.json has them), "digest": of all this}
 */
#ifndef AQ_STORE_RANGE_FILE_H
#define AQ_STORE_RANGE_FILE_H

#include "base/err.h"
#include "base/sha256.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "model/groups.h"
#include "quant/quant.h"
#include "store/routed.h"

#include <stddef.h>
#include <stdint.h>

#define RANGES_SCHEMA "aq.ranges/2"

enum { RANGES_MAX_PREFIXES = 64 };

struct range_file {
    char *path;
    struct st_file file;
    struct json *meta;
    struct model_groups model;
    int64_t samples;
    int64_t prefixes[RANGES_MAX_PREFIXES];
    size_t prefix_count;
    /* digests of what it was made from, and what it was computed with */
    const char *lm, *tokens, *backend, *dtype;
    const struct st_tensor **channel, **mean; /* [inputs] */
    const struct st_tensor **routed;  /* [layers]; NULL: no experts */
    float *first, *rest;              /* [inputs, samples] */
    float *pad;                       /* [inputs]; NULL: none */
    float *hidden;                    /* room for one input's columns */
};

/* A file whose digest differs, or that is not what this page says, is AQ_EINPUT. */
int range_file_open(struct range_file *r, const char *path, struct aq_err *err) AQ_MUST_CHECK;
void range_file_close(struct range_file *r);

/* Who uses the ranges. */
struct range_user {
    const char *lm, *tokens; /* digests; tokens NULL: any */
    const struct model_groups *model;
    const char *backend, *dtype; /* NULL: any */
};
/* Made from this model and these tokens, on this backend? AQ_EINPUT names what differs. */
int range_file_matches(const struct range_file *r, const struct range_user *user,
                       struct aq_err *err) AQ_MUST_CHECK;
/* Position of a prefix; -1 with AQ_EINPUT that lists those it has. */
int range_file_prefix(const struct range_file *r, int64_t prefix, struct aq_err *err) AQ_MUST_CHECK;
/* The range of an input over a prefix; out->hidden stays valid until the next call. */
void range_file_get(struct range_file *r, int64_t input, int position, struct quant_range *out);
/* Mean magnitudes of an input over a prefix: mean, [cols], set. */
void range_file_mean(const struct range_file *r, int64_t input, int position, double *mean);
/* Largest of the first text rows over a prefix, divided by the largest of all others; NAN: those
   are 0, or there are none. */
double range_file_ratio(const struct range_file *r, int64_t input, int position);
/* Tokens of the layer's experts over a prefix; .experts is 0 for a dense layer. */
struct routed range_file_routed(const struct range_file *r, int64_t layer, int position);
/* SHA-256 of all ranges of a prefix. */
void range_file_digest(struct range_file *r, int position, char out[AQ_SHA256_HEX]);

/* ---- writing ---- */

struct range_tensor {
    char *name;
    enum st_dtype dtype;
    int rank;
    uint64_t shape[2]; /* shape[1] is 1 for a vector */
    const void *data;
};
/*
 * The file's digest: SHA-256 of the metadata as text, without the digest itself, and of name, shape
 * and bytes of every tensor in the order of names. Sorts the list.
 */
int range_file_seal(const struct json *aq, struct range_tensor *tensors, size_t count,
                    char out[AQ_SHA256_HEX], struct aq_err *err) AQ_MUST_CHECK;

#endif
