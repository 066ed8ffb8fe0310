/* UTF-8: decode, encode, validate. Strict: no surrogates, no overlong forms, at most U+10FFFF. */
#ifndef AQ_BASE_UTF8_H
#define AQ_BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Bytes used (1 to 4) and the code point in *c; 0 if len is 0; -1 if the bytes are not valid. */
int aq_utf8_decode(const unsigned char *s, size_t len, uint32_t *c);
/* Writes 1 to 4 bytes, returns how many. c must be a valid scalar value. */
int aq_utf8_encode(uint32_t c, char out[4]);
/* Offset of the first invalid byte, or len if all is valid. */
size_t aq_utf8_check(const void *s, size_t len);

#endif
