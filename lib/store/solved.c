#include "store/solved.h"

#include "base/mem.h"
#include "base/names.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct solved_tensor {
    float *numbers; /* F32: a copy */
    float *inverse; /* 1 / numbers, once it was asked for */
    bool checked;
};

static const char again[] = "make it again with 'aq-calib solve'";

/* ---- opening ---- */

static int digest_of(const struct json *meta, char out[AQ_SHA256_HEX], struct aq_err *err)
{
    struct json *open = json_copy(meta);
    struct aq_buf text = AQ_BUF_INIT;
    (void)json_remove(open, "digest");
    int r = json_write(&text, open, JSON_COMPACT, err);
    if (r == 0)
        aq_sha256_of(text.data, text.len, out);
    aq_buf_release(&text);
    json_free(open);
    return r;
}

static int check_candidates(const struct jref *all, struct aq_err *err)
{
    for (const struct json *c = json_first(all->v); c; c = json_next(c)) {
        struct jref one = jref_child(all, c, 0);
        const char *w, *a;
        char id[TREATMENT_ID];
        if (jref_is(&one, JSON_OBJECT, err) < 0 || jref_string(&one, "w", &w, err) < 0 ||
            jref_string(&one, "a", &a, err) < 0)
            return -1;
        treatment_id(w, a, id);
        if (strcmp(id, json_key(c)) != 0)
            return jref_fail(&one, err, "the id of its treatments is '%s'", id);
    }
    return 0;
}

static int read_layers(struct solved_file *s, const struct jref *root, struct aq_err *err)
{
    struct jref list;
    if (jref_get(root, "layers", JSON_ARRAY, &list, err) < 0)
        return -1;
    const struct json *first = json_at(list.v, 0), *end = json_at(list.v, 1);
    if (json_size(list.v) != 2 || !json_int(first, &s->first_layer) ||
        !json_int(end, &s->end_layer) || s->first_layer < 0 || s->end_layer <= s->first_layer ||
        s->end_layer > s->model.layers)
        return jref_fail(&list, err, "expected the first layer and the one after the last");
    return 0;
}

static int read_meta(struct solved_file *s, struct aq_err *err)
{
    const char *text = st_meta(&s->file, "aq"), *schema, *digest;
    char found[AQ_SHA256_HEX];
    struct jref candidates, tensors;
    if (!text)
        return aq_err_set(err, AQ_EINPUT, "nothing solved: the metadata key 'aq' is missing");
    s->meta = json_parse(text, strlen(text), "metadata", err);
    if (!s->meta)
        return -1;
    struct jref root = jref_root(s->meta, "metadata");
    if (jref_string(&root, "schema", &schema, err) < 0)
        return -1;
    if (strcmp(schema, SOLVED_SCHEMA) != 0) {
        aq_err_set(err, AQ_EINPUT, "schema is '%s', expected '%s'", aq_show(schema), SOLVED_SCHEMA);
        return aq_err_hint(err, "%s", again);
    }
    if (jref_string(&root, "digest", &digest, err) < 0 || digest_of(s->meta, found, err) < 0)
        return -1;
    if (strcmp(found, digest) != 0) {
        aq_err_set(err, AQ_EINPUT, "the file is damaged: its digest is %.16s, not %.16s", found,
                   aq_show(digest));
        return aq_err_hint(err, "%s", again);
    }
    if (jref_string(&root, "lm", &s->lm, err) < 0 ||
        jref_string(&root, "tokens", &s->tokens, err) < 0 ||
        jref_int(&root, "prefix", 1, INT32_MAX, &s->prefix, err) < 0 ||
        model_groups_read(&s->model, &root, err) < 0 || read_layers(s, &root, err) < 0 ||
        jref_get(&root, "candidates", JSON_OBJECT, &candidates, err) < 0 ||
        check_candidates(&candidates, err) < 0 ||
        jref_get(&root, "tensors", JSON_OBJECT, &tensors, err) < 0)
        return -1;
    s->candidates = candidates.v;
    s->tensors = tensors.v;
    return 0;
}

int solved_open(struct solved_file *s, const char *path, struct aq_err *err)
{
    *s = (struct solved_file){0};
    if (st_open(&s->file, path, err) < 0)
        return -1;
    s->path = xstrdup(path);
    s->seen = xcalloc(s->file.count + 1, sizeof *s->seen);
    int r = read_meta(s, err);
    if (r == 0 && json_size(s->tensors) != s->file.count)
        r = aq_err_set(err, AQ_EINPUT, "%zu tensors, but the metadata has %zu", s->file.count,
                       json_size(s->tensors));
    if (r < 0) {
        aq_err_prefix(err, "'%s'", aq_show(path));
        solved_close(s);
    }
    return r;
}

void solved_close(struct solved_file *s)
{
    for (size_t i = 0; s->seen && i < s->file.count; i++) {
        free(s->seen[i].numbers);
        free(s->seen[i].inverse);
    }
    free(s->seen);
    if (s->path)
        st_close(&s->file);
    json_free(s->meta);
    model_groups_release(&s->model);
    free(s->path);
    *s = (struct solved_file){0};
}

int solved_matches(const struct solved_file *s, const char *lm, const struct model_groups *g,
                   struct aq_err *err)
{
    if (strcmp(s->lm, lm) != 0)
        aq_err_set(err, AQ_EINPUT, "'%s' was solved for another model: lm digest %.16s, now %.16s",
                   aq_show(s->path), aq_show(s->lm), lm);
    else if (!model_groups_equal(&s->model, g))
        aq_err_set(err, AQ_EINPUT, "'%s' was solved for other groups than the model's",
                   aq_show(s->path));
    else if (s->first_layer != 0 || s->end_layer != g->layers)
        aq_err_set(err, AQ_EINPUT, "'%s' holds layers %" PRId64 " to %" PRId64 " of %" PRId64,
                   aq_show(s->path), s->first_layer, s->end_layer - 1, g->layers);
    else
        return 0;
    return aq_err_hint(err, "%s", again);
}

/* ---- tensors ---- */

int solved_digest(const struct solved_file *s, const char *id, char out[AQ_SHA256_HEX],
                  struct aq_err *err)
{
    const struct json *c = json_get(s->candidates, id);
    if (!c) {
        aq_err_set(err, AQ_EINPUT, "'%s' has no candidate %s", aq_show(s->path), aq_show(id));
        return aq_err_hint(err, "add it with 'aq-calib solve', which keeps those that are there");
    }
    struct aq_names names = AQ_NAMES_INIT;
    for (const struct json *t = json_first(s->tensors); t; t = json_next(t)) {
        const char *slash = strchr(json_key(t), '/');
        if (slash && strncmp(slash + 1, id, strlen(id)) == 0 && slash[1 + strlen(id)] == '/')
            aq_names_add(&names, json_key(t));
    }
    aq_names_order(&names);
    struct aq_sha256 h;
    aq_sha256_init(&h);
    aq_sha256_add(&h, id, strlen(id));
    for (size_t i = 0; i < names.count; i++) {
        const struct json *sum = json_get(s->tensors, names.items[i]);
        const char *text = json_type(sum) == JSON_STRING ? json_string(sum) : "";
        aq_sha256_add(&h, names.items[i], strlen(names.items[i]) + 1);
        aq_sha256_add(&h, text, strlen(text));
    }
    aq_sha256_hex(&h, out);
    aq_names_release(&names);
    return 0;
}

static int damaged(const struct solved_file *s, const char *name, const char *what,
                   struct aq_err *err)
{
    aq_err_set(err, AQ_EINPUT, "'%s': tensor '%s' %s", aq_show(s->path), name, what);
    return aq_err_hint(err, "%s", again);
}

/* The tensor, compared with its digest when first seen. */
static const struct st_tensor *find(struct solved_file *s, const char *name, enum st_dtype dtype,
                                    uint64_t elements, struct solved_tensor **seen,
                                    struct aq_err *err)
{
    const struct st_tensor *t = st_find(&s->file, name);
    if (!t) {
        (void)damaged(s, name, "is missing", err);
        return NULL;
    }
    *seen = &s->seen[t - s->file.tensors];
    if (t->dtype != dtype || t->elements != elements) {
        (void)damaged(s, name, "is of another type or size", err);
        return NULL;
    }
    if (!(*seen)->checked) {
        char found[AQ_SHA256_HEX];
        const struct json *sum = json_get(s->tensors, name);
        aq_sha256_of(t->data, t->end - t->begin, found);
        if (!sum || json_type(sum) != JSON_STRING || strcmp(json_string(sum), found) != 0) {
            (void)damaged(s, name, "is damaged: its digest is another", err);
            return NULL;
        }
        (*seen)->checked = true;
    }
    return t;
}

/* Finite numbers that are not negative; scales must also have a finite inverse. */
static const float *find_numbers(struct solved_file *s, const char *name, int64_t count,
                                 bool positive, struct solved_tensor **seen, struct aq_err *err)
{
    const struct st_tensor *t = find(s, name, ST_F32, (uint64_t)count, seen, err);
    if (!t)
        return NULL;
    if ((*seen)->numbers)
        return (*seen)->numbers;
    float *numbers = xcalloc((size_t)count + 1, sizeof *numbers);
    memcpy(numbers, t->data, (size_t)count * sizeof *numbers);
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(numbers[i]) || numbers[i] < 0 || (positive && !isfinite(1 / numbers[i]))) {
            (void)damaged(s, name, "holds a number that is not finite and positive", err);
            free(numbers);
            return NULL;
        }
    (*seen)->numbers = numbers;
    return numbers;
}

/* Room for a tensor's name. */
struct tensor_name {
    char text[80];
};

static struct tensor_name scale_name(const char *id, size_t input)
{
    struct tensor_name n;
    (void)snprintf(n.text, sizeof n.text, "scale/%s/%zu", id, input);
    return n;
}

static struct tensor_name own_scale_name(const char *id, size_t group, int module)
{
    struct tensor_name n;
    (void)snprintf(n.text, sizeof n.text, "scale/%s/%zu.%d", id, group, module);
    return n;
}

static const float *find_factor(struct solved_file *s, const struct tensor_name *name, int64_t cols,
                                struct aq_err *err)
{
    struct solved_tensor *seen;
    const float *scale = find_numbers(s, name->text, cols, true, &seen, err);
    if (!scale)
        return NULL;
    if (!seen->inverse) {
        seen->inverse = xcalloc((size_t)cols, sizeof *seen->inverse);
        for (int64_t i = 0; i < cols; i++)
            seen->inverse[i] = 1 / scale[i];
    }
    return seen->inverse;
}

const float *solved_scale(struct solved_file *s, const char *id, size_t input, int64_t cols,
                          struct aq_err *err)
{
    struct solved_tensor *seen;
    return find_numbers(s, scale_name(id, input).text, cols, true, &seen, err);
}

const float *solved_own_scale(struct solved_file *s, const char *id, size_t group, int module,
                              int64_t cols, struct aq_err *err)
{
    struct solved_tensor *seen;
    return find_numbers(s, own_scale_name(id, group, module).text, cols, true, &seen, err);
}

const float *solved_factor(struct solved_file *s, const char *id, size_t input, int64_t cols,
                           struct aq_err *err)
{
    struct tensor_name name = scale_name(id, input);
    return find_factor(s, &name, cols, err);
}

const float *solved_own_factor(struct solved_file *s, const char *id, size_t group, int module,
                               int64_t cols, struct aq_err *err)
{
    struct tensor_name name = own_scale_name(id, group, module);
    return find_factor(s, &name, cols, err);
}

const float *solved_ranges(struct solved_file *s, const char *id, size_t group, int module,
                           int64_t count, struct aq_err *err)
{
    char name[80];
    struct solved_tensor *seen;
    (void)snprintf(name, sizeof name, "range/%s/%zu.%d", id, group, module);
    return find_numbers(s, name, count, false, &seen, err);
}

const uint8_t *solved_codes(struct solved_file *s, const char *id, size_t group, int module,
                            int64_t rows, int64_t row_bytes, struct aq_err *err)
{
    char name[80];
    struct solved_tensor *seen;
    (void)snprintf(name, sizeof name, "codes/%s/%zu.%d", id, group, module);
    const struct st_tensor *t = find(s, name, ST_U8, (uint64_t)(rows * row_bytes), &seen, err);
    return t ? t->data : NULL;
}

/* ---- writing ---- */

static size_t item_bytes(const struct solved_item *item)
{
    size_t n = st_dtype_bits(item->dtype) / 8;
    for (int k = 0; k < item->rank; k++)
        n *= item->shape[k];
    return n;
}

static int item_by_name(const void *a, const void *b)
{
    return strcmp(((const struct solved_item *)a)->name, ((const struct solved_item *)b)->name);
}

int solved_write(const char *path, const struct json *meta, struct solved_item *items, size_t count,
                 struct aq_err *err)
{
    struct json *aq = json_copy(meta), *outer = json_new_object();
    struct json *tensors = json_add_object(aq, "tensors");
    struct aq_buf text = AQ_BUF_INIT;
    struct st_writer *w = st_writer_new();
    int *handles = xcalloc(count + 1, sizeof *handles);
    char digest[AQ_SHA256_HEX];
    if (count)
        qsort(items, count, sizeof *items, item_by_name);
    for (size_t i = 0; i < count; i++) {
        aq_sha256_of(items[i].data, item_bytes(&items[i]), digest);
        json_add_string(tensors, items[i].name, digest);
        handles[i] = st_declare(w, items[i].name, items[i].dtype, items[i].rank, items[i].shape);
    }
    int r = digest_of(aq, digest, err);
    if (r == 0) {
        json_add_string(aq, "digest", digest);
        r = json_write(&text, aq, JSON_COMPACT, err);
    }
    json_add_string(outer, "aq", aq_buf_str(&text));
    st_writer_metadata(w, outer);
    if (r == 0)
        r = st_begin(w, path, err);
    for (size_t i = 0; i < count && r == 0; i++)
        r = st_write(w, handles[i], 0, items[i].data, item_bytes(&items[i]), err);
    if (r == 0)
        r = st_commit(w, err);
    free(handles);
    st_writer_free(w);
    aq_buf_release(&text);
    json_free(aq);
    return r;
}
