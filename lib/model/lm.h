/*
 * lm.json: where the language model's tensors lie in the files of a checkpoint. Nothing is copied:
 * lm_open maps the files and hands out pointers. The tensors are exactly those that the
 * architecture needs, in a fixed order, and their shapes agree with it: whoever holds an open
 * struct lm need not check them again.
 *
 * Names carry no prefix: "embed_tokens.weight", "layers.3.mlp.up_proj.weight", "norm.weight", and
 * "lm_head.weight" where the head is not tied to the embedding.
 */
#ifndef AQ_MODEL_LM_H
#define AQ_MODEL_LM_H

#include "base/arena.h"
#include "base/err.h"
#include "base/file.h"
#include "base/names.h"
#include "base/sha256.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "model/arch.h"
#include "model/groups.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LM_SCHEMA "aq.lm/2"

struct lm_tensor {
    const char *name;    /* as analysed: no prefix */
    const char *source;  /* as in the checkpoint */
    enum st_dtype dtype; /* ST_BF16, ST_F16 or ST_F32 */
    /* 1, 2, or 3 for the fused weights of all experts; a Linear is (out, in), row-major */
    int rank;
    uint64_t shape[3];
    bool transposed; /* of rank 3: (experts, in, out) instead of (experts, out, in) */
    uint64_t elements;
    uint32_t file;
    uint64_t begin, end; /* byte range in the file */
    const void *data;    /* into the map, any alignment; NULL before lm_map */
};

struct lm_file {
    const char *name; /* a plain name inside the root */
    uint64_t bytes;
    struct aq_map map;
};

/* What the checkpoint holds besides the language model. */
struct lm_dropped {
    const char *prefix;
    uint64_t tensors, elements;
    uint64_t linears, linear_weights; /* weights of Linear and Conv modules, for budgets */
};

enum lm_digest { LM_DIGEST_SAMPLE, LM_DIGEST_FULL };

struct lm {
    struct lm_arch arch;
    const char *root; /* directory of the files, as it was given */
    struct lm_file *files;
    size_t file_count;
    struct lm_tensor *tensors; /* in the order of model_layout */
    size_t count;
    struct aq_names names; /* theirs */
    const struct lm_tensor *head;
    struct lm_dropped *dropped;
    size_t dropped_count;
    struct model_groups groups;
    char digest[AQ_SHA256_HEX]; /* of the sample kind: identifies the model everywhere */
    char full[AQ_SHA256_HEX];   /* of all bytes; "" if it was not computed */
    struct aq_arena strings;    /* owns all the names */
};

/*
 * Reads lm.json ("-": standard input), maps the files, and checks that they still hold what was
 * extracted: sizes, ranges, shapes, groups, and the sample digest. The root is taken relative to
 * the working directory. lm_close also after a failure is harmless.
 */
int lm_open(struct lm *lm, const char *path, struct aq_err *err) AQ_MUST_CHECK;
void lm_close(struct lm *lm);
/* Reads all bytes and compares them with the full digest, which must be there. */
int lm_verify(const struct lm *lm, const char *path, struct aq_err *err) AQ_MUST_CHECK;

const struct lm_tensor *lm_find(const struct lm *lm, const char *name); /* NULL if absent */

/* ---- the pieces, for extraction ---- */

/* Without data: no file is opened. name is for messages. */
int lm_from_json(struct lm *lm, const struct json *v, const char *name,
                 struct aq_err *err) AQ_MUST_CHECK;
struct json *lm_to_json(const struct lm *lm, const char *tool, int result_version);
int lm_map(struct lm *lm, struct aq_err *err) AQ_MUST_CHECK;
/* Fills names and head; the tensors are in place. */
void lm_index(struct lm *lm);
/*
 * SHA-256 of the architecture and of every tensor's name, dtype, shape and bytes: all of them, or
 * the first, middle and last 4 KiB. It does not depend on how the checkpoint is cut into files,
 * nor on what was dropped. Needs mapped files.
 */
void lm_compute_digest(const struct lm *lm, enum lm_digest kind, char out[AQ_SHA256_HEX]);

#endif
