#include "base/mem.h"
#include "base/names.h"
#include "base/utf8.h"
#include "io/safetensors_dtype.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct st_declared {
    char *name;
    const struct st_dtype_info *dtype;
    int rank;
    uint64_t shape[ST_MAX_RANK];
    uint64_t begin, bytes; /* in the data buffer; begin is known once the order is */
};

struct st_writer {
    struct st_declared *tensors; /* in the order of their handles */
    size_t count, cap;
    int *order; /* handles in the order of the data; NULL until laid out */
    uint64_t data_size, header_size;
    struct json *metadata;
    struct aq_out out;
    unsigned char *memory; /* the whole file, where the target cannot seek */
    size_t memory_size;
    bool begun;
};

struct st_writer *st_writer_new(void)
{
    struct st_writer *w = xcalloc(1, sizeof *w);
    w->out = (struct aq_out)AQ_OUT_INIT;
    return w;
}

void st_writer_free(struct st_writer *w)
{
    if (!w)
        return;
    if (w->begun)
        (void)aq_out_abort(&w->out);
    aq_big_free(w->memory, w->memory_size);
    for (size_t i = 0; i < w->count; i++)
        free(w->tensors[i].name);
    free(w->tensors);
    free(w->order);
    json_free(w->metadata);
    free(w);
}

void st_writer_metadata(struct st_writer *w, struct json *metadata)
{
    assert(!w->order);
    json_free(w->metadata);
    w->metadata = metadata;
}

int st_declare(struct st_writer *w, const char *name, enum st_dtype dtype, int rank,
               const uint64_t *shape)
{
    assert(!w->order && rank >= 0 && rank <= ST_MAX_RANK);
    AQ_GROW(w->tensors, w->count, w->cap);
    struct st_declared *d = &w->tensors[w->count];
    *d = (struct st_declared){.name = xstrdup(name), .dtype = st_dtype_info(dtype), .rank = rank};
    if (rank)
        memcpy(d->shape, shape, (size_t)rank * sizeof *shape);
    uint64_t n;
    bool fits = st_count_elements(shape, rank, &n) &&
                !__builtin_mul_overflow(n, (uint64_t)(d->dtype->bits / 8), &d->bytes);
    assert(fits);
    (void)fits;
    return (int)w->count++;
}

/* ---- layout and header ---- */

static int by_dtype_and_name(const void *a, const void *b, void *tensors)
{
    const struct st_declared *s = (struct st_declared *)tensors + *(const int *)a;
    const struct st_declared *t = (struct st_declared *)tensors + *(const int *)b;
    if (s->dtype->order != t->dtype->order)
        return s->dtype->order > t->dtype->order ? -1 : 1;
    return strcmp(s->name, t->name);
}

static void lay_out(struct st_writer *w)
{
    if (w->order)
        return;
    w->order = xcalloc(w->count, sizeof *w->order);
    for (size_t i = 0; i < w->count; i++)
        w->order[i] = (int)i;
    qsort_r(w->order, w->count, sizeof *w->order, by_dtype_and_name, w->tensors);
    w->data_size = 0;
    for (size_t i = 0; i < w->count; i++) {
        struct st_declared *d = &w->tensors[w->order[i]];
        d->begin = w->data_size;
        w->data_size += d->bytes;
    }
}

static void add_entry(struct aq_buf *out, const struct st_declared *d)
{
    json_write_string(out, d->name);
    aq_buf_addf(out, ":{\"dtype\":\"%s\",\"shape\":[", d->dtype->name);
    for (int i = 0; i < d->rank; i++)
        aq_buf_addf(out, "%s%llu", i ? "," : "", (unsigned long long)d->shape[i]);
    aq_buf_addf(out, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)d->begin,
                (unsigned long long)d->begin + (unsigned long long)d->bytes);
}

static void add_metadata(struct aq_buf *out, const struct json *m)
{
    aq_buf_adds(out, "\"__metadata__\":{");
    for (const struct json *v = json_first(m); v; v = json_next(v)) {
        if (v != json_first(m))
            aq_buf_addc(out, ',');
        json_write_string(out, json_key(v));
        aq_buf_addc(out, ':');
        json_write_string(out, json_string(v));
    }
    aq_buf_addc(out, '}');
}

void st_header(struct st_writer *w, struct aq_buf *out)
{
    lay_out(w);
    size_t start = out->len;
    aq_buf_add(out, "\0\0\0\0\0\0\0\0", 8);
    aq_buf_addc(out, '{');
    if (w->metadata)
        add_metadata(out, w->metadata);
    for (size_t i = 0; i < w->count; i++) {
        if (i || w->metadata)
            aq_buf_addc(out, ',');
        add_entry(out, &w->tensors[w->order[i]]);
    }
    aq_buf_addc(out, '}');
    while ((out->len - start) % 8)
        aq_buf_addc(out, ' ');
    uint64_t n = out->len - start - 8;
    for (int i = 0; i < 8; i++)
        out->data[start + (size_t)i] = (char)(n >> (8 * i) & 255);
}

uint64_t st_declared_begin(struct st_writer *w, int handle)
{
    lay_out(w);
    return w->tensors[handle].begin;
}

uint64_t st_data_size(struct st_writer *w)
{
    lay_out(w);
    return w->data_size;
}

/* ---- bytes ---- */

/* NULL if all names differ. Equal names of different dtypes are not neighbours in the data. */
static const char *find_duplicate(const struct st_writer *w)
{
    struct aq_names names = AQ_NAMES_INIT;
    for (size_t i = 0; i < w->count; i++)
        aq_names_add(&names, w->tensors[i].name);
    ptrdiff_t twice = aq_names_sort(&names);
    aq_names_release(&names);
    return twice < 0 ? NULL : w->tensors[twice].name;
}

static int check_names(const struct st_writer *w, struct aq_err *err)
{
    for (size_t i = 0; i < w->count; i++) {
        const char *name = w->tensors[w->order[i]].name;
        size_t len = strlen(name);
        if (strcmp(name, "__metadata__") == 0)
            return aq_err_set(err, AQ_ERUN, "a tensor may not be named '__metadata__'");
        if (len > ST_MAX_NAME || aq_utf8_check(name, len) < len)
            return aq_err_set(err, AQ_ERUN, "'%s' cannot be the name of a tensor", aq_show(name));
    }
    const char *twice = find_duplicate(w);
    return twice ? aq_err_set(err, AQ_ERUN, "tensor '%s' is declared twice", aq_show(twice)) : 0;
}

int st_begin(struct st_writer *w, const char *path, struct aq_err *err)
{
    struct aq_buf header = AQ_BUF_INIT;
    int r = -1;
    st_header(w, &header);
    w->header_size = header.len;
    if (check_names(w, err) < 0)
        goto out;
    if (header.len - 8 > ST_MAX_HEADER) {
        aq_err_set(err, AQ_ERUN, "header of %zu bytes is beyond the format's limit", header.len);
        goto out;
    }
    if (aq_out_open(&w->out, path, err) < 0)
        goto out;
    w->begun = true;
    size_t size = w->header_size + w->data_size;
    if (!w->out.temp) {
        w->memory_size = size;
        w->memory = aq_big_alloc(size, "the product, as its target cannot seek", err);
        if (!w->memory)
            goto out;
        memcpy(w->memory, header.data, header.len);
    } else {
        if (ftruncate(w->out.fd, (off_t)size) < 0) {
            aq_err_sys(err, AQ_ERUN, "cannot write '%s'", aq_show(w->out.path));
            goto out;
        }
        if (aq_out_pwrite(&w->out, header.data, header.len, 0, err) < 0)
            goto out;
    }
    r = 0;
out:
    aq_buf_release(&header);
    return r;
}

/* Offset in the file of a piece of a tensor; a piece beyond its end is the caller's mistake. */
static uint64_t place(const struct st_writer *w, int handle, uint64_t offset, uint64_t n)
{
    assert(w->begun && handle >= 0 && (size_t)handle < w->count);
    const struct st_declared *d = &w->tensors[handle];
    assert(offset <= d->bytes && n <= d->bytes - offset);
    return w->header_size + d->begin + offset;
}

int st_write(struct st_writer *w, int handle, uint64_t byte_offset, const void *data, size_t n,
             struct aq_err *err)
{
    uint64_t at = place(w, handle, byte_offset, n);
    if (w->memory) {
        memcpy(w->memory + at, data, n);
        return 0;
    }
    return aq_out_pwrite(&w->out, data, n, at, err);
}

/* Through a buffer, where the kernel cannot copy by itself (other file systems, old kernels). */
static int copy_buffered(struct st_writer *w, int fd, uint64_t from, uint64_t to, uint64_t n,
                         struct aq_err *err)
{
    enum { BLOCK = 1 << 20 };
    char *block = xmalloc(BLOCK);
    int r = 0;
    while (n && r == 0) {
        size_t part = n < BLOCK ? n : BLOCK;
        r = aq_pread_all(fd, block, part, from, "the source", err);
        if (r == 0 && w->memory)
            memcpy(w->memory + to, block, part);
        else if (r == 0)
            r = aq_out_pwrite(&w->out, block, part, to, err);
        from += part;
        to += part;
        n -= part;
    }
    free(block);
    return r;
}

int st_write_from(struct st_writer *w, int handle, uint64_t byte_offset, int fd, uint64_t from,
                  uint64_t n, struct aq_err *err)
{
    off_t in = (off_t)from, to = (off_t)place(w, handle, byte_offset, n);
    while (n && !w->memory) {
        ssize_t got = TEMP_FAILURE_RETRY(
            copy_file_range(fd, &in, w->out.fd, &to, n < 1 << 30 ? n : 1 << 30, 0));
        if (got <= 0)
            break; /* the buffered road either works or knows the reason */
        n -= (uint64_t)got;
    }
    return n ? copy_buffered(w, fd, (uint64_t)in, (uint64_t)to, n, err) : 0;
}

void st_push(const struct st_writer *w)
{
    if (!w->memory)
        aq_out_push(&w->out);
}

int st_commit(struct st_writer *w, struct aq_err *err)
{
    assert(w->begun);
    if (w->memory && aq_out_write(&w->out, w->memory, w->memory_size, err) < 0)
        return -1;
    w->begun = false;
    return aq_out_commit(&w->out, err);
}
