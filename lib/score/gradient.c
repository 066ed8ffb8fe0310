/*
 * The gradient score. For each group of linears, each row of the store (a candidate with the ranges
 * of one data-set size) and each sample:
 *
 *     STORE_SUMS    sum over tokens and outputs of ((Yq - Y) dL/dY)^2
 *     STORE_DOTS    sum over tokens of (sum over outputs of (Yq - Y) dL/dY)^2, the dot form
 *     STORE_FIRSTS  the part of STORE_SUMS at the sample's first token
 *     STORE_CLIP    elements of the input that were clipped
 *
 * Y = X W' is the output of one linear, Yq the same from quantized X and W, L the sum of the
 * sample's token losses.
 *
 * One forward pass over all tiles keeps every layer's input h. The backward pass then goes from the
 * last layer to the first: it recomputes the layer from h, which gives X and Y of every linear, and
 * takes the gradient through it, which gives dL/dY. The last layer is computed only there, together
 * with the head. Several tiles wait until they are scored together (a batch), so that a weight is
 * quantized once for all of them; the backend's plan of memory limits their number.
 *
 * On a device, the results of a layer are written to the store while it computes the next one.
 */
#include "score/scoring.h"

#include "base/mem.h"
#include "base/msg.h"
#include "nn/experts.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One tile of a batch, with what the backward pass of the current layer left for the scores. */
struct batch_tile {
    size_t tile;         /* its number among all tiles */
    struct nn_acts acts; /* x (rows, inputs), y and dy (rows, outputs) of every linear */
    /* [inputs_at_once]: operands (rows, inputs) for the quantized inputs of one call of `score` */
    struct backend_operand **x;
    struct nn_routes *routes; /* of its own; the first place of a batch uses the model's */
};

/* Results in gradient.host that are not in the store yet. */
struct waiting {
    int64_t layer;
    size_t *tiles; /* of the places */
    size_t places; /* 0: none */
};

struct gradient {
    const struct scoring *s;
    struct backend *b;
    const struct backend_ops *op;
    /* The kept inputs h (rows, hidden) by layer and tile. The slot of the last layer's input is
       overwritten by the gradient dh (rows, hidden), which then goes down layer by layer. */
    struct walk w;
    struct scoring_bytes plan;
    struct batch_tile *places; /* [tiles_at_once] */
    char *batch; /* acts of all places but the first, which uses the model's own buffers */
    struct backend_operand *weight; /* (outputs, inputs): the linear that is scored */
    struct nn_expert_swap experts;  /* operands of the experts of a part */
    char *outputs;    /* device: [rows at once][place]: outputs of a mixture, (rows, hidden) */
    struct made made; /* what `weight` is quantized from, where a method changes it */
    struct made_experts made_experts;
    double *sums;  /* device: [place][row][STORE_PARTS][MODEL_GROUPS][samples of the tile] */
    double *dots;  /* device, in the same memory after sums: [place][row][tile rows] (Yq - Y)
                      dL/dY added up over a group's outputs; zero between groups */
    double *host;  /* [place][row][STORE_PARTS][MODEL_GROUPS][samples]: sums, downloaded */
    bool overlaps; /* the backend computes by itself; otherwise there is one place in host */
    struct waiting waiting;
    size_t *order;    /* all rows: those with one weight treatment are neighbours */
    size_t cell_sums; /* doubles of one place and row in sums: those of the fullest tile */
    double loss;      /* of the tiles so far */
    int64_t labels;   /* their targets */
    int64_t lowest;   /* the layer that ends the backward pass */
};

/* ---- sizes ---- */

/* The input of the experts' down projections is recomputed under each row: no place keeps it. */
static bool is_inner(const struct model_layer *m, int input)
{
    return m->experts_input[EXPERT_DOWN] == input;
}

/* Inputs, outputs and gradients of one tile. */
static size_t place_bytes(const struct scoring *s)
{
    size_t most = 0;
    for (int64_t layer = 0; layer < nn_layers(s->model); layer++) {
        const struct model_layer *m = nn_layer(s->model, layer);
        size_t sum = 0;
        for (int i = 0; i < m->input_count; i++)
            sum += is_inner(m, i) ? 0 : scoring_act_bytes(s, m->inputs[i].cols);
        for (int l = 0; l < m->linear_count; l++)
            sum += 2 * scoring_act_bytes(s, m->linears[l].rows);
        if (m->experts)
            sum += 2 * scoring_act_bytes(s, nn_arch(s->model)->hidden_size);
        most = sum > most ? sum : most;
    }
    return most;
}

/* Doubles that a tile and row have in gradient.sums. */
static size_t cell_sums(const struct scoring *s)
{
    return (size_t)STORE_PARTS * MODEL_GROUPS * (size_t)scoring_most_samples(s);
}

/* Sums and dots of one tile for all rows. */
static uint64_t numbers_bytes(const struct scoring *s)
{
    return (uint64_t)s->rows->count * (cell_sums(s) + (size_t)s->tiles->rows) * sizeof(double);
}

/*
 * How many tiles a batch should have. With k of them, every weight is quantized tiles / k times
 * under each row, and the memory of k places is touched for the first time, which costs about as
 * much for a byte as quantizing does for an element. The sum of both is smallest for this k.
 */
static size_t tiles_worth_it(const struct scoring *s, uint64_t place)
{
    double elements = (double)scoring_layer_elements(s);
    double layers = (double)nn_layers(s->model);
    double all = layers * elements * (double)s->rows->count * (double)(s->end_tile - s->first_tile);
    return (size_t)ceil(sqrt(all / (double)place));
}

/* Room for quantized inputs from one weight treatment to the next: as if each row had its own, in
   their widest form. */
static uint64_t inputs_worth_it(const struct scoring *s, size_t tiles, int64_t cols)
{
    uint64_t each = (uint64_t)s->tiles->rows * (uint64_t)cols * s->b->weight_size;
    uint64_t all = tiles * s->rows->count * each;
    return all < s->b->keep_bytes ? all : s->b->keep_bytes;
}

int gradient_plan(const struct scoring *s, struct scoring_bytes *out, struct aq_err *err)
{
    const struct lm_arch *c = nn_arch(s->model);
    size_t tiles = s->end_tile - s->first_tile;
    const struct backend_sizes sizes = scoring_sizes(s);
    *out = (struct scoring_bytes){
        .model = nn_buffer_bytes(c, s->b, s->tiles->rows, 1),
        .kept = scoring_kept_bytes(s),
    };
    uint64_t act_operand = (uint64_t)s->tiles->rows * (uint64_t)sizes.inputs * s->b->input_size *
                           (uint64_t)s->b->inputs_at_once;
    uint64_t output = scoring_has_experts(s) ? scoring_act_bytes(s, c->hidden_size) : 0;
    if (scoring_scales(s)) /* and the scaled input itself */
        act_operand += (uint64_t)s->tiles->rows * (uint64_t)sizes.inputs * s->b->act_size *
                       (uint64_t)s->b->inputs_at_once;
    uint64_t w_operand = (uint64_t)sizes.weight * scoring_weight_bytes(s) +
                         nn_expert_operands_bytes(c, s->b, sizes.rows) +
                         (scoring_makes(s) ? made_experts_bytes(c, s->b) : 0);
    uint64_t place = place_bytes(s), sums = numbers_bytes(s);
    out->scratch = s->b->ops->scratch_bytes(s->b, &sizes);
    uint64_t least = out->scratch + out->model + w_operand + act_operand + sums + output +
                     2 * scoring_act_bytes(s, c->hidden_size);
    if (s->memory && least > s->memory)
        return scoring_too_little(s, least, err);
    uint64_t room = s->memory ? s->memory - least : UINT64_MAX;
    /* Kept inputs first: a file is far slower than quantizing a weight once more. */
    if (out->kept > room)
        out->spilled = out->kept;
    else
        room -= out->kept;
    uint64_t each = place + act_operand + sums + output + nn_routes_bytes(c, s->tiles->rows);
    uint64_t share = room < s->b->batch_bytes ? room : s->b->batch_bytes;
    size_t fit = 1 + (size_t)(share / each), most = tiles_worth_it(s, place);
    fit = fit > most ? most : fit;
    out->tiles_at_once = fit < 1 ? 1 : fit > tiles ? tiles : fit;
    out->batch = (out->tiles_at_once - 1) * place;
    if (output) {
        /* rows at once: their number changes no number, only how often weights are quantized */
        uint64_t all = out->tiles_at_once * output, left = room - (out->tiles_at_once - 1) * each;
        uint64_t wish = s->b->batch_bytes / 4; /* beside the tiles */
        uint64_t usual = left < wish ? left : wish;
        uint64_t at_once = usual / all < 1 ? 1 : usual / all;
        out->outputs = (at_once < s->rows->count ? at_once : s->rows->count) * all;
    }
    out->operands = w_operand + out->tiles_at_once * act_operand;
    out->inputs = inputs_worth_it(s, out->tiles_at_once, sizes.inputs);
    uint64_t taken = (out->tiles_at_once - 1) * each + out->outputs;
    uint64_t left = room > taken ? room - taken : 0;
    out->inputs = out->inputs < left ? out->inputs : left;
    out->sums = out->tiles_at_once * sums;
    return 0;
}

/* ---- set-up ---- */

/* The acts of one tile and layer in the memory of a place. */
static void carve_place(const struct gradient *g, const struct model_layer *m, struct batch_tile *p,
                        char *at)
{
    for (int i = 0; i < m->input_count; i++) {
        p->acts.x[i] = is_inner(m, i) ? NULL : at;
        at += is_inner(m, i) ? 0 : scoring_act_bytes(g->s, m->inputs[i].cols);
    }
    if (m->experts) {
        p->acts.block_y = at;
        at += scoring_act_bytes(g->s, nn_arch(g->s->model)->hidden_size);
        p->acts.block_dy = at;
        at += scoring_act_bytes(g->s, nn_arch(g->s->model)->hidden_size);
        p->acts.routes = p->routes;
    }
    for (int l = 0; l < m->linear_count; l++) {
        size_t n = scoring_act_bytes(g->s, m->linears[l].rows);
        p->acts.y[l] = at;
        p->acts.dy[l] = at + n;
        at += 2 * n;
    }
}

static int take_places(struct gradient *g, struct aq_err *err)
{
    const struct backend_sizes sizes = scoring_sizes(g->s);
    g->places = xcalloc(g->plan.tiles_at_once, sizeof *g->places);
    if (g->plan.batch) {
        g->batch = g->op->alloc(g->b, g->plan.batch, "the tiles scored together", err);
        if (!g->batch)
            return -1;
    }
    for (size_t i = 0; i < g->plan.tiles_at_once; i++) {
        g->places[i].x = xcalloc((size_t)g->b->inputs_at_once, sizeof *g->places[i].x);
        for (int k = 0; k < g->b->inputs_at_once; k++) {
            g->places[i].x[k] = g->op->operand_new(g->b, sizes.rows, sizes.inputs, 0, err);
            if (!g->places[i].x[k])
                return -1;
        }
    }
    for (size_t i = 1; i < g->plan.tiles_at_once; i++)
        if (nn_routes_new(&g->places[i].routes, nn_arch(g->s->model), g->b, g->s->tiles->rows,
                          err) < 0)
            return -1;
    if (g->plan.outputs &&
        !(g->outputs = g->op->alloc(g->b, g->plan.outputs, "outputs of experts", err)))
        return -1;
    g->weight = g->op->operand_new(g->b, sizes.outputs, sizes.inputs, 1, err);
    return g->weight
               ? nn_expert_operands_new(&g->experts, nn_arch(g->s->model), g->b, sizes.rows, err)
               : -1;
}

static const struct candidate *candidate_of(const struct scoring *s, size_t row)
{
    return &s->candidates->items[s->rows->items[row].candidate];
}

static bool same_weight(const struct scoring *s, size_t a, size_t b)
{
    return scoring_same_weight(candidate_of(s, a), candidate_of(s, b));
}

/* Inputs that a backend may quantize together are neighbours, in the same order under each weight
   treatment: it finds them as they were under the one before. */
static bool goes_before(const struct scoring *s, size_t a, size_t b)
{
    const struct quant_spec *p = &candidate_of(s, a)->as, *q = &candidate_of(s, b)->as;
    const struct quant_step *x = &p->step[0], *y = &q->step[0];
    if (p->steps != q->steps)
        return p->steps > q->steps;
    if (x->scope != y->scope)
        return x->scope < y->scope;
    if (x->dynamic != y->dynamic)
        return x->dynamic < y->dynamic;
    if (x->number != y->number || x->bits != y->bits)
        return x->number != y->number ? x->number < y->number : x->bits < y->bits;
    return a < b;
}

/* Weight treatments come in the order of their first rows. */
static size_t *order_rows(const struct scoring *s)
{
    size_t n = 0, rows = s->rows->count, *order = xcalloc(rows, sizeof *order);
    bool *taken = xcalloc(rows, sizeof *taken);
    for (size_t first = 0; first < rows; first++) {
        size_t begin = n;
        for (size_t r = first; r < rows; r++) {
            if (taken[r] || !same_weight(s, first, r))
                continue;
            size_t at = n++;
            for (; at > begin && goes_before(s, r, order[at - 1]); at--)
                order[at] = order[at - 1];
            order[at] = r;
            taken[r] = true;
        }
    }
    free(taken);
    return order;
}

static int set_up(struct gradient *g, struct aq_err *err)
{
    const struct scoring *s = g->s;
    if (gradient_plan(s, &g->plan, err) < 0 || scoring_has_room(s, &g->plan, err) < 0 ||
        scoring_walk(s, &g->w, g->plan.spilled > 0, err) < 0)
        return -1;
    g->cell_sums = cell_sums(s);
    g->order = order_rows(s);
    g->sums = g->op->alloc(g->b, g->plan.sums, "score sums", err);
    g->overlaps = g->b->ops != &backend_cpu_ops;
    g->waiting.tiles = xcalloc(g->plan.tiles_at_once, sizeof *g->waiting.tiles);
    g->host = xcalloc((g->overlaps ? g->plan.tiles_at_once : 1) * s->rows->count * g->cell_sums,
                      sizeof *g->host);
    if (!g->sums)
        return -1;
    size_t dots = g->plan.tiles_at_once * s->rows->count * (size_t)s->tiles->rows;
    g->dots = g->sums + g->plan.tiles_at_once * s->rows->count * g->cell_sums;
    g->op->zero(g->b, g->dots, dots * sizeof *g->dots);
    return take_places(g, err);
}

static void tear_down(struct gradient *g)
{
    const struct backend_ops *op = g->op;
    for (size_t i = 0; g->places && i < g->plan.tiles_at_once; i++) {
        for (int k = 0; g->places[i].x && k < g->b->inputs_at_once; k++)
            if (g->places[i].x[k])
                op->operand_free(g->b, g->places[i].x[k]);
        free(g->places[i].x);
        nn_routes_free(g->places[i].routes);
    }
    nn_expert_operands_free(&g->experts, nn_arch(g->s->model), g->b);
    if (g->outputs)
        op->free(g->b, g->outputs, g->plan.outputs);
    if (g->weight)
        op->operand_free(g->b, g->weight);
    made_release(g->b, &g->made);
    made_experts_release(&g->made_experts);
    if (g->batch)
        op->free(g->b, g->batch, g->plan.batch);
    if (g->sums)
        op->free(g->b, g->sums, g->plan.sums);
    if (g->w.op)
        walk_close(&g->w);
    free(g->places);
    free(g->order);
    free(g->waiting.tiles);
    free(g->host);
}

/* ---- head ---- */

/* The state that the head read is not kept: it is made again to see whether it was finite. */
static int blame_loss(struct gradient *g, size_t tile, int32_t sample, struct aq_err *err)
{
    if (!walk_step(&g->w, nn_layers(g->s->model) - 1, tile, err))
        return -1;
    return walk_blame(&g->w, tile, sample, "head: the loss", err);
}

/* The losses of a tile's samples, which the head left in the room for sums. */
static int take_loss(struct gradient *g, size_t at, struct aq_err *err)
{
    const struct tile *tile = &g->s->tiles->items[at];
    double *loss = g->host;
    if (g->op->download(g->b, loss, g->sums, (size_t)tile->desc.samples * sizeof *loss, err) < 0)
        return -1;
    for (int32_t i = 0; i < tile->desc.samples; i++) {
        if (!isfinite(loss[i]))
            return blame_loss(g, at, i, err);
        g->loss += loss[i];
        g->labels += tile->labels[i];
    }
    return 0;
}

static void end_head(struct gradient *g)
{
    aq_note(1, "loss %.6f per token over %" PRId64 " tokens, forward pass and head after %.2f s",
            g->labels ? g->loss / (double)g->labels : 0, g->labels, aq_now() - g->s->began);
    nn_drop_ends(g->s->model);
}

static size_t cell_at(const struct gradient *g, size_t place, size_t row)
{
    return (place * g->s->rows->count + row) * g->cell_sums;
}

/* Device [samples of the tile]: a part of one place, row and group. */
static double *group_sums(const struct gradient *g, size_t place, size_t row, int group,
                          enum store_part part)
{
    size_t samples = (size_t)g->s->tiles->items[g->places[place].tile].desc.samples;
    return g->sums + cell_at(g, place, row) +
           ((size_t)part * MODEL_GROUPS + (size_t)group) * samples;
}

/* Device [tile rows]: the dot form by token of one place and row, for the group being scored. */
static double *row_dots(const struct gradient *g, size_t place, size_t row)
{
    return g->dots + (place * g->s->rows->count + row) * (size_t)g->s->tiles->rows;
}

/* Where the score of one place, row and group goes; y, dy: what its output is compared with. */
static struct backend_score_job job_of(const struct gradient *g, size_t place, size_t row,
                                       int group, const void *y, const void *dy)
{
    return (struct backend_score_job){.tile = g->w.tiles[g->places[place].tile],
                                      .y = y,
                                      .dy = dy,
                                      .sums = group_sums(g, place, row, group, STORE_SUMS),
                                      .firsts = group_sums(g, place, row, group, STORE_FIRSTS),
                                      .dots = row_dots(g, place, row)};
}

/* ---- results ---- */

static double *host_of(const struct gradient *g, size_t place)
{
    return g->host + (g->overlaps ? cell_at(g, place, 0) : 0);
}

static int fetch_place(struct gradient *g, int64_t layer, size_t place, struct aq_err *err)
{
    size_t bytes = g->s->rows->count * g->cell_sums * sizeof(double);
    if (g->op->download(g->b, host_of(g, place), g->sums + cell_at(g, place, 0), bytes, err) < 0)
        return aq_err_prefix(err, "layer %" PRId64, layer);
    return 0;
}

static int save_place(struct gradient *g, int64_t layer, size_t place, size_t tile,
                      struct aq_err *err)
{
    const struct scoring *s = g->s;
    size_t rows = s->rows->count;
    size_t samples = (size_t)s->tiles->items[tile].desc.samples;
    for (size_t r = 0; r < rows; r++) {
        if (!scoring_lacks(s, r, layer, tile))
            continue;
        const double *sums = host_of(g, place) + r * g->cell_sums;
        struct scoring_result res;
        for (size_t p = 0; p < STORE_PARTS; p++)
            res.parts[p] = sums + p * MODEL_GROUPS * samples;
        if (scoring_save(s, r, layer, tile, &res, err) < 0)
            return -1;
    }
    return 0;
}

static void say_done(int64_t layer)
{
    aq_note(2, "layer %" PRId64 " done (kept in the store)", layer);
}

/* Into the store with what waits, but for a layer that is not finished: its notes and its sync come
   with its last tiles. */
static int write_waiting(struct gradient *g, bool finished, struct aq_err *err)
{
    size_t places = g->waiting.places;
    g->waiting.places = 0;
    for (size_t i = 0; i < places; i++)
        if (save_place(g, g->waiting.layer, i, g->waiting.tiles[i], err) < 0)
            return -1;
    if (places == 0 || !finished)
        return 0;
    if (store_checkpoint(g->s->store, err) < 0)
        return -1;
    say_done(g->waiting.layer);
    return 0;
}

/* ---- backward ---- */

static int backward_tile(struct gradient *g, int64_t layer, struct batch_tile *p,
                         struct aq_err *err)
{
    struct nn_model *m = g->s->model;
    int64_t last = nn_layers(m) - 1, slot = walk_slot(&g->w, last, p->tile);
    const struct backend_tile *t = g->w.tiles[p->tile];
    size_t at = (size_t)(p - g->places);
    const struct nn_acts *into = at ? &p->acts : NULL, *acts;
    void *h = kept_get(g->w.kept, walk_slot(&g->w, layer, p->tile), g->w.scratch[0], err), *dh;
    if (!h)
        return -1;
    if (at)
        carve_place(g, nn_layer(m, layer), p, g->batch + (at - 1) * place_bytes(g->s));
    if (layer == last) {
        if (write_waiting(g, false, err) < 0) /* the losses come to its place */
            return -1;
        dh = g->w.scratch[1];
        acts = nn_last_backward(m, t, h, g->sums, dh, layer > g->lowest, into);
        if (take_loss(g, p->tile, err) < 0)
            return -1;
    } else {
        dh = kept_get(g->w.kept, slot, g->w.scratch[1], err);
        if (!dh)
            return -1;
        acts = nn_layer_backward(m, layer, t, h, dh, layer > g->lowest, into);
    }
    if (nn_check(m, err) < 0)
        return -1;
    p->acts = *acts;
    walk_advance(&g->w, 3 * walk_layer_products(nn_layer(m, layer)));
    return kept_put(g->w.kept, slot, dh, err);
}

enum { HELD = MODEL_INPUTS + MODEL_LINEARS };

/* Products with one quantized weight, collected for one call of the backend's `score`. */
struct jobs {
    struct backend_score_job *items; /* [places x inputs_at_once] */
    int count;
    int inputs; /* operands in use in each place's x */
    /* [inputs_at_once]: row x HELD + input that the places' x[i] hold, or + MODEL_INPUTS + linear
       where its scales are its own; -1: nothing. The next linear of a group reads the same input
       and finds it quantized. */
    int64_t *held;
};

/* One linear under one row, over the tiles of the batch that lack it. */
static int add_row(struct gradient *g, int64_t layer, int l, size_t row, size_t places,
                   struct jobs *jobs, struct aq_err *err)
{
    const struct scoring *s = g->s;
    const struct candidate *c = candidate_of(s, row);
    const struct model_layer *m = nn_layer(s->model, layer);
    int in = m->linears[l].input, group = m->linears[l].group;
    struct quant_range room;
    const struct quant_range *range;
    if (scoring_range(s, &s->rows->items[row], layer, in, l, &room, &range, err) < 0)
        return -1;
    int64_t *held = &jobs->held[jobs->inputs];
    int64_t wanted = (int64_t)row * HELD + (c->ws.methods.own ? MODEL_INPUTS + l : in);
    for (size_t i = 0; i < places; i++) {
        struct batch_tile *p = &g->places[i];
        struct backend_operand *x = p->x[jobs->inputs];
        if (!scoring_lacks(s, row, layer, p->tile))
            continue;
        /* members of a group share their input: count its clipped elements once; a range of the
         * data clips nothing */
        bool counted = m->groups[group].first == l && !c->own_range;
        double *clip = counted ? group_sums(g, i, row, group, STORE_CLIP) : NULL;
        if (*held != wanted)
            g->op->quantize_act(g->b, x, scoring_quantized_tile(s, &g->w, row, p->tile),
                                p->acts.x[in], m->inputs[in].cols, &c->as, range, clip);
        struct backend_score_job *job = &jobs->items[jobs->count++];
        *job = job_of(g, i, row, group, p->acts.y[l], p->acts.dy[l]);
        job->x = x;
        job->samples = scoring_samples(s, row, p->tile);
    }
    *held = wanted;
    jobs->inputs++;
    return 0;
}

static void score_jobs(struct gradient *g, struct jobs *jobs)
{
    if (jobs->count)
        g->op->score(g->b, g->weight, jobs->items, jobs->count);
    jobs->count = jobs->inputs = 0;
}

static bool row_lacks_here(const struct gradient *g, int64_t layer, size_t row, size_t places)
{
    for (size_t i = 0; i < places; i++)
        if (scoring_lacks(g->s, row, layer, g->places[i].tile))
            return true;
    return false;
}

/* One linear under `count` rows that share a weight treatment, of which the first is lacking. */
static int score_linear(struct gradient *g, int64_t layer, int l, const size_t *rows, size_t count,
                        size_t places, struct jobs *jobs, struct aq_err *err)
{
    const struct scoring *s = g->s;
    const struct made_from from = scoring_made_from(s);
    const struct candidate *c = candidate_of(s, rows[0]);
    if (made_quantize(&from, &g->made, g->weight, layer, l, &c->ws, c->id, err) < 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        if (!row_lacks_here(g, layer, rows[i], places))
            continue;
        if (add_row(g, layer, l, rows[i], places, jobs, err) < 0)
            return -1;
        if (jobs->inputs == g->b->inputs_at_once)
            score_jobs(g, jobs);
    }
    score_jobs(g, jobs);
    return 0;
}

/* Linears first..end - 1, which read one input, under all rows: a weight treatment at a time, so
   that the linears after the first find their inputs quantized. */
static int score_linears(struct gradient *g, int64_t layer, int first, int end, size_t places,
                         struct jobs *jobs, struct aq_err *err)
{
    const size_t *order = g->order;
    size_t alike, rows = g->s->rows->count;
    if (g->op->inputs_keep)
        g->op->inputs_keep(g->b, g->plan.inputs);
    for (size_t at = 0; at < rows; at += alike) {
        alike = 1;
        while (at + alike < rows && same_weight(g->s, order[at], order[at + alike]))
            alike++;
        size_t from = 0;
        while (from < alike && !row_lacks_here(g, layer, order[at + from], places))
            from++;
        for (int l = first; l < end && from < alike; l++)
            if (score_linear(g, layer, l, &order[at + from], alike - from, places, jobs, err) < 0)
                return -1;
    }
    if (g->op->inputs_keep) /* its numbers will be others */
        g->op->inputs_keep(g->b, 0);
    return 0;
}

/* ---- experts ---- */

/* One row of the store in a mixture: the treatment of a group of its experts. */
struct expert_row {
    size_t row;
    const struct candidate *c;
    struct scoring_experts treatment;
};

static void *output_at(const struct gradient *g, size_t at, size_t place)
{
    size_t bytes = scoring_act_bytes(g->s, nn_arch(g->s->model)->hidden_size);
    return g->outputs + (at * g->plan.tiles_at_once + place) * bytes;
}

/* Those of g->order that these places lack. Returns how many there are. */
static size_t lacking_rows(const struct gradient *g, int64_t layer, size_t places, size_t *rows)
{
    size_t n = 0;
    for (size_t i = 0; i < g->s->rows->count; i++)
        if (row_lacks_here(g, layer, g->order[i], places))
            rows[n++] = g->order[i];
    return n;
}

static int describe_row(struct gradient *g, int64_t layer, int group, size_t row,
                        struct expert_row *out, struct aq_err *err)
{
    const struct scoring *s = g->s;
    out->row = row;
    out->c = candidate_of(s, row);
    return scoring_experts(s, row, layer, group, &out->treatment, err);
}

/* Adds the outputs of the experts of part `i`, quantized under rows of the store that share a
   weight treatment, to output_at(at + k, place) of every place. */
static int add_experts(struct gradient *g, int64_t layer, int group, int i, size_t at,
                       const struct expert_row *rows, size_t count, size_t places,
                       struct aq_err *err)
{
    const struct scoring *s = g->s;
    int in = nn_layer(s->model, layer)->experts_input[EXPERT_GATE_UP];
    struct nn_expert_swap swap = g->experts;
    for (size_t place = 0; place < places; place++) {
        struct batch_tile *p = &g->places[place];
        nn_experts_take(s->model, p->acts.routes, i, p->acts.x[in]);
        for (size_t k = 0; k < count; k++) {
            const struct expert_row *row = &rows[k];
            if (!scoring_lacks(s, row->row, layer, p->tile))
                continue;
            scoring_swap(&row->treatment, row->c, &g->made_experts, &swap);
            swap.by = scoring_quantized_tile(s, &g->w, row->row, p->tile);
            swap.clipped =
                row->c->own_range ? NULL : group_sums(g, place, row->row, group, STORE_CLIP);
            if (nn_experts_add(s->model, layer, p->acts.routes, i, &swap,
                               output_at(g, at + k, place), err) < 0)
                return -1;
        }
    }
    return 0;
}

/* Rows from the first on that share its weight treatment. */
static size_t alike_rows(const struct expert_row *rows, size_t count)
{
    size_t n = 1;
    while (n < count && scoring_same_weight(rows[n].c, rows[0].c))
        n++;
    return n;
}

/*
 * A mixture is scored at its output (rows, hidden), with the routes of the unquantized model: the
 * differences of a token's experts are added up before they are squared. `room` rows of the store
 * have outputs at the same time; the loop over experts is inside, so that each is quantized once
 * for them.
 */
static int score_experts(struct gradient *g, int64_t layer, int group, size_t places,
                         struct aq_err *err)
{
    const struct scoring *s = g->s;
    int parts = g->places[0].acts.routes->part_count;
    int64_t hidden = nn_arch(s->model)->hidden_size;
    size_t each = g->plan.tiles_at_once * scoring_act_bytes(s, hidden);
    size_t room = each ? g->plan.outputs / each : 0;
    if (room == 0) /* the plan has room for one at least */
        return aq_err_set(err, AQ_ERUN, "no room for the outputs of experts");
    size_t *order = xcalloc(s->rows->count, sizeof *order);
    size_t count = lacking_rows(g, layer, places, order);
    struct expert_row *rows = xcalloc(room, sizeof *rows);
    int bad = 0;
    for (size_t done = 0; done < count && bad == 0; done += room) {
        size_t n = count - done < room ? count - done : room;
        g->op->zero(g->b, g->outputs, g->plan.outputs);
        for (size_t k = 0; k < n && bad == 0; k++)
            bad = describe_row(g, layer, group, order[done + k], &rows[k], err);
        for (int i = 0; i < parts && bad == 0; i++)
            for (size_t k = 0, alike; k < n && bad == 0; k += alike) {
                alike = alike_rows(&rows[k], n - k);
                bad = add_experts(g, layer, group, i, k, &rows[k], alike, places, err);
            }
        for (size_t k = 0; k < n && bad == 0; k++)
            for (size_t i = 0; i < places; i++) {
                struct batch_tile *p = &g->places[i];
                size_t row = rows[k].row;
                const struct backend_score_job job =
                    job_of(g, i, row, group, p->acts.block_y, p->acts.block_dy);
                if (scoring_lacks(s, row, layer, p->tile))
                    g->op->score_output(g->b, &job, output_at(g, k, i), hidden);
            }
    }
    for (size_t k = 0; k < room; k++)
        scoring_experts_release(&rows[k].treatment);
    free(rows);
    free(order);
    return bad;
}

/* After the last linear of a group: its dots of all rows are squared and added up by sample. Rows
   that a tile does not lack have zeros. */
static void end_group(struct gradient *g, int group, size_t places)
{
    for (size_t i = 0; i < places; i++)
        g->op->dots_end(g->b, g->w.tiles[g->places[i].tile], row_dots(g, i, 0),
                        group_sums(g, i, 0, group, STORE_DOTS), (int64_t)g->cell_sums,
                        (int)g->s->rows->count);
}

/* What a batch of tiles has left. The store is written at once where nothing else would go on
   meanwhile. */
static int take_results(struct gradient *g, int64_t layer, size_t places, struct aq_err *err)
{
    if (write_waiting(g, layer != g->waiting.layer, err) < 0)
        return -1;
    for (size_t i = 0; i < places; i++) {
        size_t tile = g->places[i].tile;
        if (fetch_place(g, layer, i, err) < 0 ||
            (!g->overlaps && save_place(g, layer, i, tile, err) < 0))
            return -1;
        g->waiting.tiles[i] = tile;
    }
    g->waiting.layer = layer;
    g->waiting.places = g->overlaps ? places : 0;
    return 0;
}

static bool place_scored(const struct gradient *g, int64_t layer, size_t tile)
{
    for (size_t r = 0; r < g->s->rows->count; r++)
        if (scoring_lacks(g->s, r, layer, tile))
            return true;
    return false;
}

static int score_batch(struct gradient *g, int64_t layer, size_t places, struct aq_err *err)
{
    size_t inputs = (size_t)g->b->inputs_at_once;
    struct jobs jobs = {.items = xcalloc(places * inputs, sizeof *jobs.items),
                        .held = xcalloc(inputs, sizeof *jobs.held)};
    for (size_t i = 0; i < inputs; i++)
        jobs.held[i] = -1;
    g->op->zero(g->b, g->sums, places * g->s->rows->count * g->cell_sums * sizeof(double));
    const struct model_layer *m = nn_layer(g->s->model, layer);
    int bad = 0;
    for (int l = 0, end; l < m->linear_count && bad == 0; l = end) {
        int group = m->linears[l].group;
        end = m->groups[group].first + m->groups[group].linears;
        bad = score_linears(g, layer, l, end, places, &jobs, err);
        if (bad == 0 && l == 0) /* while the device works */
            bad = write_waiting(g, layer != g->waiting.layer, err);
        if (bad == 0)
            end_group(g, group, places);
        walk_advance(&g->w, (size_t)(end - l) * g->s->rows->count * places);
    }
    for (int k = m->experts_group; k < m->group_count && m->experts && bad == 0; k++) {
        bad = score_experts(g, layer, k, places, err);
        if (bad == 0)
            end_group(g, k, places);
        walk_advance(&g->w, 2 * g->s->rows->count * places / (size_t)m->experts_groups);
    }
    free(jobs.items);
    free(jobs.held);
    return bad < 0 ? -1 : take_results(g, layer, places, err);
}

static int backward_layer(struct gradient *g, int64_t layer, struct aq_err *err)
{
    size_t places = 0;
    for (size_t t = g->s->first_tile; t < g->s->end_tile; t++) {
        if (!g->w.tiles[t])
            continue;
        struct batch_tile *p = &g->places[places];
        p->tile = t;
        if (backward_tile(g, layer, p, err) < 0)
            return -1;
        places += place_scored(g, layer, t); /* else the next tile takes its place */
        if (places == g->plan.tiles_at_once) {
            if (score_batch(g, layer, places, err) < 0)
                return -1;
            places = 0;
        }
    }
    if (places && score_batch(g, layer, places, err) < 0)
        return -1;
    if (g->waiting.places)
        return 0;
    if (store_checkpoint(g->s->store, err) < 0)
        return -1;
    say_done(layer);
    return 0;
}

static int run(struct gradient *g, struct aq_err *err)
{
    const struct scoring *s = g->s;
    int64_t layers = nn_layers(s->model);
    g->made_experts.from = scoring_made_from(s);
    g->lowest = scoring_lowest_layer(s);
    if (g->lowest < 0)
        return 0;
    /* a backward pass costs three forward passes, a row one */
    if (set_up(g, err) < 0)
        return -1;
    aq_progress_begin(&g->w.progress, "scoring",
                      walk_products(&g->w, g->w.computed, layers - 1) +
                          (3 + s->rows->count) * walk_products(&g->w, g->lowest, layers));
    if (walk_forward(&g->w, layers - 1, NULL, NULL, err) < 0)
        return -1;
    for (int64_t l = layers - 1; l >= g->lowest; l--) {
        if (nn_use_layer(s->model, l, l > g->lowest ? l - 1 : -1, err) < 0 ||
            backward_layer(g, l, err) < 0)
            return -1;
        if (l == layers - 1)
            end_head(g);
    }
    return write_waiting(g, true, err) < 0 ? -1 : g->op->sync(g->b, err);
}

int gradient_run(const struct scoring *s, struct aq_err *err)
{
    struct gradient g = {.s = s, .b = s->b, .op = s->b->ops};
    int r = run(&g, err);
    if (r < 0) /* what was finished before is kept */
        (void)write_waiting(&g, true, NULL);
    aq_progress_end(&g.w.progress);
    tear_down(&g);
    return r;
}
