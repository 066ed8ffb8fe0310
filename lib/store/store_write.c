/* Writing a store: a part file of full size, filled a layer at a time, renamed at the end. */
#include "store/store_cells.h"
#include "store/store_check.h"

#include "base/mem.h"
#include "base/msg.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* In `have` of a row: the numbers are in the file, their check is not made yet. */
enum { NEW = 2 };

/* A row of the new file. */
struct out_row {
    struct store_key key; /* first, for store_by_key */
    const char *w, *a;    /* borrowed from the plan's candidates or an old store */
    const char *solved;   /* likewise, from the plan's digests */
    uint8_t *have;        /* [layers, tiles]: 0, 1, or NEW; written at checkpoints as 0 or 1 */
    uint64_t *check;      /* [layers, tiles] */
    uint64_t at[STORE_PARTS], have_at, check_at; /* in the file */
    bool dirty;
};

struct store_writer {
    char *path, *part;
    struct aq_lock lock;
    struct store_shape shape;
    struct store_sizes sizes;
    struct json *identity, *ranges;
    const struct json *solved; /* the plan's */
    int32_t *tile_first;
    const struct model_groups *groups;
    struct out_row *rows;
    size_t count, cap;
    size_t *of_plan; /* plan row -> row */
    const struct score_rows *wanted;
    struct store old[2]; /* STORE and STORE.part of before */
    size_t old_count;
    bool has_store; /* the first of them is STORE */
    int fd;
};

/* ---- which rows ---- */

static struct out_row *find_row(const struct store_writer *w, const char *id, int64_t prefix)
{
    for (size_t i = 0; i < w->count; i++)
        if (w->rows[i].key.prefix == prefix && strcmp(w->rows[i].key.id, id) == 0)
            return &w->rows[i];
    return NULL;
}

static void add_row(struct store_writer *w, const char *id, int64_t prefix, const char *weight,
                    const char *act, const char *solved)
{
    if (find_row(w, id, prefix))
        return;
    struct out_row r = {.key.prefix = prefix, .w = weight, .a = act, .solved = solved};
    memcpy(r.key.id, id, TREATMENT_ID);
    r.have = xcalloc((size_t)(w->shape.layers * w->shape.tiles), 1);
    r.check = xcalloc((size_t)(w->shape.layers * w->shape.tiles), sizeof *r.check);
    AQ_GROW(w->rows, w->count, w->cap);
    w->rows[w->count++] = r;
}

/* Rows of an old store stay if their ranges are the same or unknown to this call. A header that was
   mended may have lost them: then nobody knows. */
static bool range_stands(const struct store_writer *w, const struct store *old, int64_t prefix)
{
    char key[24];
    (void)snprintf(key, sizeof key, "%" PRId64, prefix);
    const struct json *now = json_get(w->ranges, key), *then = json_get(old->ranges, key);
    return prefix == 0 || (then && (!now || json_equal(now, then)));
}

/* Likewise rows of a candidate that was solved as now, or is unknown to this call. */
static bool solved_stands(const struct store_writer *w, const struct store *old, const char *id)
{
    const struct json *now = w->solved ? json_get(w->solved, id) : NULL;
    const struct json *then = old->solved ? json_get(old->solved, id) : NULL;
    return !now || (then && json_equal(now, then));
}

/* What was solved otherwise is another candidate under the same name. */
static int check_solved(const struct store_writer *w, const struct store *s, enum store_old old,
                        struct aq_err *err)
{
    size_t other = 0;
    for (size_t i = 0; i < s->count; i++)
        other += !solved_stands(w, s, s->rows[i].key.id);
    if (other && old != STORE_REPLACE) {
        aq_err_set(err, AQ_EINPUT,
                   "%zu rows of store '%s' are of candidates that were solved "
                   "otherwise",
                   other, aq_show(s->path));
        return aq_err_hint(err, "--replace drops them");
    }
    if (other)
        aq_note(0, "%zu rows of '%s' are of candidates that were solved otherwise and are dropped",
                other, aq_show(s->path));
    return 0;
}

static void keep_old_rows(struct store_writer *w, const struct store *old)
{
    size_t dropped = 0;
    for (size_t i = 0; i < old->count; i++) {
        const struct store_row *r = &old->rows[i];
        if (!solved_stands(w, old, r->key.id))
            continue;
        if (range_stands(w, old, r->key.prefix))
            add_row(w, r->key.id, r->key.prefix, r->w, r->a, r->solved);
        else
            dropped++;
    }
    if (dropped)
        aq_note(0, "%zu rows of '%s' were measured with other activation ranges and are dropped",
                dropped, aq_show(old->path));
}

static bool has_rows_of(const struct store_writer *w, const char *prefix)
{
    bool has = false;
    for (size_t i = 0; i < w->count && !has; i++) {
        char key[24];
        (void)snprintf(key, sizeof key, "%" PRId64, w->rows[i].key.prefix);
        has = strcmp(key, prefix) == 0;
    }
    return has;
}

/* Digests of prefixes that this call does not name, but whose rows stay. */
static void keep_old_ranges(struct store_writer *w, const struct store *old)
{
    for (const struct json *r = json_first(old->ranges); r; r = json_next(r))
        if (!json_get(w->ranges, json_key(r)) && has_rows_of(w, json_key(r)))
            json_add(w->ranges, json_key(r), json_copy(r));
}

/* ---- the old files ---- */

/* Labels and counts of a store that is mended come from the plan. */
static bool same_samples(const struct store *s, const struct store_plan *plan, enum store_use use)
{
    size_t bytes = (size_t)plan->shape.samples * sizeof(int32_t);
    bool same = s->shape.samples == plan->shape.samples && s->shape.groups == plan->shape.groups &&
                s->shape.layers == plan->shape.layers && s->shape.tiles == plan->shape.tiles &&
                memcmp(s->tile_first, plan->tile_first,
                       ((size_t)plan->shape.tiles + 1) * sizeof(int32_t)) == 0;
    return same &&
           (use == STORE_REPAIR || (memcmp(s->labels, plan->labels, bytes) == 0 &&
                                    memcmp(s->sample_tokens, plan->sample_tokens, bytes) == 0));
}

static int open_old(struct store_writer *w, const char *path, const struct store_plan *plan,
                    enum store_use use, enum store_old old, struct aq_err *err)
{
    struct store *s = &w->old[w->old_count];
    struct aq_err why = {0};
    if (!aq_path_exists(path))
        return 0;
    if (store_open_for(s, path, use, &why) < 0) {
        if (old == STORE_REPLACE && s->is_one && why.code == AQ_EINPUT) {
            aq_note(0, "starting over: %s", why.msg);
            return 0;
        }
        *err = why;
        return -1;
    }
    if (s->damaged)
        aq_note(0, "%zu damaged cells of '%s' are left out, to be computed again", s->damaged,
                aq_show(path));
    int same = store_same_identity(s->identity, plan->identity, path, &why);
    if (same == 0 && !same_samples(s, plan, use)) {
        aq_err_set(&why, AQ_EINPUT,
                   "store '%s' has other samples, although its identity is the same",
                   aq_show(path));
        aq_err_hint(&why, "remove it to start over");
        same = -1;
    }
    if (same == 0) {
        w->old_count++;
        return 0;
    }
    store_close(s);
    if (old != STORE_REPLACE) {
        *err = why;
        return -1;
    }
    aq_note(0, "starting over: %s", why.msg);
    return 0;
}

/* A part file that a crash left unreadable cannot be mended by a new run: say so, and go on. */
static int open_old_part(struct store_writer *w, const struct store_plan *plan, struct aq_err *err)
{
    struct aq_err why = {0};
    if (open_old(w, w->part, plan, STORE_PART, STORE_REPLACE, &why) == 0)
        return 0;
    if (why.code != AQ_EINPUT) {
        *err = why;
        return -1;
    }
    aq_warn("the unfinished '%s' cannot be used: %s", aq_show(w->part), why.msg);
    return 0;
}

/* ---- the new file ---- */

/* The rows as the layout wants them. Caller frees. */
static struct store_row *rows_to_declare(const struct store_writer *w)
{
    struct store_row *rows = xcalloc(w->count + 1, sizeof *rows);
    for (size_t i = 0; i < w->count; i++)
        rows[i] = (struct store_row){.key = w->rows[i].key,
                                     .w = w->rows[i].w,
                                     .a = w->rows[i].a,
                                     .solved = w->rows[i].solved};
    return rows;
}

static void declare_all(const struct store_writer *w, const struct store_plan *plan,
                        struct store_layout *l)
{
    struct store_head h = {.shape = w->shape,
                           .identity = w->identity,
                           .weights = plan->weights,
                           .groups = plan->groups,
                           .ranges = w->ranges,
                           .labels = plan->labels,
                           .sample_tokens = plan->sample_tokens,
                           .tile_first = plan->tile_first};
    struct store_row *rows = rows_to_declare(w);
    store_layout_init(l, &h, rows, w->count);
    free(rows);
}

static int put_bytes(struct store_writer *w, const void *p, size_t n, uint64_t at,
                     struct aq_err *err)
{
    char name[300];
    (void)snprintf(name, sizeof name, "'%s'", aq_show(w->part));
    return aq_pwrite_all(w->fd, p, n, at, name, err);
}

/* What an old store knows of a row, where nothing is known yet. */
static void gather(const struct store_writer *w, const struct out_row *r, const struct store *old,
                   struct store_cells *cells)
{
    const struct store_row *from = store_find(old, r->key.id, r->key.prefix);
    if (!from || !range_stands(w, old, r->key.prefix) || !solved_stands(w, old, r->key.id))
        return;
    for (int64_t layer = 0; layer < w->shape.layers; layer++)
        for (int64_t tile = 0; tile < w->shape.tiles; tile++)
            if (store_have(old, from, layer, tile) && !store_cells_have(cells, layer, tile))
                store_cells_take(cells, old, from, layer, tile);
}

static int put_old(struct store_writer *w, struct out_row *r, struct store_cells *cells,
                   struct aq_err *err)
{
    store_cells_clear(cells);
    for (size_t k = 0; k < w->old_count; k++)
        gather(w, r, &w->old[k], cells);
    if (!memchr(cells->have, 1, cells->sizes.have))
        return 0; /* a hole in the file is as good */
    memcpy(r->have, cells->have, cells->sizes.have);
    memcpy(r->check, cells->check, cells->sizes.check);
    if (put_bytes(w, cells->check, cells->sizes.check, r->check_at, err) < 0)
        return -1;
    for (int p = 0; p < STORE_PARTS; p++)
        if (cells->parts[p] &&
            put_bytes(w, cells->parts[p], cells->sizes.parts[p], r->at[p], err) < 0)
            return -1;
    return put_bytes(w, cells->have, cells->sizes.have, r->have_at, err);
}

static int put_old_rows(struct store_writer *w, struct aq_err *err)
{
    struct store_cells cells;
    int r = 0;
    if (w->old_count == 0)
        return 0;
    store_cells_init(&cells, &w->shape);
    for (size_t i = 0; i < w->count && r == 0; i++)
        r = put_old(w, &w->rows[i], &cells, err);
    store_cells_release(&cells);
    return r;
}

/* An array that all rows share. */
static int put_array(struct store_writer *w, const struct store_layout *l, uint64_t data,
                     int handle, const int32_t *from, int64_t n, struct aq_err *err)
{
    return put_bytes(w, from, (size_t)n * sizeof *from, data + st_declared_begin(l->w, handle),
                     err);
}

static int fill_new(struct store_writer *w, const struct store_plan *plan,
                    const struct store_layout *l, const struct aq_buf *header, struct aq_err *err)
{
    uint64_t data = header->len;
    int64_t samples = w->shape.samples;
    if (ftruncate(w->fd, (off_t)(data + st_data_size(l->w))) < 0)
        return aq_err_sys(err, AQ_ERUN, "cannot give '%s' its size", aq_show(w->part));
    if (put_bytes(w, header->data, header->len, 0, err) < 0 ||
        put_array(w, l, data, l->labels, plan->labels, samples, err) < 0 ||
        put_array(w, l, data, l->sample_tokens, plan->sample_tokens, samples, err) < 0 ||
        put_array(w, l, data, l->tile_first, plan->tile_first, w->shape.tiles + 1, err) < 0)
        return -1;
    for (size_t i = 0; i < w->count; i++) {
        struct out_row *r = &w->rows[i];
        for (int p = 0; p < STORE_PARTS; p++)
            if (w->sizes.parts[p])
                r->at[p] = data + st_declared_begin(l->w, l->slots[i].parts[p]);
        r->have_at = data + st_declared_begin(l->w, l->slots[i].have);
        r->check_at = data + st_declared_begin(l->w, l->slots[i].check);
    }
    return put_old_rows(w, err);
}

/* Builds the new part under another name, so that a part of before stays whole until then. */
static int start_part(struct store_writer *w, const struct store_plan *plan, struct aq_err *err)
{
    struct store_layout l;
    struct aq_buf header = AQ_BUF_INIT;
    char *fresh = xasprintf("%s.new", w->part);
    int r = -1;
    declare_all(w, plan, &l);
    st_header(l.w, &header);
    /* left by a killed run, or planted: a name, not a file to write into */
    (void)unlink(fresh);
    w->fd = open(fresh, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (w->fd < 0) {
        aq_err_sys(err, AQ_ERUN, "cannot write '%s'", aq_show(fresh));
        goto out;
    }
    if (fill_new(w, plan, &l, &header, err) < 0)
        goto out;
    if (fdatasync(w->fd) < 0 || rename(fresh, w->part) < 0) {
        aq_err_sys(err, AQ_ERUN, "cannot write '%s'", aq_show(w->part));
        goto out;
    }
    r = 0;
out:
    if (r < 0)
        (void)unlink(fresh);
    free(fresh);
    aq_buf_release(&header);
    store_layout_release(&l);
    return r;
}

static int begin(struct store_writer *w, const struct store_plan *plan, enum store_old old,
                 struct aq_err *err)
{
    enum store_use use = old == STORE_MEND ? STORE_REPAIR : STORE_WHOLE;
    if (store_lock(&w->lock, w->path, err) < 0 || open_old(w, w->path, plan, use, old, err) < 0)
        return -1;
    w->has_store = w->old_count > 0;
    if (w->has_store && check_solved(w, &w->old[0], old, err) < 0)
        return -1;
    if (open_old_part(w, plan, err) < 0)
        return -1;
    for (size_t i = 0; i < plan->rows->count; i++) {
        const struct score_row *r = &plan->rows->items[i];
        const struct candidate *c = &plan->candidates->items[r->candidate];
        const struct json *solved = w->solved ? json_get(w->solved, c->id) : NULL;
        add_row(w, c->id, r->prefix, c->w, c->a, solved ? json_string(solved) : NULL);
    }
    /* An unfinished part gives its sums to these rows, but no rows of its own: what a store holds
       does not depend on runs that were broken off. */
    if (w->has_store) {
        keep_old_rows(w, &w->old[0]);
        keep_old_ranges(w, &w->old[0]);
    }
    qsort(w->rows, w->count, sizeof *w->rows, store_by_key);
    w->of_plan = xcalloc(plan->rows->count, sizeof *w->of_plan);
    for (size_t i = 0; i < plan->rows->count; i++) {
        const struct score_row *r = &plan->rows->items[i];
        const char *id = plan->candidates->items[r->candidate].id;
        w->of_plan[i] = (size_t)(find_row(w, id, r->prefix) - w->rows);
    }
    return start_part(w, plan, err);
}

int store_begin(struct store_writer **out, const char *path, const struct store_plan *plan,
                enum store_old old, struct aq_err *err)
{
    struct store_writer *w = xcalloc(1, sizeof *w);
    *out = NULL;
    w->path = xstrdup(path);
    w->part = xasprintf("%s.part", path);
    w->lock.fd = w->fd = -1;
    w->shape = plan->shape;
    w->shape.gradient = store_of_gradients(plan->identity);
    w->sizes = store_sizes_of(&w->shape);
    w->identity = json_copy(plan->identity);
    w->ranges = json_copy(plan->ranges);
    w->solved = plan->solved;
    w->wanted = plan->rows;
    w->groups = plan->groups;
    size_t firsts = (size_t)plan->shape.tiles + 1;
    w->tile_first = xcalloc(firsts, sizeof *w->tile_first);
    memcpy(w->tile_first, plan->tile_first, firsts * sizeof *w->tile_first);
    if (begin(w, plan, old, err) < 0) {
        store_writer_free(w);
        return -1;
    }
    *out = w;
    return 0;
}

/* ---- filling ---- */

static struct out_row *plan_row(const struct store_writer *w, size_t row)
{
    return &w->rows[w->of_plan[row]];
}

bool store_done(const struct store_writer *w, size_t row, int64_t layer, int64_t tile)
{
    return plan_row(w, row)->have[layer * w->shape.tiles + tile] != 0;
}

int store_put(struct store_writer *w, size_t row, int64_t group, int64_t from, int64_t to,
              const void *const parts[STORE_PARTS], struct aq_err *err)
{
    const struct out_row *r = plan_row(w, row);
    uint64_t at = (uint64_t)(group * w->shape.samples + from);
    for (int p = 0; p < STORE_PARTS; p++) {
        size_t size = store_part_kinds[p].size, n = (size_t)(to - from) * size;
        if (w->sizes.parts[p] && put_bytes(w, parts[p], n, r->at[p] + at * size, err) < 0)
            return -1;
    }
    return 0;
}

void store_mark(struct store_writer *w, size_t row, int64_t layer, int64_t tile)
{
    struct out_row *r = plan_row(w, row);
    r->have[layer * w->shape.tiles + tile] = NEW;
    r->dirty = true;
}

static int sync_part(struct store_writer *w, struct aq_err *err)
{
    if (fdatasync(w->fd) < 0)
        return aq_err_sys(err, AQ_ERUN, "cannot write '%s'", aq_show(w->part));
    return 0;
}

/* The groups of a layer and the samples of a tile in one part of a row, read back from the file
   into `to`: [groups of the layer][samples of the tile]. */
static int read_part(const struct store_writer *w, const struct out_row *r, int part, int64_t layer,
                     int64_t tile, char *to, struct aq_err *err)
{
    size_t size = store_part_kinds[part].size;
    size_t from = (size_t)w->tile_first[tile], n = (size_t)w->tile_first[tile + 1] - from;
    for (size_t g = w->groups->first[layer]; g < w->groups->first[layer + 1]; g++, to += n * size) {
        uint64_t at = (g * (uint64_t)w->shape.samples + from) * size;
        if (aq_pread_all(w->fd, to, n * size, r->at[part] + at, "the unfinished store", err) < 0)
            return -1;
    }
    return 0;
}

/* The check of a cell whose numbers are in the file, from there: what is vouched for is what is
   kept. */
static int check_new_cell(struct store_writer *w, struct out_row *r, int64_t layer, int64_t tile,
                          struct aq_err *err)
{
    struct store_cell c = {.groups = w->groups->first[layer + 1] - w->groups->first[layer]};
    c.samples = c.stride = (size_t)(w->tile_first[tile + 1] - w->tile_first[tile]);
    size_t room = c.groups * c.samples * sizeof(double); /* for the largest type */
    char *numbers = xmalloc(STORE_PARTS * room);
    int bad = 0;
    for (int p = 0; p < STORE_PARTS && bad == 0; p++) {
        if (!w->sizes.parts[p])
            continue;
        c.parts[p] = numbers + (size_t)p * room;
        bad = read_part(w, r, p, layer, tile, numbers + (size_t)p * room, err);
    }
    if (bad == 0)
        r->check[layer * w->shape.tiles + tile] = store_cell_check(&r->key, layer, tile, &c);
    free(numbers);
    return bad;
}

static int put_new_checks(struct store_writer *w, struct out_row *r, struct aq_err *err)
{
    for (int64_t layer = 0; layer < w->shape.layers; layer++)
        for (int64_t tile = 0; tile < w->shape.tiles; tile++) {
            uint8_t *have = &r->have[layer * w->shape.tiles + tile];
            if (*have == NEW && check_new_cell(w, r, layer, tile, err) < 0)
                return -1;
            *have = *have != 0;
        }
    size_t cells = (size_t)(w->shape.layers * w->shape.tiles);
    return put_bytes(w, r->check, cells * sizeof *r->check, r->check_at, err);
}

int store_checkpoint(struct store_writer *w, struct aq_err *err)
{
    for (size_t i = 0; i < w->count; i++)
        if (w->rows[i].dirty && put_new_checks(w, &w->rows[i], err) < 0)
            return -1;
    if (sync_part(w, err) < 0) /* numbers and checks, before any flag says that they are there */
        return -1;
    for (size_t i = 0; i < w->count; i++) {
        struct out_row *r = &w->rows[i];
        if (!r->dirty)
            continue;
        size_t cells = (size_t)(w->shape.layers * w->shape.tiles);
        if (put_bytes(w, r->have, cells, r->have_at, err) < 0)
            return -1;
        r->dirty = false;
    }
    return 0;
}

int store_commit(struct store_writer *w, struct aq_err *err)
{
    if (store_checkpoint(w, err) < 0 || sync_part(w, err) < 0)
        return -1;
    int bad = close(w->fd);
    w->fd = -1;
    if (bad < 0 || rename(w->part, w->path) < 0)
        return aq_err_sys(err, AQ_ERUN, "cannot write '%s'", aq_show(w->path));
    aq_sync_dir(w->path);
    return 0;
}

void store_writer_free(struct store_writer *w)
{
    if (!w)
        return;
    if (w->fd >= 0)
        (void)close(w->fd);
    for (size_t i = 0; i < w->old_count; i++)
        store_close(&w->old[i]);
    for (size_t i = 0; i < w->count; i++) {
        free(w->rows[i].have);
        free(w->rows[i].check);
    }
    free(w->tile_first);
    aq_lock_release(&w->lock);
    json_free(w->identity);
    json_free(w->ranges);
    free(w->rows);
    free(w->of_plan);
    free(w->path);
    free(w->part);
    free(w);
}
