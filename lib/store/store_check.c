#include "store/store_check.h"

#include <string.h>

static void add_u64(struct aq_sha256 *h, uint64_t v)
{
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(v >> (8 * i));
    aq_sha256_add(h, bytes, sizeof bytes);
}

static void add_columns(struct aq_sha256 *h, const void *data, size_t size,
                        const struct store_cell *c)
{
    for (size_t g = 0; g < c->groups; g++)
        aq_sha256_add(h, (const char *)data + g * c->stride * size, c->samples * size);
}

/* 16 hexadecimal digits as 8 bytes, the first byte lowest. */
static uint64_t first_bytes(const char hex[AQ_SHA256_HEX])
{
    uint64_t v = 0;
    for (int i = 0; i < 16; i++) {
        uint64_t digit = (uint64_t)(hex[i] <= '9' ? hex[i] - '0' : hex[i] - 'a' + 10);
        v |= digit << (8 * (i / 2) + (i % 2 ? 0 : 4));
    }
    return v;
}

uint64_t store_cell_check(const struct store_key *key, int64_t layer, int64_t tile,
                          const struct store_cell *c)
{
    struct aq_sha256 h;
    char hex[AQ_SHA256_HEX];
    aq_sha256_init(&h);
    aq_sha256_add(&h, key->id, TREATMENT_ID - 1);
    add_u64(&h, (uint64_t)key->prefix);
    add_u64(&h, (uint64_t)layer);
    add_u64(&h, (uint64_t)tile);
    for (int p = 0; p < STORE_PARTS; p++)
        if (c->parts[p])
            add_columns(&h, c->parts[p], store_part_kinds[p].size, c);
    aq_sha256_hex(&h, hex);
    return first_bytes(hex);
}

static bool all_zero(const void *data, size_t size, const struct store_cell *c)
{
    size_t n = c->samples * size;
    for (size_t g = 0; g < c->groups && n > 0; g++) {
        const char *p = (const char *)data + g * c->stride * size;
        if (p[0] || memcmp(p, p + 1, n - 1) != 0)
            return false;
    }
    return true;
}

bool store_cell_empty(const struct store_cell *c)
{
    for (int p = 0; p < STORE_PARTS; p++)
        if (c->parts[p] && !all_zero(c->parts[p], store_part_kinds[p].size, c))
            return false;
    return true;
}

void store_header_digest(const struct store_header *h, char out[AQ_SHA256_HEX])
{
    enum { DIGITS = AQ_SHA256_HEX - 1 };
    struct aq_sha256 s;
    size_t before = (size_t)(h->digits - h->bytes);
    aq_sha256_init(&s);
    aq_sha256_add(&s, h->bytes, before);
    aq_sha256_add(&s, STORE_NO_DIGEST, DIGITS);
    aq_sha256_add(&s, h->digits + DIGITS, h->size - before - DIGITS);
    aq_sha256_add(&s, h->labels, h->labels_size);
    aq_sha256_add(&s, h->sample_tokens, h->sample_tokens_size);
    aq_sha256_add(&s, h->tile_first, h->tile_first_size);
    aq_sha256_hex(&s, out);
}
