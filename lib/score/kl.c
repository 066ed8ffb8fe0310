/*
 * The kl_div score: per sample, the sum over its positions of KL(p || q), where p is the
 * distribution of the next token and q the same with one group of one layer quantized.
 *
 * One forward pass keeps the input of every layer. A variant (one group under one row of the store)
 * starts from the kept input of its layer, and only the layers after it are computed again. Many
 * variants of a layer and tile go through these layers together, so that the weights of a layer are
 * loaded once for all of them. The control is one more state on the same way, with nothing
 * replaced: its divergence must be exactly 0.
 */
#include "score/scoring.h"

#include "base/mem.h"
#include "base/msg.h"
#include "nn/experts.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of the states of the variants that are computed together, without --memory. */
static const uint64_t states_usual = UINT64_C(1) << 29;

struct variant {
    size_t row; /* of the store */
    int group;  /* of the layer */
    void *h;    /* (rows, hidden): its state after the layer computed last */
};

struct kl {
    const struct scoring *s;
    struct walk w;     /* the kept inputs (rows, hidden), and the output of the last layer */
    size_t room;       /* variants at a time; the state after theirs is the control's */
    struct variant *v; /* [room] */
    size_t count;
    char *states;  /* device: [room + 1] states (rows, hidden) */
    double *sums;  /* device: [room + 1][tile rows]: KL at each row */
    double *host;  /* [tile rows]: of one of them */
    double *saved; /* [rows][2][MODEL_GROUPS][samples of the tile]: KL and clipped elements, of one
                      layer and tile */
    /* (rows, inputs): the quantized input of the group; one for each of its linears where scales
       are their own */
    struct backend_operand *x[MODEL_LINEARS];
    struct backend_operand *weights[MODEL_LINEARS]; /* (outputs, inputs): its quantized linears */
    struct nn_expert_swap experts;                  /* operands of the experts of a part */
    struct made made[MODEL_LINEARS];                /* what `weights` are quantized from */
    struct made_experts made_experts;
    size_t states_bytes, sums_bytes;
};

/* Quantized inputs that a group of linears needs at most. */
static int inputs_of_group(const struct scoring *s)
{
    int most = 1;
    bool own = false;
    for (size_t i = 0; i < s->candidates->count; i++)
        own = own || s->candidates->items[i].ws.methods.own;
    for (int64_t layer = 0; own && layer < nn_layers(s->model); layer++) {
        const struct model_layer *m = nn_layer(s->model, layer);
        for (int g = 0; g < m->group_count; g++)
            most = m->groups[g].linears > most ? m->groups[g].linears : most;
    }
    return most;
}

static uint64_t operand_bytes(const struct scoring *s, const struct backend_sizes *sizes)
{
    /* experts have operands of their own, for some at a time */
    uint64_t elements = (uint64_t)scoring_layer_elements(s);
    const struct lm_arch *a = nn_arch(s->model);
    if (a->experts)
        elements -= (uint64_t)(3 * a->experts * a->moe_intermediate_size * a->hidden_size);
    return elements * scoring_weight_bytes(s) + nn_expert_operands_bytes(a, s->b, sizes->rows) +
           (scoring_makes(s) ? made_experts_bytes(a, s->b) : 0) +
           (scoring_scales(s) ? (uint64_t)sizes->rows * (uint64_t)sizes->inputs * s->b->act_size
                              : 0) +
           (uint64_t)sizes->rows * (uint64_t)sizes->inputs * s->b->input_size;
}

int kl_plan(const struct scoring *s, struct scoring_bytes *out, struct aq_err *err)
{
    const struct lm_arch *c = nn_arch(s->model);
    const struct backend_sizes sizes = scoring_sizes(s);
    uint64_t state = scoring_act_bytes(s, c->hidden_size), rows = s->rows->count;
    uint64_t each = state + (uint64_t)s->tiles->rows * sizeof(double);
    *out = (struct scoring_bytes){
        .model = nn_buffer_bytes(c, s->b, s->tiles->rows, 1),
        .kept = scoring_kept_bytes(s),
        .operands = operand_bytes(s, &sizes),
        .sums = rows * 2 * MODEL_GROUPS * (uint64_t)scoring_most_samples(s) * sizeof(double),
        .tiles_at_once = 1,
    };
    out->scratch = s->b->ops->scratch_bytes(s->b, &sizes);
    uint64_t least = out->scratch + out->model + out->operands + out->sums + 2 * state + 2 * each;
    if (s->memory && least > s->memory)
        return scoring_too_little(s, least, err);
    uint64_t room = s->memory ? s->memory - least : UINT64_MAX;
    if (out->kept > room)
        out->spilled = out->kept;
    else
        room -= out->kept;
    uint64_t share = room < states_usual ? room : states_usual;
    uint64_t fit = 1 + share / each, most = rows * MODEL_GROUPS;
    out->batch = ((fit < most ? fit : most) + 1) * each;
    return 0;
}

/* ---- room ---- */

static int take_operands(struct kl *k, struct aq_err *err)
{
    const struct scoring *s = k->s;
    const struct backend_sizes sizes = scoring_sizes(s);
    for (int i = 0; i < inputs_of_group(s); i++) {
        k->x[i] = k->w.op->operand_new(k->w.b, sizes.rows, sizes.inputs, 0, err);
        if (!k->x[i])
            return -1;
    }
    for (int l = 0; l < MODEL_LINEARS; l++) {
        int64_t rows = 0, cols = 0;
        for (int64_t layer = 0; layer < nn_layers(s->model); layer++) {
            const struct model_layer *m = nn_layer(s->model, layer);
            if (l >= m->linear_count)
                continue;
            rows = m->linears[l].rows > rows ? m->linears[l].rows : rows;
            cols = m->linears[l].cols > cols ? m->linears[l].cols : cols;
        }
        if (rows == 0)
            break;
        k->weights[l] = k->w.op->operand_new(k->w.b, rows, cols, 1, err);
        if (!k->weights[l])
            return -1;
    }
    return nn_expert_operands_new(&k->experts, nn_arch(s->model), s->b, sizes.rows, err);
}

static int set_up(struct kl *k, const struct scoring *s, struct aq_err *err)
{
    struct scoring_bytes plan;
    if (kl_plan(s, &plan, err) < 0 || scoring_has_room(s, &plan, err) < 0 ||
        scoring_walk(s, &k->w, plan.spilled > 0, err) < 0)
        return -1;
    size_t rows = (size_t)s->tiles->rows * sizeof(double);
    k->room = (size_t)(plan.batch / (k->w.state_bytes + rows)) - 1;
    k->states_bytes = (k->room + 1) * k->w.state_bytes;
    k->sums_bytes = (k->room + 1) * rows;
    k->v = xcalloc(k->room, sizeof *k->v);
    k->host = xmalloc(rows);
    k->saved = xcalloc(plan.sums, 1);
    k->states = k->w.op->alloc(k->w.b, k->states_bytes, "states of candidates", err);
    k->sums = k->states ? k->w.op->alloc(k->w.b, k->sums_bytes, "divergences", err) : NULL;
    return k->sums ? take_operands(k, err) : -1;
}

static void tear_down(struct kl *k)
{
    struct backend *b = k->w.b;
    if (b) {
        if (k->states)
            b->ops->free(b, k->states, k->states_bytes);
        if (k->sums)
            b->ops->free(b, k->sums, k->sums_bytes);
        for (int l = 0; l < MODEL_LINEARS; l++) {
            if (k->x[l])
                b->ops->operand_free(b, k->x[l]);
            if (k->weights[l])
                b->ops->operand_free(b, k->weights[l]);
        }
        nn_expert_operands_free(&k->experts, nn_arch(k->s->model), b);
        for (int l = 0; l < MODEL_LINEARS; l++)
            made_release(b, &k->made[l]);
        made_experts_release(&k->made_experts);
        walk_close(&k->w);
    }
    free(k->v);
    free(k->host);
    free(k->saved);
}

/* Device (rows, hidden): the state of variant i, or of the control at `room`. */
static void *state_at(const struct kl *k, size_t i)
{
    return k->states + i * k->w.state_bytes;
}

/* Device [tile rows]: its divergence at each row. */
static double *sums_at(const struct kl *k, size_t i)
{
    return k->sums + i * (size_t)k->s->tiles->rows;
}

/* ---- a batch of variants of one layer and tile ---- */

static int change_experts(struct kl *k, int64_t layer, size_t tile, const void *h,
                          const struct variant *v, struct aq_err *err)
{
    const struct scoring *s = k->s;
    struct scoring_experts e = {.range = {NULL}};
    struct nn_expert_swap experts = k->experts;
    struct nn_swap swap = {.experts = &experts};
    int bad = scoring_experts(s, v->row, layer, v->group, &e, err);
    if (bad == 0) {
        k->made_experts.from = scoring_made_from(s);
        scoring_swap(&e, &s->candidates->items[s->rows->items[v->row].candidate], &k->made_experts,
                     &experts);
        experts.by = scoring_quantized_tile(s, &k->w, v->row, tile);
        (void)nn_layer_forward(s->model, layer, k->w.tiles[tile], h, v->h, &swap);
        bad = nn_check(s->model, err);
    }
    scoring_experts_release(&e);
    return bad;
}

/* v->h = the layer's output with one group quantized, from its input h (rows, hidden). The group's
   input is that of the unquantized layer, which is therefore computed first. */
static int change(struct kl *k, int64_t layer, size_t tile, const void *h, const struct variant *v,
                  struct aq_err *err)
{
    const struct scoring *s = k->s;
    const struct score_row *row = &s->rows->items[v->row];
    const struct candidate *c = &s->candidates->items[row->candidate];
    struct nn_swap swap = {0};
    struct quant_range room;
    const struct model_layer *m = nn_layer(s->model, layer);
    int in = m->groups[v->group].input, first = m->groups[v->group].first;
    const struct quant_range *range;
    if (m->groups[v->group].half[EXPERT_GATE_UP] || m->groups[v->group].half[EXPERT_DOWN])
        return change_experts(k, layer, tile, h, v, err);
    if (scoring_range(s, row, layer, in, first, &room, &range, err) < 0)
        return -1;
    const struct nn_acts *acts = nn_layer_forward(s->model, layer, k->w.tiles[tile], h, v->h, NULL);
    const struct made_from from = scoring_made_from(s);
    for (int l = first; l < first + m->groups[v->group].linears; l++) {
        struct backend_operand *x = k->x[c->ws.methods.own ? l - first : 0];
        if (c->ws.methods.own && scoring_range(s, row, layer, in, l, &room, &range, err) < 0)
            return -1;
        if (c->ws.methods.own || l == first)
            k->w.op->quantize_act(k->w.b, x, scoring_quantized_tile(s, &k->w, v->row, tile),
                                  acts->x[in], m->inputs[in].cols, &c->as, range, NULL);
        if (made_quantize(&from, &k->made[l], k->weights[l], layer, l, &c->ws, c->id, err) < 0)
            return -1;
        swap.x[l] = x;
        swap.w[l] = k->weights[l];
    }
    (void)nn_layer_forward(s->model, layer, k->w.tiles[tile], h, v->h, &swap);
    return 0;
}

/* All variants and the control, whose state is the one after theirs, through the later layers. */
static int run_suffix(struct kl *k, int64_t layer, size_t tile, struct aq_err *err)
{
    struct nn_model *m = k->s->model;
    int64_t layers = nn_layers(m);
    for (int64_t l = layer + 1; l < layers; l++) {
        if (nn_use_layer(m, l, l + 1 < layers ? l + 1 : -1, err) < 0)
            return -1;
        for (size_t i = 0; i < k->count; i++)
            (void)nn_layer_forward(m, l, k->w.tiles[tile], k->v[i].h, k->v[i].h, NULL);
        void *control = state_at(k, k->room);
        (void)nn_layer_forward(m, l, k->w.tiles[tile], control, control, NULL);
    }
    return nn_check(m, err);
}

static int measure(struct kl *k, size_t tile, struct aq_err *err)
{
    struct nn_model *m = k->s->model;
    int64_t slot = walk_slot(&k->w, nn_layers(m), tile);
    const void *h = kept_get(k->w.kept, slot, k->w.scratch[0], err);
    if (!h || nn_use_ends(m, err) < 0)
        return -1;
    void **hq = xcalloc(k->count + 1, sizeof *hq);
    double **sums = xcalloc(k->count + 1, sizeof *sums);
    for (size_t i = 0; i <= k->count; i++) {
        size_t place = i < k->count ? i : k->room;
        hq[i] = state_at(k, place);
        sums[i] = sums_at(k, place);
    }
    nn_kl(m, k->w.tiles[tile], h, hq, sums, (int)k->count + 1, NULL);
    int r = k->w.op->sync(k->w.b, err);
    free(hq);
    free(sums);
    return r;
}

static int fetch(struct kl *k, size_t place, struct aq_err *err)
{
    return k->w.op->download(k->w.b, k->host, sums_at(k, place),
                             (size_t)k->s->tiles->rows * sizeof *k->host, err);
}

static int check_control(struct kl *k, int64_t layer, size_t tile, struct aq_err *err)
{
    const struct tile *t = &k->s->tiles->items[tile];
    if (fetch(k, k->room, err) < 0)
        return -1;
    for (int32_t i = 0; i < t->desc.samples; i++)
        for (int32_t r = t->desc.first[i]; r < t->desc.first[i + 1]; r++) {
            if (!isfinite(k->host[r]))
                return walk_blame(&k->w, tile, i, "head: a logit", err);
            if (k->host[r] != 0)
                return aq_err_set(err, AQ_ERUN,
                                  "layer %" PRId64
                                  ": the unchanged model diverges from itself by %g",
                                  layer, k->host[r]);
        }
    return 0;
}

/* Sum over a sample's positions. kl: [tile rows]; all pads of a sample share its first row. */
static double sum_of_sample(const struct tile *t, int32_t i, const double *kl)
{
    double sum = 0;
    int32_t row = t->desc.first[i];
    if (t->desc.pad[i])
        sum += kl[row++] * t->pads[i];
    for (; row < t->desc.first[i + 1]; row++)
        sum += kl[row];
    return sum;
}

static double *saved_row(const struct kl *k, size_t tile, size_t row)
{
    return k->saved + row * 2 * MODEL_GROUPS * (size_t)k->s->tiles->items[tile].desc.samples;
}

static int keep_sums(struct kl *k, size_t tile, struct aq_err *err)
{
    const struct tile *t = &k->s->tiles->items[tile];
    for (size_t i = 0; i < k->count; i++) {
        double *to = saved_row(k, tile, k->v[i].row) + k->v[i].group * t->desc.samples;
        if (fetch(k, i, err) < 0)
            return -1;
        for (int32_t n = 0; n < t->desc.samples; n++)
            to[n] = sum_of_sample(t, n, k->host);
    }
    return 0;
}

static int run_variants(struct kl *k, int64_t layer, size_t tile, struct aq_err *err)
{
    struct nn_model *m = k->s->model;
    if (!k->count)
        return 0;
    const void *h = kept_get(k->w.kept, walk_slot(&k->w, layer, tile), k->w.scratch[0], err);
    if (!h || nn_use_layer(m, layer, -1, err) < 0)
        return -1;
    for (size_t i = 0; i < k->count; i++)
        if (change(k, layer, tile, h, &k->v[i], err) < 0)
            return -1;
    (void)nn_layer_forward(m, layer, k->w.tiles[tile], h, state_at(k, k->room), NULL);
    if (run_suffix(k, layer, tile, err) < 0 || measure(k, tile, err) < 0 ||
        check_control(k, layer, tile, err) < 0 || keep_sums(k, tile, err) < 0)
        return -1;
    k->count = 0;
    return 0;
}

/* ---- the walk ---- */

/* Rows with the same quantized weight follow one another, so that it is quantized once. */
static int run_group(struct kl *k, int64_t layer, size_t tile, int group, bool *handled,
                     struct aq_err *err)
{
    const struct scoring *s = k->s;
    memset(handled, 0, s->rows->count * sizeof *handled);
    for (size_t first = 0; first < s->rows->count; first++) {
        const struct candidate *c = &s->candidates->items[s->rows->items[first].candidate];
        for (size_t r = first; r < s->rows->count; r++) {
            if (handled[r] ||
                !scoring_same_weight(c, &s->candidates->items[s->rows->items[r].candidate]))
                continue;
            handled[r] = true;
            if (!scoring_lacks(s, r, layer, tile))
                continue;
            k->v[k->count] = (struct variant){r, group, state_at(k, k->count)};
            if (++k->count == k->room && run_variants(k, layer, tile, err) < 0)
                return -1;
        }
    }
    return 0;
}

/* Products of one tile for all rows of a group. */
static uint64_t suffix_products(const struct kl *k, int64_t layer)
{
    int64_t layers = nn_layers(k->s->model);
    const struct model_layer *m = nn_layer(k->s->model, layer);
    return k->s->rows->count * (uint64_t)(layers - layer + 1) * walk_layer_products(m);
}

static int run_tile(struct kl *k, int64_t layer, size_t tile, struct aq_err *err)
{
    const struct scoring *s = k->s;
    size_t samples = (size_t)s->tiles->items[tile].desc.samples;
    bool *handled = xcalloc(s->rows->count, sizeof *handled);
    int r = 0;
    for (int group = 0; group < nn_layer(s->model, layer)->group_count && r == 0; group++) {
        r = run_group(k, layer, tile, group, handled, err);
        walk_advance(&k->w, suffix_products(k, layer));
    }
    free(handled);
    if (r == 0)
        r = run_variants(k, layer, tile, err);
    for (size_t i = 0; i < s->rows->count && r == 0; i++) {
        const double *sums = saved_row(k, tile, i);
        const struct scoring_result res = {
            .parts = {[STORE_SUMS] = sums, [STORE_CLIP] = sums + MODEL_GROUPS * samples}};
        if (scoring_lacks(s, i, layer, tile))
            r = scoring_save(s, i, layer, tile, &res, err);
    }
    return r;
}

static int run(struct kl *k, const struct scoring *s, struct aq_err *err)
{
    int64_t layers = nn_layers(s->model), lowest = scoring_lowest_layer(s);
    if (lowest < 0)
        return 0;
    if (set_up(k, s, err) < 0)
        return -1;
    /* a layer costs one pass of all layers after it for each row and group */
    uint64_t total = walk_products(&k->w, k->w.computed, layers);
    for (int64_t l = lowest; l < layers; l++)
        total += suffix_products(k, l) * (uint64_t)nn_layer(s->model, l)->group_count * k->w.count;
    aq_progress_begin(&k->w.progress, "scoring", total);
    if (walk_forward(&k->w, layers, NULL, NULL, err) < 0)
        return -1;
    for (int64_t l = layers - 1; l >= lowest; l--) {
        for (size_t t = s->first_tile; t < s->end_tile; t++)
            if (k->w.tiles[t] && run_tile(k, l, t, err) < 0)
                return -1;
        if (store_checkpoint(s->store, err) < 0)
            return -1;
        aq_note(2, "layer %" PRId64 " done (kept in the store)", l);
    }
    return 0;
}

int kl_run(const struct scoring *s, struct aq_err *err)
{
    struct kl k = {.s = s};
    int r = run(&k, s, err);
    aq_progress_end(&k.w.progress);
    tear_down(&k);
    return r;
}
