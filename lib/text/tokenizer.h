/*
 * The tokenizer of Qwen2, Qwen3 and Qwen3-VL: added tokens are cut out, the rest is brought to
 * NFC, split into pre-tokens, and each is encoded by byte-level BPE. No begin or end token.
 *
 * tokenizer_open reads tokenizer.json, or vocab.json with merges.txt; what it does not implement
 * (other models, normalizers, pre-tokenizers, flags) is refused by name. A tokenizer is not for
 * several threads at once: it owns scratch memory.
 */
#ifndef AQ_TEXT_TOKENIZER_H
#define AQ_TEXT_TOKENIZER_H

#include "base/buf.h"
#include "base/err.h"
#include "text/bpe.h"

#include <stddef.h>
#include <stdint.h>

enum {
    TOKENIZER_MAX_VOCAB = 1 << 22,
    TOKENIZER_MAX_FILE = 256 << 20,
};

struct tokenizer;

/* A directory, a tokenizer.json, or a vocab.json. NULL on error. */
struct tokenizer *tokenizer_open(const char *path, struct aq_err *err);
/* tokenizer.json from memory, with an optional tokenizer_config.json; names are for messages. */
struct tokenizer *tokenizer_parse(const char *json, size_t len, const char *name,
                                  const char *config, size_t config_len, struct aq_err *err);
void tokenizer_free(struct tokenizer *t);

/*
 * Appends the ids of a text; once there are `enough` of them, the rest of the text may be left
 * out. Bytes that are not UTF-8 are AQ_EINPUT, the message names their offset.
 */
int tokenizer_encode(struct tokenizer *t, const char *text, size_t len, size_t enough,
                     struct ids *out, struct aq_err *err) AQ_MUST_CHECK;

/* SHA-256 of the files that it was read from, one after the other; of memory: of that text. */
const char *tokenizer_digest(const struct tokenizer *t);
int32_t tokenizer_pad_id(const struct tokenizer *t); /* -1: none */
/* The bytes of a token, any bytes; nothing for an id that does not exist. */
void tokenizer_piece(const struct tokenizer *t, int32_t id, struct aq_buf *out);

#endif
