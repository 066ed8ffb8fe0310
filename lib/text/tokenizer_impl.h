/* Inside of a tokenizer; for tokenizer.c, tokenizer_pipeline.c and tokenizer_load.c. */
#ifndef AQ_TEXT_TOKENIZER_IMPL_H
#define AQ_TEXT_TOKENIZER_IMPL_H

#include "base/sha256.h"
#include "io/json.h"
#include "text/added.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"
#include "text/vocab.h"

enum { MAX_STEPS = 8 };

enum normal { NORMAL_NFC, NORMAL_PREPEND, NORMAL_REPLACE };

struct normal_step {
    enum normal kind;
    char *from, *to; /* PREPEND: to; REPLACE: both. Never empty */
};

/* Metaspace: blanks become U+2581, and one is put in front of a piece that does not begin with it.
 */
enum metaspace { META_NONE, META_NEVER, META_FIRST, META_ALWAYS };

struct tokenizer {
    struct vocab vocab;
    struct bpe bpe;
    struct added added;      /* looked for in the text as it is */
    struct added normalized; /* after the normalizer, which also went over these texts */
    struct normal_step normals[MAX_STEPS];
    size_t normal_count;
    enum metaspace metaspace;
    enum split splits[MAX_STEPS]; /* each splits the pieces of the one before it */
    size_t split_count;
    bool byte_level;      /* symbols spell bytes (byte_to_char), else characters */
    int32_t byte_id[256]; /* byte_level: the symbol; else "<0x0A>" with byte_fallback. -1: none */
    int32_t unk_id;       /* -1: none */
    bool fuse_unk, ignore_merges;
    struct tokenizer_specials specials;
    int32_t pad_id;
    struct aq_sha256 files, symbols; /* of what is being read */
    char files_digest[AQ_SHA256_HEX], digest[AQ_SHA256_HEX];
    char *bos, *eos;        /* texts, or NULL */
    char *chat_template;    /* of tokenizer_config.json or beside it, or NULL */
    struct aq_buf text[2];  /* scratch of the normalizer */
    struct aq_buf piece;    /* of Metaspace */
    struct aq_buf spelling; /* of one word */
};

/* Byte-level spelling: every byte is a printable character. */
uint32_t byte_to_char(unsigned char byte);
int char_to_byte(uint32_t c); /* -1: not one of the 256 */

/* The normalizer's result in *text and *len, borrowed until the next call. */
int tokenizer_normalize(struct tokenizer *t, const char **text, size_t *len,
                        struct aq_err *err) AQ_MUST_CHECK;

/* Everything of tokenizer.json that is neither model nor added token. */
int tokenizer_read_pipeline(struct tokenizer *t, const struct jref *root,
                            struct aq_err *err) AQ_MUST_CHECK;

/* Absent, null, false, 0 or "" all mean: off. */
int tokenizer_need_off(const struct jref *object, const char *const *keys, size_t count,
                       struct aq_err *err) AQ_MUST_CHECK;
int tokenizer_need_text(const struct jref *object, const char *key, const char *wanted,
                        struct aq_err *err) AQ_MUST_CHECK;
/* An optional bool. */
int tokenizer_flag(const struct jref *object, const char *key, bool otherwise, bool *out,
                   struct aq_err *err) AQ_MUST_CHECK;

#endif
