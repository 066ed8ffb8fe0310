#include "eval/singles.h"

#include "base/file.h"
#include "base/mem.h"
#include "base/progress.h"
#include "eval/recipe.h"
#include "eval/sketch.h"
#include "eval/trial.h"
#include "io/product.h"
#include "io/safetensors.h"
#include "nn/model.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct singles {
    const struct singles_options *o;
    struct eval_inputs in;
    struct sel_table table;
    struct recipes recipes;
    struct trials *trials;
    struct aq_pool *pool;
    size_t groups, candidates, all; /* all: groups x candidates */
    int64_t samples, positions;
    double *kl;             /* (groups, candidates, samples) */
    float *sketches;        /* (all, positions, SKETCH) */
    double *cov;            /* (all, all) */
    struct sketch **sketch; /* [tiles]: of those at work, else NULL */
    size_t together;        /* tiles at work at most */
    double *row_kl;         /* of a tile: [rows] */
    float *x, *row_sketch;  /* (rows, hidden), [rows][SKETCH] */
    void *dev_x, *dev_kl;
    size_t x_bytes, kl_bytes;
    struct aq_progress progress;
    size_t now;  /* which of all is measured */
    size_t done; /* over all tiles */
};

/* ---- opening ---- */

static int check_options(const struct singles *s, struct aq_err *err)
{
    for (size_t row = 0; row < s->table.count; row++)
        if (s->table.rows[row].count != s->candidates + 1)
            return aq_err_set(err, AQ_EINPUT, "not every candidate has a score for %s",
                              aq_show(s->table.rows[row].name));
    return 0;
}

/* Of what a limit leaves, the part for more tiles at work than one; and without a limit. */
enum { SHARE = 4 };
static const uint64_t sketches_usual = UINT64_C(8) << 30;

/* Results do not depend on how many tiles are at work. --memory on a device is about the device's,
   and what the host keeps counts only where it is the same. */
static uint64_t beside(void *arg, const struct backend *b, uint64_t left)
{
    struct singles *s = arg;
    const struct eval_domain *d = &s->in.domains.items[0];
    const int64_t rows = s->in.domains.rows, hidden = s->in.lm.arch.hidden_size;
    const uint64_t each = sketch_bytes(rows, hidden), tiles = s->in.domains.first_tile[1];
    const bool here = b->ops == &backend_cpu_ops;
    uint64_t least = sketch_room(rows, hidden, NN_SLICE), more = sketches_usual;
    s->x_bytes = (size_t)(rows * hidden) * b->act_size;
    s->kl_bytes = (size_t)rows * sizeof(double);
    least += s->x_bytes + s->kl_bytes;
    if (here)
        least += each + sketch_host_room(rows, hidden, NN_SLICE) +
                 s->table.count * s->table.candidate_count * SKETCH * sizeof(float) *
                     (uint64_t)d->positions[d->tokens.samples];
    if (here && left < UINT64_MAX)
        more = left > least ? (left - least) / SHARE : 0;
    s->together = (size_t)(more / each + 1 < tiles ? more / each + 1 : tiles);
    return least + (here ? (s->together - 1) * each : 0);
}

static int take_room(struct singles *s, struct aq_err *err)
{
    const struct eval_domain *d = &s->in.domains.items[0];
    size_t n;
    s->groups = s->table.count;
    s->candidates = s->table.candidate_count;
    s->all = s->groups * s->candidates;
    s->samples = d->tokens.samples;
    s->positions = d->positions[s->samples];
    if (!aq_mul(s->all * SKETCH * sizeof(float), (size_t)s->positions, &n) ||
        (s->in.where->memory && n > s->in.where->memory) || !(s->sketches = calloc(n + 1, 1)))
        return aq_err_set(err, AQ_ERUN,
                          "the covariance of %zu candidates on %" PRId64
                          " positions needs %.1f GB: take fewer samples",
                          s->all, s->positions,
                          (double)s->all * SKETCH * 4e-9 * (double)s->positions);
    s->kl = xcalloc(s->all * (size_t)s->samples + 1, sizeof *s->kl);
    s->cov = xcalloc(s->all * s->all + 1, sizeof *s->cov);
    return check_options(s, err);
}

static int open_all(struct singles *s, struct aq_err *err)
{
    struct aq_names words = AQ_NAMES_INIT;
    const struct sel_table_options o = {.monotone = SEL_MONOTONE_OFF};
    aq_names_add(&words, s->o->domain);
    int r = eval_inputs_open(&s->in, &s->o->where, &words, err);
    aq_names_release(&words);
    if (r < 0 || sel_table_read(&s->table, s->o->scores, s->o->count, &o, err) < 0 ||
        recipes_open(&s->recipes, &s->table, &s->in, err) < 0)
        return -1;
    s->pool = aq_pool_new((int)s->o->where.threads, err);
    if (!s->pool)
        return -1;
    char *dir = aq_path_dir(s->o->output);
    const struct trial_job job = {.device = s->o->where.device,
                                  .config = eval_inputs_config(&s->in),
                                  .memory = s->o->where.memory,
                                  .spill_dir = dir,
                                  .lm = &s->in.lm,
                                  .domains = &s->in.domains,
                                  .operands = s->recipes.candidates,
                                  .count = s->recipes.count,
                                  .beside = beside,
                                  .arg = s};
    r = trials_open(&s->trials, &job, err);
    free(dir);
    return r < 0 ? -1 : take_room(s, err);
}

/* ---- one tile ---- */

/* The matrices of its positions. */
static int sketch_tile(void *arg, const struct trial_output *t, struct aq_err *err)
{
    struct singles *s = arg;
    struct sketch_job job = {
        .b = t->b, .tile = t->tile, .desc = t->desc, .pool = s->pool, .x = s->dev_x};
    while (nn_slice_ids(t->model, job.slices) > 0)
        job.slices++;
    struct backend_head *head = xcalloc((size_t)job.slices, sizeof *head);
    for (int64_t i = 0; i < job.slices; i++)
        head[i] = nn_slice_head(t->model, i);
    job.head = head;
    nn_head_input(t->model, t->tile, s->dev_x, t->reference);
    const int r = sketch_new(&s->sketch[t->number], &job, err);
    free(head);
    return r;
}

static int keep_tile(struct singles *s, const struct trial_output *t, struct aq_err *err)
{
    const struct eval_place place = eval_domains_tile_at(&s->in.domains, t->number);
    const int64_t *positions = s->in.domains.items[0].positions;
    for (int32_t i = 0; i < t->desc->samples; i++) {
        int64_t sample = place.tile->sample + i, at = positions[sample];
        double *sum = &s->kl[s->now * (size_t)s->samples + (size_t)sample];
        for (int32_t r = t->desc->first[i]; r < t->desc->first[i + 1]; r++) {
            if (t->desc->target[r] < 0)
                continue;
            *sum += s->row_kl[r];
            memcpy(s->sketches + (s->now * (size_t)s->positions + (size_t)at++) * SKETCH,
                   s->row_sketch + (size_t)r * SKETCH, SKETCH * sizeof(float));
        }
        if (!isfinite(*sum))
            return aq_err_set(err, AQ_EINPUT, "the divergence is not finite in sample %" PRId64,
                              sample);
    }
    return 0;
}

static int measure_tile(void *arg, const struct trial_output *t, struct aq_err *err)
{
    struct singles *s = arg;
    void *x = t->changed; /* then what the head reads */
    double *kl = s->dev_kl;
    nn_kl(t->model, t->tile, t->reference, &x, &kl, 1, t->logits);
    if (t->b->ops->download(t->b, s->row_kl, s->dev_kl, s->kl_bytes, err) < 0 ||
        t->b->ops->download(t->b, s->x, x, s->x_bytes, err) < 0)
        return -1;
    sketch_of(s->sketch[t->number], s->pool, s->x, s->row_sketch);
    return keep_tile(s, t, err);
}

/* ---- all of them ---- */

/* The candidates of one group, on tiles first <= i < end. */
static int measure_group(struct singles *s, size_t row, int *option, size_t first, size_t end,
                         struct aq_err *err)
{
    const struct sel_row *x = &s->table.rows[row];
    int none = option[row];
    for (size_t i = 0; i < x->count; i++) {
        const struct trial_range range = {first, end, recipes_layer(&s->recipes, row)};
        if (x->options[i].candidate == SEL_NONE)
            continue;
        s->now = row * s->candidates + (size_t)x->options[i].candidate;
        option[row] = (int)i;
        recipes_set(&s->recipes, option);
        if (trials_outputs(s->trials, &s->recipes.mixed, &range, measure_tile, s, err) < 0)
            return -1;
        aq_progress_update(&s->progress, ++s->done);
    }
    option[row] = none;
    return 0;
}

static int take_buffers(struct singles *s, struct aq_err *err)
{
    struct backend *b = trials_device(s->trials);
    const size_t rows = (size_t)s->in.domains.rows;
    s->sketch = xcalloc(s->in.domains.first_tile[1] + 1, sizeof(struct sketch *));
    s->row_kl = xmalloc(s->kl_bytes);
    s->x = xmalloc(s->x_bytes);
    s->row_sketch = xcalloc(rows * SKETCH, sizeof *s->row_sketch);
    s->dev_x = b->ops->alloc(b, s->x_bytes, "an input of the head", err);
    s->dev_kl = s->dev_x ? b->ops->alloc(b, s->kl_bytes, "divergences", err) : NULL;
    return s->dev_kl ? 0 : -1;
}

static void drop_sketches(struct singles *s)
{
    for (size_t i = 0; s->sketch && i < s->in.domains.first_tile[1]; i++) {
        sketch_free(s->sketch[i]);
        s->sketch[i] = NULL;
    }
}

static int measure_all(struct singles *s, struct aq_err *err)
{
    int *option = xcalloc(s->table.count + 1, sizeof *option);
    int r = take_buffers(s, err);
    memcpy(option, s->recipes.choice, s->table.count * sizeof *option); /* nothing replaced */
    const size_t tiles = s->in.domains.first_tile[1];
    const size_t turns = (tiles + s->together - 1) / s->together;
    aq_progress_begin(&s->progress, "measuring", s->all * turns);
    for (size_t at = 0; at < tiles && r == 0; at += s->together) {
        const struct trial_range range = {at, tiles - at < s->together ? tiles : at + s->together,
                                          0};
        drop_sketches(s);
        r = trials_references(s->trials, &range, sketch_tile, s, err);
        for (size_t row = 0; row < s->table.count && r == 0; row++)
            r = measure_group(s, row, option, range.first, range.end, err);
    }
    aq_progress_end(&s->progress);
    free(option);
    return r;
}

/* Row i of the upper triangle. Each number has one order of its sum. */
static void cov_unit(void *arg, int64_t unit, int worker)
{
    struct singles *s = arg;
    size_t i = (size_t)unit, n = (size_t)s->positions * SKETCH;
    const float *a = s->sketches + i * n;
    (void)worker;
    for (size_t k = i; k < s->all; k++) {
        const float *b = s->sketches + k * n;
        double sum = 0;
        for (size_t p = 0; p < n; p += SKETCH) {
            float part[8] = {0}; /* eight sums side by side, so that they are vectors */
            for (size_t c = 0; c < SKETCH; c += 8)
                for (size_t j = 0; j < 8; j++)
                    part[j] += a[p + c + j] * b[p + c + j];
            for (size_t j = 0; j < 8; j++)
                sum += part[j];
        }
        s->cov[i * s->all + k] = s->cov[k * s->all + i] = sum / (double)s->positions;
    }
}

/* ---- the file ---- */

struct singles_tensor {
    char name[64];
    enum st_dtype dtype;
    int rank;
    uint64_t shape[3];
    const void *data;
    size_t bytes;
};

static size_t groups_of_layer(const struct singles *s, int64_t layer, size_t *first)
{
    size_t n = 0;
    for (size_t row = 0; row < s->groups; row++)
        if (recipes_layer(&s->recipes, row) == layer && n++ == 0)
            *first = row;
    return n;
}

/* The block of a layer, whose rows are neighbours; 0 within a group. */
static double *pairs_of_layer(const struct singles *s, size_t first, size_t k)
{
    double *out = xcalloc(k * k + 1, sizeof *out);
    size_t base = first * s->candidates;
    for (size_t a = 0; a < k; a++)
        for (size_t b = 0; b < k; b++)
            if (a / s->candidates != b / s->candidates)
                out[a * k + b] = s->cov[(base + a) * s->all + base + b];
    return out;
}

static struct json *metadata(const struct singles *s, const struct singles_tensor *t, size_t count,
                             struct aq_err *err)
{
    struct json *v = product_new(SINGLES_SCHEMA);
    json_add_string(v, "lm", s->in.lm.digest);
    json_add_string(v, "tokens", s->in.domains.items[0].tokens.digest);
    json_add_string(v, "dtype", s->in.bf16 ? "bf16" : "fp32");
    json_add_string(v, "backend", trials_backend(s->trials));
    struct json *groups = json_add_array(v, "groups"), *layers = json_add_array(v, "layers");
    for (size_t row = 0; row < s->groups; row++) {
        json_push(groups, json_new_string(s->table.rows[row].name));
        json_push(layers, json_new_int(recipes_layer(&s->recipes, row)));
    }
    struct json *candidates = json_add_array(v, "candidates");
    for (size_t c = 0; c < s->candidates; c++) {
        struct json *e = json_push(candidates, json_new_object());
        json_add_string(e, "name", s->table.candidates[c].name);
        json_add_string(e, "treatment_id", s->table.candidates[c].treatment);
    }
    struct aq_sha256 sum;
    char digest[AQ_SHA256_HEX];
    aq_sha256_init(&sum);
    for (size_t i = 0; i < count; i++) {
        aq_sha256_add(&sum, t[i].name, strlen(t[i].name) + 1);
        aq_sha256_add(&sum, t[i].data, t[i].bytes);
    }
    aq_sha256_hex(&sum, digest);
    json_add_string(v, "digest", digest);
    struct json *inputs = product_add_provenance(v, "aq-eval", SINGLES_RESULT_VERSION);
    for (size_t i = 0; i < s->table.cell_count; i++)
        if (s->table.cells[i].candidate_count)
            json_add_string(inputs, s->table.cells[i].candidates[0].name, s->table.cells[i].digest);
    struct aq_buf text = AQ_BUF_INIT;
    struct json *m = NULL;
    if (json_write(&text, v, JSON_COMPACT, err) == 0) {
        m = json_new_object();
        json_add_string(m, "aq", aq_buf_str(&text));
    }
    aq_buf_release(&text);
    json_free(v);
    return m;
}

static int write_tensors(const struct singles *s, const struct singles_tensor *t, size_t count,
                         struct aq_err *err)
{
    struct st_writer *w = st_writer_new();
    int *handle = xcalloc(count + 1, sizeof *handle);
    struct json *m = metadata(s, t, count, err);
    int r = m ? 0 : -1;
    if (m)
        st_writer_metadata(w, m);
    for (size_t i = 0; i < count; i++)
        handle[i] = st_declare(w, t[i].name, t[i].dtype, t[i].rank, t[i].shape);
    if (r == 0)
        r = st_begin(w, s->o->output, err);
    for (size_t i = 0; i < count && r == 0; i++)
        r = st_write(w, handle[i], 0, t[i].data, t[i].bytes, err);
    if (r == 0)
        r = st_commit(w, err);
    free(handle);
    st_writer_free(w);
    return r;
}

static int write_file(const struct singles *s, struct aq_err *err)
{
    size_t layers = (size_t)s->in.lm.arch.num_hidden_layers, count = 3;
    struct singles_tensor *t = xcalloc(layers + count, sizeof *t);
    const struct eval_domain *d = &s->in.domains.items[0];
    int64_t *positions = xcalloc((size_t)s->samples + 1, sizeof *positions);
    for (int64_t i = 0; i < s->samples; i++)
        positions[i] = d->positions[i + 1] - d->positions[i];
    t[0] = (struct singles_tensor){"kl",  ST_F64,
                                   3,     {s->groups, s->candidates, (uint64_t)s->samples},
                                   s->kl, s->all * (size_t)s->samples * sizeof *s->kl};
    t[1] = (struct singles_tensor){"positions", ST_I64,
                                   1,           {(uint64_t)s->samples},
                                   positions,   (size_t)s->samples * sizeof *positions};
    t[2] = (struct singles_tensor){
        "cov", ST_F64, 2, {s->all, s->all}, s->cov, s->all * s->all * sizeof *s->cov};
    for (size_t layer = 0; layer < layers; layer++) {
        size_t first = 0, k = groups_of_layer(s, (int64_t)layer, &first) * s->candidates;
        if (k == 0)
            continue;
        struct singles_tensor *p = &t[count++];
        (void)snprintf(p->name, sizeof p->name, "pair/%zu", layer);
        p->dtype = ST_F64;
        p->rank = 2;
        p->shape[0] = p->shape[1] = k;
        p->data = pairs_of_layer(s, first, k);
        p->bytes = k * k * sizeof(double);
    }
    int r = write_tensors(s, t, count, err);
    for (size_t i = 3; i < count; i++)
        free((void *)t[i].data);
    free(positions);
    free(t);
    return r;
}

int eval_singles(const struct singles_options *o, struct aq_err *err)
{
    struct singles s = {.o = o};
    int r = open_all(&s, err);
    if (r == 0)
        r = measure_all(&s, err);
    if (r == 0) {
        aq_pool_run(s.pool, (int64_t)s.all, cov_unit, &s);
        r = write_file(&s, err);
    }
    struct backend *b = s.trials ? trials_device(s.trials) : NULL;
    drop_sketches(&s);
    if (b && s.dev_x)
        b->ops->free(b, s.dev_x, s.x_bytes);
    if (b && s.dev_kl)
        b->ops->free(b, s.dev_kl, s.kl_bytes);
    trials_close(s.trials);
    recipes_close(&s.recipes);
    sel_table_release(&s.table);
    eval_inputs_close(&s.in);
    aq_pool_free(s.pool);
    free(s.kl);
    free(s.sketches);
    free(s.cov);
    free(s.sketch);
    free(s.row_kl);
    free(s.x);
    free(s.row_sketch);
    return r;
}
