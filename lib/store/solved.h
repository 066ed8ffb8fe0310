/*
 * solved.safetensors, which `aq-calib solve` writes: what calibrated candidates need beside the
 * model, found once from the inputs of the unquantized network, and only read from then on.
 *
 *     scale/<id>/<input>    F32 [cols]             a weight's columns are multiplied by it, its
 *                                                  input divided
 *     scale/<id>/<linear>   F32 [cols]             the same, of candidates with scales of each
 *                                                  linear's own
 *     range/<id>/<linear>   F32 [rows, cols]       of the grid of ranges (quant_weight_grid)
 *     codes/<id>/<linear>   U8 [rows, bytes]       two's complement, `bits` bits each, low bits
 *                                                  first, rows padded to a byte
 *     metadata "aq"  {"schema": "aq.solved/1", "lm", "tokens", "prefix", "samples_tokens",
 * "ranges", "backend", "dtype", "result_version", "candidates": {"<id>": {"w", "a"}}, "layers":
 * [first, end], "inputs", "groups" (as lm.json has them), "tensors": {"<name>": sha256}, "digest":
 * of all this}
 *
 * Of experts, ranges and codes of a module have a dimension in front, and the metadata has
 * "experts": [{"layer", "experts", "unseen", "own_gate_up", "own_down"}], how many experts got no
 * token, and how many tokens enough of their own for either matrix.
 *
 * <id> is a treatment's id, <input> an index into inputs, <linear> "<group>.<module>". A tensor is
 * compared with its digest when it is first read.
 */
#ifndef AQ_STORE_SOLVED_H
#define AQ_STORE_SOLVED_H

#include "base/err.h"
#include "base/sha256.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "model/groups.h"
#include "store/candidate.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SOLVED_SCHEMA "aq.solved/1"

struct solved_tensor; /* what was read of it */

struct solved_file {
    char *path;
    struct st_file file;
    struct json *meta;
    struct model_groups model;
    const char *lm, *tokens;
    int64_t prefix, first_layer, end_layer;
    const struct json *candidates, *tensors; /* inside meta */
    struct solved_tensor *seen;              /* [file.count] */
};

/* Shapes and names are checked, and the digest of the metadata; not yet the tensors. */
int solved_open(struct solved_file *s, const char *path, struct aq_err *err) AQ_MUST_CHECK;
void solved_close(struct solved_file *s);
/* Of this model, and all of its layers? AQ_EINPUT names what differs. */
int solved_matches(const struct solved_file *s, const char *lm, const struct model_groups *g,
                   struct aq_err *err) AQ_MUST_CHECK;

/* The candidate must be there. out: SHA-256 of its treatments, and of names and digests of its
   tensors. */
int solved_digest(const struct solved_file *s, const char *id, char out[AQ_SHA256_HEX],
                  struct aq_err *err) AQ_MUST_CHECK;
/*
 * NULL and AQ_EINPUT: a tensor is missing, of another size, or damaged. What is returned belongs to
 * the file. Not from several threads.
 */
const float *solved_scale(struct solved_file *s, const char *id, size_t input, int64_t cols,
                          struct aq_err *err);
/* 1 / scale, the factor of the input. */
const float *solved_factor(struct solved_file *s, const char *id, size_t input, int64_t cols,
                           struct aq_err *err);
/* Both of a linear's own. */
const float *solved_own_scale(struct solved_file *s, const char *id, size_t group, int module,
                              int64_t cols, struct aq_err *err);
const float *solved_own_factor(struct solved_file *s, const char *id, size_t group, int module,
                               int64_t cols, struct aq_err *err);
const float *solved_ranges(struct solved_file *s, const char *id, size_t group, int module,
                           int64_t count, struct aq_err *err);
const uint8_t *solved_codes(struct solved_file *s, const char *id, size_t group, int module,
                            int64_t rows, int64_t row_bytes, struct aq_err *err);

/* ---- writing ---- */

struct solved_item {
    char *name; /* owned */
    enum st_dtype dtype;
    int rank;
    uint64_t shape[3];
    const void *data;
};
/*
 * Writes the tensors under this metadata, which gains "tensors" and "digest"; meta is borrowed.
 * Sorts the list.
 */
int solved_write(const char *path, const struct json *meta, struct solved_item *items, size_t count,
                 struct aq_err *err) AQ_MUST_CHECK;

#endif
