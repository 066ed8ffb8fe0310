#include "base/mem.h"
#include "base/num.h"
#include "io/gguf.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct gguf_declared {
    char *name;
    const struct gguf_type_info *type;
    int rank;
    uint64_t shape[GGUF_MAX_RANK];
    uint64_t bytes, begin; /* in the data section */
};

struct gguf_writer {
    struct aq_buf keys;
    uint64_t key_count;
    struct gguf_declared *tensors;
    size_t count, cap;
    uint64_t data_size, header_size;
    struct aq_out out;
    bool begun;
};

struct gguf_writer *gguf_writer_new(void)
{
    struct gguf_writer *w = xcalloc(1, sizeof *w);
    w->out = (struct aq_out)AQ_OUT_INIT;
    return w;
}

void gguf_writer_free(struct gguf_writer *w)
{
    if (!w)
        return;
    if (w->begun)
        (void)aq_out_abort(&w->out);
    for (size_t i = 0; i < w->count; i++)
        free(w->tensors[i].name);
    free(w->tensors);
    aq_buf_release(&w->keys);
    free(w);
}

/* ---- the header ---- */

static void add_little(struct aq_buf *b, uint64_t x, int bytes)
{
    for (int i = 0; i < bytes; i++)
        aq_buf_addc(b, (char)(x >> (8 * i) & 255));
}

static void add_text(struct aq_buf *b, const char *s)
{
    size_t n = strlen(s);
    add_little(b, n, 8);
    aq_buf_add(b, s, n);
}

static void add_key(struct gguf_writer *w, const char *key, enum gguf_kind kind)
{
    add_text(&w->keys, key);
    add_little(&w->keys, kind, 4);
    w->key_count++;
}

static void add_array(struct gguf_writer *w, const char *key, enum gguf_kind kind, size_t n)
{
    add_key(w, key, GGUF_KIND_ARRAY);
    add_little(&w->keys, kind, 4);
    add_little(&w->keys, n, 8);
}

void gguf_add_string(struct gguf_writer *w, const char *key, const char *value)
{
    add_key(w, key, GGUF_KIND_STRING);
    add_text(&w->keys, value);
}

void gguf_add_u32(struct gguf_writer *w, const char *key, uint32_t value)
{
    add_key(w, key, GGUF_KIND_U32);
    add_little(&w->keys, value, 4);
}

void gguf_add_f32(struct gguf_writer *w, const char *key, float value)
{
    add_key(w, key, GGUF_KIND_FLOAT);
    add_little(&w->keys, num_bits(value), 4);
}

void gguf_add_bool(struct gguf_writer *w, const char *key, bool value)
{
    add_key(w, key, GGUF_KIND_BOOL);
    add_little(&w->keys, value, 1);
}

void gguf_add_strings(struct gguf_writer *w, const char *key, const char *const *values, size_t n)
{
    add_array(w, key, GGUF_KIND_STRING, n);
    for (size_t i = 0; i < n; i++)
        add_text(&w->keys, values[i]);
}

void gguf_add_i32s(struct gguf_writer *w, const char *key, const int32_t *values, size_t n)
{
    add_array(w, key, GGUF_KIND_I32, n);
    for (size_t i = 0; i < n; i++)
        add_little(&w->keys, (uint32_t)values[i], 4);
}

void gguf_add_f32s(struct gguf_writer *w, const char *key, const float *values, size_t n)
{
    add_array(w, key, GGUF_KIND_FLOAT, n);
    for (size_t i = 0; i < n; i++)
        add_little(&w->keys, num_bits(values[i]), 4);
}

void gguf_add_bools(struct gguf_writer *w, const char *key, const bool *values, size_t n)
{
    add_array(w, key, GGUF_KIND_BOOL, n);
    for (size_t i = 0; i < n; i++)
        add_little(&w->keys, values[i], 1);
}

static uint64_t aligned(uint64_t n)
{
    return (n + GGUF_ALIGNMENT - 1) / GGUF_ALIGNMENT * GGUF_ALIGNMENT;
}

int gguf_declare(struct gguf_writer *w, const char *name, enum gguf_type t, int rank,
                 const uint64_t *shape)
{
    assert(!w->begun && rank >= 1 && rank <= GGUF_MAX_RANK);
    AQ_GROW(w->tensors, w->count, w->cap);
    struct gguf_declared *d = &w->tensors[w->count];
    *d = (struct gguf_declared){.name = xstrdup(name), .type = gguf_type_info(t), .rank = rank};
    assert(d->type && shape[rank - 1] % (uint64_t)d->type->block == 0);
    memcpy(d->shape, shape, (size_t)rank * sizeof *shape);
    uint64_t n = 1;
    for (int i = 0; i < rank; i++)
        n *= shape[i];
    d->bytes = n / (uint64_t)d->type->block * (uint64_t)d->type->block_bytes;
    d->begin = w->data_size;
    w->data_size += aligned(d->bytes);
    return (int)w->count++;
}

uint64_t gguf_declared_bytes(const struct gguf_writer *w, int handle)
{
    return w->tensors[handle].bytes;
}

static void add_header(const struct gguf_writer *w, struct aq_buf *out)
{
    aq_buf_adds(out, "GGUF");
    add_little(out, 3, 4);
    add_little(out, w->count, 8);
    add_little(out, w->key_count, 8);
    aq_buf_add(out, w->keys.data, w->keys.len);
    for (size_t i = 0; i < w->count; i++) {
        const struct gguf_declared *d = &w->tensors[i];
        add_text(out, d->name);
        add_little(out, (uint64_t)d->rank, 4);
        for (int k = d->rank - 1; k >= 0; k--)
            add_little(out, d->shape[k], 8);
        add_little(out, d->type->type, 4);
        add_little(out, d->begin, 8);
    }
    while (out->len % GGUF_ALIGNMENT)
        aq_buf_addc(out, '\0');
}

int gguf_begin(struct gguf_writer *w, const char *path, struct aq_err *err)
{
    struct aq_buf header = AQ_BUF_INIT;
    if (aq_out_open(&w->out, path, err) < 0)
        return -1;
    w->begun = true;
    add_header(w, &header);
    w->header_size = header.len;
    int r = aq_out_pwrite(&w->out, header.data, header.len, 0, err);
    aq_buf_release(&header);
    /* the padding of the last tensor belongs to the file */
    uint64_t size = w->header_size + w->data_size;
    if (r == 0 && w->data_size)
        r = aq_out_pwrite(&w->out, "", 1, size - 1, err);
    return r;
}

int gguf_write(struct gguf_writer *w, int handle, uint64_t byte_offset, const void *data, size_t n,
               struct aq_err *err)
{
    const struct gguf_declared *d = &w->tensors[handle];
    assert(byte_offset <= d->bytes && n <= d->bytes - byte_offset);
    return aq_out_pwrite(&w->out, data, n, w->header_size + d->begin + byte_offset, err);
}

int gguf_commit(struct gguf_writer *w, struct aq_err *err)
{
    return aq_out_commit(&w->out, err);
}
