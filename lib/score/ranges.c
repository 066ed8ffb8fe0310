#include "score/ranges.h"

#include "base/mem.h"
#include "base/progress.h"
#include "io/safetensors.h"
#include "quant/quant.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Device memory of the walk. */
struct walk {
    struct qwen3 *m;
    struct backend *b;
    const struct tiles *tiles;
    struct backend_tile **dev;    /* [tiles] */
    char *h;                      /* (tiles, rows, hidden): inputs of the layer, then its outputs */
    size_t h_bytes;               /* of a tile */
    float *amax;                  /* [inputs][samples] */
    float *channel[QWEN3_INPUTS]; /* [prefixes][cols], each over the samples new in the prefix */
    struct ranges *r;
};

static size_t amax_bytes(const struct ranges *r)
{
    return (size_t)(QWEN3_INPUTS * r->samples) * sizeof(float);
}

static size_t channel_bytes(const struct ranges *r, int input)
{
    return r->prefix_count * (size_t)r->cols[input] * sizeof(float);
}

static void walk_close(struct walk *w)
{
    const struct backend_ops *op = w->b->ops;
    for (size_t i = 0; w->dev && i < w->tiles->count; i++)
        if (w->dev[i])
            op->tile_free(w->b, w->dev[i]);
    free(w->dev);
    op->free(w->b, w->h, w->tiles->count * w->h_bytes);
    op->free(w->b, w->amax, amax_bytes(w->r));
    for (int i = 0; i < QWEN3_INPUTS; i++)
        op->free(w->b, w->channel[i], channel_bytes(w->r, i));
}

static int walk_open(struct walk *w, struct aq_err *err)
{
    const struct backend_ops *op = w->b->ops;
    w->h_bytes = (size_t)w->tiles->rows * (size_t)qwen3_config(w->m)->hidden * w->b->act_size;
    w->dev = xcalloc(w->tiles->count, sizeof(struct backend_tile *));
    w->h = op->alloc(w->b, w->tiles->count * w->h_bytes, "the kept inputs of a layer", err);
    w->amax = op->alloc(w->b, amax_bytes(w->r), "ranges", err);
    if (!w->h || !w->amax)
        return -1;
    for (int i = 0; i < QWEN3_INPUTS; i++) {
        w->channel[i] = op->alloc(w->b, channel_bytes(w->r, i), "ranges of channels", err);
        if (!w->channel[i])
            return -1;
    }
    for (size_t i = 0; i < w->tiles->count; i++) {
        w->dev[i] = op->tile_new(w->b, &w->tiles->items[i].desc, err);
        if (!w->dev[i])
            return -1;
    }
    return 0;
}

/* Ranges of one tile's inputs; each sample counts for the first prefix that holds it. */
static void measure_tile(struct walk *w, size_t i, const struct qwen3_acts *acts)
{
    const struct tile *t = &w->tiles->items[i];
    int64_t end = t->sample + t->desc.samples;
    for (int in = 0; in < QWEN3_INPUTS; in++) {
        float *amax = w->amax + in * w->r->samples + t->sample;
        for (size_t p = 0; p < w->r->prefix_count; p++) {
            int64_t from = p ? w->r->prefixes[p - 1] : 0, to = w->r->prefixes[p];
            from = from > t->sample ? from : t->sample;
            to = to < end ? to : end;
            if (from < to)
                w->b->ops->amax(w->b, w->dev[i], acts->x[in], w->r->cols[in],
                                (int32_t)(from - t->sample), (int32_t)(to - t->sample), amax,
                                w->channel[in] + (int64_t)p * w->r->cols[in]);
        }
    }
}

/* The first pad row of the tile stands for all there are. */
static int measure_pad(struct walk *w, int64_t layer, size_t i, const struct qwen3_acts *acts,
                       struct aq_err *err)
{
    const struct tile *t = &w->tiles->items[i];
    int32_t s = 0;
    while (!t->desc.pad[s])
        s++;
    for (int in = 0; in < QWEN3_INPUTS; in++) {
        size_t bytes = (size_t)w->r->cols[in] * w->b->act_size;
        char *row = xmalloc(bytes);
        const char *x = (const char *)acts->x[in] + (size_t)t->desc.first[s] * bytes;
        int status = w->b->ops->download(w->b, row, x, bytes, err);
        if (status == 0)
            w->r->pad[layer * QWEN3_INPUTS + in] = quant_absmax(
                row, w->b->act_size == 2 ? QUANT_BF16 : QUANT_F32, (size_t)w->r->cols[in]);
        free(row);
        if (status < 0)
            return -1;
    }
    return 0;
}

static int check_finite(const struct ranges *r, int64_t layer, struct aq_err *err)
{
    for (int in = 0; in < QWEN3_INPUTS; in++)
        for (int64_t s = 0; s < r->samples; s++)
            if (!isfinite(r->amax[(layer * QWEN3_INPUTS + in) * r->samples + s]))
                return aq_err_set(err, AQ_ERUN,
                                  "layer %lld: the input of %s is not finite in sample %lld",
                                  (long long)layer, qwen3_input_name(in), (long long)s);
    return 0;
}

/* Brings a layer's numbers to the host; a prefix includes those before it. */
static int collect_layer(struct walk *w, int64_t layer, struct aq_err *err)
{
    struct ranges *r = w->r;
    if (w->b->ops->download(w->b, r->amax + layer * QWEN3_INPUTS * r->samples, w->amax,
                            amax_bytes(r), err) < 0)
        return aq_err_prefix(err, "layer %lld", (long long)layer);
    for (int in = 0; in < QWEN3_INPUTS; in++) {
        int64_t cols = r->cols[in];
        float *to = r->channel[in] + layer * (int64_t)r->prefix_count * cols;
        if (w->b->ops->download(w->b, to, w->channel[in], channel_bytes(r, in), err) < 0)
            return aq_err_prefix(err, "layer %lld", (long long)layer);
        for (int64_t k = cols; k < (int64_t)r->prefix_count * cols; k++)
            to[k] = to[k] > to[k - cols] ? to[k] : to[k - cols];
    }
    return check_finite(r, layer, err);
}

static int walk_layer(struct walk *w, int64_t layer, struct aq_err *err)
{
    int64_t layers = qwen3_config(w->m)->layers;
    size_t pad_tile = w->tiles->count;
    if (qwen3_use_layer(w->m, layer, layer + 1 < layers ? layer + 1 : -1, err) < 0)
        return -1;
    for (int in = 0; in < QWEN3_INPUTS; in++)
        w->b->ops->zero(w->b, w->channel[in], channel_bytes(w->r, in));
    for (size_t i = 0; i < w->tiles->count; i++) {
        char *h = w->h + i * w->h_bytes;
        const struct qwen3_acts *acts =
            qwen3_layer_forward(w->m, layer, w->dev[i], h, layer + 1 < layers ? h : NULL, NULL);
        measure_tile(w, i, acts);
        const struct tile *t = &w->tiles->items[i];
        if (pad_tile == w->tiles->count && memchr(t->desc.pad, 1, (size_t)t->desc.samples)) {
            pad_tile = i;
            if (measure_pad(w, layer, i, acts, err) < 0)
                return -1;
        }
    }
    return collect_layer(w, layer, err);
}

static int walk_model(struct walk *w, struct aq_err *err)
{
    if (qwen3_use_ends(w->m, err) < 0)
        return -1;
    for (size_t i = 0; i < w->tiles->count; i++)
        qwen3_embed(w->m, w->dev[i], w->h + i * w->h_bytes);
    if (w->b->ops->sync(w->b, err) < 0)
        return -1;
    qwen3_drop_ends(w->m);
    int64_t layers = qwen3_config(w->m)->layers;
    struct aq_progress progress;
    aq_progress_begin(&progress, "ranges", (uint64_t)layers);
    int status = 0;
    for (int64_t l = 0; l < layers && status == 0; l++) {
        status = walk_layer(w, l, err);
        aq_progress_update(&progress, (uint64_t)l + 1);
    }
    aq_progress_end(&progress);
    return status;
}

int ranges_compute(struct ranges *r, struct qwen3 *m, struct backend *b, const struct tiles *tiles,
                   const int64_t *prefixes, size_t prefix_count, struct aq_err *err)
{
    struct walk w = {.m = m, .b = b, .tiles = tiles, .r = r};
    *r = (struct ranges){.layers = qwen3_config(m)->layers,
                         .samples = prefixes[prefix_count - 1],
                         .prefix_count = prefix_count};
    r->prefixes = xcalloc(prefix_count, sizeof *r->prefixes);
    memcpy(r->prefixes, prefixes, prefix_count * sizeof *prefixes);
    size_t rows = (size_t)(r->layers * QWEN3_INPUTS);
    r->amax = xcalloc(rows * (size_t)r->samples, sizeof *r->amax);
    if (tiles->has_pads)
        r->pad = xcalloc(rows, sizeof *r->pad);
    for (int in = 0; in < QWEN3_INPUTS; in++) {
        r->cols[in] = qwen3_input_cols(m, in);
        r->channel[in] = xcalloc((size_t)(r->layers * r->cols[in]) * prefix_count, sizeof(float));
    }
    int status = walk_open(&w, err) < 0 ? -1 : walk_model(&w, err);
    walk_close(&w);
    return status;
}

void ranges_release(struct ranges *r)
{
    free(r->prefixes);
    free(r->amax);
    free(r->pad);
    for (int in = 0; in < QWEN3_INPUTS; in++)
        free(r->channel[in]);
    *r = (struct ranges){0};
}

/* ---- the file ---- */

static int declare_channel(struct st_writer *w, const struct ranges *r, int64_t layer, int in)
{
    char name[64];
    uint64_t shape[] = {r->prefix_count, (uint64_t)r->cols[in]};
    (void)snprintf(name, sizeof name, "channel/%lld.%s", (long long)layer, qwen3_input_name(in));
    return st_declare(w, name, ST_F32, 2, shape);
}

static int write_all(struct st_writer *w, const struct ranges *r, const char *path,
                     struct aq_err *err)
{
    uint64_t rows = (uint64_t)(r->layers * QWEN3_INPUTS), shape[] = {rows, (uint64_t)r->samples};
    int *handles = xcalloc(rows, sizeof *handles), status = -1;
    int amax = st_declare(w, "amax", ST_F32, 2, shape);
    int pad = r->pad ? st_declare(w, "pad", ST_F32, 1, shape) : -1;
    for (uint64_t i = 0; i < rows; i++)
        handles[i] = declare_channel(w, r, (int64_t)i / QWEN3_INPUTS, (int)(i % QWEN3_INPUTS));
    if (st_begin(w, path, err) < 0 ||
        st_write(w, amax, 0, r->amax, rows * (size_t)r->samples * sizeof(float), err) < 0 ||
        (r->pad && st_write(w, pad, 0, r->pad, rows * sizeof(float), err) < 0))
        goto out;
    for (uint64_t i = 0; i < rows; i++) {
        int in = (int)(i % QWEN3_INPUTS);
        size_t count = r->prefix_count * (size_t)r->cols[in];
        const float *from = r->channel[in] + i / QWEN3_INPUTS * count;
        if (st_write(w, handles[i], 0, from, count * sizeof(float), err) < 0)
            goto out;
    }
    status = st_commit(w, err);
out:
    free(handles);
    return status;
}

int ranges_write(const struct ranges *r, const char *path, struct json *metadata,
                 struct aq_err *err)
{
    struct st_writer *w = st_writer_new();
    st_writer_metadata(w, metadata);
    int status = write_all(w, r, path, err);
    st_writer_free(w);
    return status;
}
