/*
 * The store: per candidate, group and sample the raw score sums, in one safetensors file.
 *
 *     s/<treatment id>/<prefix>     F64 [groups, samples]  raw sums
 *     d/<treatment id>/<prefix>     F64 [groups, samples]  gradient only: the same in dot form, sum
 *                                                          over tokens of (sum over the outputs of
 *                                                          the whole group of (Yq - Y) dY)^2
 *     f/<treatment id>/<prefix>     F64 [groups, samples]  gradient only: what the sample's first
 *                                                          row adds to s; that row is position 0,
 *                                                          or the one pad row of a padded sample
 *     clip/<treatment id>/<prefix>  F32 [groups, samples]  activation elements beyond the last code
 *     have/<treatment id>/<prefix>  U8  [layers, tiles]    1: the sums of all groups of the layer
 *                                                          are there
 *     check/<treatment id>/<prefix> U64 [layers, tiles]    of those sums: see store_check.h
 *     labels, sample_tokens         I32 [samples]
 *     tile_first                    I32 [tiles + 1]  first sample of each tile; the last is samples
 *     metadata "aq"                 schema, identity, weights of the model, its inputs and groups
 *                                   (as lm.json has them), digests of the ranges, treatments
 *
 *     metadata "digest"             of the header and of the three arrays above
 *
 * A row of a prefix is zero from sample `prefix` on, whatever `have` says of the tile: nobody is to
 * read more of it.
 *
 * Where `have` is 0, all numbers and the check are 0 and must not be read.
 *
 * Writing: STORE.part has its full size from the start; after each layer its numbers and checks are
 * written and synced, then its flags; at the end it is renamed to STORE. A killed run leaves
 * STORE.part, which the next run takes over. A lock beside it keeps two writers apart.
 */
#ifndef AQ_STORE_STORE_H
#define AQ_STORE_STORE_H

#include "base/err.h"
#include "base/file.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "model/groups.h"
#include "store/candidate.h"
#include "store/store_parts.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STORE_SCHEMA "aq.store/2"

struct store_shape {
    int64_t groups, layers, samples, tiles;
    bool gradient; /* has the parts that gradient scores alone have; taken from the identity */
};

struct store_key {
    char id[TREATMENT_ID];
    int64_t prefix;
};
/* Order for qsort and bsearch of whatever begins with a key: by id, then by prefix. */
int store_by_key(const void *a, const void *b);

/* Borrowed from the map; any alignment: use store_number. */
struct store_row {
    struct store_key key; /* first, for store_by_key */
    const char *w, *a;
    const char *solved;             /* digest of what it was made from; NULL: nothing was solved */
    const void *parts[STORE_PARTS]; /* [groups, samples] each; NULL: of gradient scores alone */
    uint8_t *have;     /* [layers, tiles], a copy: 0 where a damaged cell was left out */
    const void *check; /* [layers, tiles] */
};

/* An open store, for reading. */
struct store {
    char *path;
    struct st_file file;
    struct json *meta;
    struct store_shape shape;
    const struct json *identity, *weights, *ranges; /* objects inside meta */
    const struct json *solved;                      /* likewise; NULL: no candidate is calibrated */
    struct model_groups model;
    struct store_row *rows; /* by rising key */
    size_t count;
    int32_t *labels, *sample_tokens; /* [samples] */
    int32_t *tile_first;             /* [tiles + 1] */
    size_t damaged;                  /* cells that were left out */
    bool is_one;                     /* the file says that it is a store; also after a failure */
};

enum store_use {
    STORE_WHOLE, /* every cell and the header must be as they were written */
    STORE_PART, /* left by a killed run: there may be sums without flags; damaged cells are left out
                 */
    STORE_REPAIR, /* as PART, and a damaged header is taken if it can still be read */
};

/*
 * Everything is checked: the digest of the header, the check of every cell, schema, shapes, flags,
 * that numbers are finite and, being sums of squares, not negative, and that a first row adds no
 * more than the whole. Only a divergence may be negative: it is a small difference of large
 * numbers.
 */
int store_open_for(struct store *s, const char *path, enum store_use use,
                   struct aq_err *err) AQ_MUST_CHECK;
/* STORE_PART if the name ends in ".part", else STORE_WHOLE. */
int store_open(struct store *s, const char *path, struct aq_err *err) AQ_MUST_CHECK;
/* The same on memory that outlives s; name is for messages. */
int store_open_memory(struct store *s, const void *bytes, size_t size, const char *name,
                      enum store_use use, struct aq_err *err) AQ_MUST_CHECK;
void store_close(struct store *s);
const struct store_row *store_find(const struct store *s, const char *id, int64_t prefix);
/* One number of a row; the part must be there. */
double store_number(const struct store *s, const struct store_row *r, enum store_part part,
                    int64_t group, int64_t sample);
/* That of STORE_SUMS. */
double store_sum(const struct store *s, const struct store_row *r, int64_t group, int64_t sample);
bool store_have(const struct store *s, const struct store_row *r, int64_t layer, int64_t tile);
/* Is the row there in all layers for the first `samples` samples? */
bool store_complete(const struct store *s, const struct store_row *r, int64_t samples);

/*
 * The identities (JSON objects) must agree in every key; else AQ_EINPUT that names the first key
 * and both values.
 */
int store_same_identity(const struct json *found, const struct json *expected, const char *path,
                        struct aq_err *err) AQ_MUST_CHECK;

/* ---- writing ---- */

struct store_plan {
    struct store_shape shape;
    const struct json *identity; /* borrowed until the writer is closed */
    const struct json *weights;  /* see below */
    const struct model_groups *groups;
    const struct json *ranges; /* {"16": digest, ...} */
    const struct json *solved; /* {"<treatment_id>": digest, ...} */
    const struct candidates *candidates;
    const struct score_rows *rows;
    const int32_t *labels, *sample_tokens;
    const int32_t *tile_first;
};

struct lm;
/* Weights of the parts of a model, for budgets: {"lm", "head", "vision"}. Caller frees. */
struct json *store_weights(const struct lm *lm);

struct store_writer;

/* What to do with a STORE that cannot be gone on with. */
enum store_old {
    STORE_REFUSE,  /* an error */
    STORE_REPLACE, /* of other inputs, or damaged: start over */
    STORE_MEND,    /* damaged: keep its sound cells */
};

/*
 * Takes the lock, reads STORE and STORE.part as far as they exist, and starts the new STORE.part
 * with the rows of the plan and all rows that the old files hold. Rows whose range digest changed
 * are dropped (a note says so). Another identity is AQ_EINPUT, or with STORE_REPLACE such a file is
 * not used; rows of a candidate that was solved otherwise likewise. Both old files stay untouched
 * until the new part is complete.
 */
int store_begin(struct store_writer **out, const char *path, const struct store_plan *plan,
                enum store_old old, struct aq_err *err) AQ_MUST_CHECK;
/* Is this layer of the plan's row already there for the tile? */
bool store_done(const struct store_writer *w, size_t row, int64_t layer, int64_t tile);
/*
 * One group of a layer for samples from <= i < to. parts: [to - from] numbers of each part's type;
 * those that the method does not have are not read.
 */
int store_put(struct store_writer *w, size_t row, int64_t group, int64_t from, int64_t to,
              const void *const parts[STORE_PARTS], struct aq_err *err) AQ_MUST_CHECK;
/* The tile of this layer is complete for the row; takes effect with the next checkpoint. */
void store_mark(struct store_writer *w, size_t row, int64_t layer, int64_t tile);
int store_checkpoint(struct store_writer *w, struct aq_err *err) AQ_MUST_CHECK;
int store_commit(struct store_writer *w, struct aq_err *err) AQ_MUST_CHECK;
void store_writer_free(struct store_writer *w); /* keeps STORE.part if not committed */

/* ---- whole files ---- */

/* One store from many of the same identity; rows and tiles are united. Equal where they overlap. */
int store_merge(const char *path, const char *const *parts, size_t count,
                struct aq_err *err) AQ_MUST_CHECK;
/* Keeps only the rows of these treatments. */
int store_gc(const char *path, const char *const *ids, size_t count, size_t *dropped,
             struct aq_err *err) AQ_MUST_CHECK;
/* {"schema", "identity", "ranges", "samples", "rows": [...]} */
struct json *store_describe(const struct store *s);

#endif
