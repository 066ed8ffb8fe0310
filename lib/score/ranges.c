#include "score/ranges.h"

#include "base/file.h"
#include "base/mem.h"
#include "base/msg.h"
#include "nn/experts.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Each sample is measured in three parts, any of which may be empty. */
enum { PAD_ROW, FIRST_ROW, REST, PARTS };

/* Device memory of the pass. */
struct pass {
    struct walk *w;
    size_t tiles; /* that hold samples of the last prefix */
    struct backend *b;
    struct ranges *r;
    struct backend_tile **parts;  /* [tiles]: the tile's rows, a "sample" for every part */
    struct backend_tile **inner;  /* the same with a row for each expert of a token; or NULLs */
    float *amax;                  /* [MODEL_INPUTS][samples][PARTS] of one layer */
    float *channel[MODEL_INPUTS]; /* [prefixes][cols], each over the samples new in the prefix */
    size_t channel_bytes[MODEL_INPUTS];
    double
        *sums[MODEL_INPUTS]; /* [prefixes][cols], of magnitudes, over all samples of the prefix */
    int64_t *text;           /* [prefixes]: rows of text */
    float *host;             /* as amax */
};

static size_t amax_bytes(const struct ranges *r)
{
    return MODEL_INPUTS * (size_t)r->samples * PARTS * sizeof(float);
}

static void pass_close(struct pass *p)
{
    const struct backend_ops *op = p->b->ops;
    for (size_t i = 0; i < p->tiles; i++) {
        if (p->parts[i])
            op->tile_free(p->b, p->parts[i]);
        if (p->inner[i])
            op->tile_free(p->b, p->inner[i]);
    }
    free(p->parts);
    free(p->inner);
    op->free(p->b, p->amax, amax_bytes(p->r));
    for (int i = 0; i < MODEL_INPUTS; i++) {
        op->free(p->b, p->channel[i], p->channel_bytes[i]);
        op->free(p->b, p->sums[i], 2 * p->channel_bytes[i]);
    }
    free(p->text);
    free(p->host);
}

/* The rows of a tile, `each` for a token, with the parts of each sample for samples. */
static struct backend_tile *parts_of(struct backend *b, const struct tile *t, int32_t each,
                                     struct aq_err *err)
{
    int32_t n = t->desc.samples * PARTS;
    int32_t *first = xcalloc((size_t)n + 1, sizeof *first);
    uint8_t *pad = xcalloc((size_t)n, sizeof *pad);
    for (int32_t s = 0; s < t->desc.samples; s++) {
        int32_t from = t->desc.first[s], end = t->desc.first[s + 1];
        int32_t text = from + (t->desc.pad[s] ? 1 : 0);
        first[s * PARTS + PAD_ROW] = from;
        first[s * PARTS + FIRST_ROW] = text;
        first[s * PARTS + REST] = text < end ? text + 1 : end;
        pad[s * PARTS + PAD_ROW] = text > from;
        first[s * PARTS + PARTS] = end;
    }
    for (int32_t i = 0; i <= n; i++)
        first[i] *= each;
    struct backend_tile_desc desc = t->desc;
    int32_t *zeros = xcalloc((size_t)desc.rows * (size_t)each, sizeof *zeros);
    desc.rows *= each;
    desc.samples = n;
    desc.first = first;
    desc.pad = pad;
    if (each > 1) /* nothing here reads them */
        desc.ids = desc.pos = desc.target = zeros;
    struct backend_tile *dev = b->ops->tile_new(b, &desc, err);
    free(first);
    free(pad);
    free(zeros);
    /* cppcheck-suppress returnDanglingLifetime; the backend copies the description */
    return dev;
}

/* An input's place among a layer's may have other columns in another layer. */
static int64_t widest(const struct model_groups *g, int64_t layers, int input)
{
    int64_t most = 0;
    for (int64_t l = 0; l < layers; l++) {
        size_t i = g->first_input[l] + (size_t)input;
        if (i < g->first_input[l + 1] && g->inputs[i].cols > most)
            most = g->inputs[i].cols;
    }
    return most;
}

static int pass_open(struct pass *p, struct aq_err *err)
{
    const struct backend_ops *op = p->b->ops;
    const struct tiles *tiles = p->w->job.tiles;
    int32_t each = (int32_t)nn_arch(p->w->job.model)->experts_per_token;
    p->host = xmalloc(amax_bytes(p->r));
    p->amax = op->alloc(p->b, amax_bytes(p->r), "ranges", err);
    if (!p->amax)
        return -1;
    for (int i = 0; i < MODEL_INPUTS; i++) {
        p->channel_bytes[i] = p->r->prefix_count *
                              (size_t)widest(p->r->model, p->r->model->layers, i) * sizeof(float);
        if (p->channel_bytes[i] == 0)
            continue;
        p->channel[i] = op->alloc(p->b, p->channel_bytes[i], "ranges of channels", err);
        p->sums[i] = op->alloc(p->b, 2 * p->channel_bytes[i], "sums of magnitudes", err);
        if (!p->channel[i] || !p->sums[i])
            return -1;
    }
    for (size_t i = 0; i < p->tiles; i++) {
        p->parts[i] = parts_of(p->b, &tiles->items[i], 1, err);
        if (!p->parts[i])
            return -1;
        if (each && !(p->inner[i] = parts_of(p->b, &tiles->items[i], each, err)))
            return -1;
    }
    return 0;
}

/* ---- one layer ---- */

/* The mean magnitudes of an input; each: rows of a token. */
static int collect_means(struct pass *p, size_t input, int place, int64_t each, struct aq_err *err)
{
    const struct ranges *r = p->r;
    int64_t cols = r->model->inputs[input].cols;
    double *to = r->mean[input];
    if (p->b->ops->download(p->b, to, p->sums[place], r->prefix_count * (size_t)cols * sizeof *to,
                            err) < 0)
        return -1;
    for (size_t k = 0; k < r->prefix_count; k++)
        for (int64_t c = 0; c < cols; c++)
            *to++ /= p->text[k] ? (double)(p->text[k] * each) : 1;
    return 0;
}

/* Rows of a token that an input's place in a layer has. */
static int64_t rows_each(const struct pass *p, int64_t layer, int place)
{
    bool inner = place == nn_layer(p->w->job.model, layer)->experts_input[EXPERT_DOWN];
    return inner ? nn_arch(p->w->job.model)->experts_per_token : 1;
}

/* Brings a layer's numbers to the host; a prefix includes those before it. */
static int collect_layer(struct pass *p, int64_t layer, struct aq_err *err)
{
    struct ranges *r = p->r;
    size_t first = r->model->first_input[layer], end = r->model->first_input[layer + 1];
    if (p->b->ops->download(p->b, p->host, p->amax, amax_bytes(r), err) < 0)
        return aq_err_prefix(err, "layer %" PRId64, layer);
    for (size_t i = first; i < end; i++) {
        const float *from = p->host + (i - first) * (size_t)r->samples * PARTS;
        for (int64_t s = 0; s < r->samples; s++, from += PARTS) {
            size_t at = i * (size_t)r->samples + (size_t)s;
            if (!isfinite(from[PAD_ROW]) || !isfinite(from[FIRST_ROW]) || !isfinite(from[REST]))
                return aq_err_set(err, AQ_ERUN, "input '%s' is not finite in sample %" PRId64,
                                  r->model->inputs[i].name, s);
            r->first[at] = from[FIRST_ROW];
            r->rest[at] = from[REST];
            if (r->pad) /* the same in all samples that have one; 0 in those that do not */
                r->pad[i] = fmaxf(r->pad[i], from[PAD_ROW]);
        }
        int64_t cols = r->model->inputs[i].cols, all = (int64_t)r->prefix_count * cols;
        float *to = r->channel[i];
        if (p->b->ops->download(p->b, to, p->channel[i - first], (size_t)all * sizeof *to, err) < 0)
            return aq_err_prefix(err, "layer %" PRId64, layer);
        for (int64_t k = cols; k < all; k++)
            to[k] = to[k] > to[k - cols] ? to[k] : to[k - cols];
        int place = (int)(i - first);
        if (collect_means(p, i, place, rows_each(p, layer, place), err) < 0)
            return aq_err_prefix(err, "layer %" PRId64, layer);
    }
    return 0;
}

/* Sums over the samples of a tile that are new in prefix k, on top of those of the prefix before;
   from and to are parts. */
static void add_magnitudes(struct pass *p, const struct backend_tile *parts, const void *x,
                           int64_t cols, int64_t sample, size_t k, int32_t from, int32_t to,
                           double *sums)
{
    double *own = sums + (int64_t)k * cols;
    if (k && p->r->prefixes[k - 1] >= sample) /* the first tile that has any */
        p->b->ops->copy(p->b, own, own - cols, (size_t)cols * sizeof *own);
    p->b->ops->magnitudes(p->b, parts, x, cols, from, to, own);
}

/* Ranges of one tile's inputs; each sample counts for the first prefix that holds it. */
static void measure_tile(struct pass *p, int64_t layer, size_t tile, const struct nn_acts *acts)
{
    const struct ranges *r = p->r;
    const struct tile *t = &p->w->job.tiles->items[tile];
    size_t first = r->model->first_input[layer], end = r->model->first_input[layer + 1];
    int64_t last = t->sample + t->desc.samples;
    for (size_t i = first; i < end; i++) {
        int64_t cols = r->model->inputs[i].cols, in = (int64_t)(i - first);
        const struct backend_tile *parts =
            rows_each(p, layer, (int)in) > 1 ? p->inner[tile] : p->parts[tile];
        float *amax = p->amax + (in * r->samples + t->sample) * PARTS;
        for (size_t k = 0; k < r->prefix_count; k++) {
            int64_t from = k ? r->prefixes[k - 1] : 0, to = r->prefixes[k];
            from = from > t->sample ? from : t->sample;
            to = to < last ? to : last;
            if (from >= to)
                continue;
            int32_t a = (int32_t)(from - t->sample) * PARTS, e = (int32_t)(to - t->sample) * PARTS;
            p->b->ops->amax(p->b, parts, acts->x[in], cols, a, e, amax,
                            p->channel[in] + (int64_t)k * cols);
            add_magnitudes(p, parts, acts->x[in], cols, t->sample, k, a, e, p->sums[in]);
        }
    }
}

/* Tokens of a tile that go to each expert; a sample counts for the first prefix that holds it. */
static void count_routes(const struct pass *p, int64_t layer, const struct tile *t,
                         const struct nn_routes *routes)
{
    const struct ranges *r = p->r;
    size_t k = 0;
    for (int32_t s = 0; s < t->desc.samples && t->sample + s < r->samples && r->routed[layer];
         s++) {
        while (t->sample + s >= r->prefixes[k])
            k++;
        nn_routes_count(routes, t->desc.first[s] + (t->desc.pad[s] ? 1 : 0), t->desc.first[s + 1],
                        r->routed[layer] + (int64_t)k * r->experts);
    }
}

/* A prefix includes those before it. */
static void add_up_routes(const struct ranges *r, int64_t layer)
{
    int32_t *counts = r->routed[layer];
    for (int64_t i = r->experts; counts && i < (int64_t)r->prefix_count * r->experts; i++)
        counts[i] += counts[i - r->experts];
}

static int measure(void *arg, int64_t layer, size_t tile, const struct nn_acts *acts,
                   struct aq_err *err)
{
    struct pass *p = arg;
    if (tile >= p->tiles)
        return 0;
    if (tile == 0)
        for (int i = 0; i < MODEL_INPUTS; i++)
            if (p->channel[i]) {
                p->b->ops->zero(p->b, p->channel[i], p->channel_bytes[i]);
                p->b->ops->zero(p->b, p->sums[i], 2 * p->channel_bytes[i]);
            }
    measure_tile(p, layer, tile, acts);
    count_routes(p, layer, &p->w->job.tiles->items[tile], acts->routes);
    if (tile + 1 < p->tiles)
        return 0;
    add_up_routes(p->r, layer);
    return collect_layer(p, layer, err);
}

/* ---- all ---- */

static void take_room(struct ranges *r, const struct tiles *tiles, const struct nn_model *m)
{
    size_t inputs = r->model->input_count;
    r->experts = nn_arch(m)->experts;
    r->routed = xcalloc((size_t)nn_layers(m) + 1, sizeof(int32_t *));
    for (int64_t l = 0; l < nn_layers(m); l++)
        if (nn_layer(m, l)->experts)
            r->routed[l] = xcalloc(r->prefix_count * (size_t)r->experts, sizeof(int32_t));
    r->first = xcalloc(inputs * (size_t)r->samples, sizeof *r->first);
    r->rest = xcalloc(inputs * (size_t)r->samples, sizeof *r->rest);
    if (tiles->has_pads)
        r->pad = xcalloc(inputs, sizeof *r->pad);
    r->channel = xcalloc(inputs, sizeof(float *));
    r->mean = xcalloc(inputs, sizeof(double *));
    for (size_t i = 0; i < inputs; i++) {
        size_t columns = r->prefix_count * (size_t)r->model->inputs[i].cols;
        r->channel[i] = xcalloc(columns, sizeof(float));
        r->mean[i] = xcalloc(columns, sizeof(double));
    }
}

/* Rows of text in each prefix. */
static int64_t *count_text(const struct ranges *r, const struct tiles *tiles)
{
    int64_t *text = xcalloc(r->prefix_count, sizeof *text);
    for (size_t t = 0; t < tiles->count; t++) {
        const struct tile *tile = &tiles->items[t];
        for (int32_t s = 0; s < tile->desc.samples; s++)
            for (size_t k = 0; k < r->prefix_count; k++)
                if (tile->sample + s < r->prefixes[k])
                    text[k] +=
                        tile->desc.first[s + 1] - tile->desc.first[s] - (tile->desc.pad[s] ? 1 : 0);
    }
    return text;
}

int ranges_compute(struct ranges *r, const struct model_groups *model, struct walk *w,
                   const int64_t *prefixes, size_t prefix_count, struct aq_err *err)
{
    const struct tiles *tiles = w->job.tiles;
    const struct nn_model *m = w->job.model;
    struct pass p = {.w = w, .b = w->b, .r = r};
    *r = (struct ranges){
        .model = model, .samples = prefixes[prefix_count - 1], .prefix_count = prefix_count};
    while (p.tiles < tiles->count && tiles->items[p.tiles].sample < r->samples)
        p.tiles++;
    p.parts = xcalloc(p.tiles, sizeof(struct backend_tile *));
    p.inner = xcalloc(p.tiles, sizeof(struct backend_tile *));
    r->prefixes = xcalloc(prefix_count, sizeof *r->prefixes);
    memcpy(r->prefixes, prefixes, prefix_count * sizeof *prefixes);
    take_room(r, tiles, m);
    p.text = count_text(r, tiles);
    int status = pass_open(&p, err);
    if (status == 0) {
        aq_progress_begin(&w->progress, "ranges", walk_products(w, 0, nn_layers(m)));
        status = walk_forward(w, nn_layers(m), measure, &p, err);
        aq_progress_end(&w->progress);
        w->done = 0;
    }
    pass_close(&p);
    return status;
}

void ranges_say_unseen(const struct ranges *r)
{
    struct routed worst = {0};
    int64_t at = 0, layers = 0, experts = 0;
    for (int64_t l = 0; l < r->model->layers; l++) {
        if (!r->routed[l])
            continue;
        /* of the largest prefix, which has the fewest unseen */
        const struct routed n =
            routed_of(r->routed[l] + (int64_t)(r->prefix_count - 1) * r->experts, r->experts);
        layers += n.unseen > 0;
        experts += n.unseen;
        if (n.unseen > worst.unseen) {
            worst = n;
            at = l;
        }
    }
    if (!layers)
        return;
    if (routed_partly(&worst))
        aq_warn("no token reaches %" PRId64 " experts of %" PRId64 " layers, %" PRId64
                " of %" PRId64 " in layer %" PRId64 ": they are scored on part of their weights",
                experts, layers, worst.unseen, worst.experts, at);
    else
        aq_note(0, "no token reaches %" PRId64 " experts of %" PRId64 " layers", experts, layers);
}

void ranges_release(struct ranges *r)
{
    for (size_t i = 0; r->channel && i < r->model->input_count; i++) {
        free(r->channel[i]);
        free(r->mean[i]);
    }
    free(r->channel);
    free(r->mean);
    for (int64_t l = 0; r->routed && l < r->model->layers; l++)
        free(r->routed[l]);
    free(r->routed);
    free(r->prefixes);
    free(r->first);
    free(r->rest);
    free(r->pad);
    *r = (struct ranges){0};
}

/* ---- the file ---- */

/* The tensors of the file, in the order of their names. Caller frees the list and its names. */
static struct range_tensor *list_tensors(const struct ranges *r, size_t *count)
{
    size_t inputs = r->model->input_count, n = 0;
    uint64_t samples = (uint64_t)r->samples;
    struct range_tensor *all = xcalloc(2 * inputs + 3 + (size_t)r->model->layers, sizeof *all);
    all[n++] = (struct range_tensor){xstrdup("first"), ST_F32, 2, {inputs, samples}, r->first};
    all[n++] = (struct range_tensor){xstrdup("rest"), ST_F32, 2, {inputs, samples}, r->rest};
    if (r->pad)
        all[n++] = (struct range_tensor){xstrdup("pad"), ST_F32, 1, {inputs, 1}, r->pad};
    for (size_t i = 0; i < inputs; i++) {
        uint64_t cols = (uint64_t)r->model->inputs[i].cols;
        all[n++] = (struct range_tensor){
            xasprintf("channel/%zu", i), ST_F32, 2, {r->prefix_count, cols}, r->channel[i]};
        all[n++] = (struct range_tensor){
            xasprintf("mean/%zu", i), ST_F64, 2, {r->prefix_count, cols}, r->mean[i]};
    }
    for (int64_t l = 0; l < r->model->layers; l++)
        if (r->routed[l])
            all[n++] = (struct range_tensor){xasprintf("routed/%" PRId64, l),
                                             ST_I32,
                                             2,
                                             {r->prefix_count, (uint64_t)r->experts},
                                             r->routed[l]};
    *count = n;
    return all;
}

static int write_tensors(struct st_writer *w, const struct range_tensor *all, size_t count,
                         const char *path, struct aq_err *err)
{
    int *handles = xcalloc(count, sizeof *handles), status;
    for (size_t i = 0; i < count; i++)
        handles[i] = st_declare(w, all[i].name, all[i].dtype, all[i].rank, all[i].shape);
    status = st_begin(w, path, err);
    for (size_t i = 0; i < count && status == 0; i++)
        status = st_write(w, handles[i], 0, all[i].data,
                          all[i].shape[0] * all[i].shape[1] * st_dtype_bits(all[i].dtype) / 8, err);
    if (status == 0)
        status = st_commit(w, err);
    free(handles);
    return status;
}

static struct json *describe(const struct ranges *r, const struct range_user *of)
{
    struct json *aq = json_new_object();
    json_add_string(aq, "schema", RANGES_SCHEMA);
    struct json *list = json_add_array(aq, "prefixes");
    for (size_t i = 0; i < r->prefix_count; i++)
        (void)json_push(list, json_new_int(r->prefixes[i]));
    json_add_string(aq, "lm", of->lm);
    json_add_string(aq, "tokens", of->tokens);
    json_add_string(aq, "backend", of->backend);
    json_add_string(aq, "dtype", of->dtype);
    model_groups_write(r->model, aq);
    return aq;
}

/*
 * Is there a whole file of this digest, which is over all that such a file holds? Another one may
 * be replaced afterwards, but not what is an input of this run already.
 */
static bool is_there(const char *path, const char *digest)
{
    struct range_file f;
    struct stat st;
    bool is = false;
    if (!path || stat(path, &st) < 0 || aq_is_input(&st))
        return false;
    if (range_file_open(&f, path, NULL) == 0) {
        const char *own = json_string(json_get(f.meta, "digest"));
        is = own && strcmp(own, digest) == 0;
        range_file_close(&f);
    }
    aq_rewrite_input(path);
    return is;
}

static int write_file(const char *path, const struct json *aq, const struct range_tensor *all,
                      size_t count, struct aq_err *err)
{
    struct aq_buf text = AQ_BUF_INIT;
    int status = json_write(&text, aq, JSON_COMPACT, err);
    if (status == 0) {
        struct st_writer *w = st_writer_new();
        struct json *meta = json_new_object();
        json_add_string(meta, "aq", aq_buf_str(&text));
        st_writer_metadata(w, meta);
        status = write_tensors(w, all, count, path, err);
        st_writer_free(w);
    }
    aq_buf_release(&text);
    return status;
}

int ranges_write(const struct ranges *r, const char *path, const struct range_user *of,
                 bool keep_equal, struct aq_err *err)
{
    size_t count;
    struct range_tensor *all = list_tensors(r, &count);
    struct json *aq = describe(r, of);
    char digest[AQ_SHA256_HEX];
    int status = range_file_seal(aq, all, count, digest, err);
    if (status == 0) {
        json_add_string(aq, "digest", digest);
        if (!keep_equal || !is_there(path, digest))
            status = write_file(path, aq, all, count, err);
    }
    for (size_t i = 0; i < count; i++)
        free(all[i].name);
    free(all);
    json_free(aq);
    return status;
}
