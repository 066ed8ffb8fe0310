/*
 * tokens.safetensors: the token ids of a data set, made by aq-calib tokens, read by all that run
 * the model. Sizes are prefixes of one list of samples. Ids are unpadded; padding is a rule that
 * the readers apply.
 *
 *     ids         I32 [N]
 *     offsets     I64 [S + 1]: sample s is ids[offsets[s]] to ids[offsets[s + 1] - 1]
 *     count_from  I32 [S], only where windows overlap: positions of sample s before this one are
 *                 context, their targets are those of an earlier sample
 *     metadata "aq": {"schema": "aq.tokens/2", "sizes": {"small": 16, ...}, "padding": s,
 *              "seq_len": n, "pad_id": n, "truncated": n, "tokenizer": s|null, "digest": s,
 *              "provenance": {...}}
 */
#ifndef AQ_TEXT_TOKENS_H
#define AQ_TEXT_TOKENS_H

#include "base/err.h"
#include "base/sha256.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TOKENS_SCHEMA "aq.tokens/2"

struct tokens_size {
    char *name;      /* "small" */
    int64_t samples; /* of the list, from its start */
};

struct tokens {
    int32_t *ids;
    int64_t id_count;
    int64_t *offsets; /* [samples + 1], rising from 0 to id_count */
    int64_t samples;
    int32_t *count_from;       /* [samples], or NULL: 0 for all */
    struct tokens_size *sizes; /* rising */
    size_t size_count;
    bool max_length; /* left padding to seq_len; else none */
    int64_t seq_len, truncated;
    int32_t pad_id;
    char digest[AQ_SHA256_HEX];
    char
        tokenizer[AQ_SHA256_HEX]; /* of symbols and merges (tokenizer_digest); "": ready-made ids */
    char tokenizer_files[AQ_SHA256_HEX], captions[AQ_SHA256_HEX]; /* written, not read back */
};

/* All that the format promises is checked, the digest included. */
int tokens_open(struct tokens *t, const char *path, struct aq_err *err) AQ_MUST_CHECK;
/* The same of a file's bytes; name is for messages. */
int tokens_parse(struct tokens *t, const void *bytes, size_t size, const char *name,
                 struct aq_err *err) AQ_MUST_CHECK;
void tokens_release(struct tokens *t);
/* Computes the digest and writes; t->digest is not read. path NULL or "-": standard output. */
int tokens_write(const struct tokens *t, const char *tool, int result_version, const char *path,
                 struct aq_err *err) AQ_MUST_CHECK;

#endif
