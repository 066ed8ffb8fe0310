#include "score/walk.h"

#include "base/mem.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

size_t walk_act_bytes(const struct scoring *s, int64_t cols)
{
    size_t n = (size_t)s->tiles->rows * (size_t)cols * s->b->act_size;
    return (n + 255) / 256 * 256;
}

int32_t walk_most_samples(const struct scoring *s)
{
    int32_t most = 1;
    for (size_t t = s->first_tile; t < s->end_tile; t++)
        if (s->tiles->items[t].desc.samples > most)
            most = s->tiles->items[t].desc.samples;
    return most;
}

static int take_tiles(struct walk *w, struct aq_err *err)
{
    w->tiles = xcalloc(w->s->tiles->count, sizeof(struct backend_tile *));
    w->batches = xcalloc(w->s->tiles->count, sizeof(struct backend_tile *));
    for (size_t t = w->s->first_tile; t < w->s->end_tile; t++) {
        const struct tile *tile = &w->s->tiles->items[t];
        if (!scoring_tile_lacks(w->s, t))
            continue;
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

const struct backend_tile *walk_quantized_tile(const struct walk *w, size_t row, size_t tile)
{
    size_t candidate = w->s->rows->items[row].candidate;
    bool of_the_data = w->s->candidates->items[candidate].of_the_data;
    return of_the_data && w->batches[tile] ? w->batches[tile] : w->tiles[tile];
}

int walk_open(struct walk *w, const struct scoring *s, bool spilled, struct aq_err *err)
{
    const struct qwen3_config *c = qwen3_config(s->model);
    *w = (struct walk){.s = s, .b = s->b, .op = s->b->ops};
    w->state_bytes = walk_act_bytes(s, c->hidden);
    w->max_samples = walk_most_samples(s);
    int64_t slots = (c->layers + 1) * (int64_t)(s->end_tile - s->first_tile);
    if (take_tiles(w, err) < 0 || kept_new(&w->kept, w->b, slots, w->state_bytes,
                                           spilled ? 0 : UINT64_MAX, s->spill_dir, err) < 0)
        return -1;
    for (int i = 0; i < 2; i++) {
        w->scratch[i] = w->op->alloc(w->b, w->state_bytes, "a layer input", err);
        if (!w->scratch[i])
            return -1;
    }
    return 0;
}

void walk_close(struct walk *w)
{
    for (int i = 0; i < 2; i++)
        if (w->scratch[i])
            w->op->free(w->b, w->scratch[i], w->state_bytes);
    for (size_t t = 0; w->tiles && t < w->s->tiles->count; t++) {
        if (w->tiles[t])
            w->op->tile_free(w->b, w->tiles[t]);
        if (w->batches[t])
            w->op->tile_free(w->b, w->batches[t]);
    }
    kept_free(w->kept);
    free(w->tiles);
    free(w->batches);
    *w = (struct walk){0};
}

int64_t walk_slot(const struct walk *w, int64_t layer, size_t tile)
{
    return layer * (int64_t)(w->s->end_tile - w->s->first_tile) +
           (int64_t)(tile - w->s->first_tile);
}

void walk_advance(struct walk *w, uint64_t steps)
{
    w->done += steps;
    aq_progress_update(&w->progress, w->done);
}

/* ---- forward ---- */

static int embed(struct walk *w, struct aq_err *err)
{
    if (qwen3_use_ends(w->s->model, err) < 0)
        return -1;
    for (size_t t = w->s->first_tile; t < w->s->end_tile; t++) {
        if (!w->tiles[t])
            continue;
        int64_t slot = walk_slot(w, 0, t);
        void *h = kept_place(w->kept, slot, w->scratch[0]);
        qwen3_embed(w->s->model, w->tiles[t], h);
        if (kept_put(w->kept, slot, h, err) < 0)
            return -1;
    }
    return 0;
}

int walk_step(struct walk *w, int64_t layer, size_t tile, struct aq_err *err)
{
    int64_t to = walk_slot(w, layer + 1, tile);
    void *in = kept_get(w->kept, walk_slot(w, layer, tile), w->scratch[0], err);
    if (!in)
        return -1;
    void *out = kept_place(w->kept, to, w->scratch[1]);
    (void)qwen3_layer_forward(w->s->model, layer, w->tiles[tile], in, out, NULL);
    return kept_put(w->kept, to, out, err);
}

int walk_forward(struct walk *w, int64_t layers, struct aq_err *err)
{
    int64_t all = qwen3_config(w->s->model)->layers;
    if (embed(w, err) < 0)
        return -1;
    for (int64_t l = 0; l < layers; l++) {
        if (qwen3_use_layer(w->s->model, l, l + 1 < all ? l + 1 : -1, err) < 0)
            return -1;
        for (size_t t = w->s->first_tile; t < w->s->end_tile; t++)
            if (w->tiles[t] && walk_step(w, l, t, err) < 0)
                return -1;
        walk_advance(w, 1);
    }
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
    w->op->amax(w->b, w->tiles[tile], h, qwen3_config(w->s->model)->hidden, sample, sample + 1, dev,
                NULL);
    if (w->op->download(w->b, &host, dev + sample, sizeof host, err) < 0)
        return -1;
    return !isfinite(host);
}

int walk_blame(struct walk *w, size_t tile, int32_t sample, const char *what, struct aq_err *err)
{
    int64_t layers = qwen3_config(w->s->model)->layers, layer = 0;
    int64_t number = w->s->tiles->items[tile].sample + sample;
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
