#include "text/tokens.h"
#include "base/buf.h"
#include "base/mem.h"
#include "io/json.h"
#include "io/product.h"
#include "io/safetensors.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void tokens_release(struct tokens *t)
{
    for (size_t i = 0; i < t->size_count; i++)
        free(t->sizes[i].name);
    free(t->sizes);
    free(t->ids);
    free(t->offsets);
    free(t->count_from);
    *t = (struct tokens){0};
}

/* ---- metadata ---- */

/* Integers and strings only, so that nothing can fail. */
static void add_compact(struct aq_buf *out, const struct json *v)
{
    int r = json_write(out, v, JSON_COMPACT, NULL);
    assert(r == 0);
    (void)r;
}

static struct json *meta_without_digest(const struct tokens *t)
{
    struct json *meta = product_new(TOKENS_SCHEMA);
    struct json *sizes = json_add_object(meta, "sizes");
    for (size_t i = 0; i < t->size_count; i++)
        json_add_int(sizes, t->sizes[i].name, t->sizes[i].samples);
    json_add_string(meta, "padding", t->max_length ? "max_length" : "none");
    json_add_int(meta, "seq_len", t->seq_len);
    json_add_int(meta, "pad_id", t->pad_id);
    json_add_int(meta, "truncated", t->truncated);
    if (t->tokenizer[0])
        json_add_string(meta, "tokenizer", t->tokenizer);
    else
        json_add_null(meta, "tokenizer");
    return meta;
}

/* SHA-256 of the ids, the offsets, count_from if it is there, and the metadata before the digest.
 */
static void digest_of(const struct tokens *t, char out[AQ_SHA256_HEX])
{
    struct aq_sha256 s;
    struct aq_buf text = AQ_BUF_INIT;
    struct json *meta = meta_without_digest(t);
    add_compact(&text, meta);
    json_free(meta);
    aq_sha256_init(&s);
    aq_sha256_add(&s, t->ids, (size_t)t->id_count * sizeof *t->ids);
    aq_sha256_add(&s, t->offsets, ((size_t)t->samples + 1) * sizeof *t->offsets);
    if (t->count_from)
        aq_sha256_add(&s, t->count_from, (size_t)t->samples * sizeof *t->count_from);
    aq_sha256_add(&s, text.data, text.len);
    aq_sha256_hex(&s, out);
    aq_buf_release(&text);
}

static int read_sizes(struct tokens *t, const struct jref *meta, struct aq_err *err)
{
    struct jref sizes;
    if (jref_get(meta, "sizes", JSON_OBJECT, &sizes, err) < 0)
        return -1;
    size_t cap = 0;
    int64_t before = 1;
    for (const struct json *v = json_first(sizes.v); v; v = json_next(v)) {
        int64_t n;
        if (jref_int(&sizes, json_key(v), before, t->samples, &n, err) < 0)
            return -1;
        before = n;
        AQ_GROW(t->sizes, t->size_count, cap);
        t->sizes[t->size_count++] = (struct tokens_size){xstrdup(json_key(v)), n};
    }
    return t->size_count ? 0 : jref_fail(&sizes, err, "there is no size");
}

static int read_tokenizer(struct tokens *t, const struct jref *meta, struct aq_err *err)
{
    const char *text;
    struct jref r;
    if (!json_get(meta->v, "tokenizer"))
        return jref_fail(meta, err, "key 'tokenizer' is missing");
    if (!jref_has(meta, "tokenizer", &r))
        return 0;
    if (jref_string(meta, "tokenizer", &text, err) < 0)
        return -1;
    size_t n = strlen(text);
    if (n != sizeof t->tokenizer - 1 || strspn(text, "0123456789abcdef") != n)
        return jref_fail(&r, err, "'%.16s' is not a SHA-256", aq_show(text));
    memcpy(t->tokenizer, text, sizeof t->tokenizer);
    return 0;
}

static int read_meta(struct tokens *t, const struct jref *meta, struct aq_err *err)
{
    const char *padding, *digest;
    int64_t pad_id;
    if (product_check(meta, TOKENS_SCHEMA, err) < 0 || read_sizes(t, meta, err) < 0 ||
        jref_string(meta, "padding", &padding, err) < 0 ||
        jref_int(meta, "seq_len", 0, INT32_MAX, &t->seq_len, err) < 0 ||
        jref_int(meta, "pad_id", -1, INT32_MAX, &pad_id, err) < 0 ||
        jref_int(meta, "truncated", 0, t->samples, &t->truncated, err) < 0 ||
        read_tokenizer(t, meta, err) < 0 || jref_string(meta, "digest", &digest, err) < 0)
        return -1;
    t->pad_id = (int32_t)pad_id;
    t->max_length = strcmp(padding, "max_length") == 0;
    if (!t->max_length && strcmp(padding, "none") != 0)
        return jref_fail(meta, err, "padding is '%s', expected one of: none, max_length",
                         aq_show(padding));
    digest_of(t, t->digest);
    if (strcmp(t->digest, digest) != 0)
        return jref_fail(meta, err, "digest is %.16s..., the ids give %.16s...", aq_show(digest),
                         t->digest);
    return 0;
}

/* ---- reading ---- */

static int read_count_from(struct tokens *t, const struct st_file *f, struct aq_err *err)
{
    if (!st_find(f, "count_from"))
        return 0;
    const struct st_tensor *from = st_need(f, "count_from", ST_I32, 1, err);
    if (!from)
        return -1;
    if (from->elements != (uint64_t)t->samples)
        return aq_err_set(err, AQ_EINPUT, "count_from has %llu elements, expected %lld",
                          (unsigned long long)from->elements, (long long)t->samples);
    t->count_from = xreallocarray(NULL, from->elements, sizeof *t->count_from);
    memcpy(t->count_from, from->data, from->elements * sizeof *t->count_from);
    for (int64_t s = 0; s < t->samples; s++)
        if (t->count_from[s] < 0 || t->count_from[s] >= t->offsets[s + 1] - t->offsets[s])
            return aq_err_set(err, AQ_EINPUT, "count_from of sample %lld is %d, it has %lld tokens",
                              (long long)s, t->count_from[s],
                              (long long)(t->offsets[s + 1] - t->offsets[s]));
    return 0;
}

static int read_arrays(struct tokens *t, const struct st_file *f, struct aq_err *err)
{
    const struct st_tensor *ids = st_need(f, "ids", ST_I32, 1, err);
    const struct st_tensor *offsets = ids ? st_need(f, "offsets", ST_I64, 1, err) : NULL;
    if (!offsets)
        return -1;
    if (offsets->elements < 2)
        return aq_err_set(err, AQ_EINPUT, "there are no samples");
    t->id_count = (int64_t)ids->elements;
    t->samples = (int64_t)offsets->elements - 1;
    t->ids = xreallocarray(NULL, ids->elements + 1, sizeof *t->ids);
    t->offsets = xreallocarray(NULL, offsets->elements, sizeof *t->offsets);
    memcpy(t->ids, ids->data, ids->elements * sizeof *t->ids);
    memcpy(t->offsets, offsets->data, offsets->elements * sizeof *t->offsets);
    for (int64_t s = 0; s < t->samples; s++) {
        if (t->offsets[s] < 0 || t->offsets[s + 1] > t->id_count)
            return aq_err_set(err, AQ_EINPUT, "offsets of sample %lld lie outside the %lld ids",
                              (long long)s, (long long)t->id_count);
        if (t->offsets[s] >= t->offsets[s + 1])
            return aq_err_set(err, AQ_EINPUT, "sample %lld has no tokens", (long long)s);
    }
    if (t->offsets[0] != 0 || t->offsets[t->samples] != t->id_count)
        return aq_err_set(err, AQ_EINPUT, "offsets run from %lld to %lld, expected 0 to %lld",
                          (long long)t->offsets[0], (long long)t->offsets[t->samples],
                          (long long)t->id_count);
    return read_count_from(t, f, err);
}

/* Closes the file. */
static int read_file(struct tokens *t, struct st_file *f, const char *name, struct aq_err *err)
{
    const char *text = st_meta(f, "aq");
    int r = text ? read_arrays(t, f, err)
                 : aq_err_set(err, AQ_EINPUT, "not a product of aq: no schema, expected '%s'",
                              TOKENS_SCHEMA);
    if (r < 0)
        (void)aq_err_prefix(err, "%s", aq_show(name));
    struct json *meta = r == 0 ? json_parse(text, strlen(text), name, err) : NULL;
    if (meta) {
        struct jref root = jref_root(meta, name);
        r = read_meta(t, &root, err);
    } else {
        r = -1;
    }
    json_free(meta);
    st_close(f);
    if (r < 0)
        tokens_release(t);
    return r;
}

int tokens_open(struct tokens *t, const char *path, struct aq_err *err)
{
    struct st_file f;
    *t = (struct tokens){0};
    return st_open(&f, path, err) < 0 ? -1 : read_file(t, &f, path, err);
}

int tokens_parse(struct tokens *t, const void *bytes, size_t size, const char *name,
                 struct aq_err *err)
{
    struct st_file f;
    *t = (struct tokens){0};
    return st_open_memory(&f, bytes, size, name, err) < 0 ? -1 : read_file(t, &f, name, err);
}

/* ---- writing ---- */

static void add_provenance(struct json *meta, const struct tokens *t, const char *tool,
                           int result_version)
{
    struct json *inputs = product_add_provenance(meta, tool, result_version);
    if (t->tokenizer_files[0])
        json_add_string(inputs, "tokenizer", t->tokenizer_files);
    if (t->captions[0])
        json_add_string(inputs, "captions", t->captions);
}

int tokens_write(const struct tokens *t, const char *tool, int result_version, const char *path,
                 struct aq_err *err)
{
    char digest[AQ_SHA256_HEX];
    struct aq_buf text = AQ_BUF_INIT;
    struct json *meta = meta_without_digest(t), *outer = json_new_object();
    uint64_t ids = (uint64_t)t->id_count, samples = (uint64_t)t->samples, offsets = samples + 1;
    digest_of(t, digest);
    json_add_string(meta, "digest", digest);
    add_provenance(meta, t, tool, result_version);
    add_compact(&text, meta);
    json_add_string(outer, "aq", text.data);
    struct st_writer *w = st_writer_new();
    st_writer_metadata(w, outer);
    int ids_at = st_declare(w, "ids", ST_I32, 1, &ids);
    int offsets_at = st_declare(w, "offsets", ST_I64, 1, &offsets);
    int from_at = t->count_from ? st_declare(w, "count_from", ST_I32, 1, &samples) : -1;
    int r = st_begin(w, path, err);
    if (r == 0)
        r = st_write(w, ids_at, 0, t->ids, ids * sizeof *t->ids, err);
    if (r == 0)
        r = st_write(w, offsets_at, 0, t->offsets, offsets * sizeof *t->offsets, err);
    if (r == 0 && t->count_from)
        r = st_write(w, from_at, 0, t->count_from, samples * sizeof *t->count_from, err);
    if (r == 0)
        r = st_commit(w, err);
    st_writer_free(w);
    json_free(meta);
    aq_buf_release(&text);
    return r;
}
