#include "store/store_layout.h"

#include "base/fmt.h"
#include "base/mem.h"
#include "io/product.h"
#include "model/lm.h"
#include "store/store_check.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct store_head store_head_of(const struct store *s)
{
    return (struct store_head){.shape = s->shape,
                               .identity = s->identity,
                               .weights = s->weights,
                               .groups = &s->model,
                               .ranges = s->ranges,
                               .labels = s->labels,
                               .sample_tokens = s->sample_tokens,
                               .tile_first = s->tile_first};
}

struct store_sizes store_sizes_of(const struct store_shape *s)
{
    size_t cells = (size_t)(s->layers * s->tiles);
    struct store_sizes sizes = {.have = cells, .check = cells * sizeof(uint64_t)};
    for (int p = 0; p < STORE_PARTS; p++)
        if (s->gradient || !store_part_kinds[p].gradient)
            sizes.parts[p] = (size_t)(s->groups * s->samples) * store_part_kinds[p].size;
    return sizes;
}

int store_lock(struct aq_lock *lock, const char *path, struct aq_err *err)
{
    char *name = xasprintf("%s.lock", path);
    int r = aq_lock_take(lock, name, err);
    free(name);
    return r;
}

/* ---- metadata ---- */

static int64_t prefix_of(const struct json *v)
{
    int64_t n = 0;
    return aq_parse_i64(json_key(v), &n) ? n : 0;
}

static int by_prefix(const void *a, const void *b)
{
    int64_t x = prefix_of(*(const struct json *const *)a);
    int64_t y = prefix_of(*(const struct json *const *)b);
    return (x > y) - (x < y);
}

struct json *store_ranges_union(const struct json *const *sets, size_t count)
{
    struct json *seen = json_new_object(), *out = json_new_object();
    const struct json **all = NULL;
    size_t n = 0, cap = 0;
    for (size_t i = 0; i < count; i++)
        for (const struct json *v = json_first(sets[i]); v; v = json_next(v)) {
            if (json_get(seen, json_key(v)))
                continue;
            json_add(seen, json_key(v), json_copy(v));
            AQ_GROW(all, n, cap);
            all[n++] = v;
        }
    if (n)
        qsort(all, n, sizeof *all, by_prefix);
    for (size_t i = 0; i < n; i++)
        json_add(out, json_key(all[i]), json_copy(all[i]));
    free(all);
    json_free(seen);
    return out;
}

struct json *store_weights(const struct lm *lm)
{
    struct json *weights = json_new_object();
    int64_t vision = 0;
    for (size_t i = 0; i < lm->dropped_count; i++)
        vision += (int64_t)lm->dropped[i].linear_weights;
    json_add_int(weights, "lm", model_groups_weights(&lm->groups));
    json_add_int(weights, "head", (int64_t)lm->head->elements);
    json_add_int(weights, "vision", vision);
    return weights;
}

/* Stores without calibrated candidates have no such member. */
static void add_solved(struct json *meta, const struct store_row *rows, size_t count)
{
    struct json *solved = NULL;
    for (size_t i = 0; i < count; i++) {
        if (!rows[i].solved || (solved && json_get(solved, rows[i].key.id)))
            continue;
        if (!solved)
            solved = json_add_object(meta, "solved");
        json_add_string(solved, rows[i].key.id, rows[i].solved);
    }
}

static struct json *metadata(const struct store_head *h, const struct store_row *rows, size_t count)
{
    struct json *meta = product_new(STORE_SCHEMA), *outer = json_new_object();
    json_add(meta, "identity", json_copy(h->identity));
    json_add(meta, "weights", json_copy(h->weights));
    model_groups_write(h->groups, meta);
    json_add(meta, "ranges", json_copy(h->ranges));
    struct json *candidates = json_add_object(meta, "candidates");
    for (size_t i = 0; i < count; i++) {
        if (i && strcmp(rows[i].key.id, rows[i - 1].key.id) == 0)
            continue;
        struct json *one = json_add_object(candidates, rows[i].key.id);
        json_add_string(one, "w", rows[i].w);
        json_add_string(one, "a", rows[i].a);
    }
    add_solved(meta, rows, count);
    struct aq_buf text = AQ_BUF_INIT;
    int r = json_write(&text, meta, JSON_COMPACT, NULL);
    assert(r == 0); /* all its numbers are finite */
    (void)r;
    json_add_string(outer, "aq", aq_buf_str(&text));
    json_add_string(outer, "digest", STORE_NO_DIGEST);
    aq_buf_release(&text);
    json_free(meta);
    return outer;
}

/* ---- tensors ---- */

static int declare_row(struct st_writer *w, const char *kind, const struct store_key *key,
                       enum st_dtype dtype, int64_t rows, int64_t cols)
{
    char name[64];
    (void)snprintf(name, sizeof name, "%s/%s/%" PRId64, kind, key->id, key->prefix);
    return st_declare(w, name, dtype, 2, (uint64_t[]){(uint64_t)rows, (uint64_t)cols});
}

/* Puts the digest into a header that is complete but for it; the length stays. */
static void seal(struct store_layout *l, const struct store_head *h)
{
    struct aq_buf text = AQ_BUF_INIT;
    char digest[AQ_SHA256_HEX];
    size_t samples = (size_t)h->shape.samples * sizeof(int32_t);
    st_header(l->w, &text);
    struct store_header header = {
        .bytes = text.data,
        .size = text.len,
        .digits = memmem(text.data, text.len, STORE_NO_DIGEST, AQ_SHA256_HEX - 1),
        .labels = h->labels,
        .sample_tokens = h->sample_tokens,
        .tile_first = h->tile_first,
        .labels_size = samples,
        .sample_tokens_size = samples,
        .tile_first_size = ((size_t)h->shape.tiles + 1) * sizeof(int32_t)};
    store_header_digest(&header, digest);
    json_set(l->outer, "digest", json_new_string(digest));
    aq_buf_release(&text);
}

void store_layout_init(struct store_layout *l, const struct store_head *h,
                       const struct store_row *rows, size_t count)
{
    const struct store_shape *s = &h->shape;
    const struct store_sizes sizes = store_sizes_of(s);
    uint64_t samples = (uint64_t)s->samples, firsts = (uint64_t)s->tiles + 1;
    *l = (struct store_layout){.w = st_writer_new(), .slots = xcalloc(count + 1, sizeof *l->slots)};
    l->outer = metadata(h, rows, count);
    st_writer_metadata(l->w, l->outer);
    l->labels = st_declare(l->w, "labels", ST_I32, 1, &samples);
    l->sample_tokens = st_declare(l->w, "sample_tokens", ST_I32, 1, &samples);
    l->tile_first = st_declare(l->w, "tile_first", ST_I32, 1, &firsts);
    for (size_t i = 0; i < count; i++) {
        const struct store_key *key = &rows[i].key;
        for (int p = 0; p < STORE_PARTS; p++)
            if (sizes.parts[p])
                l->slots[i].parts[p] =
                    declare_row(l->w, store_part_kinds[p].name, key, store_part_kinds[p].dtype,
                                s->groups, s->samples);
        l->slots[i].have = declare_row(l->w, "have", key, ST_U8, s->layers, s->tiles);
        l->slots[i].check = declare_row(l->w, "check", key, ST_U64, s->layers, s->tiles);
    }
    seal(l, h);
}

void store_layout_release(struct store_layout *l)
{
    st_writer_free(l->w);
    free(l->slots);
    *l = (struct store_layout){0};
}

int store_layout_write_head(const struct store_layout *l, const struct store_head *h,
                            struct aq_err *err)
{
    size_t samples = (size_t)h->shape.samples * sizeof(int32_t);
    size_t firsts = ((size_t)h->shape.tiles + 1) * sizeof(int32_t);
    if (st_write(l->w, l->labels, 0, h->labels, samples, err) < 0 ||
        st_write(l->w, l->sample_tokens, 0, h->sample_tokens, samples, err) < 0)
        return -1;
    return st_write(l->w, l->tile_first, 0, h->tile_first, firsts, err);
}
