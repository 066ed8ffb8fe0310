#include "score/score_run.h"

#include "base/file.h"
#include "base/fmt.h"
#include "base/mem.h"
#include "base/msg.h"
#include "model/lm.h"
#include "score/dtype.h"
#include "score/prefixes.h"
#include "score/ranges.h"
#include "score/routes.h"
#include "score/samples.h"
#include "score/score_plan.h"
#include "score/scoring.h"
#include "score/shard.h"
#include "text/tokens.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct scoring_run {
    const struct score_options *o;
    struct lm lm;
    struct tokens tokens;
    struct range_file ranges;
    struct solved_file solved;
    struct backend *backend;
    struct nn_model *model;
    struct tiles tiles;
    struct candidates candidates;
    struct score_rows rows;
    struct json *identity, *range_digests, *solved_digests;
    struct store_writer *store;
    struct scoring s;
    struct walk measured; /* scoring.measured */
    bool *own;            /* of a shard: scoring.own */
    struct prefixes prefixes;
    int64_t samples; /* the first of them that are scored */
    bool bf16, kl_div, needs_ranges;
    char *spill_dir;
    float *hidden; /* room for scaled ranges of channels */
};

/* ---- what was typed ---- */

/*
 * The last batch of a data set may be short. Where more samples follow in the file it is not, and
 * a range over it would not be that of the data set.
 */
static int check_batches(const struct scoring_run *r, struct aq_err *err)
{
    int64_t batch = r->o->dynamic_batch;
    bool needed = false;
    for (size_t i = 0; i < r->candidates.count; i++)
        needed |= batch && r->candidates.items[i].own_range;
    for (size_t i = 0; needed && i <= r->prefixes.count; i++) {
        int64_t end = i < r->prefixes.count && r->prefixes.items[i] < r->samples
                          ? r->prefixes.items[i]
                          : r->samples;
        if (end % batch == 0 || end == r->tokens.samples)
            continue;
        (void)aq_err_set(err, AQ_EUSAGE,
                         "--dynamic-batch %" PRId64 ": the data set of %" PRId64
                         " samples ends within a batch of the %" PRId64 " in '%s'",
                         batch, end, r->tokens.samples, aq_show(r->o->tokens));
        return aq_err_hint(err, "make tokens of that data set alone");
    }
    return 0;
}

/* Ranges are those of all samples, whatever the batches of dynamic ones. */
static int check_measure(const struct scoring_run *r, struct aq_err *err)
{
    int64_t which, jobs;
    if (!r->o->measure)
        return 0;
    if (shard_parse(r->o->shard, &which, &jobs, err) < 0)
        return -1;
    if (r->o->ranges)
        return aq_err_set(err, AQ_EUSAGE, "--measure and --ranges exclude each other");
    if (jobs > 1)
        return aq_err_set(err, AQ_EUSAGE, "--measure goes through all samples: not with --shard");
    if (r->o->dynamic_batch)
        return aq_err_set(err, AQ_EUSAGE, "--measure has no batches: not with --dynamic-batch");
    if (r->prefixes.count == 0)
        return aq_err_set(err, AQ_EUSAGE, "'%s' names no sizes: --prefix is needed",
                          aq_show(r->o->tokens));
    return 0;
}

/* ---- opening ---- */

static int open_inputs(struct scoring_run *r, struct aq_err *err)
{
    const struct score_options *o = r->o;
    for (size_t i = 0; i < o->quant_count; i++)
        if (candidates_add_file(&r->candidates, o->quants[i], err) < 0)
            return -1;
    candidates_sort(&r->candidates);
    if (compute_dtype_parse(o->dtype, &r->bf16, err) < 0 || lm_open(&r->lm, o->lm, err) < 0 ||
        (o->verify && lm_verify(&r->lm, o->lm, err) < 0) ||
        tokens_open(&r->tokens, o->tokens, err) < 0 ||
        prefixes_parse(&r->prefixes, o->prefixes, &r->tokens, err) < 0)
        return -1;
    if (r->kl_div && r->tokens.count_from)
        return aq_err_set(
            err, AQ_EINPUT,
            "'%s' has overlapping windows, and --method kl_div counts every position: "
            "make the tokens without --stride",
            aq_show(o->tokens));
    r->samples = o->score_samples ? o->score_samples : r->tokens.samples;
    if (r->samples > r->tokens.samples) {
        aq_warn("--score-samples %" PRId64 ": there are only %" PRId64 " samples", r->samples,
                r->tokens.samples);
        r->samples = r->tokens.samples;
    }
    score_rows_make(&r->rows, &r->candidates, r->prefixes.items, r->prefixes.count, r->samples);
    return check_measure(r, err) < 0 ? -1 : check_batches(r, err);
}

static bool needs_ranges(const struct scoring_run *r)
{
    for (size_t i = 0; i < r->rows.count; i++)
        if (r->rows.items[i].prefix > 0)
            return true;
    return false;
}

/* Who uses the ranges, and where this call makes them, what of. */
static struct range_user range_user_of(const struct scoring_run *r)
{
    return (struct range_user){.lm = r->lm.digest,
                               .tokens = r->tokens.digest,
                               .model = &r->lm.groups,
                               .backend = r->backend->identity,
                               .dtype = compute_dtype_name(r->bf16)};
}

static int open_ranges(struct scoring_run *r, struct aq_err *err)
{
    const char *path = r->o->measure ? r->o->measure : r->o->ranges;
    r->range_digests = json_new_object();
    if (!r->needs_ranges || (r->o->dry_run && !r->o->ranges))
        return 0;
    if (!path)
        return aq_err_set(err, AQ_EUSAGE,
                          "some candidates have a static activation range: --ranges is needed");
    const struct range_user user = range_user_of(r);
    if (range_file_open(&r->ranges, path, err) < 0 ||
        range_file_matches(&r->ranges, &user, err) < 0)
        return -1;
    r->s.ranges = &r->ranges;
    for (size_t i = 0; i < r->prefixes.count; i++) {
        char key[24], digest[AQ_SHA256_HEX];
        int position = range_file_prefix(&r->ranges, r->prefixes.items[i], err);
        if (position < 0)
            return -1;
        range_file_digest(&r->ranges, position, digest);
        (void)snprintf(key, sizeof key, "%" PRId64, r->prefixes.items[i]);
        json_set(r->range_digests, key, json_new_string(digest));
    }
    return 0;
}

/* What calibrated candidates are made of, which the store will know by its digests. */
static int open_solved(struct scoring_run *r, struct aq_err *err)
{
    int64_t widest = 1;
    const struct candidate *first = NULL;
    r->solved_digests = json_new_object();
    assert(r->candidates.items); /* a call without any is refused */
    for (size_t i = 0; i < r->candidates.count; i++) {
        const struct candidate *c = &r->candidates.items[i];
        if (!first && quant_is_solved(&c->ws))
            first = c;
    }
    if (!first || (r->o->dry_run && !r->o->solved))
        return 0;
    if (!r->o->solved)
        return aq_err_set(err, AQ_EUSAGE, "candidate '%s | %s' is calibrated: --solved is needed",
                          first->w, first->a);
    if (solved_open(&r->solved, r->o->solved, err) < 0 ||
        solved_matches(&r->solved, r->lm.digest, &r->lm.groups, err) < 0)
        return -1;
    for (size_t i = 0; i < r->candidates.count; i++) {
        const struct candidate *c = &r->candidates.items[i];
        char digest[AQ_SHA256_HEX];
        if (!quant_is_solved(&c->ws))
            continue;
        if (solved_digest(&r->solved, c->id, digest, err) < 0)
            return aq_err_prefix(err, "'%s | %s'", c->w, c->a);
        json_add_string(r->solved_digests, c->id, digest);
    }
    for (size_t i = 0; i < r->lm.groups.input_count; i++)
        if (r->lm.groups.inputs[i].cols > widest)
            widest = r->lm.groups.inputs[i].cols;
    r->hidden = xcalloc((size_t)widest, sizeof *r->hidden);
    r->s.solved = &r->solved;
    r->s.hidden = r->hidden;
    return 0;
}

static int open_model(struct scoring_run *r, struct aq_err *err)
{
    const struct score_options *o = r->o;
    struct backend_config config = {
        .struct_size = sizeof config,
        .threads = (int)o->threads,
        .kept_until = o->memory,
        .bf16 = r->bf16,
        .operand_rounding = strcmp(o->operand_rounding, "dtype") == 0,
        .matrix = o->plain_products ? BACKEND_MATRIX_PLAIN : BACKEND_MATRIX_AUTO,
    };
    const struct sample_set set = {.tokens = &r->tokens,
                                   .path = o->tokens,
                                   .samples = r->tokens.samples,
                                   .batch = o->dynamic_batch};
    if (backend_open(&r->backend, o->device, &config, err) < 0 ||
        sample_tiles(&r->tiles, &set, &r->lm.arch, r->backend, err) < 0)
        return -1;
    struct nn_source weights = nn_source_of_lm(&r->lm);
    return nn_open(&r->model, &weights, r->backend, r->tiles.rows, 1, err);
}

static struct json *identity_of(const struct scoring_run *r)
{
    struct json *v = json_new_object();
    json_add_string(v, "lm", r->lm.digest);
    json_add_string(v, "tokens", r->tokens.digest);
    json_add_string(v, "method", r->o->method);
    json_add_string(v, "dtype", compute_dtype_name(r->bf16));
    json_add_string(v, "operand_rounding", r->o->operand_rounding);
    json_add_int(v, "dynamic_batch", r->o->dynamic_batch);
    json_add_string(v, "backend", r->backend->identity);
    json_add_int(v, "tile_tokens", r->tiles.rows);
    json_add_int(v, "result_version", SCORE_RESULT_VERSION);
    return v;
}

/* Facts of the samples, in the arrays of the plan. What is averaged over: targets, or positions. */
static void describe_samples(const struct tiles *tiles, bool kl_div, int32_t *labels,
                             int32_t *counts, int32_t *first)
{
    int32_t sample = 0;
    for (size_t t = 0; t < tiles->count; t++) {
        const struct tile *tile = &tiles->items[t];
        first[t] = sample;
        for (int32_t i = 0; i < tile->desc.samples; i++, sample++) {
            labels[sample] = kl_div ? tile->tokens[i] + tile->pads[i] : tile->labels[i];
            counts[sample] = tile->tokens[i];
        }
    }
    first[tiles->count] = sample;
}

static int open_store(struct scoring_run *r, struct aq_err *err)
{
    size_t samples = (size_t)r->tokens.samples;
    int32_t *labels = xcalloc(samples, sizeof *labels), *counts = xcalloc(samples, sizeof *counts);
    int32_t *first = xcalloc(r->tiles.count + 1, sizeof *first);
    struct json *weights = store_weights(&r->lm);
    describe_samples(&r->tiles, r->kl_div, labels, counts, first);
    struct store_plan plan = {
        .shape = {(int64_t)r->lm.groups.count, r->lm.groups.layers, r->tokens.samples,
                  (int64_t)r->tiles.count},
        .groups = &r->lm.groups,
        .identity = r->identity,
        .weights = weights,
        .ranges = r->range_digests,
        .solved = r->solved_digests,
        .candidates = &r->candidates,
        .rows = &r->rows,
        .labels = labels,
        .sample_tokens = counts,
        .tile_first = first,
    };
    int bad = store_begin(&r->store, r->o->store, &plan,
                          r->o->repair    ? STORE_MEND
                          : r->o->replace ? STORE_REPLACE
                                          : STORE_REFUSE,
                          err);
    json_free(weights);
    free(labels);
    free(counts);
    free(first);
    return bad;
}

/* The cells of this job: of all that is wanted, whatever the store has, so that all jobs agree. */
static int take_shard(struct scoring_run *r, struct aq_err *err)
{
    int64_t which, jobs;
    if (shard_parse(r->o->shard, &which, &jobs, err) < 0)
        return -1;
    size_t wanted = 0;
    while (wanted < r->tiles.count && r->tiles.items[wanted].sample < r->samples)
        wanted++;
    r->s.end_tile = wanted;
    if (jobs > 1)
        shard_take(&r->s, which, jobs, &r->own);
    return 0;
}

/*
 * Ranges of the activations of all prefixes, from the forward pass that scoring goes on with: the
 * file has the bytes of aq-calib ranges.
 */
static int measure_ranges(struct scoring_run *r, struct aq_err *err)
{
    const struct range_user of = range_user_of(r);
    struct ranges made = {0};
    if (scoring_walk_measuring(&r->s, &r->measured, err) < 0)
        return -1;
    r->s.measured = &r->measured;
    int bad = ranges_compute(&made, &r->lm.groups, &r->measured, r->prefixes.items,
                             r->prefixes.count, err);
    if (bad == 0) {
        ranges_say_unseen(&made);
        bad = ranges_write(&made, r->o->measure, &of, true, err);
    }
    ranges_release(&made);
    return bad;
}

/* Tiles of the largest prefix that are not scored. */
static size_t passing_tiles(const struct scoring_run *r)
{
    size_t n = 0, at = r->s.end_tile;
    int64_t end = r->prefixes.count ? r->prefixes.items[r->prefixes.count - 1] : 0;
    for (; r->o->measure && at < r->tiles.count && r->tiles.items[at].sample < end; at++)
        n++;
    return n;
}

/* ---- the call ---- */

static int compute(struct scoring_run *r, struct aq_err *err)
{
    size_t open = scoring_open_candidates(&r->s);
    struct scoring_count n = scoring_count(&r->s);
    if (n.there && n.there < n.wanted)
        aq_note(0, "going on: %" PRIu64 " of %" PRIu64 " layer results are in the store already",
                n.there, n.wanted);
    if (open) {
        if ((r->s.kl_div ? kl_run : gradient_run)(&r->s, err) < 0)
            return -1;
        aq_note(1, "weights loaded: %.1f MB, all layers done after %.2f s",
                (double)nn_weight_bytes_read(r->model) / 1e6, aq_now() - r->s.began);
    }
    if (store_commit(r->store, err) < 0)
        return -1;
    aq_note(0, "%zu candidates computed, %zu were in the store", open, r->candidates.count - open);
    return 0;
}

static int run(struct scoring_run *r, struct aq_err *err)
{
    const struct score_options *o = r->o;
    double began = aq_now();
    if (open_inputs(r, err) < 0 || open_model(r, err) < 0)
        return -1;
    r->needs_ranges = needs_ranges(r);
    r->identity = identity_of(r);
    r->spill_dir = o->store ? aq_path_dir(o->store) : NULL; /* nothing is spilled by a plan */
    r->s = (struct scoring){.b = r->backend,
                            .model = r->model,
                            .groups = &r->lm.groups,
                            .tiles = &r->tiles,
                            .candidates = &r->candidates,
                            .rows = &r->rows,
                            .to_bf16 = r->bf16 && strcmp(o->operand_rounding, "dtype") == 0,
                            .kl_div = r->kl_div,
                            .needs_ranges = r->needs_ranges,
                            .memory = o->memory,
                            .spill_dir = r->spill_dir,
                            .began = began};
    if (open_solved(r, err) < 0 || (!o->measure && open_ranges(r, err) < 0) ||
        take_shard(r, err) < 0 || scoring_fits(&r->s, err) < 0)
        return -1;
    r->s.measures = o->measure != NULL;
    r->s.passing = passing_tiles(r);
    aq_note(
        1,
        "backend %s, %d threads, %zu tiles of %d tokens, %zu candidates in %zu rows, open after "
        "%.2f s",
        r->backend->identity, r->backend->threads, r->tiles.count, (int)r->tiles.rows,
        r->candidates.count, r->rows.count, aq_now() - began);
    if (o->dry_run)
        return score_plan_print(&r->s, o->store, r->identity, err);
    if (o->routes &&
        routes_dump(&r->s, r->samples, r->lm.digest, r->tokens.digest, o->routes, err) < 0)
        return -1;
    if (scoring_makes(&r->s) && !(r->s.pool = aq_pool_new(o->threads, err)))
        return -1;
    if (o->measure &&
        (measure_ranges(r, err) < 0 || open_ranges(r, err) < 0 || scoring_fits(&r->s, err) < 0))
        return -1;
    if (open_store(r, err) < 0)
        return -1;
    r->s.store = r->store;
    return compute(r, err);
}

int score_run(const struct score_options *o, struct aq_err *err)
{
    struct scoring_run r = {.o = o, .kl_div = strcmp(o->method, "kl_div") == 0};
    int bad = run(&r, err);
    store_writer_free(r.store);
    if (r.measured.op)
        walk_close(&r.measured);
    aq_pool_free(r.s.pool);
    nn_close(r.model);
    backend_close(r.backend);
    range_file_close(&r.ranges);
    solved_close(&r.solved);
    free(r.hidden);
    json_free(r.solved_digests);
    tiles_release(&r.tiles);
    score_rows_release(&r.rows);
    candidates_release(&r.candidates);
    json_free(r.identity);
    json_free(r.range_digests);
    tokens_release(&r.tokens);
    lm_close(&r.lm);
    free(r.spill_dir);
    free(r.own);
    return bad;
}
