#include "eval/trial.h"

#include "base/mem.h"
#include "base/msg.h"
#include "eval/swaps.h"
#include "nn/model.h"
#include "score/kept.h"
#include "score/walk.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TILES_AT_ONCE = 64 };
/* Kept logits of the reference, where no limit is set. */
static const uint64_t logits_usual = UINT64_C(4) << 30;

struct trials {
    struct trial_job job;
    struct backend *b;
    struct nn_model *model;
    struct eval_swaps swaps;
    struct backend_tile **tiles; /* of all domains */
    size_t tile_count, room;     /* tiles that walk together */
    size_t state_bytes, states_bytes, sums_bytes;
    /* Slot (tile, l): input of layer l of the base; (tile, layers): its output;
       (tile, layers + 1): output of the unquantized model. */
    struct kept *kept;
    void *scratch, *reference; /* states on their way from and to the file */
    char *states;              /* [room] */
    double *dev_sums, *host_sums;
    /* Of the first tiles, as many as fit: logits of the unquantized model. */
    struct backend_logits *logits;
    size_t logits_count, logits_bytes; /* bytes: of each */
};

static int64_t slot_of(const struct trials *t, size_t tile, int64_t boundary)
{
    return (int64_t)tile * (nn_layers(t->model) + 2) + boundary;
}

static void *state_at(const struct trials *t, size_t i)
{
    return t->states + i * t->state_bytes;
}

const char *trials_backend(const struct trials *t)
{
    return t->b->identity;
}

struct backend *trials_device(const struct trials *t)
{
    return t->b;
}

double trials_head_cost(const struct trials *t)
{
    const struct lm_arch *a = nn_arch(t->model);
    return (double)a->vocab_size * (double)a->hidden_size / (double)nn_layer(t->model, 0)->weights;
}

/* ---- opening ---- */

/* All but the kept inputs. */
static uint64_t fixed_bytes(const struct trials *t)
{
    struct backend_sizes sizes = {.rows = t->job.domains->rows};
    eval_model_sizes(&sizes, t->model, t->b);
    return t->b->ops->scratch_bytes(t->b, &sizes) + t->states_bytes + 2 * t->state_bytes +
           2 * t->sums_bytes + (uint64_t)nn_layer(t->model, 0)->weights * t->b->weight_size +
           t->swaps.made_bytes + nn_buffer_bytes(nn_arch(t->model), t->b, t->job.domains->rows, 0);
}

/* Without room for them they are made again for every trial. */
static void take_logits(struct trials *t, uint64_t room)
{
    t->logits_bytes =
        (size_t)t->job.domains->rows * (size_t)nn_arch(t->model)->vocab_size * sizeof(float);
    t->logits = xcalloc(t->tile_count + 1, sizeof *t->logits);
    while (t->logits_count < t->tile_count && room / t->logits_bytes > t->logits_count) {
        void *z = t->b->ops->alloc(t->b, t->logits_bytes, "logits of the reference", NULL);
        if (!z)
            break;
        t->logits[t->logits_count++].z = z;
    }
    aq_note(1, "logits of the reference are kept for %zu of %zu tiles", t->logits_count,
            t->tile_count);
}

static int take_room(struct trials *t, struct aq_err *err)
{
    const struct lm_arch *a = nn_arch(t->model);
    size_t rows = (size_t)t->job.domains->rows;
    t->state_bytes = walk_act_bytes(t->job.domains->rows, t->b, a->hidden_size);
    t->room = t->tile_count < TILES_AT_ONCE ? t->tile_count : TILES_AT_ONCE;
    t->states_bytes = t->room * t->state_bytes;
    t->sums_bytes = rows * sizeof(double);
    t->host_sums = xmalloc(t->sums_bytes);
    int64_t slots = (int64_t)t->tile_count * (nn_layers(t->model) + 2);
    uint64_t rest = fixed_bytes(t), limit = UINT64_MAX, memory = t->job.memory;
    if (t->job.beside)
        rest += t->job.beside(t->job.arg, t->b,
                              !memory         ? UINT64_MAX
                              : memory > rest ? memory - rest
                                              : 0);
    if (t->job.memory && rest > t->job.memory)
        return aq_err_set(err, AQ_ERUN, "--memory %.0f MB is too little: %.0f MB are needed",
                          (double)t->job.memory / 1e6, ceil((double)rest / 1e6));
    if (t->job.memory)
        limit = t->job.memory - rest;
    if (kept_new(&t->kept, t->b, slots, t->state_bytes, limit, t->job.spill_dir, err) < 0)
        return -1;
    uint64_t kept = (uint64_t)slots * t->state_bytes;
    aq_note(1, "%.1f MB of kept inputs in %s", (double)kept / 1e6,
            kept > limit ? "a file" : "memory");
    t->states = t->b->ops->alloc(t->b, t->states_bytes, "states of tiles", err);
    t->scratch = t->states ? t->b->ops->alloc(t->b, t->state_bytes, "a kept state", err) : NULL;
    t->reference = t->scratch ? t->b->ops->alloc(t->b, t->state_bytes, "a kept state", err) : NULL;
    t->dev_sums = t->reference ? t->b->ops->alloc(t->b, t->sums_bytes, "divergences", err) : NULL;
    if (!t->dev_sums)
        return -1;
    /* half of what a limit leaves: weights stay on a device in the other */
    take_logits(t, !t->job.memory ? logits_usual : kept > limit ? 0 : (limit - kept) / 2);
    return 0;
}

static int take_tiles(struct trials *t, struct aq_err *err)
{
    t->tiles = xcalloc(t->tile_count + 1, sizeof(struct backend_tile *));
    for (size_t i = 0; i < t->tile_count; i++) {
        const struct eval_place place = eval_domains_tile_at(t->job.domains, i);
        t->tiles[i] = t->b->ops->tile_new(t->b, &place.tile->desc, err);
        if (!t->tiles[i])
            return -1;
    }
    return 0;
}

static int run_reference(struct trials *t, struct aq_err *err);

int trials_open(struct trials **out, const struct trial_job *job, struct aq_err *err)
{
    struct trials *t = xcalloc(1, sizeof *t);
    const struct nn_source source = nn_source_of_lm((struct lm *)job->lm);
    struct backend_config config = job->config;
    *out = t;
    t->job = *job;
    if (backend_open(&t->b, job->device, &config, err) < 0 ||
        eval_domains_tile(job->domains,
                          tiles_tokens(t->b, &job->lm->arch, eval_domains_tokens(job->domains)),
                          job->lm->arch.vocab_size, arch_max_length(&job->lm->arch), err) < 0 ||
        nn_open(&t->model, &source, t->b, job->domains->rows, 0, err) < 0 ||
        eval_swaps_open(&t->swaps, t->b, job->operands, job->count, job->domains->rows, err) < 0)
        return -1;
    t->tile_count = job->domains->first_tile[job->domains->count];
    if (take_tiles(t, err) < 0 || take_room(t, err) < 0)
        return -1;
    return run_reference(t, err);
}

void trials_close(struct trials *t)
{
    if (!t)
        return;
    struct backend *b = t->b;
    if (b) {
        for (size_t i = 0; t->tiles && i < t->tile_count; i++)
            if (t->tiles[i])
                b->ops->tile_free(b, t->tiles[i]);
        if (t->states)
            b->ops->free(b, t->states, t->states_bytes);
        if (t->scratch)
            b->ops->free(b, t->scratch, t->state_bytes);
        if (t->reference)
            b->ops->free(b, t->reference, t->state_bytes);
        if (t->dev_sums)
            b->ops->free(b, t->dev_sums, t->sums_bytes);
        for (size_t i = 0; i < t->logits_count; i++)
            b->ops->free(b, t->logits[i].z, t->logits_bytes);
        eval_swaps_close(&t->swaps);
    }
    free(t->logits);
    kept_free(t->kept);
    nn_close(t->model);
    backend_close(b);
    free(t->tiles);
    free(t->host_sums);
    free(t);
}

/* ---- layers ---- */

/* The tiles that walk together. */
struct trial_batch {
    size_t first, count;
    struct eval_step steps[TILES_AT_ONCE];
};

/* The boundary's states to the kept inputs. */
static int keep_states(struct trials *t, const struct trial_batch *b, int64_t boundary,
                       struct aq_err *err)
{
    for (size_t i = 0; i < b->count; i++) {
        int64_t slot = slot_of(t, b->first + i, boundary);
        void *place = kept_place(t->kept, slot, t->scratch);
        t->b->ops->copy(t->b, place, state_at(t, i), t->state_bytes);
        if (t->b->ops->sync(t->b, err) < 0 || kept_put(t->kept, slot, place, err) < 0)
            return -1;
    }
    return 0;
}

/* States are the inputs of `layer`, those of the base. */
static int begin(struct trials *t, struct trial_batch *b, int64_t layer, struct aq_err *err)
{
    for (size_t i = 0; i < b->count; i++) {
        const void *h = kept_get(t->kept, slot_of(t, b->first + i, layer), t->scratch, err);
        if (!h)
            return -1;
        t->b->ops->copy(t->b, state_at(t, i), h, t->state_bytes);
        if (t->b->ops->sync(t->b, err) < 0)
            return -1;
        b->steps[i] = (struct eval_step){t->tiles[b->first + i], state_at(t, i), state_at(t, i)};
    }
    return 0;
}

static int walk(struct trials *t, struct trial_batch *b, const struct eval_operand *recipe,
                int64_t from, bool keep, struct aq_err *err)
{
    int64_t layers = nn_layers(t->model);
    for (int64_t l = from; l < layers; l++) {
        if (nn_use_layer(t->model, l, l + 1 < layers ? l + 1 : -1, err) < 0 ||
            eval_swaps_layer(&t->swaps, t->model, recipe, l, b->steps, b->count, err) < 0 ||
            t->b->ops->sync(t->b, err) < 0)
            return aq_err_prefix(err, "layer %" PRId64, l);
        if (keep && keep_states(t, b, l + 1, err) < 0)
            return -1;
    }
    return 0;
}

static int embed(struct trials *t, struct trial_batch *b, struct aq_err *err)
{
    if (nn_use_ends(t->model, err) < 0)
        return -1;
    for (size_t i = 0; i < b->count; i++) {
        b->steps[i] = (struct eval_step){t->tiles[b->first + i], state_at(t, i), state_at(t, i)};
        nn_embed(t->model, t->tiles[b->first + i], state_at(t, i));
    }
    return keep_states(t, b, 0, err);
}

/* ---- the head ---- */

/* Positions that count are those with a target. */
static int add_up(struct trials *t, size_t tile, double *sums, struct aq_err *err)
{
    const struct eval_place place = eval_domains_tile_at(t->job.domains, tile);
    const struct backend_tile_desc *d = &place.tile->desc;
    if (t->b->ops->download(t->b, t->host_sums, t->dev_sums, t->sums_bytes, err) < 0)
        return -1;
    for (int32_t i = 0; i < d->samples; i++) {
        double sum = 0;
        for (int32_t r = d->first[i]; r < d->first[i + 1]; r++)
            if (d->target[r] >= 0)
                sum += t->host_sums[r];
        if (!isfinite(sum)) {
            (void)aq_err_set(err, AQ_EINPUT,
                             "the divergence is not finite in sample %" PRId64 " of '%s'",
                             place.tile->sample + i, place.domain->name);
            return aq_err_hint(err, "aq-eval --domain on this text names the layer");
        }
        sums[place.tile->sample + i] = sum;
    }
    return 0;
}

static struct backend_logits *logits_of(struct trials *t, size_t tile)
{
    return tile < t->logits_count ? &t->logits[tile] : NULL;
}

/* *h: the output of the unquantized model; NULL if its logits are made. */
static int reference_of(struct trials *t, size_t tile, const void **h, struct aq_err *err)
{
    const struct backend_logits *logits = logits_of(t, tile);
    *h = NULL;
    if (logits && logits->made)
        return 0;
    *h = kept_get(t->kept, slot_of(t, tile, nn_layers(t->model) + 1), t->reference, err);
    return *h ? 0 : -1;
}

static int measure(struct trials *t, const struct trial_batch *b, double *sums, struct aq_err *err)
{
    if (nn_use_ends(t->model, err) < 0)
        return -1;
    for (size_t i = 0; i < b->count; i++) {
        size_t tile = b->first + i;
        void *changed = state_at(t, i);
        double *dev = t->dev_sums;
        const void *h;
        if (reference_of(t, tile, &h, err) < 0)
            return -1;
        nn_kl(t->model, t->tiles[tile], h, &changed, &dev, 1, logits_of(t, tile));
        if (add_up(t, tile, sums, err) < 0)
            return -1;
    }
    return 0;
}

/* ---- batches ---- */

static struct trial_batch batch_at(const struct trials *t, size_t first, size_t end)
{
    return (struct trial_batch){.first = first,
                                .count = end - first < t->room ? end - first : t->room};
}

/* The unquantized model: all inputs, and the output that everything is held against. */
static int run_reference(struct trials *t, struct aq_err *err)
{
    for (size_t at = 0; at < t->tile_count; at += t->room) {
        struct trial_batch b = batch_at(t, at, t->tile_count);
        if (embed(t, &b, err) < 0 || walk(t, &b, NULL, 0, true, err) < 0 ||
            keep_states(t, &b, nn_layers(t->model) + 1, err) < 0)
            return -1;
    }
    return 0;
}

int trials_run(struct trials *t, const struct eval_operand *recipe, const struct trial_range *range,
               bool keep, double *sums, struct aq_err *err)
{
    for (size_t at = range->first; at < range->end; at += t->room) {
        struct trial_batch b = batch_at(t, at, range->end);
        if (begin(t, &b, range->layer, err) < 0 ||
            walk(t, &b, recipe, range->layer, keep, err) < 0 || measure(t, &b, sums, err) < 0)
            return -1;
    }
    return 0;
}

static struct trial_output output_of(struct trials *t, size_t tile)
{
    return (struct trial_output){.b = t->b,
                                 .model = t->model,
                                 .tile = t->tiles[tile],
                                 .desc = &eval_domains_tile_at(t->job.domains, tile).tile->desc,
                                 .number = tile};
}

int trials_references(struct trials *t, const struct trial_range *range, trial_output_fn *fn,
                      void *arg, struct aq_err *err)
{
    nn_drop_ends(t->model); /* a tied head is the embedding, and is loaded by slices now */
    int r = nn_use_head(t->model, err);
    for (size_t tile = range->first; tile < range->end && r == 0; tile++) {
        struct trial_output out = output_of(t, tile);
        out.reference =
            kept_get(t->kept, slot_of(t, tile, nn_layers(t->model) + 1), t->reference, err);
        r = out.reference ? fn(arg, &out, err) : -1;
    }
    nn_drop_head(t->model);
    return r;
}

static int give_outputs(struct trials *t, const struct trial_batch *b, trial_output_fn *fn,
                        void *arg, struct aq_err *err)
{
    if (nn_use_ends(t->model, err) < 0)
        return -1;
    for (size_t i = 0; i < b->count; i++) {
        struct trial_output out = output_of(t, b->first + i);
        out.changed = state_at(t, i);
        out.logits = logits_of(t, out.number);
        if (reference_of(t, out.number, &out.reference, err) < 0 || fn(arg, &out, err) < 0)
            return -1;
    }
    return 0;
}

int trials_outputs(struct trials *t, const struct eval_operand *recipe,
                   const struct trial_range *range, trial_output_fn *fn, void *arg,
                   struct aq_err *err)
{
    for (size_t at = range->first; at < range->end; at += t->room) {
        struct trial_batch b = batch_at(t, at, range->end);
        if (begin(t, &b, range->layer, err) < 0 ||
            walk(t, &b, recipe, range->layer, false, err) < 0 ||
            give_outputs(t, &b, fn, arg, err) < 0)
            return -1;
    }
    return 0;
}
