#include "io/zip.h"

#include <assert.h>
#include <string.h>

enum {
    LOCAL_SIGNATURE = 0x04034b50,
    CENTRAL_SIGNATURE = 0x02014b50,
    END_SIGNATURE = 0x06054b50,
    VERSION = 10,            /* needed for stored entries */
    FIRST_DATE = 0x0021,     /* 1980-01-01, the earliest the format can say */
    ATTRIBUTES = 0600 << 16, /* what Python's zipfile gives to data */
};

uint32_t zip_crc32(const void *data, size_t n)
{
    static uint32_t table[256];
    if (!table[1]) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int bit = 0; bit < 8; bit++)
                c = c & 1 ? 0xedb88320U ^ (c >> 1) : c >> 1;
            table[i] = c;
        }
    }
    const unsigned char *p = data;
    uint32_t crc = 0xffffffffU;
    for (size_t i = 0; i < n; i++)
        crc = table[(crc ^ p[i]) & 0xff] ^ (crc >> 8);
    return crc ^ 0xffffffffU;
}

static void add_u16(struct aq_buf *b, unsigned v)
{
    aq_buf_addc(b, (char)(v & 0xff));
    aq_buf_addc(b, (char)(v >> 8 & 0xff));
}

static void add_u32(struct aq_buf *b, uint32_t v)
{
    add_u16(b, v & 0xffff);
    add_u16(b, v >> 16);
}

/* What the local header and the directory say alike. */
static void add_facts(struct aq_buf *b, uint32_t crc, size_t n, size_t name_len)
{
    add_u16(b, VERSION);
    add_u16(b, 0); /* flags */
    add_u16(b, 0); /* method: stored */
    add_u16(b, 0); /* time */
    add_u16(b, FIRST_DATE);
    add_u32(b, crc);
    add_u32(b, (uint32_t)n); /* compressed */
    add_u32(b, (uint32_t)n);
    add_u16(b, (unsigned)name_len);
    add_u16(b, 0); /* extra */
}

void zip_add(struct zip_writer *z, const char *name, const void *data, size_t n)
{
    size_t name_len = strlen(name), at = z->out.len;
    uint32_t crc = zip_crc32(data, n);
    assert(name_len < 0xffff && n < UINT32_MAX - 0x10000 - at && z->count < 0xffff);
    add_u32(&z->out, LOCAL_SIGNATURE);
    add_facts(&z->out, crc, n, name_len);
    aq_buf_add(&z->out, name, name_len);
    aq_buf_add(&z->out, data, n);
    add_u32(&z->central, CENTRAL_SIGNATURE);
    add_u16(&z->central, VERSION); /* made by */
    add_facts(&z->central, crc, n, name_len);
    add_u16(&z->central, 0); /* comment */
    add_u16(&z->central, 0); /* disk */
    add_u16(&z->central, 0); /* internal attributes */
    add_u32(&z->central, ATTRIBUTES);
    add_u32(&z->central, (uint32_t)at);
    aq_buf_add(&z->central, name, name_len);
    z->count++;
}

void zip_finish(struct zip_writer *z, struct aq_buf *out)
{
    size_t at = z->out.len, size = z->central.len;
    aq_buf_add(&z->out, z->central.data, size);
    add_u32(&z->out, END_SIGNATURE);
    add_u16(&z->out, 0); /* disk */
    add_u16(&z->out, 0);
    add_u16(&z->out, (unsigned)z->count);
    add_u16(&z->out, (unsigned)z->count);
    add_u32(&z->out, (uint32_t)size);
    add_u32(&z->out, (uint32_t)at);
    add_u16(&z->out, 0); /* comment */
    aq_buf_release(&z->central);
    *out = z->out;
    *z = (struct zip_writer)ZIP_WRITER_INIT;
}
