#include "eval/pass.h"

#include "backend/backend.h"
#include "base/mem.h"
#include "base/msg.h"
#include "base/progress.h"
#include "eval/compare.h"
#include "eval/swaps.h"
#include "score/walk.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* States of the tiles at work, without a limit; and how many of these tiles there are at most:
   what is done is saved after that many. */
static const uint64_t states_usual = UINT64_C(1) << 30;
enum { TILES_CPU = 16, TILES_DEVICE = 64 };
/* Of each domain: the noise of bf16 is a mean over the first few tiles. An fp32 pass costs what
   several in bf16 do, and this many positions are enough for a floor. */
enum { NOISE_TILES = 8 };

/* One model, with its states between two layers. */
struct stream {
    struct backend *b; /* borrowed */
    struct nn_model *model;
    bool own_model;
    const struct eval_operand *operand; /* NULL: the reference */
    const char *name;                   /* for messages */
    char *states;                       /* [tiles at work] */
    size_t state_bytes;
    void *x, *z; /* device: input of the head of a tile; logits of a slice */
    bool shared; /* z is that of an earlier stream */
    size_t x_bytes, z_bytes;
    bool held; /* takes the reference's routes */
};

struct eval_pass {
    struct eval_pass_job job;
    struct backend *b, *exact; /* exact: in fp32, where b is not; else NULL */
    /* reference, operands, these with the reference's routes, and the reference in fp32; the last
       two where they are measured */
    struct stream *streams;
    size_t count;
    bool routing;
    struct nn_kept_routes *routes; /* [layers][tiles at work]: the reference's */
    struct nn_source lm;
    size_t room; /* tiles at work */
    struct aq_pool *pool;
    struct eval_swaps swaps; /* of b: what linears are replaced with */
    /* What is known of a tile's rows: [comparisons][rows][2], those of operands with the reference;
       the same with the reference's routes with themselves, if these are measured; and the
       reference in fp32 with itself. And a copy on the host. */
    struct backend_side *sides, *host_sides;
    size_t sides_bytes;
    struct aq_progress progress;
    uint64_t done;
};

const char *eval_pass_backend(const struct eval_pass *p)
{
    return p->b->identity;
}

bool eval_pass_noise(const struct eval_pass *p)
{
    return p->exact != NULL;
}

bool eval_pass_routing(const struct eval_pass *p)
{
    return p->routing;
}

/* Is the noise measured on this tile? */
static bool is_noise_tile(const struct eval_pass *p, const struct eval_place *place)
{
    return p->exact && place->tile - place->domain->tiles.items < NOISE_TILES;
}

int64_t eval_pass_noise_samples(const struct eval_pass *p, size_t domain)
{
    const struct tiles *t = &p->job.domains->items[domain].tiles;
    if (!p->exact)
        return 0;
    const struct tile *last = &t->items[(t->count < NOISE_TILES ? t->count : NOISE_TILES) - 1];
    return last->sample + last->desc.samples;
}

/* ---- opening ---- */

static int open_backends(struct eval_pass *p, struct aq_err *err)
{
    struct backend_config config = p->job.config;
    if (backend_open(&p->b, p->job.device, &config, err) < 0)
        return -1;
    p->pool = aq_pool_new(p->job.config.threads, err);
    if (!p->pool)
        return -1;
    /* the CPU computes in fp32 either way, so that there is no noise */
    if (!config.bf16 || p->b->ops == &backend_cpu_ops)
        return 0;
    config.bf16 = 0;
    return backend_open(&p->exact, p->job.device, &config, err);
}

static int64_t max_positions(const struct eval_pass *p)
{
    int64_t most = arch_max_length(&p->job.lm->arch);
    for (size_t i = 0; i < p->job.count; i++) {
        int64_t n = arch_max_length(p->job.operands[i].arch);
        if (n > 0 && (most == 0 || n < most))
            most = n;
    }
    return most;
}

static int add_stream(struct eval_pass *p, struct backend *b, const struct nn_source *source,
                      const struct eval_operand *o, const char *name, struct aq_err *err)
{
    struct stream *s = &p->streams[p->count++];
    const struct lm_arch *a = source ? source->arch : &p->job.lm->arch;
    *s = (struct stream){.b = b, .operand = o, .name = name, .own_model = source != NULL};
    s->model = source ? NULL : p->streams[0].model;
    s->state_bytes = walk_act_bytes(p->job.domains->rows, b, a->hidden_size);
    s->x_bytes = s->state_bytes;
    s->z_bytes = (size_t)p->job.domains->rows * NN_SLICE * sizeof(float);
    if (source && nn_open(&s->model, source, b, p->job.domains->rows, 0, err) < 0)
        return aq_err_prefix(err, "%s", aq_show(name));
    /* one operand after another is compared, and with it the one that takes the reference's routes
     */
    size_t leader = p->count - 1 <= p->job.count ? 1 : p->job.count + 1;
    s->shared = o && p->count - 1 > leader;
    s->x = b->ops->alloc(b, s->x_bytes, "an input of the head", err);
    if (s->x)
        s->z = s->shared ? p->streams[leader].z : b->ops->alloc(b, s->z_bytes, "logits", err);
    return s->z ? 0 : -1;
}

/* Operand i with the reference's routes: its model a second time. */
static int add_held(struct eval_pass *p, size_t i, struct aq_err *err)
{
    const struct eval_operand *o = &p->job.operands[i];
    if (add_stream(p, p->b, NULL, o, o->path, err) < 0)
        return -1;
    p->streams[p->count - 1].model = p->streams[i + 1].model;
    p->streams[p->count - 1].held = true;
    return 0;
}

/* Are all operands mixtures whose routes have the shape of the reference's? */
static bool routes_alike(const struct eval_pass *p)
{
    const struct lm_arch *a = &p->job.lm->arch;
    for (size_t i = 0; i < p->job.count; i++) {
        const struct lm_arch *b = p->job.operands[i].arch;
        if (b->experts != a->experts || b->experts_per_token != a->experts_per_token ||
            b->num_hidden_layers != a->num_hidden_layers)
            return false;
        for (int64_t l = 0; l < a->num_hidden_layers; l++)
            if (arch_sparse(a, l) != arch_sparse(b, l))
                return false;
    }
    return a->experts > 0;
}

static int take_sides(struct eval_pass *p, struct aq_err *err)
{
    p->sides_bytes =
        (2 * p->job.count + 1) * (size_t)p->job.domains->rows * 2 * sizeof(struct backend_side);
    p->host_sides = xmalloc(p->sides_bytes);
    p->sides = p->b->ops->alloc(p->b, p->sides_bytes, "sums of distributions", err);
    return p->sides ? 0 : -1;
}

static int open_streams(struct eval_pass *p, struct aq_err *err)
{
    p->streams = xcalloc(2 * p->job.count + 2, sizeof *p->streams);
    if (add_stream(p, p->b, &p->lm, NULL, "reference", err) < 0)
        return -1;
    for (size_t i = 0; i < p->job.count; i++) {
        const struct eval_operand *o = &p->job.operands[i];
        if (add_stream(p, p->b, o->has_source ? &o->source : NULL, o, o->path, err) < 0)
            return -1;
    }
    for (size_t i = 0; i < p->job.count && p->routing; i++)
        if (add_held(p, i, err) < 0)
            return -1;
    return p->exact ? add_stream(p, p->exact, &p->lm, NULL, "reference in fp32", err) : 0;
}

static struct backend_sizes sizes_of(const struct eval_pass *p)
{
    struct backend_sizes sizes = {.rows = p->job.domains->rows};
    for (size_t i = 0; i < p->count; i++)
        eval_model_sizes(&sizes, p->streams[i].model, p->b);
    return sizes;
}

/* Room for the reference's routes of all layers. */
static void take_routes(struct eval_pass *p)
{
    const struct lm_arch *a = &p->job.lm->arch;
    size_t slots = (size_t)p->job.domains->rows * (size_t)a->experts_per_token;
    if (!p->routing)
        return;
    p->routes = xcalloc((size_t)a->num_hidden_layers * p->room, sizeof *p->routes);
    for (size_t i = 0; i < (size_t)a->num_hidden_layers * p->room; i++)
        p->routes[i] =
            (struct nn_kept_routes){xcalloc(slots, sizeof(int32_t)), xcalloc(slots, sizeof(float))};
}

static void free_routes(struct eval_pass *p)
{
    size_t layers = (size_t)p->job.lm->arch.num_hidden_layers;
    for (size_t i = 0; p->routes && i < layers * p->room; i++) {
        free(p->routes[i].sel);
        free(p->routes[i].w);
    }
    free(p->routes);
}

/* How many tiles can be at work. The states are all that depends on it. */
static int plan_room(struct eval_pass *p, struct aq_err *err)
{
    const struct backend_sizes sizes = sizes_of(p);
    uint64_t each = 1; /* never 0 */
    uint64_t rest = p->b->ops->scratch_bytes(p->b, &sizes) + 2 * p->sides_bytes;
    for (size_t i = 0; i < p->count; i++) {
        const struct stream *s = &p->streams[i];
        each += s->state_bytes;
        rest += s->x_bytes + (s->shared ? 0 : s->z_bytes);
        if (s->own_model)
            rest += nn_buffer_bytes(nn_arch(s->model), s->b, p->job.domains->rows, 0);
    }
    rest += (uint64_t)nn_layer(p->streams[0].model, 0)->weights * p->b->weight_size +
            p->swaps.made_bytes; /* operands */
    if (p->job.memory && rest + each > p->job.memory)
        return aq_err_set(err, AQ_ERUN, "--memory %.0f MB is too little: one tile needs %.0f MB",
                          (double)p->job.memory / 1e6, ceil((double)(rest + each) / 1e6));
    uint64_t room = p->job.memory ? p->job.memory - rest : states_usual;
    uint64_t most = p->b->ops == &backend_cpu_ops ? TILES_CPU : TILES_DEVICE;
    p->room = (size_t)(room / each < 1 ? 1 : room / each < most ? room / each : most);
    take_routes(p);
    for (size_t i = 0; i < p->count; i++) {
        struct stream *s = &p->streams[i];
        s->states = s->b->ops->alloc(s->b, p->room * s->state_bytes, "states of tiles", err);
        if (!s->states)
            return -1;
    }
    return 0;
}

int eval_pass_open(struct eval_pass **out, const struct eval_pass_job *job, struct aq_err *err)
{
    struct eval_pass *p = xcalloc(1, sizeof *p);
    *out = p;
    p->job = *job;
    p->lm = nn_source_of_lm((struct lm *)job->lm);
    p->routing = job->routing && routes_alike(p);
    if (open_backends(p, err) < 0 ||
        eval_domains_tile(job->domains,
                          tiles_tokens(p->b, &job->lm->arch, eval_domains_tokens(job->domains)),
                          job->lm->arch.vocab_size, max_positions(p), err) < 0 ||
        open_streams(p, err) < 0 || take_sides(p, err) < 0 ||
        eval_swaps_open(&p->swaps, p->b, job->operands, job->count, job->domains->rows, err) < 0)
        return -1;
    p->swaps.pool = p->pool;
    return plan_room(p, err);
}

void eval_pass_close(struct eval_pass *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->count; i++) {
        struct stream *s = &p->streams[i];
        s->b->ops->free(s->b, s->states, p->room * s->state_bytes);
        s->b->ops->free(s->b, s->x, s->x_bytes);
        if (!s->shared)
            s->b->ops->free(s->b, s->z, s->z_bytes);
    }
    free_routes(p);
    if (p->sides)
        p->b->ops->free(p->b, p->sides, p->sides_bytes);
    free(p->host_sides);
    eval_swaps_close(&p->swaps);
    for (size_t i = 0; i < p->count; i++)
        if (p->streams[i].own_model)
            nn_close(p->streams[i].model);
    free(p->streams);
    backend_close(p->exact);
    backend_close(p->b);
    aq_pool_free(p->pool);
    free(p);
}

/* ---- layers ---- */

/* The tiles at work: on each backend. */
struct batch {
    size_t first, count;
    struct eval_place *places;
    struct backend_tile **tiles, **exact; /* exact: NULL without that backend */
};

static struct backend_tile *tile_of(const struct eval_pass *p, const struct batch *b,
                                    const struct stream *s, size_t i)
{
    return s->b == p->b ? b->tiles[i] : b->exact[i];
}

/* The reference in fp32 sees the tiles that the noise is measured on. */
static bool sees(const struct eval_pass *p, const struct batch *b, const struct stream *s, size_t i)
{
    return s->b == p->b || is_noise_tile(p, &b->places[i]);
}

static int run_layer(struct eval_pass *p, const struct batch *b, const struct stream *s,
                     int64_t layer, size_t from, size_t to, struct aq_err *err)
{
    struct eval_step *steps = xcalloc(to - from + 1, sizeof *steps);
    size_t n = 0;
    for (size_t i = from; i < to; i++) {
        void *h = s->states + i * s->state_bytes;
        if (!sees(p, b, s, i))
            continue;
        struct nn_kept_routes *routes = p->routing ? &p->routes[(size_t)layer * p->room + i] : NULL;
        steps[n] = (struct eval_step){.tile = tile_of(p, b, s, i), .from = h, .to = h};
        if (s == p->streams)
            steps[n].keep = routes;
        else if (s->held)
            steps[n].hold = routes;
        n++;
    }
    int r = eval_swaps_layer(&p->swaps, s->model, s->operand, layer, steps, n, err);
    free(steps);
    return r;
}

static void advance(struct eval_pass *p, uint64_t steps)
{
    p->done += steps;
    aq_progress_update(&p->progress, p->done);
}

static int embed(struct eval_pass *p, const struct batch *b, struct aq_err *err)
{
    for (size_t k = 0; k < p->count; k++) {
        struct stream *s = &p->streams[k];
        if (nn_use_ends(s->model, err) < 0)
            return -1;
        for (size_t i = 0; i < b->count; i++)
            if (sees(p, b, s, i))
                nn_embed(s->model, tile_of(p, b, s, i), s->states + i * s->state_bytes);
        if (s->b->ops->sync(s->b, err) < 0)
            return -1;
        nn_drop_ends(s->model);
    }
    return 0;
}

/* Streams that share the reference's model go through a layer together with it. */
static int run_layers(struct eval_pass *p, const struct batch *b, struct aq_err *err)
{
    for (size_t k = 0; k < p->count; k++) {
        struct stream *s = &p->streams[k];
        int64_t layers = nn_layers(s->model);
        if (!s->own_model)
            continue;
        for (int64_t l = 0; l < layers; l++) {
            if (nn_use_layer(s->model, l, l + 1 < layers ? l + 1 : -1, err) < 0)
                return -1;
            for (size_t i = k; i < p->count; i++)
                if (p->streams[i].model == s->model) {
                    if (run_layer(p, b, &p->streams[i], l, 0, b->count, err) < 0 ||
                        s->b->ops->sync(s->b, err) < 0)
                        return aq_err_prefix(err, "%s: layer %" PRId64, p->streams[i].name, l);
                    advance(p, b->count);
                }
        }
    }
    return 0;
}

/* ---- numbers that are none ---- */

static int state_is_bad(const struct stream *s, const struct backend_tile *tile, int32_t sample,
                        const void *h, float *dev, struct aq_err *err)
{
    float host;
    s->b->ops->amax(s->b, tile, h, nn_arch(s->model)->hidden_size, sample, sample + 1, dev, NULL);
    if (s->b->ops->download(s->b, &host, dev + sample, sizeof host, err) < 0)
        return -1;
    return !isfinite(host);
}

/* Runs the tile again and checks its states after each layer. */
static int blame(struct eval_pass *p, const struct batch *b, const struct stream *s, size_t at,
                 int32_t sample, struct aq_err *err)
{
    const struct eval_place *place = &b->places[at];
    struct backend_tile *tile = tile_of(p, b, s, at);
    void *h = s->states + at * s->state_bytes;
    int64_t layers = nn_layers(s->model), l = -1;
    size_t bytes = (size_t)place->tile->desc.samples * sizeof(float);
    float *dev = s->b->ops->alloc(s->b, bytes, "ranges", err);
    if (!dev)
        return -1;
    nn_drop_head(s->model);
    int bad = nn_use_ends(s->model, err);
    if (bad == 0) {
        nn_embed(s->model, tile, h);
        bad = state_is_bad(s, tile, sample, h, dev, err);
        nn_drop_ends(s->model);
    }
    while (bad == 0 && ++l < layers) {
        bad = nn_use_layer(s->model, l, -1, err);
        if (bad == 0)
            bad = run_layer(p, b, s, l, at, at + 1, err);
        if (bad == 0)
            bad = state_is_bad(s, tile, sample, h, dev, err);
    }
    s->b->ops->free(s->b, dev, bytes);
    if (bad < 0)
        return -1;
    char where[64] = "head: a logit";
    if (bad && l < 0)
        (void)snprintf(where, sizeof where, "embedding");
    else if (bad)
        (void)snprintf(where, sizeof where, "layer %" PRId64 ": its output", l);
    (void)aq_err_set(err, AQ_EINPUT, "%s: %s is not finite in sample %" PRId64 " of '%s'",
                     aq_show(s->name), where, place->tile->sample + sample, place->domain->name);
    return aq_err_hint(err, "a weight is NaN or infinite, or the numbers overflow");
}

/* ---- the head ---- */

static size_t routing_number(const struct eval_pass *p, size_t operand)
{
    return p->job.count + operand;
}

static size_t noise_number(const struct eval_pass *p)
{
    return 2 * p->job.count;
}

/* Of row r of the tile, by comparison `number`. */
static struct comparison known_row(const struct eval_pass *p, size_t number, int32_t r)
{
    const struct backend_side *sides =
        p->host_sides + 2 * (number * (size_t)p->job.domains->rows + (size_t)r);
    return compare_sides(&sides[0], &sides[1]);
}

static int keep_tile(struct eval_pass *p, const struct batch *b, size_t at, struct eval_part *part,
                     struct aq_err *err)
{
    const struct eval_place *place = &b->places[at];
    const bool noisy = is_noise_tile(p, place);
    const struct backend_tile_desc *desc = &place->tile->desc;
    struct eval_part_domain *d = &part->domains[place->number];
    for (int32_t i = 0; i < desc->samples; i++) {
        int64_t position = d->offsets[place->tile->sample + i];
        for (int32_t r = desc->first[i]; r < desc->first[i + 1]; r++) {
            if (desc->target[r] < 0)
                continue;
            for (size_t k = 0; k < p->job.count; k++) {
                const struct comparison x = known_row(p, k, r);
                struct eval_values *v = &d->values[k];
                if (!isfinite(x.nll_reference))
                    return blame(p, b, &p->streams[0], at, i, err);
                if (!isfinite(x.nll) || !isfinite(x.kl) || !isfinite(x.rkl))
                    return blame(p, b, &p->streams[k + 1], at, i, err);
                v->kl[position] = x.kl;
                v->rkl[position] = x.rkl;
                v->nll_reference[position] = x.nll_reference;
                v->nll[position] = x.nll;
                v->top1[position] = (uint8_t)x.same_top;
                if (!p->routing)
                    continue;
                v->routing[position] = known_row(p, routing_number(p, k), r).kl;
                if (!isfinite(v->routing[position]))
                    return blame(p, b, &p->streams[1 + p->job.count + k], at, i, err);
            }
            if (noisy)
                d->noise[position] = known_row(p, noise_number(p), r).kl;
            position++;
        }
    }
    return 0;
}

static void slice_logits(struct eval_pass *p, const struct batch *b, size_t at, size_t stream,
                         int64_t slice)
{
    struct stream *s = &p->streams[stream];
    nn_slice_logits(s->model, tile_of(p, b, s, at), slice, s->z, s->x);
}

/* Comparison `number` is of streams a and b, whose logits of this slice are there. */
static void compare_streams(struct eval_pass *p, const struct batch *b, size_t at, size_t number,
                            const struct stream *x, const struct stream *y, int64_t slice)
{
    struct backend_side *sides = p->sides + number * 2 * (size_t)p->job.domains->rows;
    p->b->ops->compare(p->b, b->tiles[at], sides, x->z, y->z, slice * NN_SLICE,
                       nn_slice_ids(p->streams[0].model, slice));
}

/* The slices never leave a device. Two backends there know nothing of each other's order: the
   logits in fp32 are waited for, and so is what reads them. */
static int compare_all(struct eval_pass *p, const struct batch *b, size_t at, struct aq_err *err)
{
    const struct backend_ops *op = p->b->ops;
    const bool noisy = is_noise_tile(p, &b->places[at]);
    const struct stream *reference = &p->streams[0], *exact = &p->streams[p->count - 1];
    size_t n = p->job.count;
    for (int64_t slice = 0; nn_slice_ids(p->streams[0].model, slice) > 0; slice++) {
        slice_logits(p, b, at, 0, slice);
        if (noisy) {
            slice_logits(p, b, at, p->count - 1, slice);
            if (p->exact->ops->sync(p->exact, err) < 0)
                return -1;
            compare_streams(p, b, at, noise_number(p), exact, reference, slice);
        }
        for (size_t k = 0; k < n; k++) {
            slice_logits(p, b, at, k + 1, slice);
            compare_streams(p, b, at, k, reference, &p->streams[k + 1], slice);
            if (!p->routing)
                continue;
            slice_logits(p, b, at, 1 + n + k, slice);
            compare_streams(p, b, at, routing_number(p, k), &p->streams[1 + n + k],
                            &p->streams[k + 1], slice);
        }
        if (noisy && op->sync(p->b, err) < 0)
            return -1;
    }
    return op->download(p->b, p->host_sides, p->sides, p->sides_bytes, err);
}

static int compare_tile(struct eval_pass *p, const struct batch *b, size_t at,
                        struct eval_part *part, struct aq_err *err)
{
    for (size_t k = 0; k < p->count; k++) {
        struct stream *s = &p->streams[k];
        if (sees(p, b, s, at))
            nn_head_input(s->model, tile_of(p, b, s, at), s->x, s->states + at * s->state_bytes);
    }
    return compare_all(p, b, at, err) < 0 ? -1 : keep_tile(p, b, at, part, err);
}

static int run_head(struct eval_pass *p, const struct batch *b, struct eval_part *part,
                    struct aq_err *err)
{
    for (size_t k = 0; k < p->count; k++)
        if (p->streams[k].own_model && nn_use_head(p->streams[k].model, err) < 0)
            return -1;
    for (size_t i = 0; i < b->count; i++) {
        if (compare_tile(p, b, i, part, err) < 0)
            return -1;
        advance(p, p->count);
    }
    for (size_t k = 0; k < p->count; k++)
        nn_drop_head(p->streams[k].model);
    return 0;
}

/* ---- batches ---- */

static int batch_open(struct eval_pass *p, struct batch *b, size_t first, size_t end,
                      struct aq_err *err)
{
    *b = (struct batch){.first = first, .count = end - first < p->room ? end - first : p->room};
    b->places = xcalloc(b->count, sizeof *b->places);
    b->tiles = xcalloc(b->count, sizeof(struct backend_tile *));
    b->exact = xcalloc(b->count, sizeof(struct backend_tile *));
    for (size_t i = 0; i < b->count; i++) {
        b->places[i] = eval_domains_tile_at(p->job.domains, first + i);
        const struct backend_tile_desc *desc = &b->places[i].tile->desc;
        b->tiles[i] = p->b->ops->tile_new(p->b, desc, err);
        if (!b->tiles[i])
            return -1;
        if (p->exact && !(b->exact[i] = p->exact->ops->tile_new(p->exact, desc, err)))
            return -1;
    }
    return 0;
}

static void batch_close(struct eval_pass *p, struct batch *b)
{
    for (size_t i = 0; i < b->count; i++) {
        if (b->tiles[i])
            p->b->ops->tile_free(p->b, b->tiles[i]);
        if (b->exact[i])
            p->exact->ops->tile_free(p->exact, b->exact[i]);
    }
    free(b->places);
    free(b->tiles);
    free(b->exact);
}

static int run_batch(struct eval_pass *p, const struct batch *b, struct eval_part *part,
                     struct aq_err *err)
{
    return embed(p, b, err) < 0 || run_layers(p, b, err) < 0 || run_head(p, b, part, err) < 0 ? -1
                                                                                              : 0;
}

int eval_pass_run(struct eval_pass *p, size_t first, size_t end, struct eval_part *part,
                  eval_saved_fn *saved, void *arg, struct aq_err *err)
{
    uint64_t steps = 0;
    int r = 0;
    for (size_t k = 0; k < p->count; k++)
        steps += (uint64_t)nn_layers(p->streams[k].model) + 1;
    aq_progress_begin(&p->progress, "evaluating", steps * (end - first));
    while (first < end && r == 0) {
        struct batch b;
        r = batch_open(p, &b, first, end, err);
        if (r == 0)
            r = run_batch(p, &b, part, err);
        batch_close(p, &b);
        first += b.count;
        if (r == 0)
            r = saved(arg, first, err);
    }
    aq_progress_end(&p->progress);
    return r;
}
