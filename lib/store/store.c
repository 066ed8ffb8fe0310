/* Reading a store. The file is hostile until every shape, flag and sum has been looked at. */
#include "store/store.h"

#include "base/fmt.h"
#include "base/mem.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What cannot be read at all is not broken. */
static int broken(const char *path, struct aq_err *err)
{
    if (!err || err->code != AQ_EINPUT)
        return -1;
    aq_err_prefix(err, "store '%s'", aq_show(path));
    return aq_err_hint(err, "remove it to start over");
}

/* ---- metadata ---- */

static int read_meta(struct store *s, struct aq_err *err)
{
    const char *text = st_meta(&s->file, "aq");
    if (!text)
        return aq_err_set(err, AQ_EINPUT, "not a store: the metadata key 'aq' is missing");
    s->meta = json_parse(text, strlen(text), "metadata", err);
    if (!s->meta)
        return -1;
    struct jref root = jref_root(s->meta, "metadata"), identity, ranges, weights;
    const char *schema;
    if (jref_string(&root, "schema", &schema, err) < 0)
        return -1;
    if (strcmp(schema, STORE_SCHEMA) != 0)
        return aq_err_set(err, AQ_EINPUT, "schema is '%s', expected '%s'", aq_show(schema),
                          STORE_SCHEMA);
    if (jref_get(&root, "identity", JSON_OBJECT, &identity, err) < 0 ||
        jref_get(&root, "weights", JSON_OBJECT, &weights, err) < 0 ||
        jref_get(&root, "ranges", JSON_OBJECT, &ranges, err) < 0 ||
        model_groups_read(&s->model, &root, err) < 0)
        return -1;
    s->identity = identity.v;
    s->weights = weights.v;
    s->shape.groups = (int64_t)s->model.count;
    s->shape.layers = s->model.layers;
    s->ranges = ranges.v;
    return 0;
}

static int read_samples(struct store *s, const char *name, int32_t **out, struct aq_err *err)
{
    const struct st_tensor *t = st_need(&s->file, name, ST_I32, 1, err);
    if (!t)
        return -1;
    if (s->shape.samples && t->shape[0] != (uint64_t)s->shape.samples)
        return aq_err_set(err, AQ_EINPUT, "tensor '%s' has %" PRIu64 " samples, expected %" PRId64,
                          name, t->shape[0], s->shape.samples);
    s->shape.samples = (int64_t)t->shape[0];
    *out = xcalloc(t->shape[0], sizeof **out);
    if (t->shape[0])
        memcpy(*out, t->data, t->shape[0] * sizeof **out);
    for (int64_t i = 0; i < s->shape.samples; i++)
        if ((*out)[i] < 0)
            return aq_err_set(err, AQ_EINPUT, "tensor '%s' is negative at sample %" PRId64, name,
                              i);
    return 0;
}

/* Tiles follow one another without gaps, from the first sample to the last. */
static int read_tiles(struct store *s, struct aq_err *err)
{
    const struct st_tensor *t = st_need(&s->file, "tile_first", ST_I32, 1, err);
    if (!t)
        return -1;
    if (t->shape[0] < 2 || t->shape[0] - 1 > (uint64_t)s->shape.samples)
        return aq_err_set(err, AQ_EINPUT, "tensor 'tile_first' has %" PRIu64 " elements",
                          t->shape[0]);
    s->shape.tiles = (int64_t)t->shape[0] - 1;
    s->tile_first = xcalloc(t->shape[0], sizeof *s->tile_first);
    memcpy(s->tile_first, t->data, t->shape[0] * sizeof *s->tile_first);
    for (int64_t i = 0; i < s->shape.tiles; i++)
        if (s->tile_first[i] >= s->tile_first[i + 1])
            return aq_err_set(err, AQ_EINPUT, "tensor 'tile_first' does not rise at tile %" PRId64,
                              i);
    if (s->tile_first[0] != 0 || s->tile_first[s->shape.tiles] != s->shape.samples)
        return aq_err_set(err, AQ_EINPUT,
                          "tensor 'tile_first' runs from %d to %d, expected 0 to %" PRId64,
                          s->tile_first[0], s->tile_first[s->shape.tiles], s->shape.samples);
    return 0;
}

/* ---- rows ---- */

/* "s/<id>/<prefix>" -> key */
static bool parse_key(const char *name, struct store_key *key)
{
    const char *id = strchr(name, '/') + 1;
    if (strspn(id, "0123456789abcdef") != TREATMENT_ID - 1 || id[TREATMENT_ID - 1] != '/')
        return false;
    memcpy(key->id, id, TREATMENT_ID - 1);
    key->id[TREATMENT_ID - 1] = '\0';
    if (!aq_parse_i64(id + TREATMENT_ID, &key->prefix) || key->prefix < 0)
        return false;
    /* one spelling of a number, or two names would be the same row */
    char again[64];
    (void)snprintf(again, sizeof again, "s/%s/%" PRId64, key->id, key->prefix);
    return strcmp(again, name) == 0;
}

static int row_tensor(struct store *s, const char *kind, const struct store_key *key,
                      enum st_dtype dtype, int64_t rows, int64_t cols, const void **data,
                      struct aq_err *err)
{
    char name[64];
    (void)snprintf(name, sizeof name, "%s/%s/%" PRId64, kind, key->id, key->prefix);
    const struct st_tensor *t = st_need(&s->file, name, dtype, 2, err);
    if (!t)
        return -1;
    if (t->shape[0] != (uint64_t)rows || t->shape[1] != (uint64_t)cols)
        return aq_err_set(err, AQ_EINPUT,
                          "tensor '%s' is [%" PRIu64 ", %" PRIu64 "], expected [%" PRId64
                          ", %" PRId64 "]",
                          name, t->shape[0], t->shape[1], rows, cols);
    *data = t->data;
    return 0;
}

static int row_treatment(struct store *s, struct store_row *r, struct aq_err *err)
{
    struct jref root = jref_root(s->meta, "metadata"), all, one;
    if (jref_get(&root, "candidates", JSON_OBJECT, &all, err) < 0 ||
        jref_get(&all, r->key.id, JSON_OBJECT, &one, err) < 0 ||
        jref_string(&one, "w", &r->w, err) < 0 || jref_string(&one, "a", &r->a, err) < 0)
        return -1;
    char id[TREATMENT_ID];
    treatment_id(r->w, r->a, id);
    if (strcmp(id, r->key.id) != 0)
        return jref_fail(&one, err, "the treatment's id is '%s'", id);
    return 0;
}

static int bad_value(const struct store_row *r, const char *kind, double x, int64_t group,
                     int64_t sample, struct aq_err *err)
{
    return aq_err_set(err, AQ_EINPUT,
                      "tensor '%s/%s/%" PRId64 "' holds %g at group %" PRId64 ", sample %" PRId64,
                      kind, r->key.id, r->key.prefix, x, group, sample);
}

static int check_values(const struct store *s, const struct store_row *r, struct aq_err *err)
{
    const struct json *method = json_get(s->identity, "method");
    bool divergence =
        method && json_type(method) == JSON_STRING && strcmp(json_string(method), "kl_div") == 0;
    for (int64_t i = 0; i < s->shape.layers * s->shape.tiles; i++)
        if (r->have[i] > 1)
            return aq_err_set(err, AQ_EINPUT,
                              "tensor 'have/%s/%" PRId64 "' holds %d, expected 0 or 1", r->key.id,
                              r->key.prefix, r->have[i]);
    for (int64_t g = 0; g < s->shape.groups; g++)
        for (int64_t i = 0; i < s->shape.samples; i++) {
            double sum = store_sum(s, r, g, i), clip = store_clip(s, r, g, i);
            if (!isfinite(sum) || (sum < 0 && !divergence))
                return bad_value(r, "s", sum, g, i, err);
            if (!isfinite(clip) || clip < 0)
                return bad_value(r, "clip", clip, g, i, err);
        }
    return 0;
}

static int read_row(struct store *s, const struct st_tensor *t, struct aq_err *err)
{
    struct store_row r = {0};
    if (!parse_key(t->name, &r.key))
        return aq_err_set(err, AQ_EINPUT, "tensor '%s' has no proper name of a row",
                          aq_show(t->name));
    int64_t groups = s->shape.groups;
    const void *have = NULL;
    if (row_tensor(s, "s", &r.key, ST_F64, groups, s->shape.samples, &r.sums, err) < 0 ||
        row_tensor(s, "clip", &r.key, ST_F32, groups, s->shape.samples, &r.clip, err) < 0 ||
        row_tensor(s, "have", &r.key, ST_U8, s->shape.layers, s->shape.tiles, &have, err) < 0 ||
        row_treatment(s, &r, err) < 0)
        return -1;
    r.have = have;
    if (check_values(s, &r, err) < 0)
        return -1;
    s->rows[s->count++] = r;
    return 0;
}

static int by_key(const void *a, const void *b)
{
    const struct store_row *x = a, *y = b;
    int c = strcmp(x->key.id, y->key.id);
    return c ? c : (x->key.prefix > y->key.prefix) - (x->key.prefix < y->key.prefix);
}

static int read_rows(struct store *s, struct aq_err *err)
{
    s->rows = xcalloc(s->file.count, sizeof *s->rows);
    for (size_t i = 0; i < s->file.count; i++) {
        const struct st_tensor *t = &s->file.tensors[i];
        if (strncmp(t->name, "s/", 2) == 0 && read_row(s, t, err) < 0)
            return -1;
    }
    if (s->file.count != s->count * 3 + 3)
        return aq_err_set(err, AQ_EINPUT, "%zu tensors for %zu rows: some do not belong",
                          s->file.count, s->count);
    if (s->count == 0)
        return aq_err_set(err, AQ_EINPUT, "there is no candidate in it");
    qsort(s->rows, s->count, sizeof *s->rows, by_key);
    return 0;
}

/* What st_open found: looked through, or closed again. */
static int read_all(struct store *s, const char *path, struct aq_err *err)
{
    s->path = xstrdup(path);
    if (read_meta(s, err) == 0 && read_samples(s, "labels", &s->labels, err) == 0 &&
        read_samples(s, "sample_tokens", &s->sample_tokens, err) == 0 && read_tiles(s, err) == 0 &&
        read_rows(s, err) == 0)
        return 0;
    broken(path, err);
    store_close(s);
    return -1;
}

int store_open(struct store *s, const char *path, struct aq_err *err)
{
    *s = (struct store){0};
    return st_open(&s->file, path, err) < 0 ? broken(path, err) : read_all(s, path, err);
}

int store_open_memory(struct store *s, const void *bytes, size_t size, const char *name,
                      struct aq_err *err)
{
    *s = (struct store){0};
    return st_open_memory(&s->file, bytes, size, name, err) < 0 ? broken(name, err)
                                                                : read_all(s, name, err);
}

void store_close(struct store *s)
{
    if (s->path)
        st_close(&s->file);
    json_free(s->meta);
    model_groups_release(&s->model);
    free(s->rows);
    free(s->labels);
    free(s->sample_tokens);
    free(s->tile_first);
    free(s->path);
    *s = (struct store){0};
}

const struct store_row *store_find(const struct store *s, const char *id, int64_t prefix)
{
    struct store_row wanted = {.key.prefix = prefix};
    (void)snprintf(wanted.key.id, sizeof wanted.key.id, "%s", id);
    return s->count ? bsearch(&wanted, s->rows, s->count, sizeof *s->rows, by_key) : NULL;
}

double store_sum(const struct store *s, const struct store_row *r, int64_t group, int64_t sample)
{
    double x;
    memcpy(&x, (const char *)r->sums + (size_t)(group * s->shape.samples + sample) * sizeof x,
           sizeof x);
    return x;
}

double store_clip(const struct store *s, const struct store_row *r, int64_t group, int64_t sample)
{
    float x;
    memcpy(&x, (const char *)r->clip + (size_t)(group * s->shape.samples + sample) * sizeof x,
           sizeof x);
    return x;
}

bool store_have(const struct store *s, const struct store_row *r, int64_t layer, int64_t tile)
{
    return r->have[layer * s->shape.tiles + tile] != 0;
}

bool store_complete(const struct store *s, const struct store_row *r, int64_t samples)
{
    for (int64_t tile = 0; tile < s->shape.tiles && s->tile_first[tile] < samples; tile++)
        for (int64_t layer = 0; layer < s->shape.layers; layer++)
            if (!store_have(s, r, layer, tile))
                return false;
    return true;
}

static void show_value(const struct json *v, struct aq_buf *out)
{
    if (!v)
        aq_buf_adds(out, "nothing");
    else if (json_write(out, v, JSON_COMPACT, NULL) < 0)
        aq_buf_adds(out, "?");
}

int store_same_identity(const struct json *found, const struct json *expected, const char *path,
                        struct aq_err *err)
{
    for (const struct json *e = json_first(expected); e; e = json_next(e)) {
        const struct json *f = json_get(found, json_key(e));
        if (f && json_equal(f, e))
            continue;
        struct aq_buf a = AQ_BUF_INIT, b = AQ_BUF_INIT;
        show_value(f, &a);
        show_value(e, &b);
        aq_err_set(err, AQ_EINPUT, "store '%s' was made with another '%s': %s, now %s",
                   aq_show(path), json_key(e), a.data, b.data);
        aq_err_hint(err, "use another file, or --replace to start this one over");
        aq_buf_release(&a);
        aq_buf_release(&b);
        return -1;
    }
    return 0;
}

struct json *store_describe(const struct store *s)
{
    struct json *v = json_new_object();
    json_add_string(v, "schema", STORE_SCHEMA);
    json_add(v, "identity", json_copy(s->identity));
    json_add(v, "ranges", json_copy(s->ranges));
    json_add_int(v, "layers", s->shape.layers);
    json_add_int(v, "samples", s->shape.samples);
    json_add_int(v, "tiles", s->shape.tiles);
    struct json *rows = json_add_array(v, "rows");
    for (size_t i = 0; i < s->count; i++) {
        const struct store_row *r = &s->rows[i];
        int64_t have = 0;
        for (int64_t k = 0; k < s->shape.layers * s->shape.tiles; k++)
            have += r->have[k];
        struct json *row = json_push(rows, json_new_object());
        json_add_string(row, "treatment_id", r->key.id);
        json_add_string(row, "w", r->w);
        json_add_string(row, "a", r->a);
        json_add_int(row, "prefix", r->key.prefix);
        json_add_double(row, "complete", (double)have / (double)(s->shape.layers * s->shape.tiles));
    }
    return v;
}
