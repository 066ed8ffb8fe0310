#include "io/safetensors.h"
#include "base/mem.h"
#include "base/suggest.h"
#include "base/utf8.h"
#include "io/safetensors_dtype.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- what a file is that is not safetensors ---- */

struct looks_like {
    const char *magic, *what, *hint;
};

static const struct looks_like strangers[] = {
    {"version https://git-lfs", "a Git LFS pointer, not the file itself", "run 'git lfs pull'"},
    {"<!DOCTYPE", "an HTML page", "download the file again"},
    {"<!doctype", "an HTML page", "download the file again"},
    {"<html", "an HTML page", "download the file again"},
    {"\x1f\x8b", "gzip data", "unpack it first"},
    {"PK\x03\x04", "a zip archive, such as a PyTorch checkpoint", "safetensors is needed"},
    {"\x80\x02", "a Python pickle, such as a PyTorch checkpoint", "safetensors is needed"},
    {"GGUF", "a GGUF file", "take the checkpoint in safetensors form"},
    {"{", "JSON without the length in front", NULL},
};

static const struct looks_like *recognize(const unsigned char *p, size_t n)
{
    for (size_t i = 0; i < AQ_COUNT(strangers); i++) {
        size_t len = strlen(strangers[i].magic);
        if (n >= len && memcmp(p, strangers[i].magic, len) == 0)
            return &strangers[i];
    }
    return NULL;
}

/* ---- header ---- */

/* One reader at work; errors begin with the file's name. */
struct header_reading {
    struct st_file *f;
    uint64_t data_begin; /* offset of the data buffer in the file */
    struct aq_err *err;
};

static int AQ_PRINTF(2, 3) refuse(struct header_reading *r, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    (void)aq_err_vset(r->err, AQ_EINPUT, fmt, ap);
    va_end(ap);
    return aq_err_prefix(r->err, "%s", aq_show(r->f->path));
}

/* Also where the first eight bytes make no sense: most likely it is another kind of file. */
static int fail_length(struct header_reading *r, uint64_t n)
{
    const unsigned char *p = r->f->map.data;
    const struct looks_like *s = recognize(p, r->f->map.size);
    if (s) {
        refuse(r, "not a safetensors file: this is %s", s->what);
        return s->hint ? aq_err_hint(r->err, "%s", s->hint) : -1;
    }
    if (n > ST_MAX_HEADER)
        return refuse(r, "header length is %" PRIu64 " bytes, the limit is %d", n, ST_MAX_HEADER);
    return refuse(r,
                  "header length is %" PRIu64 " bytes, but the file has only %zu: "
                  "truncated, or not a safetensors file",
                  n, r->f->map.size);
}

static int read_header_text(struct header_reading *r, const char **text, size_t *len)
{
    const unsigned char *p = r->f->map.data;
    size_t size = r->f->map.size;
    if (size < 8) {
        if (recognize(p, size))
            return fail_length(r, 0);
        return refuse(r, "too short for a safetensors header: %zu bytes, expected at least 8",
                      size);
    }
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | p[i];
    if (n > ST_MAX_HEADER || n > size - 8)
        return fail_length(r, n);
    if (n == 0)
        return refuse(r, "too short for a safetensors header: its length is 0");
    *text = (const char *)p + 8;
    *len = n;
    r->data_begin = 8 + n;
    size_t bad = aq_utf8_check(*text, *len);
    if (bad < *len)
        return refuse(r, "header is not valid UTF-8 at byte %zu", 8 + bad);
    if (strchr(" \t\r\n", **text))
        return refuse(r, "header begins with a blank, expected '{'");
    return 0;
}

static int check_metadata(struct header_reading *r)
{
    const struct json *m = r->f->metadata;
    if (json_type(m) != JSON_OBJECT)
        return refuse(r, "'__metadata__' is %s, expected an object of strings",
                      json_type_name(json_type(m)));
    for (const struct json *v = json_first(m); v; v = json_next(v))
        if (json_type(v) != JSON_STRING)
            return refuse(r, "'__metadata__': '%s' is %s, expected a string", aq_show(json_key(v)),
                          json_type_name(json_type(v)));
    return 0;
}

/* ---- one entry ---- */

/* An unsigned 64-bit integer, written as digits alone. */
static int read_u64(struct header_reading *r, const struct st_tensor *t, const char *key, int index,
                    const struct json *v, uint64_t *out)
{
    int64_t n;
    const char *wide;
    if (json_type(v) != JSON_INT)
        return refuse(r, "tensor '%s': %s[%d] is %s, expected an unsigned integer",
                      aq_show(t->name), key, index, json_type_name(json_type(v)));
    if (json_int(v, &n)) {
        if (n < 0 || signbit(json_number(v)))
            return refuse(r, "tensor '%s': %s[%d] is negative", aq_show(t->name), key, index);
        *out = (uint64_t)n;
        return 0;
    }
    wide = json_wide_int(v);
    errno = 0;
    *out = strtoull(wide, NULL, 10);
    if (errno || wide[0] == '-')
        return refuse(r, "tensor '%s': %s[%d] is beyond 64 bits", aq_show(t->name), key, index);
    return 0;
}

static int fail_entry(struct header_reading *r, const struct st_tensor *t, const char *key,
                      const struct json *v, const char *expected)
{
    if (!v)
        return refuse(r, "tensor '%s': '%s' is missing", aq_show(t->name), key);
    return refuse(r, "tensor '%s': '%s' is %s, expected %s", aq_show(t->name), key,
                  json_type_name(json_type(v)), expected);
}

/* NULL after a failure. */
static const struct st_dtype_info *read_dtype(struct header_reading *r, struct st_tensor *t,
                                              const struct json *v)
{
    if (!v || json_type(v) != JSON_STRING) {
        fail_entry(r, t, "dtype", v, "a string");
        return NULL;
    }
    const struct st_dtype_info *d = st_dtype_named(json_string(v));
    if (!d) {
        const char *names[32];
        struct aq_buf list = AQ_BUF_INIT;
        for (size_t i = 0; i < st_dtype_count; i++)
            names[i] = st_dtypes[i].name;
        aq_join_names(&list, names, st_dtype_count);
        refuse(r, "tensor '%s': unknown dtype '%s'", aq_show(t->name), aq_show(json_string(v)));
        aq_err_hint(r->err, "known: %s", aq_buf_str(&list));
        aq_buf_release(&list);
        return NULL;
    }
    t->dtype = d->dtype;
    memcpy(t->dtype_name, d->name, strlen(d->name) + 1);
    return d;
}

static int read_shape(struct header_reading *r, struct st_tensor *t, const struct json *v)
{
    if (!v || json_type(v) != JSON_ARRAY)
        return fail_entry(r, t, "shape", v, "a list");
    t->rank = 0;
    for (const struct json *d = json_first(v); d; d = json_next(d)) {
        if (t->rank == ST_MAX_RANK)
            return refuse(r, "tensor '%s': more than %d dimensions", aq_show(t->name), ST_MAX_RANK);
        if (read_u64(r, t, "shape", t->rank, d, &t->shape[t->rank]) < 0)
            return -1;
        t->rank++;
    }
    return 0;
}

static int read_offsets(struct header_reading *r, struct st_tensor *t, const struct json *v)
{
    uint64_t at[2];
    if (!v || json_type(v) != JSON_ARRAY)
        return fail_entry(r, t, "data_offsets", v, "a list of two");
    if (json_size(v) != 2)
        return refuse(r, "tensor '%s': data_offsets has %zu numbers, expected 2", aq_show(t->name),
                      json_size(v));
    if (read_u64(r, t, "data_offsets", 0, json_at(v, 0), &at[0]) < 0 ||
        read_u64(r, t, "data_offsets", 1, json_at(v, 1), &at[1]) < 0)
        return -1;
    if (at[1] < at[0])
        return refuse(r, "tensor '%s': data_offsets run backwards: %" PRIu64 " to %" PRIu64,
                      aq_show(t->name), at[0], at[1]);
    t->begin = at[0]; /* in the data buffer, until the layout is checked */
    t->end = at[1];
    return 0;
}

static int check_size(struct header_reading *r, struct st_tensor *t, const struct st_dtype_info *d)
{
    uint64_t bits;
    if (!st_count_elements(t->shape, t->rank, &t->elements) ||
        __builtin_mul_overflow(t->elements, (uint64_t)d->bits, &bits))
        return refuse(r, "tensor '%s': shape overflows 64 bits", aq_show(t->name));
    if (bits % 8)
        return refuse(r, "tensor '%s': %" PRIu64 " elements of %s do not fill whole bytes",
                      aq_show(t->name), t->elements, d->name);
    if (t->end - t->begin != bits / 8)
        return refuse(
            r, "tensor '%s': dtype and shape need %" PRIu64 " bytes, data_offsets give %" PRIu64,
            aq_show(t->name), bits / 8, t->end - t->begin);
    return 0;
}

static int read_entry(struct header_reading *r, struct st_tensor *t, const struct json *v)
{
    t->name = json_key(v);
    size_t len = strlen(t->name);
    if (len > ST_MAX_NAME)
        return refuse(r, "a tensor name has %zu bytes, the limit is %d: '%s'", len, ST_MAX_NAME,
                      aq_show(t->name));
    if (json_type(v) != JSON_OBJECT)
        return refuse(r, "tensor '%s': entry is %s, expected an object", aq_show(t->name),
                      json_type_name(json_type(v)));
    const struct st_dtype_info *d = read_dtype(r, t, json_get(v, "dtype"));
    if (!d || read_shape(r, t, json_get(v, "shape")) < 0 ||
        read_offsets(r, t, json_get(v, "data_offsets")) < 0)
        return -1;
    return check_size(r, t, d);
}

/* ---- all entries ---- */

static int by_offset(const void *a, const void *b)
{
    const struct st_tensor *s = a, *t = b;
    if (s->begin != t->begin)
        return s->begin < t->begin ? -1 : 1;
    if (s->end != t->end)
        return s->end < t->end ? -1 : 1;
    return strcmp(s->name, t->name);
}

/* The tensors must tile the data buffer; offsets become offsets in the file. */
static int check_layout(struct header_reading *r)
{
    struct st_file *f = r->f;
    uint64_t at = 0, have = f->map.size - r->data_begin;
    for (size_t i = 0; i < f->count; i++) {
        struct st_tensor *t = &f->tensors[i];
        if (t->begin > at)
            return refuse(r, "hole of %" PRIu64 " bytes before tensor '%s' at offset %" PRIu64,
                          t->begin - at, aq_show(t->name), at);
        if (t->begin < at)
            return refuse(r, "tensors '%s' and '%s' overlap at offset %" PRIu64,
                          aq_show(f->tensors[i - 1].name), aq_show(t->name), t->begin);
        at = t->end;
        if (at > have)
            return refuse(r,
                          "truncated: tensor '%s' ends at byte %" PRIu64
                          " of the data, the file has %" PRIu64,
                          aq_show(t->name), at, have);
        t->begin += r->data_begin;
        t->end += r->data_begin;
        t->data = f->map.data + t->begin;
    }
    if (at < have)
        return refuse(r, "%" PRIu64 " extra bytes after the last tensor", have - at);
    return 0;
}

static int read_tensors(struct header_reading *r)
{
    struct st_file *f = r->f;
    size_t cap = json_size(f->header);
    if (cap > ST_MAX_TENSORS + 1)
        return refuse(r, "%zu tensors, the limit is %d", cap, ST_MAX_TENSORS);
    f->tensors = xcalloc(cap, sizeof *f->tensors);
    for (struct json *v = json_first(f->header); v; v = json_next(v)) {
        if (strcmp(json_key(v), "__metadata__") == 0) {
            f->metadata = v;
            continue;
        }
        if (read_entry(r, &f->tensors[f->count], v) < 0)
            return -1;
        f->count++;
    }
    if (f->metadata && check_metadata(r) < 0)
        return -1;
    qsort(f->tensors, f->count, sizeof *f->tensors, by_offset);
    for (size_t i = 0; i < f->count; i++)
        aq_names_add(&f->names, f->tensors[i].name);
    (void)aq_names_sort(&f->names); /* keys of an object: no duplicates */
    return check_layout(r);
}

static int read_all(struct st_file *f, struct aq_err *err)
{
    struct header_reading r = {.f = f, .err = err};
    const char *text = NULL;
    size_t len = 0;
    if (read_header_text(&r, &text, &len) < 0)
        return -1;
    char *name = xasprintf("%s: header", f->path);
    f->header = json_parse(text, len, name, err);
    free(name);
    if (!f->header)
        return -1;
    if (json_type(f->header) != JSON_OBJECT)
        return refuse(&r, "header is %s, expected an object", json_type_name(json_type(f->header)));
    return read_tensors(&r);
}

int st_open_memory(struct st_file *f, const void *bytes, size_t size, const char *name,
                   struct aq_err *err)
{
    /* A copy of the map's fields without a mapping of its own: st_close tells them apart. */
    *f = (struct st_file){.path = xstrdup(name), .map = {bytes, size}, .borrowed = true};
    if (read_all(f, err) < 0) {
        st_close(f);
        return -1;
    }
    return 0;
}

int st_open(struct st_file *f, const char *path, struct aq_err *err)
{
    *f = (struct st_file){.path = xstrdup(path)};
    if (aq_map_open(&f->map, path, err) < 0 || read_all(f, err) < 0) {
        st_close(f);
        return -1;
    }
    return 0;
}

void st_close(struct st_file *f)
{
    if (!f->borrowed)
        aq_map_close(&f->map);
    json_free(f->header);
    free(f->tensors);
    aq_names_release(&f->names);
    free(f->path);
    *f = (struct st_file){.path = NULL};
}

/* ---- looking up ---- */

const struct st_tensor *st_find(const struct st_file *f, const char *name)
{
    ptrdiff_t i = aq_names_find(&f->names, name);
    return i < 0 ? NULL : &f->tensors[i];
}

const struct st_tensor *st_need(const struct st_file *f, const char *name, enum st_dtype dtype,
                                int rank, struct aq_err *err)
{
    const struct st_tensor *t = st_find(f, name);
    if (!t) {
        aq_err_set(err, AQ_EINPUT, "tensor '%s' is missing", name);
        return NULL;
    }
    if (t->dtype != dtype) {
        aq_err_set(err, AQ_EINPUT, "tensor '%s' has dtype %s, expected %s", name, t->dtype_name,
                   st_dtype_text(dtype));
        return NULL;
    }
    if (rank >= 0 && t->rank != rank) {
        aq_err_set(err, AQ_EINPUT, "tensor '%s' has %d dimensions, expected %d", name, t->rank,
                   rank);
        return NULL;
    }
    return t;
}

const char *st_meta(const struct st_file *f, const char *key)
{
    const struct json *v = f->metadata ? json_get(f->metadata, key) : NULL;
    return v ? json_string(v) : NULL;
}
