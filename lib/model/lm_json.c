#include "base/mem.h"
#include "io/product.h"
#include "model/family.h"
#include "model/lm.h"
#include "model/shard_name.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    if (!same && t->rank == 3)
        return jref_fail(&list, err,
                         "the architecture needs [%" PRIu64 ", %" PRIu64 ", %" PRIu64 "]",
                         t->shape[0], t->shape[1], t->shape[2]);
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
    t->elements = t->shape[0] * (t->rank > 1 ? t->shape[1] : 1) * (t->rank > 2 ? t->shape[2] : 1);
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

/* Entries with an orientation are the fused weights of a layer's experts; the two of a layer agree,
   since their shapes are compared with what the layout says. */
static int read_layouts(struct lm *lm, const struct jref *list, struct aq_err *err)
{
    size_t i = 0;
    for (const struct json *v = json_first(list->v); v && lm->arch.experts; v = json_next(v), i++) {
        struct jref entry = jref_child(list, v, i), r;
        const char *name, *text;
        int64_t layer = 0;
        if (!jref_has(&entry, "orientation", &r))
            continue;
        if (jref_string(&entry, "name", &name, err) < 0 ||
            jref_string(&entry, "orientation", &text, err) < 0)
            return -1;
        int layout = strcmp(text, "linear") == 0       ? EXPERTS_LINEAR
                     : strcmp(text, "transposed") == 0 ? EXPERTS_TRANSPOSED
                                                       : EXPERTS_EACH;
        if (layout == EXPERTS_EACH)
            return jref_fail(&r, err, "orientation is '%s', expected linear or transposed",
                             aq_show(text));
        if (sscanf(name, "layers.%" SCNd64 ".", &layer) != 1 || layer < 0 ||
            layer >= lm->arch.num_hidden_layers || !lm->arch.layer_sparse[layer])
            return jref_fail(&entry, err, "an orientation, but no experts of a layer");
        lm->arch.experts_layout[layer] = (int8_t)layout;
    }
    return 0;
}

static int read_tensors(struct lm *lm, const struct jref *root, struct aq_err *err)
{
    struct jref list;
    struct aq_buf name = AQ_BUF_INIT;
    int r = -1;
    if (jref_get(root, "tensors", JSON_ARRAY, &list, err) < 0 || read_layouts(lm, &list, err) < 0)
        return -1;
    size_t want, have = json_size(list.v);
    struct model_place *places = model_layout(&lm->arch, &want);
    if (have != want) {
        jref_fail(&list, err, "%zu tensors, the architecture has %zu", have, want);
        goto out;
    }
    lm->tensors = xcalloc(want, sizeof *lm->tensors);
    for (const struct json *v = json_first(list.v); v; v = json_next(v)) {
        struct lm_tensor *t = &lm->tensors[lm->count];
        struct jref entry = jref_child(&list, v, lm->count);
        model_place_describe(&places[lm->count], &lm->arch, &name, &t->rank, t->shape);
        t->transposed = arch_layout(&lm->arch, places[lm->count].layer) == EXPERTS_TRANSPOSED;
        if (read_tensor(lm, t, &entry, aq_buf_str(&name), err) < 0)
            goto out;
        lm->count++;
    }
    r = check_overlap(lm, root, err);
out:
    free(places);
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

static bool is_digest(const char *hex)
{
    return strlen(hex) == AQ_SHA256_HEX - 1 && strspn(hex, "0123456789abcdef") == AQ_SHA256_HEX - 1;
}

static int read_digest(struct lm *lm, const struct jref *root, struct aq_err *err)
{
    struct jref r, full;
    const char *hex;
    if (jref_get(root, "digest", JSON_OBJECT, &r, err) < 0 ||
        jref_string(&r, "sample", &hex, err) < 0)
        return -1;
    if (!is_digest(hex))
        return jref_fail(&r, err, "sample is not 64 hexadecimal digits");
    memcpy(lm->digest, hex, AQ_SHA256_HEX);
    if (!jref_has(&r, "full", &full))
        return 0;
    if (jref_string(&r, "full", &hex, err) < 0)
        return -1;
    if (!is_digest(hex))
        return jref_fail(&r, err, "full is not 64 hexadecimal digits");
    memcpy(lm->full, hex, AQ_SHA256_HEX);
    return 0;
}

static int read_arch(struct lm *lm, const struct jref *root, struct aq_err *err)
{
    struct jref r;
    if (jref_get(root, "arch", JSON_OBJECT, &r, err) < 0)
        return -1;
    return arch_read(&lm->arch, &r, &lm->strings, err);
}

/* The list is made from the tensors, and must be what the file says: every reader relies on it. */
static int check_groups(struct lm *lm, const struct jref *root, struct aq_err *err)
{
    struct model_groups own;
    model_groups_make(&own, &lm->arch, lm);
    int r = model_groups_read(&lm->groups, root, err);
    if (r == 0 && !model_groups_equal(&lm->groups, &own))
        r = jref_fail(root, err,
                      "inputs and groups differ from what the tensors and the family say");
    model_groups_release(&own);
    return r;
}

int lm_from_json(struct lm *lm, const struct json *v, const char *name, struct aq_err *err)
{
    struct jref root = jref_root(v, name);
    const char *dir, *head;
    *lm = (struct lm){.root = NULL};
    if (read_arch(lm, &root, err) < 0 || jref_string(&root, "root", &dir, err) < 0 ||
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
    if (check_groups(lm, &root, err) < 0)
        goto fail;
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
        if (t->rank == 3)
            json_add_string(v, "orientation", t->transposed ? "transposed" : "linear");
        json_add_int(v, "file", t->file);
        json_add_int(v, "begin", (int64_t)t->begin);
        json_add_int(v, "end", (int64_t)t->end);
    }
}

struct json *lm_to_json(const struct lm *lm, const char *tool, int result_version)
{
    struct json *root = product_new(LM_SCHEMA);
    arch_write(json_add_object(root, "arch"), &lm->arch);
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
    model_groups_write(&lm->groups, root);
    struct json *digest = json_add_object(root, "digest");
    json_add_string(digest, "sample", lm->digest);
    json_add(digest, "full", lm->full[0] ? json_new_string(lm->full) : json_new_null());
    product_add_provenance(root, tool, result_version);
    return root;
}
