#include "score/routes.h"

#include "base/mem.h"
#include "base/msg.h"
#include "io/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct route_dump {
    const struct scoring *s;
    int64_t samples;
    int per_token;
    struct st_writer *file;
    int *sel, *w;      /* handles, [layers]; -1: a dense layer */
    uint64_t tokens;   /* of all samples */
    uint64_t *first;   /* [tiles]: tokens before it */
    int16_t *sel_room; /* [rows x per_token] */
    float *w_room, *w_tile;
    int64_t *counts; /* [experts]: of the layer at work */
};

/* Samples of a tile that are asked for. */
static int32_t wanted(const struct route_dump *d, const struct tile *t)
{
    int64_t n = d->samples - t->sample;
    return n < 0 ? 0 : n < t->desc.samples ? (int32_t)n : t->desc.samples;
}

static void count_tokens(struct route_dump *d)
{
    const struct tiles *all = d->s->tiles;
    d->first = xcalloc(all->count + 1, sizeof *d->first);
    for (size_t t = 0; t < all->count; t++) {
        d->first[t] = d->tokens;
        for (int32_t i = 0; i < wanted(d, &all->items[t]); i++)
            d->tokens += (uint64_t)all->items[t].tokens[i];
    }
}

static void declare(struct route_dump *d, const char *lm, const char *tokens)
{
    int64_t layers = nn_layers(d->s->model);
    const uint64_t shape[] = {d->tokens, (uint64_t)d->per_token};
    struct json *meta = json_new_object();
    json_add_string(meta, "lm", lm);
    json_add_string(meta, "tokens", tokens);
    json_add_string(meta, "backend", d->s->b->identity);
    st_writer_metadata(d->file, meta);
    d->sel = xcalloc((size_t)layers, sizeof *d->sel);
    d->w = xcalloc((size_t)layers, sizeof *d->w);
    for (int64_t l = 0; l < layers; l++) {
        char name[40];
        d->sel[l] = d->w[l] = -1;
        if (!nn_layer(d->s->model, l)->experts)
            continue;
        (void)snprintf(name, sizeof name, "sel/%" PRId64, l);
        d->sel[l] = st_declare(d->file, name, ST_I16, 2, shape);
        (void)snprintf(name, sizeof name, "w/%" PRId64, l);
        d->w[l] = st_declare(d->file, name, ST_F32, 2, shape);
    }
}

static int by_number(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* After the last tile of a layer. */
static void say_counts(struct route_dump *d, int64_t layer)
{
    int64_t n = nn_arch(d->s->model)->experts, unseen = 0;
    for (int64_t e = 0; e < n; e++)
        unseen += d->counts[e] == 0;
    qsort(d->counts, (size_t)n, sizeof *d->counts, by_number);
    aq_note(1,
            "layer %" PRId64 ": tokens of an expert: %" PRId64 " to %" PRId64 ", median %" PRId64
            "; %" PRId64 " of %" PRId64 " get none",
            layer, d->counts[0], d->counts[n - 1], d->counts[n / 2], unseen, n);
    memset(d->counts, 0, (size_t)n * sizeof *d->counts);
}

static int take(void *arg, int64_t layer, size_t tile, const struct nn_acts *acts,
                struct aq_err *err)
{
    struct route_dump *d = arg;
    const struct tile *t = &d->s->tiles->items[tile];
    const struct nn_routes *r = acts->routes;
    size_t k = (size_t)d->per_token, n = 0;
    if (d->sel[layer] < 0)
        return 0;
    if (d->s->b->ops->download(d->s->b, d->w_tile, r->w, (size_t)t->desc.rows * k * sizeof(float),
                               err) < 0)
        return -1;
    for (int32_t i = 0; i < wanted(d, t); i++)
        for (int32_t row = t->desc.first[i] + (t->desc.pad[i] ? 1 : 0); row < t->desc.first[i + 1];
             row++)
            for (size_t j = 0; j < k; j++, n++) {
                int32_t e = r->host[(size_t)row * k + j];
                d->sel_room[n] = (int16_t)e;
                d->w_room[n] = d->w_tile[(size_t)row * k + j];
                d->counts[e]++;
            }
    uint64_t at = d->first[tile] * k;
    if (st_write(d->file, d->sel[layer], at * sizeof *d->sel_room, d->sel_room,
                 n * sizeof *d->sel_room, err) < 0 ||
        st_write(d->file, d->w[layer], at * sizeof *d->w_room, d->w_room, n * sizeof *d->w_room,
                 err) < 0)
        return -1;
    if (tile + 1 == d->s->end_tile)
        say_counts(d, layer);
    return 0;
}

static int run(struct route_dump *d, const char *path, struct aq_err *err)
{
    const struct scoring *s = d->s;
    struct walk w;
    const struct walk_job job = {.b = s->b,
                                 .model = s->model,
                                 .tiles = s->tiles,
                                 .first_tile = 0,
                                 .end_tile = s->end_tile,
                                 .spilled = s->memory > 0,
                                 .spill_dir = s->spill_dir};
    int bad = walk_open(&w, &job, err);
    if (bad == 0)
        bad = st_begin(d->file, path, err);
    aq_progress_begin(&w.progress, "routes", walk_products(&w, 0, nn_layers(s->model)));
    if (bad == 0)
        bad = walk_forward(&w, nn_layers(s->model), take, d, err);
    aq_progress_end(&w.progress);
    walk_close(&w);
    return bad < 0 ? -1 : st_commit(d->file, err);
}

int routes_dump(const struct scoring *s, int64_t samples, const char *lm, const char *tokens,
                const char *path, struct aq_err *err)
{
    const struct lm_arch *a = nn_arch(s->model);
    size_t room = (size_t)s->tiles->rows * (size_t)a->experts_per_token;
    if (!a->experts)
        return aq_err_set(err, AQ_EINPUT, "the model has no experts: there are no routes");
    if (a->experts > INT16_MAX)
        return aq_err_set(err, AQ_EINPUT, "%" PRId64 " experts: routes have numbers up to %d",
                          a->experts, INT16_MAX);
    struct route_dump d = {.s = s,
                           .samples = samples,
                           .per_token = (int)a->experts_per_token,
                           .file = st_writer_new(),
                           .sel_room = xcalloc(room, sizeof *d.sel_room),
                           .w_room = xcalloc(room, sizeof *d.w_room),
                           .w_tile = xcalloc(room, sizeof *d.w_tile),
                           .counts = xcalloc((size_t)a->experts, sizeof *d.counts)};
    count_tokens(&d);
    declare(&d, lm, tokens);
    int bad = run(&d, path, err);
    st_writer_free(d.file);
    free(d.sel);
    free(d.w);
    free(d.first);
    free(d.sel_room);
    free(d.w_room);
    free(d.w_tile);
    free(d.counts);
    return bad;
}
