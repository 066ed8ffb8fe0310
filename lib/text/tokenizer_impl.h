/* Inside of a tokenizer; for tokenizer.c and tokenizer_load.c. */
#ifndef AQ_TEXT_TOKENIZER_IMPL_H
#define AQ_TEXT_TOKENIZER_IMPL_H

#include "base/sha256.h"
#include "io/json.h"
#include "text/added.h"
#include "text/tokenizer.h"
#include "text/vocab.h"

struct tokenizer {
    struct vocab vocab;
    struct bpe bpe;
    struct added added;
    int32_t pad_id;
    struct aq_sha256 sum; /* of what is being read */
    char digest[AQ_SHA256_HEX];
    struct aq_buf normalized; /* scratch */
};

/* Byte-level spelling: every byte is a printable character. */
uint32_t byte_to_char(unsigned char byte);
int char_to_byte(uint32_t c); /* -1: not one of the 256 */

#endif
