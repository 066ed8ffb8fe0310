#include "base/mem.h"
#include "io/product.h"
#include "model/lm.h"
#include "model/lm_layout.h"
#include "model/shard_name.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *const digest_kinds[] = {"sample", "full"};

/* ---- the architecture, both ways ---- */

struct arch_key {
    const char *key;
    size_t offset;
    int64_t max;
};

#define DIM(name, max)                                                                             \
    {                                                                                              \
#name, offsetof(struct lm_arch, name), max                                                 \
    }

static const struct arch_key arch_ints[] = {
    DIM(hidden_size, LM_MAX_DIM),
    DIM(intermediate_size, LM_MAX_DIM),
    DIM(num_hidden_layers, LM_MAX_LAYERS),
    DIM(num_attention_heads, LM_MAX_HEADS),
    DIM(num_key_value_heads, LM_MAX_HEADS),
    DIM(head_dim, LM_MAX_HEADS),
    DIM(vocab_size, LM_MAX_DIM),
};

static int read_arch(struct lm_arch *a, const struct jref *root, struct aq_err *err)
{
    struct jref r;
    if (jref_get(root, "arch", JSON_OBJECT, &r, err) < 0)
        return -1;
    for (size_t i = 0; i < AQ_COUNT(arch_ints); i++) {
        int64_t *out = (int64_t *)((char *)a + arch_ints[i].offset);
        if (jref_int(&r, arch_ints[i].key, 1, arch_ints[i].max, out, err) < 0)
            return -1;
    }
    if (jref_double(&r, "rope_theta", &a->rope_theta, err) < 0 ||
        jref_double(&r, "rms_norm_eps", &a->rms_norm_eps, err) < 0 ||
        jref_bool(&r, "tie_word_embeddings", &a->tie_word_embeddings, err) < 0)
        return -1;
    return lm_arch_check(a, &r, err);
}

static void write_arch(struct json *root, const struct lm_arch *a)
{
    struct json *v = json_add_object(root, "arch");
    for (size_t i = 0; i < AQ_COUNT(arch_ints); i++)
        json_add_int(v, arch_ints[i].key,
                     *(const int64_t *)((const char *)a + arch_ints[i].offset));
    json_add_double(v, "rope_theta", a->rope_theta);
    json_add_double(v, "rms_norm_eps", a->rms_norm_eps);
    json_add_bool(v, "tie_word_embeddings", a->tie_word_embeddings);
}

/* ---- reading ---- */

static const char *keep(struct lm *lm, const char *s)
{
    return aq_arena_strdup(&lm->strings, s);
}

static int read_files(struct lm *lm, const struct jref *root, struct aq_err *err)
{
    struct jref list;
    if (jref_get(root, "files", JSON_ARRAY, &list, err) < 0)
        return -1;
    lm->files = xcalloc(json_size(list.v), sizeof *lm->files);
    for (const struct json *v = json_first(list.v); v; v = json_next(v)) {
        struct jref r = jref_child(&list, v, lm->file_count);
        struct lm_file *f = &lm->files[lm->file_count];
        const char *name;
        int64_t bytes;
        if (jref_string(&r, "name", &name, err) < 0 ||
            jref_int(&r, "bytes", 0, INT64_MAX, &bytes, err) < 0)
            return -1;
        if (!shard_name_is_plain(name))
            return jref_fail(&r, err, "'%s' is not a plain file name", aq_show(name));
        f->name = keep(lm, name);
        f->bytes = (uint64_t)bytes;
        lm->file_count++;
    }
    return 0;
}

static int read_shape(struct lm_tensor *t, const struct jref *r, struct aq_err *err)
{
    struct jref list;
    if (jref_get(r, "shape", JSON_ARRAY, &list, err) < 0)
        return -1;
    bool same = json_size(list.v) == (size_t)t->rank;
    int i = 0;
    for (const struct json *d = json_first(list.v); d && same; d = json_next(d), i++) {
        int64_t n;
        same = json_int(d, &n) && n >= 0 && (uint64_t)n == t->shape[i];
    }
    if (!same && t->rank == 1)
        return jref_fail(&list, err, "the architecture needs [%" PRIu64 "]", t->shape[0]);
    if (!same)
        return jref_fail(&list, err, "the architecture needs [%" PRIu64 ", %" PRIu64 "]",
                         t->shape[0], t->shape[1]);
    return 0;
}

/* Name and shape are the layout's; the entry must say the same. */
static int read_tensor(struct lm *lm, struct lm_tensor *t, const struct jref *r, const char *name,
                       struct aq_err *err)
{
    const char *text, *source, *dtype;
    int64_t file, begin, end;
    if (jref_string(r, "name", &text, err) < 0 || jref_string(r, "source", &source, err) < 0 ||
        jref_string(r, "dtype", &dtype, err) < 0)
        return -1;
    if (strcmp(text, name) != 0)
        return jref_fail(r, err, "tensor is '%s', expected '%s'", aq_show(text), name);
    if (!st_dtype_parse(dtype, &t->dtype) ||
        (t->dtype != ST_BF16 && t->dtype != ST_F16 && t->dtype != ST_F32))
        return jref_fail(r, err, "dtype is '%s', expected BF16, F16 or F32", aq_show(dtype));
    if (read_shape(t, r, err) < 0 ||
        jref_int(r, "file", 0, (int64_t)lm->file_count - 1, &file, err) < 0 ||
        jref_int(r, "begin", 0, INT64_MAX, &begin, err) < 0 ||
        jref_int(r, "end", 0, INT64_MAX, &end, err) < 0)
        return -1;
    t->name = keep(lm, text);
    t->source = keep(lm, source);
    t->file = (uint32_t)file;
    t->begin = (uint64_t)begin;
    t->end = (uint64_t)end;
    t->elements = t->shape[0] * (t->rank > 1 ? t->shape[1] : 1);
    if (end < begin || t->end > lm->files[file].bytes)
        return jref_fail(r, err,
                         "bytes %" PRId64 " to %" PRId64 " do not lie in '%s' (%" PRIu64 " bytes)",
                         begin, end, aq_show(lm->files[file].name), lm->files[file].bytes);
    if (t->end - t->begin != t->elements * (st_dtype_bits(t->dtype) / 8))
        return jref_fail(r, err, "bytes %" PRId64 " to %" PRId64 " do not fit dtype and shape",
                         begin, end);
    return 0;
}

static int by_place(const void *a, const void *b)
{
    const struct lm_tensor *s = *(const struct lm_tensor *const *)a;
    const struct lm_tensor *t = *(const struct lm_tensor *const *)b;
    if (s->file != t->file)
        return s->file < t->file ? -1 : 1;
    return s->begin < t->begin ? -1 : s->begin > t->begin;
}

static int check_overlap(const struct lm *lm, const struct jref *root, struct aq_err *err)
{
    int r = 0;
    const struct lm_tensor **order = xcalloc(lm->count, sizeof *order);
    for (size_t i = 0; i < lm->count; i++)
        order[i] = &lm->tensors[i];
    qsort(order, lm->count, sizeof *order, by_place);
    for (size_t i = 1; i < lm->count && r == 0; i++)
        if (order[i]->file == order[i - 1]->file && order[i]->begin < order[i - 1]->end)
            r = jref_fail(root, err, "tensors '%s' and '%s' overlap", order[i - 1]->name,
                          order[i]->name);
    free(order);
    return r;
}

static int read_tensors(struct lm *lm, const struct jref *root, struct aq_err *err)
{
    struct jref list;
    struct aq_buf name = AQ_BUF_INIT;
    int r = -1;
    if (jref_get(root, "tensors", JSON_ARRAY, &list, err) < 0)
        return -1;
    size_t want = lm_layout_count(&lm->arch), have = json_size(list.v);
    if (have != want)
        return jref_fail(&list, err, "%zu tensors, the architecture has %zu", have, want);
    lm->tensors = xcalloc(want, sizeof *lm->tensors);
    for (const struct json *v = json_first(list.v); v; v = json_next(v)) {
        struct lm_tensor *t = &lm->tensors[lm->count];
        struct jref entry = jref_child(&list, v, lm->count);
        lm_layout_get(&lm->arch, lm->count, &name, &t->rank, t->shape);
        if (read_tensor(lm, t, &entry, aq_buf_str(&name), err) < 0)
            goto out;
        lm->count++;
    }
    r = check_overlap(lm, root, err);
out:
    aq_buf_release(&name);
    return r;
}

static int read_dropped(struct lm *lm, const struct jref *root, struct aq_err *err)
{
    struct jref list;
    if (jref_get(root, "dropped", JSON_ARRAY, &list, err) < 0)
        return -1;
    lm->dropped = xcalloc(json_size(list.v), sizeof *lm->dropped);
    for (const struct json *v = json_first(list.v); v; v = json_next(v)) {
        struct jref r = jref_child(&list, v, lm->dropped_count);
        const char *prefix;
        int64_t n[4];
        if (jref_string(&r, "prefix", &prefix, err) < 0 ||
            jref_int(&r, "tensors", 0, INT64_MAX, &n[0], err) < 0 ||
            jref_int(&r, "elements", 0, INT64_MAX, &n[1], err) < 0 ||
            jref_int(&r, "linears", 0, INT64_MAX, &n[2], err) < 0 ||
            jref_int(&r, "linear_weights", 0, INT64_MAX, &n[3], err) < 0)
            return -1;
        lm->dropped[lm->dropped_count++] = (struct lm_dropped){
            keep(lm, prefix), (uint64_t)n[0], (uint64_t)n[1], (uint64_t)n[2], (uint64_t)n[3]};
    }
    return 0;
}

static int read_digest(struct lm *lm, const struct jref *root, struct aq_err *err)
{
    struct jref r;
    const char *kind, *hex;
    if (jref_get(root, "digest", JSON_OBJECT, &r, err) < 0 ||
        jref_string(&r, "kind", &kind, err) < 0 || jref_string(&r, "sha256", &hex, err) < 0)
        return -1;
    size_t k = 0;
    while (k < AQ_COUNT(digest_kinds) && strcmp(kind, digest_kinds[k]) != 0)
        k++;
    if (k == AQ_COUNT(digest_kinds))
        return jref_fail(&r, err, "kind is '%s', expected sample or full", aq_show(kind));
    if (strlen(hex) != AQ_SHA256_HEX - 1 || strspn(hex, "0123456789abcdef") != AQ_SHA256_HEX - 1)
        return jref_fail(&r, err, "sha256 is not 64 hexadecimal digits");
    lm->digest_kind = (enum lm_digest)k;
    memcpy(lm->digest, hex, AQ_SHA256_HEX);
    return 0;
}

int lm_from_json(struct lm *lm, const struct json *v, const char *name, struct aq_err *err)
{
    struct jref root = jref_root(v, name);
    const char *dir, *head;
    *lm = (struct lm){.root = NULL};
    if (read_arch(&lm->arch, &root, err) < 0 || jref_string(&root, "root", &dir, err) < 0 ||
        read_files(lm, &root, err) < 0 || read_tensors(lm, &root, err) < 0 ||
        jref_string(&root, "head", &head, err) < 0 || read_dropped(lm, &root, err) < 0 ||
        read_digest(lm, &root, err) < 0)
        goto fail;
    lm->root = keep(lm, dir);
    lm_index(lm);
    if (strcmp(head, lm->head->name) != 0) {
        jref_fail(&root, err, "head is '%s', the architecture says '%s'", aq_show(head),
                  lm->head->name);
        goto fail;
    }
    return 0;
fail:
    lm_close(lm);
    return -1;
}

/* ---- writing ---- */

static void write_tensors(struct json *root, const struct lm *lm)
{
    struct json *files = json_add_array(root, "files");
    for (size_t i = 0; i < lm->file_count; i++) {
        struct json *f = json_push(files, json_new_object());
        json_add_string(f, "name", lm->files[i].name);
        json_add_int(f, "bytes", (int64_t)lm->files[i].bytes);
    }
    struct json *list = json_add_array(root, "tensors");
    for (size_t i = 0; i < lm->count; i++) {
        const struct lm_tensor *t = &lm->tensors[i];
        struct json *v = json_push(list, json_new_object());
        json_add_string(v, "name", t->name);
        json_add_string(v, "source", t->source);
        json_add_string(v, "dtype", st_dtype_text(t->dtype));
        struct json *shape = json_add_array(v, "shape");
        for (int d = 0; d < t->rank; d++)
            json_push(shape, json_new_int((int64_t)t->shape[d]));
        json_add_int(v, "file", t->file);
        json_add_int(v, "begin", (int64_t)t->begin);
        json_add_int(v, "end", (int64_t)t->end);
    }
}

struct json *lm_to_json(const struct lm *lm, const char *tool, int result_version)
{
    struct json *root = product_new(LM_SCHEMA);
    write_arch(root, &lm->arch);
    json_add_string(root, "root", lm->root);
    write_tensors(root, lm);
    json_add_string(root, "head", lm->head->name);
    struct json *dropped = json_add_array(root, "dropped");
    for (size_t i = 0; i < lm->dropped_count; i++) {
        const struct lm_dropped *d = &lm->dropped[i];
        struct json *v = json_push(dropped, json_new_object());
        json_add_string(v, "prefix", d->prefix);
        json_add_int(v, "tensors", (int64_t)d->tensors);
        json_add_int(v, "elements", (int64_t)d->elements);
        json_add_int(v, "linears", (int64_t)d->linears);
        json_add_int(v, "linear_weights", (int64_t)d->linear_weights);
    }
    struct json *digest = json_add_object(root, "digest");
    json_add_string(digest, "kind", digest_kinds[lm->digest_kind]);
    json_add_string(digest, "sha256", lm->digest);
    product_add_provenance(root, tool, result_version);
    return root;
}
