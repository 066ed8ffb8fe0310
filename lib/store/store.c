/* Reading a store. The file is hostile until every shape, flag and sum has been looked at. */
#include "store/store.h"

#include "base/file.h"
#include "base/fmt.h"
#include "base/mem.h"
#include "base/pool.h"
#include "store/store_check.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What cannot be read at all is not called broken: nobody should remove a file that is not a store.
 */
static int broken(const struct store *s, const char *path, struct aq_err *err)
{
    if (!err || err->code != AQ_EINPUT)
        return -1;
    aq_err_prefix(err, "store '%s'", aq_show(path));
    return s->is_one && !err->hint[0] ? aq_err_hint(err, "remove it to start over") : -1;
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
    s->is_one = strncmp(schema, "aq.store/", 9) == 0;
    if (strcmp(schema, STORE_SCHEMA) != 0)
        return aq_err_set(err, AQ_EINPUT, "schema is '%s', expected '%s'", aq_show(schema),
                          STORE_SCHEMA);
    if (jref_get(&root, "identity", JSON_OBJECT, &identity, err) < 0 ||
        jref_get(&root, "weights", JSON_OBJECT, &weights, err) < 0 ||
        jref_get(&root, "ranges", JSON_OBJECT, &ranges, err) < 0 ||
        model_groups_read(&s->model, &root, err) < 0)
        return -1;
    s->solved = json_get(s->meta, "solved");
    if (s->solved && json_type(s->solved) != JSON_OBJECT)
        return aq_err_set(err, AQ_EINPUT, "metadata.solved: expected an object");
    s->identity = identity.v;
    s->weights = weights.v;
    s->shape.groups = (int64_t)s->model.count;
    s->shape.layers = s->model.layers;
    s->shape.gradient = store_of_gradients(s->identity);
    s->ranges = ranges.v;
    return 0;
}

/* ---- the header's digest ---- */

static void take_array(const struct store *s, const char *name, const void **data, size_t *size)
{
    const struct st_tensor *t = st_find(&s->file, name);
    *data = t ? t->data : "";
    *size = t ? (size_t)(t->end - t->begin) : 0;
}

int store_header_of(const struct store *s, struct store_header *h, struct aq_err *err)
{
    const char *digest = st_meta(&s->file, "digest");
    uint64_t length;
    if (!digest)
        return aq_err_set(err, AQ_EINPUT, "the header has no digest");
    memcpy(&length, s->file.map.data, sizeof length);
    *h = (struct store_header){.bytes = (const char *)s->file.map.data, .size = 8 + length};
    if (strlen(digest) == AQ_SHA256_HEX - 1)
        h->digits = memmem(h->bytes, h->size, digest, AQ_SHA256_HEX - 1);
    take_array(s, "labels", &h->labels, &h->labels_size);
    take_array(s, "sample_tokens", &h->sample_tokens, &h->sample_tokens_size);
    take_array(s, "tile_first", &h->tile_first, &h->tile_first_size);
    return h->digits ? 0 : aq_err_set(err, AQ_EINPUT, "the header is damaged: no proper digest");
}

static int check_header(const struct store *s, struct aq_err *err)
{
    struct store_header h;
    char found[AQ_SHA256_HEX];
    if (store_header_of(s, &h, err) == 0) {
        store_header_digest(&h, found);
        if (memcmp(found, h.digits, AQ_SHA256_HEX - 1) == 0)
            return 0;
        aq_err_set(err, AQ_EINPUT, "the header is damaged: its digest is %.16s, not %.16s", found,
                   h.digits);
    }
    return aq_err_hint(err, "aq-score --repair keeps the sound cells, --replace starts over");
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
    const struct json *solved = s->solved ? json_get(s->solved, id) : NULL;
    if (solved && json_type(solved) != JSON_STRING)
        return aq_err_set(err, AQ_EINPUT, "metadata.solved.%s: expected a string", id);
    r->solved = solved ? json_string(solved) : NULL;
    return 0;
}

/* ---- cells ---- */

struct store_cell store_cell_of(const struct store *s, const struct store_row *r, int64_t layer,
                                int64_t tile)
{
    size_t first = s->model.first[layer], from = (size_t)s->tile_first[tile];
    size_t at = first * (size_t)s->shape.samples + from;
    struct store_cell c = {.groups = s->model.first[layer + 1] - first,
                           .samples = (size_t)s->tile_first[tile + 1] - from,
                           .stride = (size_t)s->shape.samples};
    for (int p = 0; p < STORE_PARTS; p++)
        if (r->parts[p])
            c.parts[p] = (const char *)r->parts[p] + at * store_part_kinds[p].size;
    return c;
}

static uint64_t stored_check(const struct store *s, const struct store_row *r, int64_t layer,
                             int64_t tile)
{
    uint64_t v;
    memcpy(&v, (const char *)r->check + (size_t)(layer * s->shape.tiles + tile) * sizeof v,
           sizeof v);
    return v;
}

static bool is_sound(const struct store *s, const struct store_row *r, int64_t layer, int64_t tile,
                     enum store_use use)
{
    struct store_cell c = store_cell_of(s, r, layer, tile);
    uint64_t check = stored_check(s, r, layer, tile);
    switch (r->have[layer * s->shape.tiles + tile]) {
    case 0: /* a killed run writes sums before flags */
        return use == STORE_PART || (check == 0 && store_cell_empty(&c));
    case 1:
        return check == store_cell_check(&r->key, layer, tile, &c);
    default:
        return false;
    }
}

static int bad_value(const struct store_row *r, const char *kind, double x, int64_t group,
                     int64_t sample, struct aq_err *err)
{
    return aq_err_set(err, AQ_EINPUT,
                      "tensor '%s/%s/%" PRId64 "' holds %g at group %" PRId64 ", sample %" PRId64,
                      kind, r->key.id, r->key.prefix, x, group, sample);
}

/* The numbers of one group and sample: finite, sums of squares and counts not negative. The first
   row's share is rounded the way the whole is, so that it never exceeds it by a bit. */
static int check_numbers(const struct store *s, const struct store_row *r, int64_t g, int64_t i,
                         struct aq_err *err)
{
    for (int p = 0; p < STORE_PARTS; p++) {
        if (!r->parts[p])
            continue;
        double x = store_number(s, r, p, g, i), most = INFINITY;
        if (p == STORE_FIRSTS)
            most = store_sum(s, r, g, i);
        bool divergence = p == STORE_SUMS && !s->shape.gradient;
        if (!isfinite(x) || (x < 0 && !divergence) || x > most)
            return bad_value(r, store_part_kinds[p].name, x, g, i, err);
    }
    return 0;
}

static int check_values(const struct store *s, const struct store_row *r, int64_t layer,
                        int64_t tile, struct aq_err *err)
{
    for (int64_t g = (int64_t)s->model.first[layer]; g < (int64_t)s->model.first[layer + 1]; g++)
        for (int64_t i = s->tile_first[tile]; i < s->tile_first[tile + 1]; i++)
            if (check_numbers(s, r, g, i, err) < 0)
                return -1;
    return 0;
}

static int damaged_cell(const struct store_row *r, int64_t layer, int64_t tile, struct aq_err *err)
{
    aq_err_set(err, AQ_EINPUT,
               "row '%s/%" PRId64 "' (%s|%s) is damaged at layer %" PRId64 ", tile %" PRId64,
               r->key.id, r->key.prefix, aq_show(r->w), aq_show(r->a), layer, tile);
    return aq_err_hint(err, "aq-score --repair, with the options that made it, computes it again");
}

/* damaged: cells of the row that are not there any more. */
static int check_cells(const struct store *s, struct store_row *r, enum store_use use,
                       size_t *damaged, struct aq_err *err)
{
    for (int64_t layer = 0; layer < s->shape.layers; layer++)
        for (int64_t tile = 0; tile < s->shape.tiles; tile++) {
            uint8_t *have = &r->have[layer * s->shape.tiles + tile];
            if (!is_sound(s, r, layer, tile, use)) {
                if (use == STORE_WHOLE)
                    return damaged_cell(r, layer, tile, err);
                ++*damaged;
                *have = 0;
            } else if (*have && check_values(s, r, layer, tile, err) < 0) {
                return -1;
            }
        }
    return 0;
}

struct rows_look {
    const struct store *s;
    enum store_use use;
    size_t *damaged; /* [rows] */
};

static int look_unit(void *arg, int64_t unit, struct aq_err *err)
{
    const struct rows_look *k = arg;
    return check_cells(k->s, &k->s->rows[unit], k->use, &k->damaged[unit], err);
}

/* All rows in the order of the file: the first that is wrong is the error. Half a second for one
 * thread, where a file has some hundred megabytes. */
static int check_rows(struct store *s, enum store_use use, struct aq_err *err)
{
    struct rows_look k = {s, use, xcalloc(s->count + 1, sizeof *k.damaged)};
    struct aq_tried *tried = aq_pool_try((int64_t)s->count, look_unit, &k);
    for (size_t i = 0; i < s->count; i++)
        s->damaged += k.damaged[i];
    int status = aq_tried_error(tried, (int64_t)s->count, err);
    free(tried);
    free(k.damaged);
    return status;
}

static int read_row(struct store *s, const struct st_tensor *t, struct aq_err *err)
{
    struct store_row r = {0};
    if (!parse_key(t->name, &r.key))
        return aq_err_set(err, AQ_EINPUT, "tensor '%s' has no proper name of a row",
                          aq_show(t->name));
    const void *have = NULL;
    for (int p = 0; p < STORE_PARTS; p++) {
        const struct store_part_kind *k = &store_part_kinds[p];
        if ((s->shape.gradient || !k->gradient) &&
            row_tensor(s, k->name, &r.key, k->dtype, s->shape.groups, s->shape.samples, &r.parts[p],
                       err) < 0)
            return -1;
    }
    if (row_tensor(s, "have", &r.key, ST_U8, s->shape.layers, s->shape.tiles, &have, err) < 0 ||
        row_tensor(s, "check", &r.key, ST_U64, s->shape.layers, s->shape.tiles, &r.check, err) <
            0 ||
        row_treatment(s, &r, err) < 0)
        return -1;
    size_t cells = (size_t)(s->shape.layers * s->shape.tiles);
    r.have = xmalloc(cells);
    memcpy(r.have, have, cells);
    s->rows[s->count++] = r;
    return 0;
}

int store_by_key(const void *a, const void *b)
{
    const struct store_key *x = a, *y = b;
    int c = strcmp(x->id, y->id);
    return c ? c : (x->prefix > y->prefix) - (x->prefix < y->prefix);
}

static int read_rows(struct store *s, enum store_use use, struct aq_err *err)
{
    s->rows = xcalloc(s->file.count, sizeof *s->rows);
    for (size_t i = 0; i < s->file.count; i++) {
        const struct st_tensor *t = &s->file.tensors[i];
        if (strncmp(t->name, "s/", 2) == 0 && read_row(s, t, err) < 0)
            return -1;
    }
    if (check_rows(s, use, err) < 0)
        return -1;
    size_t own = 2; /* have, check */
    for (int p = 0; p < STORE_PARTS; p++)
        own += s->shape.gradient || !store_part_kinds[p].gradient;
    if (s->file.count != s->count * own + 3)
        return aq_err_set(err, AQ_EINPUT, "%zu tensors for %zu rows: some do not belong",
                          s->file.count, s->count);
    if (s->count == 0)
        return aq_err_set(err, AQ_EINPUT, "there is no candidate in it");
    qsort(s->rows, s->count, sizeof *s->rows, store_by_key);
    return 0;
}

/* Of a header that says what it is; one without a digest may be of another version. */
static int read_head(struct store *s, enum store_use use, struct aq_err *err)
{
    struct aq_err damage = {0};
    bool sound = check_header(s, &damage) == 0;
    bool named = st_meta(&s->file, "digest") != NULL;
    if (!sound && named && use != STORE_REPAIR) {
        s->is_one = st_meta(&s->file, "aq") != NULL;
        *err = damage;
        return -1;
    }
    if (read_meta(s, err) < 0)
        return -1;
    if (!sound && use != STORE_REPAIR) {
        *err = damage;
        return -1;
    }
    if (read_samples(s, "labels", &s->labels, err) < 0 ||
        read_samples(s, "sample_tokens", &s->sample_tokens, err) < 0)
        return -1;
    return read_tiles(s, err);
}

/* What st_open found: looked through, or closed again. */
static int read_all(struct store *s, const char *path, enum store_use use, struct aq_err *err)
{
    struct aq_err own = {0};
    s->path = xstrdup(path);
    if (read_head(s, use, &own) == 0 && read_rows(s, use, &own) == 0)
        return 0;
    (void)broken(s, path, &own);
    if (err)
        *err = own;
    bool is_one = s->is_one;
    store_close(s);
    s->is_one = is_one;
    return -1;
}

/* Of a file that cannot be opened as one: does its header begin like that of a store? */
static bool looks_like_one(const char *path)
{
    static const char mark[] = "aq.store/";
    char start[512];
    struct stat st;
    int fd = aq_open_input(path, &st, NULL);
    if (fd < 0)
        return false;
    ssize_t n = aq_read_some(fd, start, sizeof start);
    (void)close(fd);
    return n > 0 && memmem(start, (size_t)n, mark, sizeof mark - 1) != NULL;
}

int store_open_for(struct store *s, const char *path, enum store_use use, struct aq_err *err)
{
    *s = (struct store){0};
    if (st_open(&s->file, path, err) == 0)
        return read_all(s, path, use, err);
    s->is_one = looks_like_one(path);
    return broken(s, path, err);
}

int store_open(struct store *s, const char *path, struct aq_err *err)
{
    return store_open_for(s, path, aq_path_ends(path, ".part") ? STORE_PART : STORE_WHOLE, err);
}

int store_open_memory(struct store *s, const void *bytes, size_t size, const char *name,
                      enum store_use use, struct aq_err *err)
{
    *s = (struct store){0};
    return st_open_memory(&s->file, bytes, size, name, err) < 0 ? broken(s, name, err)
                                                                : read_all(s, name, use, err);
}

void store_close(struct store *s)
{
    if (s->path)
        st_close(&s->file);
    json_free(s->meta);
    model_groups_release(&s->model);
    for (size_t i = 0; i < s->count; i++)
        free(s->rows[i].have);
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
    return s->count ? bsearch(&wanted, s->rows, s->count, sizeof *s->rows, store_by_key) : NULL;
}

double store_number(const struct store *s, const struct store_row *r, enum store_part part,
                    int64_t group, int64_t sample)
{
    size_t size = store_part_kinds[part].size;
    const char *at = (const char *)r->parts[part];
    double x;
    float single;
    assert(at);
    at += (size_t)(group * s->shape.samples + sample) * size;
    if (store_part_kinds[part].dtype == ST_F32) {
        memcpy(&single, at, sizeof single);
        return single;
    }
    memcpy(&x, at, sizeof x);
    return x;
}

double store_sum(const struct store *s, const struct store_row *r, int64_t group, int64_t sample)
{
    return store_number(s, r, STORE_SUMS, group, sample);
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
