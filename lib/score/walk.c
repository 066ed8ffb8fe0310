#include "score/walk.h"

#include "base/mem.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

size_t walk_act_bytes(int64_t rows, const struct backend *b, int64_t cols)
{
    return (size_t)aq_round_up(rows * cols * (int64_t)b->act_size, 256);
}

static int take_tiles(struct walk *w, const bool *wanted, struct aq_err *err)
{
    const struct tiles *all = w->job.tiles;
    w->tiles = xcalloc(all->count, sizeof(struct backend_tile *));
    w->batches = xcalloc(all->count, sizeof(struct backend_tile *));
    w->max_samples = 1;
    for (size_t t = w->job.first_tile; t < w->job.end_tile; t++) {
        const struct tile *tile = &all->items[t];
        if (tile->desc.samples > w->max_samples)
            w->max_samples = tile->desc.samples;
        if (wanted && !wanted[t])
            continue;
        w->count++;
        w->tiles[t] = w->op->tile_new(w->b, &tile->desc, err);
        if (!w->tiles[t])
            return -1;
        if (tile->batches.samples == 0)
            continue;
        w->batches[t] = w->op->tile_new(w->b, &tile->batches, err);
        if (!w->batches[t])
            return -1;
    }
    return 0;
}

/* Tiles of which the inputs of all layers are kept. */
static int64_t kept_tiles(const struct walk_job *job)
{
    return job->keep ? (int64_t)(job->end_tile - job->first_tile - job->passing) : 0;
}

int64_t walk_slots(const struct walk_job *job)
{
    int64_t tiles = (int64_t)(job->end_tile - job->first_tile);
    return tiles + nn_layers(job->model) * kept_tiles(job);
}

int walk_open(struct walk *w, const struct walk_job *job, struct aq_err *err)
{
    int64_t slots = walk_slots(job);
    *w = (struct walk){.job = *job, .b = job->b, .op = job->b->ops};
    w->job.wanted = NULL;
    w->state_bytes = walk_act_bytes(job->tiles->rows, w->b, nn_arch(job->model)->hidden_size);
    if (take_tiles(w, job->wanted, err) < 0 ||
        kept_new(&w->kept, w->b, slots, w->state_bytes, job->spilled ? 0 : UINT64_MAX,
                 job->spill_dir, err) < 0)
        return -1;
    for (int i = 0; i < 2; i++) {
        w->scratch[i] = w->op->alloc(w->b, w->state_bytes, "a layer input", err);
        if (!w->scratch[i])
            return -1;
    }
    return 0;
}

static void drop_tile(struct walk *w, size_t t)
{
    if (w->tiles[t])
        w->op->tile_free(w->b, w->tiles[t]);
    if (w->batches[t])
        w->op->tile_free(w->b, w->batches[t]);
    w->tiles[t] = w->batches[t] = NULL;
}

void walk_narrow(struct walk *w, const bool *wanted)
{
    size_t kept = w->job.end_tile - w->job.passing;
    for (size_t t = w->job.first_tile; t < w->job.end_tile; t++) {
        if (!w->tiles[t] || (t < kept && wanted[t]))
            continue;
        drop_tile(w, t);
        w->count--;
    }
    w->job.end_tile = kept;
    w->job.passing = 0;
}

void walk_close(struct walk *w)
{
    for (int i = 0; i < 2; i++)
        if (w->scratch[i])
            w->op->free(w->b, w->scratch[i], w->state_bytes);
    for (size_t t = 0; w->tiles && t < w->job.tiles->count; t++)
        drop_tile(w, t);
    kept_free(w->kept);
    free(w->tiles);
    free(w->batches);
    *w = (struct walk){0};
}

int64_t walk_slot(const struct walk *w, int64_t layer, size_t tile)
{
    int64_t at = (int64_t)(tile - w->job.first_tile), kept = kept_tiles(&w->job);
    /* after the kept ones, of all layers, come those of which one layer's is kept */
    return at < kept ? layer * kept + at : nn_layers(w->job.model) * kept + at;
}

uint64_t walk_layer_products(const struct model_layer *l)
{
    /* experts: gate with up, and down, of all that have rows together */
    return (uint64_t)l->linear_count + (l->experts ? 2 : 0);
}

uint64_t walk_products(const struct walk *w, int64_t from, int64_t to)
{
    uint64_t sum = 0;
    for (int64_t l = from; l < to; l++)
        sum += walk_layer_products(nn_layer(w->job.model, l)) * w->count;
    return sum;
}

void walk_advance(struct walk *w, uint64_t products)
{
    w->done += products;
    aq_progress_update(&w->progress, w->done);
}

/* ---- forward ---- */

static int embed(struct walk *w, struct aq_err *err)
{
    if (nn_use_ends(w->job.model, err) < 0)
        return -1;
    for (size_t t = w->job.first_tile; t < w->job.end_tile; t++) {
        if (!w->tiles[t])
            continue;
        int64_t slot = walk_slot(w, 0, t);
        void *h = kept_place(w->kept, slot, w->scratch[0]);
        nn_embed(w->job.model, w->tiles[t], h);
        if (kept_put(w->kept, slot, h, err) < 0)
            return -1;
    }
    return 0;
}

const struct nn_acts *walk_step(struct walk *w, int64_t layer, size_t tile, struct aq_err *err)
{
    int64_t to = walk_slot(w, layer + 1, tile);
    void *in = kept_get(w->kept, walk_slot(w, layer, tile), w->scratch[0], err);
    if (!in)
        return NULL;
    /* with one slot a tile, the output takes the place of the input; the last output is not wanted
     */
    bool last = to == walk_slot(w, layer, tile) && layer + 1 == nn_layers(w->job.model);
    void *out = last ? NULL : kept_place(w->kept, to, w->scratch[1]);
    const struct nn_acts *acts =
        nn_layer_forward(w->job.model, layer, w->tiles[tile], in, out, NULL);
    if (nn_check(w->job.model, err) < 0)
        return NULL;
    return out && kept_put(w->kept, to, out, err) < 0 ? NULL : acts;
}

int walk_forward(struct walk *w, int64_t layers, walk_fn *each, void *arg, struct aq_err *err)
{
    int64_t all = nn_layers(w->job.model);
    if (w->embedded && layers <= w->computed)
        return 0;
    if (embed(w, err) < 0)
        return -1;
    for (int64_t l = 0; l < layers; l++) {
        if (nn_use_layer(w->job.model, l, l + 1 < all ? l + 1 : -1, err) < 0)
            return -1;
        for (size_t t = w->job.first_tile; t < w->job.end_tile; t++) {
            if (!w->tiles[t])
                continue;
            const struct nn_acts *acts = walk_step(w, l, t, err);
            if (!acts || (each && each(arg, l, t, acts, err) < 0))
                return -1;
            walk_advance(w, walk_layer_products(nn_layer(w->job.model, l)));
        }
    }
    w->computed = layers;
    w->embedded = true;
    return 0;
}

/* ---- numbers that are none ---- */

/* 1: the sample's state in this slot is not finite. */
static int slot_is_bad(struct walk *w, int64_t slot, size_t tile, int32_t sample, float *dev,
                       struct aq_err *err)
{
    float host;
    void *h = kept_get(w->kept, slot, w->scratch[1], err);
    if (!h)
        return -1;
    w->op->amax(w->b, w->tiles[tile], h, nn_arch(w->job.model)->hidden_size, sample, sample + 1,
                dev, NULL);
    if (w->op->download(w->b, &host, dev + sample, sizeof host, err) < 0)
        return -1;
    return !isfinite(host);
}

int walk_blame(struct walk *w, size_t tile, int32_t sample, const char *what, struct aq_err *err)
{
    int64_t layers = nn_layers(w->job.model), layer = 0;
    int64_t number = w->job.tiles->items[tile].sample + sample;
    size_t bytes = (size_t)w->max_samples * sizeof(float);
    float *dev = w->op->alloc(w->b, bytes, "ranges", err);
    int bad = dev ? 0 : -1;
    while (bad == 0 && layer <= layers)
        bad = slot_is_bad(w, walk_slot(w, layer++, tile), tile, sample, dev, err);
    if (dev)
        w->op->free(w->b, dev, bytes);
    if (bad < 0)
        return -1;
    char where[64];
    if (bad == 0)
        (void)snprintf(where, sizeof where, "%s", what);
    else if (layer == 1)
        (void)snprintf(where, sizeof where, "embedding");
    else
        (void)snprintf(where, sizeof where, "layer %" PRId64 ": its output", layer - 2);
    (void)aq_err_set(err, AQ_EINPUT, "%s is not finite in sample %" PRId64, where, number);
    return aq_err_hint(err, "a weight is NaN or infinite, or the numbers overflow");
}
