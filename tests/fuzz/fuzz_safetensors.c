/*
 * safetensors files. The input is read as it is, and again as a header up to the first zero byte
 * with the data after it, the length in front put right. What is accepted must tile the data,
 * give up its first and last bytes, and be found by name.
 */
#include "base/mem.h"
#include "io/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile unsigned char sink;

static void check_accepted(const struct st_file *f)
{
    uint64_t at = f->count ? f->tensors[0].begin : f->map.size;
    for (size_t i = 0; i < f->count; i++) {
        const struct st_tensor *t = &f->tensors[i];
        const unsigned char *p = t->data;
        if (t->begin != at || t->end < t->begin || t->end > f->map.size || st_find(f, t->name) != t)
            abort();
        if (t->end > t->begin)
            sink = (unsigned char)(p[0] ^ p[t->end - t->begin - 1]);
        at = t->end;
    }
    if (at != f->map.size)
        abort();
}

static void try_open(const void *p, size_t n)
{
    struct st_file f;
    struct aq_err err = {0};
    if (st_open_memory(&f, p, n, "fuzz", &err) < 0) {
        if (err.code != AQ_EINPUT || !err.msg[0] || strchr(err.msg, '\n'))
            abort();
        return;
    }
    check_accepted(&f);
    (void)st_meta(&f, "aq");
    st_close(&f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t header = size ? strnlen((const char *)data, size) : 0;
    try_open(data, size);
    unsigned char *file = xmalloc(8 + size);
    for (int i = 0; i < 8; i++)
        file[i] = (unsigned char)((uint64_t)header >> (8 * i));
    if (size)
        memcpy(file + 8, data, header);
    size_t rest = header < size ? size - header - 1 : 0;
    if (rest)
        memcpy(file + 8 + header, data + header + 1, rest);
    try_open(file, 8 + header + rest);
    free(file);
    return 0;
}
