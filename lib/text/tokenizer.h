/*
 * Tokenizers of decoder models: added tokens are cut out, the rest is normalized, split into words,
 * and each word is encoded by byte-pair encoding, over bytes (Qwen, Llama 3, SmolLM, Granite) or
 * over characters with bytes to fall back on (Llama 2, Mistral, Phi-3, Gemma).
 *
 * tokenizer_open reads tokenizer.json, or vocab.json with merges.txt; what it does not implement
 * (other models, normalizers, pre-tokenizers, flags) is refused by name. The ids are those of
 * Hugging Face tokenizers; only a byte or character for which the vocabulary has no symbol at all,
 * which that package drops in silence, is an error here. A tokenizer is not for several threads at
 * once: it owns scratch memory.
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
    TOKENIZER_MAX_SPECIALS = 8,
};

struct tokenizer;

/* What the post-processor puts around a text: Llama's begin token, for example. */
struct tokenizer_specials {
    int32_t before[TOKENIZER_MAX_SPECIALS], after[TOKENIZER_MAX_SPECIALS];
    size_t before_count, after_count;
};

/* A directory, a tokenizer.json, or a vocab.json. NULL on error. */
struct tokenizer *tokenizer_open(const char *path, struct aq_err *err);
/* tokenizer.json from memory, with an optional tokenizer_config.json; names are for messages. */
struct tokenizer *tokenizer_parse(const char *json, size_t len, const char *name,
                                  const char *config, size_t config_len, struct aq_err *err);
void tokenizer_free(struct tokenizer *t);

/*
 * Appends the ids of a text, without the specials around it; once there are `enough` of them, the
 * rest of the text may be left out. Bytes that are not UTF-8 are AQ_EINPUT, the message names their
 * offset.
 */
int tokenizer_encode(struct tokenizer *t, const char *text, size_t len, size_t enough,
                     struct ids *out, struct aq_err *err) AQ_MUST_CHECK;

/* SHA-256 of symbols with their ids, and of merges in order: the same for all spellings. */
const char *tokenizer_digest(const struct tokenizer *t);
/* SHA-256 of the files that it was read from, one after the other; of memory: of that text. */
const char *tokenizer_files_digest(const struct tokenizer *t);
int32_t tokenizer_pad_id(const struct tokenizer *t); /* -1: none */
const struct tokenizer_specials *tokenizer_specials(const struct tokenizer *t);
/* The begin and end tokens' texts as tokenizer_config.json has them; "" if it does not. */
const char *tokenizer_bos(const struct tokenizer *t);
const char *tokenizer_eos(const struct tokenizer *t);
/* The Jinja text that makes one text of a conversation; NULL if there is none. */
const char *tokenizer_chat_template(const struct tokenizer *t);
/* The bytes of a token, any bytes; nothing for an id that does not exist. */
void tokenizer_piece(const struct tokenizer *t, int32_t id, struct aq_buf *out);

#endif
