#include "score/solve.h"

#include "base/file.h"
#include "base/mem.h"
#include "base/msg.h"
#include "base/sha256.h"
#include "model/lm.h"
#include "quant/dense.h"
#include "score/dtype.h"
#include "score/samples.h"
#include "score/scoring.h"
#include "score/solve_experts.h"
#include "score/solve_layer.h"
#include "score/solver.h"
#include "score/walk.h"
#include "store/range_file.h"
#include "text/tokens.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct solve_call {
    const struct solve_job *job;
    struct lm lm;
    struct tokens tokens;
    struct range_file ranges;
    struct candidates candidates; /* solved ones */
    bool *done;                   /* [candidates]: the product has it */
    struct solved_file old;       /* the product as it is; path NULL: none, or not used */
    struct backend *backend;
    struct aq_pool *pool;
    struct nn_model *model;
    struct tiles tiles;
    struct walk walk;
    int64_t prefix;
    int position;                   /* of the prefix in the ranges */
    int64_t first_layer, end_layer; /* of this run */
    bool bf16, needs_moments, needs_quarter;
    struct json *identity; /* of a layer's file: all but layers, tensors and digest */
    char *parts;           /* directory of the layers' files */
    /* of the layer at work */
    struct input_stats inputs[MODEL_INPUTS];
    float *amax[MODEL_INPUTS];
    double *quarter[MODEL_INPUTS]; /* (cols, cols): a quarter's moments, added up by the host */
    size_t moments_bytes[MODEL_INPUTS];
    float *host;  /* a tile's input as the device has it */
    double *rows; /* the rows of it that hold text */
    struct expert_inputs experts;
    bool keep_layer; /* its file is there from a run before */
};

/* ---- opening ---- */

/* What is solved; treatments that need nothing are left to aq-score. */
static int open_candidates(struct solve_call *r, struct aq_err *err)
{
    struct candidates all = {0};
    int bad = 0;
    for (size_t i = 0; i < r->job->quant_count && bad == 0; i++)
        bad = candidates_add_file(&all, r->job->quants[i], err);
    candidates_sort(&all);
    for (size_t i = 0; i < all.count && bad == 0; i++) {
        if (!quant_is_solved(&all.items[i].ws))
            continue;
        AQ_GROW(r->candidates.items, r->candidates.count, r->candidates.cap);
        r->candidates.items[r->candidates.count++] = all.items[i];
        all.items[i].w = all.items[i].a = NULL; /* moved */
    }
    candidates_release(&all);
    if (bad < 0)
        return -1;
    r->done = xcalloc(r->candidates.count + 1, sizeof *r->done);
    r->needs_moments = solve_needs_moments(&r->candidates);
    r->needs_quarter = solve_needs_quarter(&r->candidates);
    if (r->candidates.count == 0)
        aq_note(0, "none of the candidates has anything to solve");
    return 0;
}

static int open_ranges(struct solve_call *r, struct aq_err *err)
{
    const struct range_user user = {.lm = r->lm.digest,
                                    .tokens = r->tokens.digest,
                                    .model = &r->lm.groups,
                                    .backend = r->backend->identity,
                                    .dtype = compute_dtype_name(r->bf16)};
    if (range_file_open(&r->ranges, r->job->ranges, err) < 0 ||
        range_file_matches(&r->ranges, &user, err) < 0)
        return -1;
    if (r->prefix == 0)
        r->prefix = r->ranges.prefixes[r->ranges.prefix_count - 1];
    r->position = range_file_prefix(&r->ranges, r->prefix, err);
    return r->position < 0 ? -1 : 0;
}

static int open_model(struct solve_call *r, struct aq_err *err)
{
    struct backend_config config = r->job->config;
    config.bf16 = r->bf16;
    if (backend_open(&r->backend, r->job->device, &config, err) < 0)
        return -1;
    for (size_t i = 0; i < r->candidates.count && r->lm.arch.experts; i++)
        if (r->candidates.items[i].ws.methods.own || r->candidates.items[i].ws.methods.quarter)
            return aq_err_set(err, AQ_EINPUT,
                              "treatment '%s' is not computed for mixtures of experts: "
                              "autoquant.awq_shared joint, awq_samples all are",
                              r->candidates.items[i].w);
    if (open_ranges(r, err) < 0)
        return -1;
    const struct sample_set set = {
        .tokens = &r->tokens, .path = r->job->tokens, .samples = r->prefix};
    struct nn_source source = nn_source_of_lm(&r->lm);
    r->pool = aq_pool_new(r->job->config.threads, err);
    if (!r->pool || sample_tiles(&r->tiles, &set, &r->lm.arch, r->backend, err) < 0)
        return -1;
    return nn_open(&r->model, &source, r->backend, r->tiles.rows, 0, err);
}

static int64_t text_rows(const struct tile *t)
{
    int64_t n = 0;
    for (int32_t s = 0; s < t->desc.samples; s++)
        n += t->desc.first[s + 1] - t->desc.first[s] - (t->desc.pad[s] ? 1 : 0);
    return n;
}

/* Of all samples. */
static int64_t tokens_of(const struct solve_call *r)
{
    int64_t n = 0;
    for (size_t t = 0; t < r->tiles.count; t++)
        n += text_rows(&r->tiles.items[t]);
    return n;
}

/* Few tokens leave moments of too low a rank: what is solved fits them, and little else. */
static void warn_of_tokens(const struct solve_call *r)
{
    enum { ENOUGH = 4 };
    const struct model_groups *g = &r->lm.groups;
    int64_t tokens = tokens_of(r), widest = 0;
    const char *name = "";
    for (size_t i = g->first_input[0]; i < g->first_input[1]; i++) {
        aq_note(1, "input '%s': %.3g tokens for each of its %" PRId64 " columns", g->inputs[i].name,
                (double)tokens / (double)g->inputs[i].cols, g->inputs[i].cols);
        if (g->inputs[i].cols > widest) {
            widest = g->inputs[i].cols;
            name = g->inputs[i].name;
        }
    }
    if (r->needs_moments && r->candidates.count && tokens < ENOUGH * widest)
        aq_warn("%" PRId64 " tokens are fewer than %d for each of the %" PRId64
                " columns of input '%s': calibrated candidates fit this text more than others",
                tokens, ENOUGH, widest, name);
}

/* ---- the product as it is ---- */

static struct json *describe(const struct solve_call *r)
{
    char digest[AQ_SHA256_HEX];
    struct json *aq = json_new_object();
    range_file_digest((struct range_file *)&r->ranges, r->position, digest);
    json_add_string(aq, "schema", SOLVED_SCHEMA);
    json_add_string(aq, "lm", r->lm.digest);
    json_add_string(aq, "tokens", r->tokens.digest);
    json_add_int(aq, "prefix", r->prefix);
    if (r->needs_quarter)
        json_add_int(aq, "batch", r->job->batch);
    json_add_string(aq, "ranges", digest);
    json_add_string(aq, "backend", r->backend->identity);
    json_add_string(aq, "dtype", compute_dtype_name(r->bf16));
    json_add_int(aq, "result_version",
                 solver_on_device(r->backend) ? SOLVE_DEVICE_RESULT_VERSION : SOLVE_RESULT_VERSION);
    return aq;
}

/* The first key in which a file's metadata is not what this run would write; NULL: none. */
static const char *other_key(const struct json *expected, const struct json *found)
{
    for (const struct json *v = json_first(expected); v; v = json_next(v)) {
        const struct json *u = json_get(found, json_key(v));
        if (!u || !json_equal(u, v))
            return json_key(v);
    }
    return NULL;
}

static int open_old(struct solve_call *r, struct aq_err *err)
{
    const char *path = r->job->output, *key;
    struct aq_err why = {0};
    if (!aq_path_exists(path))
        return 0;
    int bad = solved_open(&r->old, path, &why);
    if (bad == 0 && (key = other_key(r->identity, r->old.meta))) {
        aq_err_set(&why, AQ_EINPUT, "'%s' was solved with another '%s'", aq_show(path), key);
        aq_err_hint(&why, "--replace starts over");
        bad = -1;
        solved_close(&r->old);
    }
    if (bad < 0 && (!r->job->replace || why.code != AQ_EINPUT)) {
        *err = why;
        return -1;
    }
    if (bad < 0)
        aq_note(0, "starting over: %s", why.msg);
    for (size_t i = 0; bad == 0 && i < r->candidates.count; i++)
        r->done[i] = json_get(r->old.candidates, r->candidates.items[i].id) != NULL;
    return 0;
}

static size_t count_open(const struct solve_call *r)
{
    size_t n = 0;
    for (size_t i = 0; i < r->candidates.count; i++)
        n += !r->done[i];
    return n;
}

/* ---- layers' files ---- */

static int read_layers(struct solve_call *r, struct aq_err *err)
{
    const char *text = r->job->layers;
    char *end;
    r->first_layer = 0;
    r->end_layer = r->lm.groups.layers;
    if (!text)
        return 0;
    size_t a = strspn(text, "0123456789"),
           b = text[a] == '-' ? strspn(text + a + 1, "0123456789") : 0;
    if (a && a < 10 && b && b < 10 && !text[a + 1 + b]) {
        r->first_layer = strtoll(text, &end, 10);
        r->end_layer = strtoll(end + 1, NULL, 10) + 1;
        if (r->first_layer < r->end_layer && r->end_layer <= r->lm.groups.layers)
            return 0;
    }
    return aq_err_set(err, AQ_EUSAGE,
                      "--layers: expected A-B with A <= B < %" PRId64
                      ", the layers of the model, not "
                      "'%s'",
                      r->lm.groups.layers, aq_show(text));
}

static struct json *layer_meta(const struct solve_call *r, int64_t first, int64_t end)
{
    struct json *aq = json_copy(r->identity), *list;
    struct json *candidates = json_add_object(aq, "candidates");
    for (size_t i = 0; i < r->candidates.count; i++) {
        const struct candidate *c = &r->candidates.items[i];
        if (r->done[i])
            continue;
        struct json *one = json_add_object(candidates, c->id);
        json_add_string(one, "w", c->w);
        json_add_string(one, "a", c->a);
    }
    list = json_add_array(aq, "layers");
    (void)json_push(list, json_new_int(first));
    (void)json_push(list, json_new_int(end));
    model_groups_write(&r->lm.groups, aq);
    return aq;
}

static char *layer_path(const struct solve_call *r, int64_t layer)
{
    return xasprintf("%s/%" PRId64 ".safetensors", r->parts, layer);
}

/* Left by a run that was broken off, and of the same inputs and candidates? */
static bool layer_is_there(const struct solve_call *r, int64_t layer)
{
    struct solved_file f;
    struct aq_err why = {0};
    char *path = layer_path(r, layer);
    bool there = aq_path_exists(path) && solved_open(&f, path, &why) == 0;
    if (there) {
        struct json *meta = layer_meta(r, layer, layer + 1);
        there = other_key(meta, f.meta) == NULL;
        json_free(meta);
        solved_close(&f);
    }
    free(path);
    return there;
}

/* One after the last layer of this run that is to be solved; 0: there is none. */
static int64_t end_of_work(const struct solve_call *r)
{
    int64_t end = r->end_layer;
    while (end > r->first_layer && layer_is_there(r, end - 1))
        end--;
    return end > r->first_layer ? end : 0;
}

/* Layers that are not there, whose run it may ever be. */
static int64_t count_missing(const struct solve_call *r)
{
    int64_t n = 0;
    for (int64_t l = 0; l < r->lm.groups.layers; l++)
        n += !layer_is_there(r, l);
    return n;
}

/* Over whose tokens a layer's experts are solved: those with fewer than columns over all. */
static void note_experts(const struct solve_call *r, int64_t layer, struct json *list)
{
    static const char *const names[EXPERT_HALVES] = {"own_gate_up", "own_down"};
    const struct expert_counts n = expert_counts_of(&r->experts);
    struct json *one = json_push(list, json_new_object());
    json_add_int(one, "layer", layer);
    json_add_int(one, "experts", r->experts.experts);
    json_add_int(one, "unseen", n.unseen);
    for (int h = 0; h < EXPERT_HALVES; h++)
        json_add_int(one, names[h], n.own[h]);
}

static int write_layer(struct solve_call *r, int64_t layer, struct aq_err *err)
{
    struct solved_items items = {0};
    const struct layer_job job = {.pool = r->pool,
                                  .backend = r->backend,
                                  .model = r->model,
                                  .lm = &r->lm,
                                  .groups = &r->lm.groups,
                                  .candidates = &r->candidates,
                                  .done = r->done,
                                  .layer = layer,
                                  .inputs = r->inputs,
                                  .experts = &r->experts};
    int bad = solve_layer(&job, &items, err);
    if (bad == 0) {
        struct json *meta = layer_meta(r, layer, layer + 1);
        char *path = layer_path(r, layer);
        if (nn_layer(r->model, layer)->experts)
            note_experts(r, layer, json_add_array(meta, "experts"));
        bad = solved_write(path, meta, items.items, items.count, err);
        free(path);
        json_free(meta);
    }
    solved_items_release(&items);
    if (bad == 0)
        aq_note(2, "layer %" PRId64 " done (kept in '%s')", layer, aq_show(r->parts));
    return bad;
}

/* ---- moments ---- */

/* Experts read what solve_experts.h keeps of it. */
static bool is_of_experts(const struct solve_call *r, int64_t layer, int input)
{
    const struct model_layer *m = nn_layer(r->model, layer);
    return input == m->experts_input[EXPERT_GATE_UP] || input == m->experts_input[EXPERT_DOWN];
}

static void begin_layer(struct solve_call *r, int64_t layer)
{
    const struct model_groups *g = &r->lm.groups;
    size_t first = g->first_input[layer];
    r->keep_layer = layer < r->first_layer || layer >= r->end_layer || layer_is_there(r, layer);
    r->experts.tokens = 0;
    for (size_t i = first; i < g->first_input[layer + 1]; i++) {
        struct input_stats *in = &r->inputs[i - first];
        size_t n = (size_t)g->inputs[i].cols;
        in->cols = g->inputs[i].cols;
        in->tokens = 0;
        if (is_of_experts(r, layer, (int)(i - first)))
            continue;
        if (r->needs_quarter) {
            memset(r->quarter[i - first], 0, n * n * sizeof(double));
            memset(in->quarter_mean, 0, n * sizeof *in->quarter_mean);
        }
        if (in->moments)
            r->backend->ops->zero(r->backend, in->moments, n * n * sizeof *in->moments);
    }
}

struct taking {
    const struct tile *tile;
    const float *from; /* (tile rows, cols) */
    double *to;        /* (rows of text, cols) */
    int64_t cols;
};

enum { TAKE_COLUMNS = 64 };

/* A few columns of the rows that hold text, one after another, in double. */
static void take_unit(void *arg, int64_t unit, int worker)
{
    const struct taking *j = arg;
    const struct backend_tile_desc *d = &j->tile->desc;
    int64_t from = unit * TAKE_COLUMNS, end = from + TAKE_COLUMNS;
    double *to = j->to;
    (void)worker;
    end = end < j->cols ? end : j->cols;
    for (int32_t s = 0; s < d->samples; s++)
        for (int32_t k = d->first[s] + (d->pad[s] ? 1 : 0); k < d->first[s + 1]; k++) {
            const float *row = j->from + (int64_t)k * j->cols;
            for (int64_t c = from; c < end; c++)
                to[c] = (double)row[c];
            to += j->cols;
        }
}

/* Rows of a sample, pads and all, as a batch that is padded has them. */
static int64_t sample_rows(const struct tile *t, int32_t s)
{
    int64_t own = t->desc.first[s + 1] - t->desc.first[s];
    return t->desc.pad[s] ? own - 1 + t->pads[s] : own;
}

/* The batches that AWQ's scales are found over: a quarter of all, at least one. */
static int64_t quarter_batches(const struct solve_call *r)
{
    int64_t batches = (r->prefix + r->job->batch - 1) / r->job->batch;
    return batches < 4 ? 1 : batches / 4;
}

/* [batches of the quarter]: rows of each. */
static int64_t *batch_rows(const struct solve_call *r)
{
    int64_t *rows = xcalloc((size_t)quarter_batches(r), sizeof *rows);
    for (size_t i = 0; i < r->tiles.count; i++)
        for (int32_t s = 0; s < r->tiles.items[i].desc.samples; s++) {
            int64_t batch = (r->tiles.items[i].sample + s) / r->job->batch;
            if (batch < quarter_batches(r))
                rows[batch] += sample_rows(&r->tiles.items[i], s);
        }
    return rows;
}

/* Adds a tile's part of the quarter; the host has its input. */
static void add_quarter(struct solve_call *r, const struct tile *t, int input)
{
    struct input_stats *in = &r->inputs[input];
    int64_t *rows = batch_rows(r), n = 0;
    for (int32_t s = 0; s < t->desc.samples; s++) {
        int64_t batch = (t->sample + s) / r->job->batch;
        for (int32_t k = t->desc.first[s]; batch < quarter_batches(r) && k < t->desc.first[s + 1];
             k++, n++) {
            double times = t->desc.pad[s] && k == t->desc.first[s] ? t->pads[s] : 1;
            double share = times / ((double)rows[batch] * (double)quarter_batches(r));
            const float *row = r->host + (int64_t)k * in->cols;
            double *to = r->rows + n * in->cols, root = sqrt(share);
            for (int64_t c = 0; c < in->cols; c++) {
                in->quarter_mean[c] += share * fabs((double)row[c]);
                to[c] = root * (double)row[c];
            }
        }
    }
    dense_add_square(r->pool, r->quarter[input], r->rows, n, in->cols);
    free(rows);
}

static int add_tile(struct solve_call *r, int64_t layer, size_t tile, const struct nn_acts *acts,
                    struct aq_err *err)
{
    const struct model_layer *m = nn_layer(r->model, layer);
    const struct tile *t = &r->tiles.items[tile];
    if (m->experts && expert_inputs_add(&r->experts, r->backend, m, t, acts, err) < 0)
        return aq_err_prefix(err, "layer %" PRId64, layer);
    for (int i = 0; i < m->input_count; i++) {
        if (is_of_experts(r, layer, i))
            continue;
        struct input_stats *in = &r->inputs[i];
        size_t bytes = (size_t)r->tiles.rows * (size_t)in->cols * r->backend->act_size;
        if (r->needs_quarter && t->sample < quarter_batches(r) * r->job->batch) {
            if (r->backend->ops->download(r->backend, r->host, acts->x[i], bytes, err) < 0)
                return aq_err_prefix(err, "layer %" PRId64, layer);
            add_quarter(r, t, i);
        }
        in->tokens += text_rows(t);
        if (in->moments && solver_on_device(r->backend))
            r->backend->ops->moments(r->backend, r->walk.tiles[tile], in->moments, acts->x[i],
                                     in->cols);
        if (!in->moments || solver_on_device(r->backend))
            continue;
        if (r->backend->ops->download(r->backend, r->host, acts->x[i], bytes, err) < 0)
            return aq_err_prefix(err, "layer %" PRId64, layer);
        struct taking j = {t, r->host, r->rows, in->cols};
        aq_pool_run(r->pool, (in->cols + TAKE_COLUMNS - 1) / TAKE_COLUMNS, take_unit, &j);
        dense_add_square(r->pool, in->moments, r->rows, text_rows(t), in->cols);
    }
    return 0;
}

/* The moments of all samples, complete and both triangles. */
static int end_sums(struct solve_call *r, int input, struct aq_err *err)
{
    struct input_stats *in = &r->inputs[input];
    if (!in->moments)
        return 0;
    if (solver_on_device(r->backend))
        return r->backend->ops->moments_end(r->backend, in->moments, in->cols, in->diagonal, err);
    dense_mirror(r->pool, in->moments, in->cols);
    return 0;
}

/* Those of the quarter, where the solver is. */
static void end_quarter(struct solve_call *r, int input)
{
    struct input_stats *in = &r->inputs[input];
    size_t n = (size_t)in->cols;
    dense_mirror(r->pool, r->quarter[input], in->cols);
    if (in->quarter != r->quarter[input])
        r->backend->ops->upload(r->backend, in->quarter, r->quarter[input], n * n * sizeof(double));
}

/* Its sums, from where they are added up. */
static int take_sums(struct solve_call *r, int64_t layer, int input, struct aq_err *err)
{
    struct input_stats *in = &r->inputs[input];
    if (is_of_experts(r, layer, input)) {
        in->tokens = r->experts.tokens;
        return 0;
    }
    if (in->tokens && end_sums(r, input, err) < 0)
        return aq_err_prefix(err, "layer %" PRId64, layer);
    if (r->quarter[input])
        end_quarter(r, input);
    return 0;
}

static int end_layer(struct solve_call *r, int64_t layer, struct aq_err *err)
{
    const struct model_groups *g = &r->lm.groups;
    size_t first = g->first_input[layer];
    for (size_t i = first; i < g->first_input[layer + 1]; i++) {
        struct input_stats *in = &r->inputs[i - first];
        struct quant_range range;
        if (take_sums(r, layer, (int)(i - first), err) < 0)
            return -1;
        if (in->tokens == 0)
            return aq_err_set(err, AQ_EINPUT, "no token reaches input '%s'", g->inputs[i].name);
        range_file_get(&r->ranges, (int64_t)i, r->position, &range);
        memcpy(r->amax[i - first], range.hidden, (size_t)in->cols * sizeof(float));
        in->amax = r->amax[i - first];
        range_file_mean(&r->ranges, (int64_t)i, r->position, in->mean);
    }
    return write_layer(r, layer, err);
}

static int measure(void *arg, int64_t layer, size_t tile, const struct nn_acts *acts,
                   struct aq_err *err)
{
    struct solve_call *r = arg;
    if (tile == 0)
        begin_layer(r, layer);
    if (r->keep_layer)
        return 0;
    if (add_tile(r, layer, tile, acts, err) < 0)
        return -1;
    return tile + 1 == r->tiles.count ? end_layer(r, layer, err) : 0;
}

/* ---- memory ---- */

static uint64_t moments_bytes(const struct solve_call *r)
{
    const struct model_groups *g = &r->lm.groups;
    uint64_t most = 0;
    for (int64_t layer = 0; layer < g->layers; layer++) {
        uint64_t sum = 0;
        for (size_t i = g->first_input[layer]; i < g->first_input[layer + 1]; i++)
            if (!is_of_experts(r, layer, (int)(i - g->first_input[layer])))
                sum += (uint64_t)g->inputs[i].cols * (uint64_t)g->inputs[i].cols * sizeof(double);
        most = sum > most ? sum : most;
    }
    /* a quarter's are added up by the host, wherever they are used */
    int quarters = !r->needs_quarter ? 0 : solver_on_device(r->backend) ? 2 : 1;
    return (r->needs_moments ? most : 0) + (uint64_t)quarters * most;
}

/* Of a tile's input on the host, as the device has it and in double. */
static uint64_t rows_bytes(const struct solve_call *r)
{
    const struct model_groups *g = &r->lm.groups;
    int64_t widest = 1;
    for (size_t i = 0; i < g->input_count; i++)
        widest = g->inputs[i].cols > widest ? g->inputs[i].cols : widest;
    return (uint64_t)r->tiles.rows * (uint64_t)widest * (sizeof *r->host + sizeof *r->rows);
}

/* Whether the states of the tiles go to a file. */
static int plan_memory(const struct solve_call *r, bool *spilled, struct aq_err *err)
{
    const struct lm_arch *a = &r->lm.arch;
    uint64_t states = r->tiles.count * walk_act_bytes(r->tiles.rows, r->backend, a->hidden_size);
    uint64_t rest = nn_buffer_bytes(a, r->backend, r->tiles.rows, 0) + moments_bytes(r) +
                    rows_bytes(r) + solve_layer_bytes(r->model, r->backend, &r->candidates) +
                    expert_inputs_bytes(a, tokens_of(r), r->tiles.rows);
    if (solver_on_device(r->backend)) { /* where the model's weights are copies */
        const struct backend_sizes sizes = scoring_sizes_of(r->model, r->backend, r->tiles.rows);
        rest += r->backend->ops->scratch_bytes(r->backend, &sizes);
    }
    *spilled = r->job->memory && states + rest > r->job->memory;
    if (r->job->memory && rest > r->job->memory)
        return aq_err_set(err, AQ_ERUN,
                          "--memory %.0f MB is too little: the moments of a layer and its factor "
                          "need %.0f MB",
                          (double)r->job->memory / 1e6, ceil((double)rest / 1e6));
    return 0;
}

/* (n, n) in the solver's memory. */
static int take_square(struct solve_call *r, double **to, size_t bytes, const char *what,
                       struct aq_err *err)
{
    *to = solver_on_device(r->backend) ? r->backend->ops->alloc(r->backend, bytes, what, err)
                                       : aq_big_alloc(bytes, what, err);
    return *to ? 0 : -1;
}

static void drop_square(struct solve_call *r, double *p, size_t bytes)
{
    if (p && solver_on_device(r->backend))
        r->backend->ops->free(r->backend, p, bytes);
    else
        aq_big_free(p, bytes);
}

static int take_quarter(struct solve_call *r, int input, size_t n, struct aq_err *err)
{
    static const char what[] = "the moments of a quarter of the batches";
    struct input_stats *in = &r->inputs[input];
    in->quarter_mean = xcalloc(n, sizeof *in->quarter_mean);
    r->quarter[input] = aq_big_alloc(r->moments_bytes[input], what, err);
    if (!r->quarter[input])
        return -1;
    in->quarter = r->quarter[input];
    if (!solver_on_device(r->backend))
        return 0;
    in->quarter = NULL;
    return take_square(r, &in->quarter, r->moments_bytes[input], what, err);
}

/* Of an input with n columns. */
static int take_input(struct solve_call *r, int input, size_t n, struct aq_err *err)
{
    struct input_stats *in = &r->inputs[input];
    r->moments_bytes[input] = n * n * sizeof(double);
    in->diagonal = xcalloc(n, sizeof *in->diagonal);
    if (r->needs_moments &&
        take_square(r, &in->moments, r->moments_bytes[input], "the moments of an input", err) < 0)
        return -1;
    return r->needs_quarter ? take_quarter(r, input, n, err) : 0;
}

static void drop_input(struct solve_call *r, int input)
{
    struct input_stats *in = &r->inputs[input];
    size_t bytes = r->moments_bytes[input];
    if (in->quarter != r->quarter[input])
        drop_square(r, in->quarter, bytes);
    aq_big_free(r->quarter[input], bytes);
    drop_square(r, in->moments, bytes);
    free(in->quarter_mean);
    free(in->diagonal);
    free(in->mean);
    free(r->amax[input]);
}

static int take_room(struct solve_call *r, struct aq_err *err)
{
    const struct model_groups *g = &r->lm.groups;
    if (expert_inputs_open(&r->experts, &r->lm.arch, tokens_of(r), r->tiles.rows, err) < 0)
        return -1;
    for (int i = 0; i < MODEL_INPUTS; i++) {
        int64_t cols = 0, all = 0; /* all: those of experts too */
        for (int64_t layer = 0; layer < g->layers; layer++) {
            size_t at = g->first_input[layer] + (size_t)i;
            if (at >= g->first_input[layer + 1])
                continue;
            all = g->inputs[at].cols > all ? g->inputs[at].cols : all;
            if (!is_of_experts(r, layer, i) && g->inputs[at].cols > cols)
                cols = g->inputs[at].cols;
        }
        r->inputs[i].mean = xcalloc((size_t)all + 1, sizeof *r->inputs[i].mean);
        r->amax[i] = xcalloc((size_t)all + 1, sizeof *r->amax[i]);
        if (cols && take_input(r, i, (size_t)cols, err) < 0)
            return -1;
    }
    if (solver_on_device(r->backend) && !r->needs_quarter)
        return 0;
    uint64_t elements = rows_bytes(r) / (sizeof *r->host + sizeof *r->rows);
    r->host = xmalloc(elements * sizeof *r->host);
    r->rows = xmalloc(elements * sizeof *r->rows);
    return 0;
}

/* ---- the product ---- */

/* All tensors of a file. */
static void take_items(struct solved_items *items, const struct solved_file *f)
{
    for (size_t i = 0; i < f->file.count; i++) {
        const struct st_tensor *t = &f->file.tensors[i];
        AQ_GROW(items->items, items->count, items->cap);
        struct solved_item *item = &items->items[items->count++];
        *item = (struct solved_item){
            .name = xstrdup(t->name), .dtype = t->dtype, .rank = t->rank, .data = t->data};
        for (size_t k = 0; k < AQ_COUNT(item->shape) && k < (size_t)t->rank; k++)
            item->shape[k] = t->shape[k];
    }
}

/* The candidates of the old product and those that were solved now, by rising id. */
static struct json *merge_candidates(const struct json *now, const struct json *old)
{
    struct json *all = json_new_object();
    const struct json *a = json_first(now), *b = old ? json_first(old) : NULL;
    while (a || b) {
        int c = !a ? 1 : !b ? -1 : strcmp(json_key(a), json_key(b));
        json_add(all, json_key(c > 0 ? b : a), json_copy(c > 0 ? b : a));
        a = c <= 0 ? json_next(a) : a;
        b = c >= 0 ? json_next(b) : b;
    }
    return all;
}

/* What the layers' files say of experts, in one list; and that many got few tokens. */
static void gather_experts(const struct solve_call *r, const struct solved_file *files,
                           struct json *meta)
{
    struct json *list = json_new_array();
    int64_t all = 0, few = 0, unseen = 0;
    for (int64_t l = 0; l < r->lm.groups.layers; l++) {
        const struct json *of_layer = json_get(files[l].meta, "experts");
        for (const struct json *v = of_layer ? json_first(of_layer) : NULL; v; v = json_next(v)) {
            int64_t n, none, own;
            if (json_int(json_get(v, "experts"), &n) && json_int(json_get(v, "unseen"), &none) &&
                json_int(json_get(v, "own_gate_up"), &own)) {
                all += n;
                few += n - own;
                unseen += none;
            }
            (void)json_push(list, json_copy(v));
        }
    }
    if (!all) {
        json_free(list);
        return;
    }
    json_add(meta, "experts", list);
    if (few && r->needs_moments)
        aq_warn("%" PRId64 " of %" PRId64
                " experts got fewer tokens than they have columns (%" PRId64
                " got none): these are calibrated over the tokens of all experts of their layer",
                few, all, unseen);
}

static int write_product(struct solve_call *r, struct aq_err *err)
{
    int64_t layers = r->lm.groups.layers, open = 0;
    struct solved_file *files = xcalloc((size_t)layers, sizeof *files);
    struct solved_items items = {0};
    int bad = 0;
    for (; open < layers && bad == 0; open += bad == 0) {
        char *path = layer_path(r, open);
        bad = solved_open(&files[open], path, err);
        if (bad == 0)
            take_items(&items, &files[open]);
        free(path);
    }
    if (bad == 0) {
        struct json *meta = layer_meta(r, 0, layers);
        gather_experts(r, files, meta);
        if (r->old.path)
            take_items(&items, &r->old);
        aq_rewrite_input(r->job->output);
        json_set(
            meta, "candidates",
            merge_candidates(json_get(meta, "candidates"), r->old.path ? r->old.candidates : NULL));
        bad = solved_write(r->job->output, meta, items.items, items.count, err);
        json_free(meta);
    }
    for (size_t i = 0; i < items.count; i++)
        free(items.items[i].name);
    free(items.items);
    while (open > 0)
        solved_close(&files[--open]);
    free(files);
    return bad;
}

/* The layers' files have done their work. */
static void remove_parts(const struct solve_call *r)
{
    for (int64_t l = 0; l < r->lm.groups.layers; l++) {
        char *path = layer_path(r, l);
        (void)unlink(path);
        free(path);
    }
    if (rmdir(r->parts) < 0 && errno != ENOENT)
        aq_warn("'%s' is left behind", aq_show(r->parts));
}

/* ---- all ---- */

/* The layers before `end` that are not there. */
static int solve_layers(struct solve_call *r, int64_t end, struct aq_err *err)
{
    bool spilled;
    if (plan_memory(r, &spilled, err) < 0 || take_room(r, err) < 0 ||
        aq_make_dirs(r->parts, err) < 0)
        return -1;
    const struct walk_job job = {.b = r->backend,
                                 .model = r->model,
                                 .tiles = &r->tiles,
                                 .end_tile = r->tiles.count,
                                 .spilled = spilled,
                                 .spill_dir = r->parts};
    int bad = walk_open(&r->walk, &job, err);
    if (bad == 0) {
        aq_progress_begin(&r->walk.progress, "solving", walk_products(&r->walk, 0, end));
        bad = walk_forward(&r->walk, end, measure, r, err);
        aq_progress_end(&r->walk.progress);
    }
    if (r->walk.op)
        walk_close(&r->walk);
    return bad;
}

/* *missing: layers that other runs have to solve before there is a product. */
static int compute(struct solve_call *r, int64_t *missing, struct aq_err *err)
{
    int64_t end = end_of_work(r);
    if (end && solve_layers(r, end, err) < 0)
        return -1;
    *missing = count_missing(r);
    if (*missing)
        return 0;
    if (write_product(r, err) < 0)
        return -1;
    remove_parts(r);
    return 0;
}

static int run(struct solve_call *r, struct aq_err *err)
{
    const struct solve_job *job = r->job;
    if (open_candidates(r, err) < 0 || compute_dtype_parse(job->dtype, &r->bf16, err) < 0 ||
        lm_open(&r->lm, job->lm, err) < 0 || (job->verify && lm_verify(&r->lm, job->lm, err) < 0) ||
        read_layers(r, err) < 0 || tokens_open(&r->tokens, job->tokens, err) < 0 ||
        open_model(r, err) < 0)
        return -1;
    r->identity = describe(r);
    r->parts = xasprintf("%s.part", job->output);
    if (open_old(r, err) < 0)
        return -1;
    size_t open = count_open(r);
    int64_t missing = 0;
    if (open || !r->old.path) {
        warn_of_tokens(r);
        if (compute(r, &missing, err) < 0)
            return -1;
    }
    if (missing) {
        aq_note(0,
                "layers %" PRId64 " to %" PRId64 " are in '%s'; '%s' is written once %" PRId64
                " more are",
                r->first_layer, r->end_layer - 1, aq_show(r->parts), aq_show(job->output), missing);
        return 0;
    }
    aq_note(0, "%zu candidates solved, %zu were there", open, r->candidates.count - open);
    return 0;
}

int solve_run(const struct solve_job *job, struct aq_err *err)
{
    struct solve_call r = {.job = job, .prefix = job->prefix};
    int bad = run(&r, err);
    for (int i = 0; i < MODEL_INPUTS && r.backend; i++) /* nothing is taken before it is open */
        drop_input(&r, i);
    expert_inputs_close(&r.experts);
    free(r.host);
    free(r.rows);
    free(r.parts);
    json_free(r.identity);
    solved_close(&r.old);
    nn_close(r.model);
    backend_close(r.backend);
    aq_pool_free(r.pool);
    range_file_close(&r.ranges);
    tiles_release(&r.tiles);
    candidates_release(&r.candidates);
    free(r.done);
    tokens_release(&r.tokens);
    lm_close(&r.lm);
    return bad;
}
