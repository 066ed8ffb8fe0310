#include "score/scoring.h"

#include "base/mem.h"
#include "nn/experts.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

bool scoring_has_experts(const struct scoring *s)
{
    return nn_arch(s->model)->experts > 0;
}

bool scoring_wants(const struct scoring *s, size_t row, size_t tile)
{
    return tile >= s->first_tile && tile < s->end_tile &&
           s->tiles->items[tile].sample < s->rows->items[row].samples &&
           (!s->own || s->own[tile * s->rows->count + row]);
}

int32_t scoring_samples(const struct scoring *s, size_t row, size_t tile)
{
    const struct tile *t = &s->tiles->items[tile];
    int64_t prefix = s->rows->items[row].prefix, all = t->desc.samples;
    int64_t samples = prefix && prefix - t->sample < all ? prefix - t->sample : all;
    return samples < 0 ? 0 : (int32_t)samples;
}

bool scoring_lacks(const struct scoring *s, size_t row, int64_t layer, size_t tile)
{
    return scoring_wants(s, row, tile) && !store_done(s->store, row, layer, (int64_t)tile);
}

static bool row_lacks(const struct scoring *s, size_t row, size_t tile)
{
    for (int64_t l = 0; l < nn_layers(s->model); l++)
        if (scoring_lacks(s, row, l, tile))
            return true;
    return false;
}

bool scoring_tile_lacks(const struct scoring *s, size_t tile)
{
    for (size_t r = 0; r < s->rows->count; r++)
        if (row_lacks(s, r, tile))
            return true;
    return false;
}

static bool row_is_open(const struct scoring *s, size_t row)
{
    for (size_t t = s->first_tile; t < s->end_tile; t++)
        if (row_lacks(s, row, t))
            return true;
    return false;
}

/* Rows of a candidate are neighbours. */
size_t scoring_open_candidates(const struct scoring *s)
{
    size_t open = 0, last = SIZE_MAX;
    for (size_t r = 0; r < s->rows->count; r++) {
        size_t c = s->rows->items[r].candidate;
        if (c != last && row_is_open(s, r)) {
            open++;
            last = c;
        }
    }
    return open;
}

struct scoring_count scoring_count(const struct scoring *s)
{
    struct scoring_count n = {0};
    for (size_t r = 0; r < s->rows->count; r++)
        for (size_t t = s->first_tile; t < s->end_tile; t++)
            for (int64_t l = 0; scoring_wants(s, r, t) && l < nn_layers(s->model); l++) {
                n.wanted++;
                n.there += !scoring_lacks(s, r, l, t);
            }
    return n;
}

int64_t scoring_lowest_layer(const struct scoring *s)
{
    for (int64_t l = 0; l < nn_layers(s->model); l++)
        for (size_t r = 0; r < s->rows->count; r++)
            for (size_t t = s->first_tile; t < s->end_tile; t++)
                if (scoring_lacks(s, r, l, t))
                    return l;
    return -1;
}

size_t scoring_act_bytes(const struct scoring *s, int64_t cols)
{
    return walk_act_bytes(s->tiles->rows, s->b, cols);
}

int32_t scoring_most_samples(const struct scoring *s)
{
    int32_t most = 1;
    for (size_t t = s->first_tile; t < s->end_tile; t++)
        if (s->tiles->items[t].desc.samples > most)
            most = s->tiles->items[t].desc.samples;
    return most;
}

static struct walk_job walk_job_of(const struct scoring *s)
{
    return (struct walk_job){.b = s->b,
                             .model = s->model,
                             .tiles = s->tiles,
                             .first_tile = s->first_tile,
                             .end_tile = s->end_tile + s->passing,
                             .keep = true,
                             .passing = s->passing,
                             .spill_dir = s->spill_dir};
}

uint64_t scoring_kept_bytes(const struct scoring *s)
{
    const struct walk_job job = walk_job_of(s);
    return (uint64_t)walk_slots(&job) * scoring_act_bytes(s, nn_arch(s->model)->hidden_size);
}

int scoring_walk_measuring(const struct scoring *s, struct walk *w, struct aq_err *err)
{
    struct scoring_bytes plan;
    struct walk_job job = walk_job_of(s);
    int r = s->kl_div ? kl_plan(s, &plan, err) : gradient_plan(s, &plan, err);
    if (r < 0 || scoring_has_room(s, &plan, err) < 0)
        return -1;
    job.spilled = plan.spilled > 0;
    return walk_open(w, &job, err);
}

int scoring_walk(const struct scoring *s, struct walk *w, bool spilled, struct aq_err *err)
{
    bool *wanted = xcalloc(s->tiles->count, sizeof *wanted);
    int r = 0;
    for (size_t t = s->first_tile; t < s->end_tile; t++)
        wanted[t] = scoring_tile_lacks(s, t);
    if (s->measured) {
        *w = *s->measured;
        *s->measured = (struct walk){0};
        walk_narrow(w, wanted);
    } else {
        struct walk_job job = walk_job_of(s);
        job.wanted = wanted;
        job.spilled = spilled;
        r = walk_open(w, &job, err);
    }
    free(wanted);
    return r;
}

const struct backend_tile *scoring_quantized_tile(const struct scoring *s, const struct walk *w,
                                                  size_t row, size_t tile)
{
    size_t candidate = s->rows->items[row].candidate;
    bool own_range = s->candidates->items[candidate].own_range;
    return own_range && w->batches[tile] ? w->batches[tile] : w->tiles[tile];
}

bool scoring_same_weight(const struct candidate *a, const struct candidate *b)
{
    return strcmp(quant_is_solved(&a->ws) ? a->id : a->w, quant_is_solved(&b->ws) ? b->id : b->w) ==
           0;
}

bool scoring_makes(const struct scoring *s)
{
    for (size_t i = 0; i < s->candidates->count; i++)
        if (quant_has_method(&s->candidates->items[i].ws))
            return true;
    return false;
}

struct made_from scoring_made_from(const struct scoring *s)
{
    return (struct made_from){s->b, s->model, s->groups, s->solved, s->to_bf16, s->pool};
}

uint64_t scoring_weight_bytes(const struct scoring *s)
{
    return s->b->weight_size + (scoring_makes(s) ? sizeof(float) : 0);
}

bool scoring_scales(const struct scoring *s)
{
    for (size_t i = 0; i < s->candidates->count; i++)
        if (s->candidates->items[i].ws.methods.scaling)
            return true;
    return false;
}

/* 1 / scale of a candidate at an input, or of a linear that reads it. */
static const float *factor_of(const struct scoring *s, const struct candidate *c, int64_t layer,
                              size_t input, int linear, struct aq_err *err)
{
    int64_t cols = s->groups->inputs[input].cols;
    if (!c->ws.methods.own)
        return solved_factor(s->solved, c->id, input, cols, err);
    const struct model_layer *m = nn_layer(s->model, layer);
    int group = m->linears[linear].group;
    return solved_own_factor(s->solved, c->id, s->groups->first[layer] + (size_t)group,
                             linear - m->groups[group].first, cols, err);
}

int scoring_range(const struct scoring *s, const struct score_row *row, int64_t layer, int input,
                  int linear, struct quant_range *room, const struct quant_range **out,
                  struct aq_err *err)
{
    const struct candidate *c = &s->candidates->items[row->candidate];
    size_t at = s->groups->first_input[layer] + (size_t)input;
    struct quant_range plain;
    *out = NULL;
    if (row->prefix && s->ranges) {
        /* the prefix was looked up when the rows were made */
        int position = range_file_prefix(s->ranges, row->prefix, NULL);
        range_file_get(s->ranges, (int64_t)at, position, &plain);
        *room = plain;
        *out = room;
    }
    if (!c->ws.methods.scaling || !s->solved) /* only a plan has none */
        return 0;
    int64_t cols = s->groups->inputs[at].cols;
    const float *factor = factor_of(s, c, layer, at, linear, err);
    if (!factor)
        return -1;
    made_scale_range(room, *out ? &plain : NULL, factor, cols, s->hidden);
    *out = room;
    return 0;
}

/* A scale of down's input is in the rows of up: that input comes divided. */
static void fold_inner(struct scoring_experts *out)
{
    struct quant_range *r = &out->room[EXPERT_DOWN];
    if (!out->range[EXPERT_DOWN])
        return;
    r->factor = NULL;
    if (!r->hidden) /* there is no range, only the scale */
        out->range[EXPERT_DOWN] = NULL;
}

int scoring_experts(const struct scoring *s, size_t row, int64_t layer, int group,
                    struct scoring_experts *out, struct aq_err *err)
{
    const struct score_row *r = &s->rows->items[row];
    const struct candidate *c = &s->candidates->items[r->candidate];
    const struct model_layer *m = nn_layer(s->model, layer);
    for (int h = 0; h < EXPERT_HALVES; h++) {
        size_t cols = (size_t)m->inputs[m->experts_input[h]].cols;
        out->w[h] = out->a[h] = (struct quant_spec){0};
        out->range[h] = NULL;
        if (!m->groups[group].half[h])
            continue;
        out->a[h] = c->as;
        if (nn_group_spec(s->model, layer, group, &c->ws, &out->w[h], err) < 0 ||
            scoring_range(s, r, layer, m->experts_input[h], 0, &out->room[h], &out->range[h], err) <
                0)
            return -1;
        if (!out->range[h] || !out->room[h].hidden)
            continue;
        if (!out->hidden[h]) /* the layers with experts are alike */
            out->hidden[h] = xmalloc(cols * sizeof *out->hidden[h]);
        /* the next call of scoring_range has its channels in the same place */
        memcpy(out->hidden[h], out->room[h].hidden, cols * sizeof *out->hidden[h]);
        out->room[h].hidden = out->hidden[h];
    }
    if (c->ws.methods.scaling)
        fold_inner(out);
    return 0;
}

void scoring_experts_release(struct scoring_experts *e)
{
    for (int h = 0; h < EXPERT_HALVES; h++)
        free(e->hidden[h]);
}

void scoring_swap(const struct scoring_experts *e, const struct candidate *c,
                  struct made_experts *made, struct nn_expert_swap *swap)
{
    for (int h = 0; h < EXPERT_HALVES; h++) {
        swap->w[h] = &e->w[h];
        swap->a[h] = &e->a[h];
        swap->range[h] = e->range[h];
        made->id[h] = c->id;
    }
    swap->quantize = made_expert;
    swap->arg = made;
}

static int weights_fit(const struct scoring *s, const struct candidate *c, struct aq_err *err)
{
    for (int64_t layer = 0; layer < nn_layers(s->model); layer++)
        for (int l = 0; l < nn_layer(s->model, layer)->linear_count; l++) {
            const struct backend_weight *w = nn_weight(s->model, layer, l);
            const struct quant_matrix m = {.rows = w->rows, .cols = w->cols, .name = w->name};
            if (quant_fits_weight(&c->ws, &m, err) < 0)
                return -1;
        }
    return 0;
}

/* The experts of a layer are alike. */
static int experts_fit(const struct scoring *s, const struct candidate *c, struct aq_err *err)
{
    for (int64_t layer = 0; layer < nn_layers(s->model); layer++)
        for (int down = 0; down < 2 && nn_layer(s->model, layer)->experts; down++) {
            const struct backend_weight *w = nn_expert_weight(s->model, layer, 0, down);
            const struct quant_matrix m = {.rows = w->rows, .cols = w->cols, .name = w->name};
            if (quant_fits_weight(&c->ws, &m, err) < 0)
                return -1;
        }
    return 0;
}

/* Every layer has ranges of its own. */
static int inputs_fit(const struct scoring *s, const struct score_row *row, struct aq_err *err)
{
    const struct quant_spec *spec = &s->candidates->items[row->candidate].as;
    if (row->prefix && !s->ranges) /* only a plan has none */
        return 0;
    for (int64_t l = 0; l < nn_layers(s->model); l++) {
        const struct model_layer *layer = nn_layer(s->model, l);
        for (int i = 0; i < layer->input_count; i++) {
            struct quant_range room;
            const struct quant_range *range;
            struct quant_plan *plan;
            int reader = 0;
            while (reader + 1 < layer->linear_count && layer->linears[reader].input != i)
                reader++;
            if (scoring_range(s, row, l, i, reader, &room, &range, err) < 0)
                return -1;
            if (quant_plan_act(&plan, spec, layer->inputs[i].cols, range, QUANT_UNROUNDED, err) < 0)
                return aq_err_prefix(err, "layers.%" PRId64 ", input '%s'", l,
                                     layer->inputs[i].name);
            quant_plan_free(plan);
        }
    }
    return 0;
}

int scoring_fits(const struct scoring *s, struct aq_err *err)
{
    for (size_t r = 0; r < s->rows->count; r++) {
        const struct score_row *row = &s->rows->items[r];
        if (weights_fit(s, &s->candidates->items[row->candidate], err) < 0 ||
            experts_fit(s, &s->candidates->items[row->candidate], err) < 0 ||
            inputs_fit(s, row, err) < 0)
            return -1;
    }
    return 0;
}

/* numbers: [groups of the layer][samples of the tile] */
static int check_finite(const struct scoring *s, size_t row, int64_t layer, size_t tile,
                        const double *numbers, struct aq_err *err)
{
    const struct tile *t = &s->tiles->items[tile];
    const struct candidate *c = &s->candidates->items[s->rows->items[row].candidate];
    size_t first = s->groups->first[layer], end = s->groups->first[layer + 1];
    int32_t samples = scoring_samples(s, row, tile);
    for (size_t g = first; g < end; g++, numbers += t->desc.samples)
        for (int32_t i = 0; i < samples; i++)
            if (!isfinite(numbers[i]))
                return aq_err_set(err, AQ_EINPUT,
                                  "%s: the score of '%s | %s' is not finite at sample %" PRId64,
                                  s->groups->items[g].name, c->w, c->a, t->sample + i);
    return 0;
}

int scoring_save(const struct scoring *s, size_t row, int64_t layer, size_t tile,
                 const struct scoring_result *r, struct aq_err *err)
{
    const struct tile *t = &s->tiles->items[tile];
    int32_t n = t->desc.samples, samples = scoring_samples(s, row, tile);
    for (int p = 0; p < STORE_PARTS; p++)
        if (r->parts[p] && check_finite(s, row, layer, tile, r->parts[p], err) < 0)
            return -1;
    /* Zero from the last sample on: what a backend makes of rows that nobody asked for is its own
       affair. Counts below 2^24 are exact in a float. */
    double *sums[STORE_PARTS] = {NULL};
    float *clip = xcalloc((size_t)n, sizeof *clip);
    const void *parts[STORE_PARTS] = {NULL};
    for (int p = 0; p < STORE_PARTS; p++)
        if (r->parts[p])
            parts[p] = sums[p] = xcalloc((size_t)n, sizeof *sums[p]);
    parts[STORE_CLIP] = clip;
    int bad = 0;
    int64_t first = (int64_t)s->groups->first[layer];
    int groups = nn_layer(s->model, layer)->group_count;
    for (int g = 0; g < groups && bad == 0; g++) {
        for (int p = 0; p < STORE_PARTS; p++)
            if (sums[p])
                memcpy(sums[p], r->parts[p] + (int64_t)g * n, (size_t)samples * sizeof *sums[p]);
        for (int32_t i = 0; i < samples; i++)
            clip[i] = (float)sums[STORE_CLIP][i];
        bad = store_put(s->store, row, first + g, t->sample, t->sample + n, parts, err);
    }
    free(clip);
    for (int p = 0; p < STORE_PARTS; p++)
        free(sums[p]);
    if (bad == 0)
        store_mark(s->store, row, layer, (int64_t)tile);
    return bad;
}

int64_t scoring_layer_elements(const struct scoring *s)
{
    int64_t most = 0;
    for (int64_t l = 0; l < nn_layers(s->model); l++) {
        int64_t n = nn_layer(s->model, l)->weights;
        most = n > most ? n : most;
    }
    return most;
}

struct backend_sizes scoring_sizes_of(struct nn_model *model, const struct backend *b, int32_t rows)
{
    struct backend_sizes sizes = {.rows = rows};
    for (int64_t layer = 0; layer < nn_layers(model); layer++) {
        const struct model_layer *m = nn_layer(model, layer);
        for (int l = 0; l < m->linear_count; l++) {
            int64_t outputs = m->linears[l].rows, cols = m->linears[l].cols, n = outputs * cols;
            sizes.outputs = outputs > sizes.outputs ? outputs : sizes.outputs;
            sizes.inputs = cols > sizes.inputs ? cols : sizes.inputs;
            sizes.weight = n > sizes.weight ? n : sizes.weight;
        }
        for (int down = 0; down < 2 && m->experts; down++) {
            const struct backend_weight *w = nn_expert_weight(model, layer, 0, down);
            int64_t n = w->rows * w->cols;
            sizes.outputs = w->rows > sizes.outputs ? w->rows : sizes.outputs;
            sizes.inputs = w->cols > sizes.inputs ? w->cols : sizes.inputs;
            sizes.weight = n > sizes.weight ? n : sizes.weight;
        }
    }
    nn_expert_sizes(&sizes, nn_arch(model), b);
    sizes.keys = nn_arch(model)->num_key_value_heads * nn_arch(model)->head_dim;
    sizes.layer_bytes = nn_layer_bytes(model);
    sizes.end_bytes = nn_end_bytes(model);
    return sizes;
}

struct backend_sizes scoring_sizes(const struct scoring *s)
{
    return scoring_sizes_of(s->model, s->b, s->tiles->rows);
}

int scoring_has_room(const struct scoring *s, const struct scoring_bytes *plan, struct aq_err *err)
{
    if (s->b->ops != &backend_cpu_ops || s->measured) /* asked before ranges were measured */
        return 0;
    uint64_t kept = plan->spilled ? 0 : plan->kept;
    uint64_t sum = kept + plan->batch + plan->operands + plan->sums + plan->scratch + plan->outputs;
    void *p = aq_big_alloc(sum, "the planned work", err);
    aq_big_free(p, sum);
    return p ? 0 : -1;
}

int scoring_too_little(const struct scoring *s, uint64_t least, struct aq_err *err)
{
    return aq_err_set(err, AQ_ERUN,
                      "--memory %.0f MB is too little: one tile of this model needs %.0f MB",
                      (double)s->memory / 1e6, ceil((double)least / 1e6));
}
