/* SHA-256 (FIPS 180-4), streaming. Used for input digests and candidate keys. */
#ifndef AQ_BASE_SHA256_H
#define AQ_BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

struct aq_sha256 {
    uint32_t h[8];
    uint64_t bytes;
    unsigned char block[64];
};

enum { AQ_SHA256_HEX = 65 };

void aq_sha256_init(struct aq_sha256 *s);
void aq_sha256_add(struct aq_sha256 *s, const void *data, size_t n);
void aq_sha256_hex(struct aq_sha256 *s, char out[AQ_SHA256_HEX]); /* ends the stream */
void aq_sha256_of(const void *data, size_t n, char out[AQ_SHA256_HEX]);

#endif
