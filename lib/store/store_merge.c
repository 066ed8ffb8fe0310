/* Whole stores: many into one, and one with fewer rows. */
#include "store/store_cells.h"

#include "base/mem.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- do they belong together? ---- */

static int same_head(const struct store *a, const struct store *b, struct aq_err *err)
{
    const struct store_shape *x = &a->shape, *y = &b->shape;
    if (store_same_identity(b->identity, a->identity, b->path, err) < 0)
        return -1;
    size_t samples = (size_t)x->samples * sizeof(int32_t);
    bool same = x->groups == y->groups && x->layers == y->layers && x->samples == y->samples &&
                x->tiles == y->tiles && json_equal(a->weights, b->weights) &&
                model_groups_equal(&a->model, &b->model) &&
                memcmp(a->labels, b->labels, samples) == 0 &&
                memcmp(a->sample_tokens, b->sample_tokens, samples) == 0 &&
                memcmp(a->tile_first, b->tile_first, ((size_t)x->tiles + 1) * sizeof(int32_t)) == 0;
    if (!same)
        return aq_err_set(err, AQ_EINPUT, "stores '%s' and '%s' differ in their samples or layers",
                          aq_show(a->path), aq_show(b->path));
    for (const struct json *v = json_first(b->ranges); v; v = json_next(v)) {
        const struct json *u = json_get(a->ranges, json_key(v));
        if (u && !json_equal(u, v))
            return aq_err_set(err, AQ_EINPUT,
                              "stores '%s' and '%s' were made with other ranges of prefix %s",
                              aq_show(a->path), aq_show(b->path), aq_show(json_key(v)));
    }
    for (const struct json *v = b->solved ? json_first(b->solved) : NULL; v; v = json_next(v)) {
        const struct json *u = a->solved ? json_get(a->solved, json_key(v)) : NULL;
        if (u && !json_equal(u, v))
            return aq_err_set(err, AQ_EINPUT,
                              "stores '%s' and '%s' have a candidate that was solved otherwise: %s",
                              aq_show(a->path), aq_show(b->path), aq_show(json_key(v)));
    }
    return 0;
}

/* Keys of all parts, each once. */
static struct store_row *union_rows(const struct store *parts, size_t count, size_t *rows)
{
    size_t total = 0, n = 0;
    for (size_t p = 0; p < count; p++)
        total += parts[p].count;
    struct store_row *all = xcalloc(total + 1, sizeof *all);
    for (size_t p = 0, at = 0; p < count; at += parts[p++].count)
        memcpy(all + at, parts[p].rows, parts[p].count * sizeof *all);
    qsort(all, total, sizeof *all, store_by_key);
    for (size_t i = 0; i < total; i++)
        if (n == 0 || store_by_key(&all[i], &all[n - 1]) != 0)
            all[n++] = all[i];
    *rows = n;
    return all;
}

/* ---- one row ---- */

/* Of the same bits in every part: a NaN equals itself, and 0 is not -0. */
static bool same_numbers(const struct store_cells *c, const struct store_row *r, int64_t at)
{
    for (int p = 0; p < STORE_PARTS; p++) {
        size_t size = store_part_kinds[p].size, offset = (size_t)at * size;
        if (c->parts[p] &&
            memcmp(c->parts[p] + offset, (const char *)r->parts[p] + offset, size) != 0)
            return false;
    }
    return true;
}

/* A tile that another part had first must be the same here. */
static int check_tile(const struct store_cells *c, const struct store *s, const struct store_row *r,
                      int64_t layer, int64_t tile, struct aq_err *err)
{
    for (int64_t g = (int64_t)s->model.first[layer]; g < (int64_t)s->model.first[layer + 1]; g++)
        for (int64_t i = s->tile_first[tile]; i < s->tile_first[tile + 1]; i++)
            if (!same_numbers(c, r, g * s->shape.samples + i))
                return aq_err_set(err, AQ_EINPUT,
                                  "store '%s' has another sum than the rest for %s|%s at layer "
                                  "%" PRId64 ", sample %" PRId64,
                                  aq_show(s->path), aq_show(r->w), aq_show(r->a), layer, i);
    return 0;
}

static int take_row(struct store_cells *c, const struct store *s, const struct store_row *r,
                    struct aq_err *err)
{
    for (int64_t layer = 0; layer < c->shape.layers; layer++)
        for (int64_t tile = 0; tile < c->shape.tiles; tile++) {
            if (!store_have(s, r, layer, tile))
                continue;
            if (store_cells_have(c, layer, tile) && check_tile(c, s, r, layer, tile, err) < 0)
                return -1;
            store_cells_take(c, s, r, layer, tile);
        }
    return 0;
}

static int fill_row(struct store_cells *c, const struct store *parts, size_t count,
                    const struct store_key *key, struct aq_err *err)
{
    store_cells_clear(c);
    for (size_t p = 0; p < count; p++) {
        const struct store_row *r = store_find(&parts[p], key->id, key->prefix);
        if (r && take_row(c, &parts[p], r, err) < 0)
            return -1;
    }
    return 0;
}

/* ---- writing ---- */

static int write_row(const struct store_layout *l, const struct store_slot *slot,
                     const struct store_cells *c, struct aq_err *err)
{
    for (int p = 0; p < STORE_PARTS; p++)
        if (c->parts[p] &&
            st_write(l->w, slot->parts[p], 0, c->parts[p], c->sizes.parts[p], err) < 0)
            return -1;
    if (st_write(l->w, slot->check, 0, c->check, c->sizes.check, err) < 0)
        return -1;
    return st_write(l->w, slot->have, 0, c->have, c->sizes.have, err);
}

static int write_union(const char *path, const struct store_head *h, const struct store *parts,
                       size_t count, const struct store_row *rows, size_t row_count,
                       struct aq_err *err)
{
    struct store_layout l;
    struct store_cells c;
    store_layout_init(&l, h, rows, row_count);
    store_cells_init(&c, &h->shape);
    int r = st_begin(l.w, path, err);
    if (r == 0)
        r = store_layout_write_head(&l, h, err);
    for (size_t i = 0; i < row_count && r == 0; i++) {
        r = fill_row(&c, parts, count, &rows[i].key, err);
        if (r == 0)
            r = write_row(&l, &l.slots[i], &c, err);
    }
    if (r == 0)
        r = st_commit(l.w, err);
    store_cells_release(&c);
    store_layout_release(&l);
    return r;
}

static int merge_open(const char *path, const struct store *parts, size_t count, struct aq_err *err)
{
    const struct json **ranges = xcalloc(count, sizeof *ranges);
    size_t row_count;
    for (size_t p = 0; p < count; p++)
        ranges[p] = parts[p].ranges;
    struct json *all = store_ranges_union(ranges, count);
    struct store_row *rows = union_rows(parts, count, &row_count);
    struct store_head h = store_head_of(&parts[0]);
    h.ranges = all;
    int r = write_union(path, &h, parts, count, rows, row_count, err);
    free(rows);
    json_free(all);
    free(ranges);
    return r;
}

/* The lock belongs to a file; standard output has none. */
static int lock_output(struct aq_lock *lock, const char *path, struct aq_err *err)
{
    lock->fd = -1;
    return path && strcmp(path, "-") != 0 ? store_lock(lock, path, err) : 0;
}

int store_merge(const char *path, const char *const *names, size_t count, struct aq_err *err)
{
    struct store *parts = xcalloc(count, sizeof *parts);
    struct aq_lock lock;
    size_t open = 0;
    int r = lock_output(&lock, path, err);
    for (; open < count && r == 0; open += r == 0) {
        r = store_open(&parts[open], names[open], err);
        if (r == 0 && open && same_head(&parts[0], &parts[open], err) < 0) {
            store_close(&parts[open]);
            r = -1;
        }
    }
    if (r == 0)
        r = merge_open(path, parts, count, err);
    for (size_t p = 0; p < open; p++)
        store_close(&parts[p]);
    aq_lock_release(&lock);
    free(parts);
    return r;
}

static bool listed(const char *id, const char *const *ids, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(ids[i], id) == 0)
            return true;
    return false;
}

static int gc_open(const struct store *s, const char *path, const char *const *ids, size_t count,
                   size_t *dropped, struct aq_err *err)
{
    struct store_row *keep = xcalloc(s->count, sizeof *keep);
    size_t n = 0;
    int r = 0;
    for (size_t i = 0; i < s->count; i++)
        if (listed(s->rows[i].key.id, ids, count))
            keep[n++] = s->rows[i];
    *dropped = s->count - n;
    struct store_head h = store_head_of(s);
    if (n == 0)
        r = aq_err_set(err, AQ_EINPUT, "nothing of store '%s' would be left", aq_show(path));
    else if (*dropped)
        aq_rewrite_input(path);
    if (r == 0 && *dropped)
        r = write_union(path, &h, s, 1, keep, n, err);
    free(keep);
    return r;
}

int store_gc(const char *path, const char *const *ids, size_t count, size_t *dropped,
             struct aq_err *err)
{
    struct aq_lock lock;
    struct store s;
    if (store_lock(&lock, path, err) < 0)
        return -1;
    int r = store_open(&s, path, err);
    if (r == 0) {
        r = gc_open(&s, path, ids, count, dropped, err);
        store_close(&s);
    }
    aq_lock_release(&lock);
    return r;
}
