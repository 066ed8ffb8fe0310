/*
 * tokens.safetensors, made by aq-calib tokens: the samples of a data set as token ids.
 *
 *     ids       I32 [N]      all samples, one behind the other, unpadded
 *     offsets   I64 [S + 1]  where each begins
 *     metadata "aq"          {"schema": "aq.tokens/1", "sizes": {"small": 16, ...}, "padding": s,
 *                            "seq_len": n, "pad_id": n, "truncated": n, "digest": s}
 */
#ifndef AQ_SENS_TOKEN_FILE_H
#define AQ_SENS_TOKEN_FILE_H

#include "base/err.h"
#include "io/json.h"
#include "nn/tile.h"

#include <stdint.h>

#define TOKENS_SCHEMA "aq.tokens/1"

struct token_file {
    struct json *meta;
    const char *digest;        /* of what the file holds */
    const char *padding;       /* "none", "max_length" */
    struct tile_source source; /* arrays owned here; samples may be lowered to take fewer */
    int32_t *ids;
    int64_t *offsets;
};

int token_file_open(struct token_file *t, const char *path, struct aq_err *err) AQ_MUST_CHECK;
void token_file_close(struct token_file *t);

#endif
