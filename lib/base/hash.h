/* FNV-1a, for hash tables and the like; nothing that is written depends on it. */
#ifndef AQ_BASE_HASH_H
#define AQ_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#define AQ_HASH_START 0xcbf29ce484222325U

/* Goes on from h with n more bytes. */
static inline uint64_t aq_hash(uint64_t h, const void *bytes, size_t n)
{
    for (const unsigned char *p = bytes; n--; p++)
        h = (h ^ *p) * 0x100000001b3U;
    return h;
}

#endif
