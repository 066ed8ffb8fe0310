#include "io/gguf.h"

#include "base/mem.h"
#include "base/num.h"

#include <stdlib.h>
#include <string.h>

static const int kind_bytes[GGUF_KINDS] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

/* ---- little pieces ---- */

struct gguf_bytes {
    const unsigned char *at, *start, *end;
    const char *path;
    struct aq_err *err;
};

static int fail(const struct gguf_bytes *c, const char *what)
{
    return aq_err_set(c->err, AQ_EINPUT, "%s: byte %zu: %s", aq_show(c->path),
                      (size_t)(c->at - c->start), what);
}

static uint64_t little(const unsigned char *p, int bytes)
{
    uint64_t x = 0;
    for (int i = 0; i < bytes; i++)
        x |= (uint64_t)p[i] << (8 * i);
    return x;
}

static int take(struct gguf_bytes *c, int bytes, uint64_t *out)
{
    *out = 0;
    if (c->end - c->at < bytes)
        return fail(c, "the file ends inside the header");
    *out = little(c->at, bytes);
    c->at += bytes;
    return 0;
}

static int skip_string(struct gguf_bytes *c)
{
    uint64_t n;
    if (take(c, 8, &n) < 0)
        return -1;
    if (n > (uint64_t)(c->end - c->at))
        return fail(c, "a string reaches beyond the file");
    c->at += n;
    return 0;
}

static int take_name(struct gguf_bytes *c, struct aq_arena *arena, const char **out)
{
    const unsigned char *from = c->at;
    if (skip_string(c) < 0)
        return -1;
    size_t n = (size_t)(c->at - from) - 8;
    if (n == 0 || n > GGUF_MAX_NAME || memchr(from + 8, '\0', n))
        return fail(c, "a name is empty, too long or has a zero byte in it");
    *out = aq_arena_strndup(arena, (const char *)from + 8, n);
    return 0;
}

/* ---- keys ---- */

static int skip_array(struct gguf_bytes *c, struct gguf_value *v)
{
    uint64_t kind;
    if (take(c, 4, &kind) < 0 || take(c, 8, &v->count) < 0)
        return -1;
    if (kind >= GGUF_KINDS || kind == GGUF_KIND_ARRAY)
        return fail(c, "an array of an unknown kind");
    v->element = (enum gguf_kind)kind;
    v->data = c->at;
    uint64_t left = (uint64_t)(c->end - c->at);
    if (kind != GGUF_KIND_STRING) {
        if (v->count > left / (uint64_t)kind_bytes[kind])
            return fail(c, "an array reaches beyond the file");
        c->at += v->count * (uint64_t)kind_bytes[kind];
        return 0;
    }
    if (v->count > left / 8)
        return fail(c, "an array reaches beyond the file");
    for (uint64_t i = 0; i < v->count; i++)
        if (skip_string(c) < 0)
            return -1;
    return 0;
}

static int read_value(struct gguf_file *f, struct gguf_bytes *c, struct gguf_value *v)
{
    uint64_t kind;
    if (take_name(c, &f->arena, &v->key) < 0 || take(c, 4, &kind) < 0)
        return -1;
    if (kind >= GGUF_KINDS)
        return fail(c, "a value of an unknown kind");
    v->kind = (enum gguf_kind)kind;
    v->count = 1;
    v->data = c->at;
    if (v->kind == GGUF_KIND_ARRAY) {
        if (skip_array(c, v) < 0)
            return -1;
    } else if (v->kind == GGUF_KIND_STRING) {
        if (skip_string(c) < 0)
            return -1;
    } else {
        if (c->end - c->at < kind_bytes[kind])
            return fail(c, "the file ends inside the header");
        c->at += kind_bytes[kind];
    }
    v->end = c->at;
    return 0;
}

static int check_names(struct gguf_bytes *c, struct aq_names *names, const char *what)
{
    ptrdiff_t twice = aq_names_sort(names);
    if (twice >= 0)
        return aq_err_set(c->err, AQ_EINPUT, "%s: %s '%s' is there twice", aq_show(c->path), what,
                          aq_show(names->items[twice]));
    return 0;
}

static int read_values(struct gguf_file *f, struct gguf_bytes *c, uint64_t n)
{
    f->values = xcalloc((size_t)n + 1, sizeof *f->values);
    for (uint64_t i = 0; i < n; i++) {
        if (read_value(f, c, &f->values[i]) < 0)
            return -1;
        aq_names_add(&f->keys, f->values[i].key);
        f->value_count++;
    }
    return check_names(c, &f->keys, "key");
}

/* ---- tensors ---- */

static int read_shape(struct gguf_bytes *c, struct gguf_tensor *t)
{
    uint64_t rank;
    if (take(c, 4, &rank) < 0)
        return -1;
    if (rank < 1 || rank > GGUF_MAX_RANK)
        return fail(c, "a tensor has fewer than 1 or more than 4 dimensions");
    t->rank = (int)rank;
    t->elements = 1;
    for (int i = 0; i < t->rank; i++) {
        uint64_t *n = &t->shape[t->rank - 1 - i];
        if (take(c, 8, n) < 0)
            return -1;
        if (*n > INT64_MAX / 8 || __builtin_mul_overflow(t->elements, *n, &t->elements) ||
            t->elements > INT64_MAX / 8)
            return fail(c, "a tensor is too large");
    }
    return 0;
}

static int read_tensor(struct gguf_file *f, struct gguf_bytes *c, struct gguf_tensor *t)
{
    uint64_t type;
    if (take_name(c, &f->arena, &t->name) < 0 || read_shape(c, t) < 0 || take(c, 4, &type) < 0 ||
        take(c, 8, &t->begin) < 0)
        return -1;
    const struct gguf_type_info *info = gguf_type_info((enum gguf_type)type);
    if (!info)
        return aq_err_set(c->err, AQ_EINPUT,
                          "%s: tensor '%s' has type %llu, which is not read here", aq_show(c->path),
                          aq_show(t->name), (unsigned long long)type);
    t->type = info->type;
    if (t->shape[t->rank - 1] % (uint64_t)info->block)
        return aq_err_set(c->err, AQ_EINPUT,
                          "%s: tensor '%s': rows of %llu are not made of blocks of %d",
                          aq_show(c->path), aq_show(t->name),
                          (unsigned long long)t->shape[t->rank - 1], info->block);
    t->end = t->elements / (uint64_t)info->block * (uint64_t)info->block_bytes; /* length so far */
    return 0;
}

static int by_begin(const void *a, const void *b)
{
    const struct gguf_tensor *x = *(struct gguf_tensor *const *)a,
                             *y = *(struct gguf_tensor *const *)b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static int check_overlap(const struct gguf_file *f, struct gguf_bytes *c)
{
    struct gguf_tensor **order = xcalloc(f->count + 1, sizeof *order);
    int r = 0;
    for (size_t i = 0; i < f->count; i++)
        order[i] = &f->tensors[i];
    qsort(order, f->count, sizeof *order, by_begin);
    for (size_t i = 1; i < f->count && r == 0; i++)
        if (order[i]->begin < order[i - 1]->end)
            r = aq_err_set(c->err, AQ_EINPUT, "%s: tensors '%s' and '%s' overlap", aq_show(c->path),
                           aq_show(order[i - 1]->name), aq_show(order[i]->name));
    free(order);
    return r;
}

static int place_tensors(struct gguf_file *f, struct gguf_bytes *c)
{
    uint64_t align = GGUF_ALIGNMENT;
    const struct gguf_value *v = gguf_get(f, "general.alignment");
    int64_t given;
    if (v) {
        if (v->kind != GGUF_KIND_U32 || !gguf_int(v, &given) || given < 1 || given > 1 << 20 ||
            (given & (given - 1)))
            return fail(c, "general.alignment is not a power of two");
        align = (uint64_t)given;
    }
    uint64_t data = (uint64_t)(c->at - c->start);
    data = (data + align - 1) / align * align;
    uint64_t size = (uint64_t)(c->end - c->start), room = size > data ? size - data : 0;
    for (size_t i = 0; i < f->count; i++) {
        struct gguf_tensor *t = &f->tensors[i];
        if (t->begin % align || t->begin > room || t->end > room - t->begin)
            return aq_err_set(c->err, AQ_EINPUT,
                              "%s: tensor '%s' is outside of the file or not aligned to %llu",
                              aq_show(c->path), aq_show(t->name), (unsigned long long)align);
        t->begin += data;
        t->end += t->begin;
        t->data = c->start + t->begin;
    }
    return check_overlap(f, c);
}

static int read_tensors(struct gguf_file *f, struct gguf_bytes *c, uint64_t n)
{
    f->tensors = xcalloc((size_t)n + 1, sizeof *f->tensors);
    for (uint64_t i = 0; i < n; i++) {
        if (read_tensor(f, c, &f->tensors[i]) < 0)
            return -1;
        aq_names_add(&f->names, f->tensors[i].name);
        f->count++;
    }
    if (check_names(c, &f->names, "tensor") < 0)
        return -1;
    return place_tensors(f, c);
}

/* ---- files ---- */

static int read_header(struct gguf_file *f, struct aq_err *err)
{
    struct gguf_bytes c = {f->map.data, f->map.data, f->map.data + f->map.size, f->path, err};
    uint64_t version, tensors, keys;
    if (f->map.size < 4 || memcmp(c.at, "GGUF", 4) != 0)
        return aq_err_set(err, AQ_EINPUT, "%s: not a GGUF file", aq_show(f->path));
    c.at += 4;
    if (take(&c, 4, &version) < 0)
        return -1;
    if (version != 2 && version != 3)
        return fail(&c, (version & 0xffff) == 0 ? "a big-endian file, which is not read"
                                                : "an unknown version, expected 2 or 3");
    if (take(&c, 8, &tensors) < 0 || take(&c, 8, &keys) < 0)
        return -1;
    /* every key takes 13 bytes and every tensor 33 or more */
    uint64_t left = (uint64_t)(c.end - c.at);
    if (tensors > GGUF_MAX_TENSORS || keys > GGUF_MAX_KEYS || keys > left / 13 ||
        tensors > left / 33)
        return fail(&c, "more tensors or keys than fit");
    if (read_values(f, &c, keys) < 0)
        return -1;
    return read_tensors(f, &c, tensors);
}

static int open_map(struct gguf_file *f, struct aq_err *err)
{
    int r = read_header(f, err);
    if (r < 0)
        gguf_close(f);
    return r;
}

int gguf_open(struct gguf_file *f, const char *path, struct aq_err *err)
{
    *f = (struct gguf_file){.path = xstrdup(path)};
    if (aq_map_open(&f->map, path, err) < 0) {
        f->borrowed = true; /* nothing to unmap */
        gguf_close(f);
        return -1;
    }
    return open_map(f, err);
}

int gguf_open_memory(struct gguf_file *f, const void *bytes, size_t size, const char *name,
                     struct aq_err *err)
{
    *f = (struct gguf_file){.path = xstrdup(name), .map = {bytes, size}, .borrowed = true};
    return open_map(f, err);
}

void gguf_close(struct gguf_file *f)
{
    if (!f->borrowed && f->map.data)
        aq_map_close(&f->map);
    free(f->path);
    free(f->values);
    free(f->tensors);
    aq_names_release(&f->keys);
    aq_names_release(&f->names);
    aq_arena_release(&f->arena);
    *f = (struct gguf_file){.path = NULL};
}

const struct gguf_tensor *gguf_find(const struct gguf_file *f, const char *name)
{
    ptrdiff_t i = aq_names_find(&f->names, name);
    return i < 0 ? NULL : &f->tensors[i];
}

const struct gguf_value *gguf_get(const struct gguf_file *f, const char *key)
{
    ptrdiff_t i = aq_names_find(&f->keys, key);
    return i < 0 ? NULL : &f->values[i];
}

/* ---- values ---- */

static bool int_of(enum gguf_kind kind, const unsigned char *p, int64_t *out)
{
    switch (kind) {
    case GGUF_KIND_U8:
    case GGUF_KIND_U16:
    case GGUF_KIND_U32:
    case GGUF_KIND_U64:
        *out = (int64_t)little(p, kind_bytes[kind]);
        return *out >= 0;
    case GGUF_KIND_I8:
        *out = p[0] < 128 ? p[0] : p[0] - 256;
        return true;
    case GGUF_KIND_I16:
        *out = (int16_t)little(p, 2);
        return true;
    case GGUF_KIND_I32:
        *out = (int32_t)little(p, 4);
        return true;
    case GGUF_KIND_I64:
        *out = (int64_t)little(p, 8);
        return true;
    default:
        return false;
    }
}

bool gguf_int(const struct gguf_value *v, int64_t *out)
{
    return int_of(v->kind, v->data, out);
}

bool gguf_int_at(const struct gguf_value *v, uint64_t i, int64_t *out)
{
    if (v->kind != GGUF_KIND_ARRAY || i >= v->count || kind_bytes[v->element] == 0)
        return false;
    return int_of(v->element, v->data + i * (uint64_t)kind_bytes[v->element], out);
}

bool gguf_number(const struct gguf_value *v, double *out)
{
    int64_t n;
    if (v->kind == GGUF_KIND_FLOAT) {
        *out = num_float((uint32_t)little(v->data, 4));
        return true;
    }
    if (v->kind == GGUF_KIND_DOUBLE) {
        uint64_t bits = little(v->data, 8);
        memcpy(out, &bits, sizeof *out);
        return true;
    }
    if (!gguf_int(v, &n))
        return false;
    *out = (double)n;
    return true;
}

bool gguf_bool(const struct gguf_value *v, bool *out)
{
    if (v->kind != GGUF_KIND_BOOL)
        return false;
    *out = v->data[0] != 0;
    return true;
}

const char *gguf_string(struct gguf_file *f, const struct gguf_value *v)
{
    if (v->kind != GGUF_KIND_STRING)
        return NULL;
    return aq_arena_strndup(&f->arena, (const char *)v->data + 8, (size_t)little(v->data, 8));
}

const char *gguf_next_string(struct gguf_file *f, const struct gguf_value *v, size_t *at)
{
    if (v->kind != GGUF_KIND_ARRAY || v->element != GGUF_KIND_STRING || v->data + *at >= v->end)
        return NULL;
    const unsigned char *p = v->data + *at;
    size_t n = (size_t)little(p, 8);
    *at += 8 + n;
    return aq_arena_strndup(&f->arena, (const char *)p + 8, n);
}
