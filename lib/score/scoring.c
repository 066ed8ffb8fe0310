#include "score/scoring.h"

#include "base/mem.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

bool scoring_wants(const struct scoring *s, size_t row, size_t tile)
{
    return tile >= s->first_tile && tile < s->end_tile &&
           s->tiles->items[tile].sample < s->rows->items[row].samples;
}

bool scoring_lacks(const struct scoring *s, size_t row, int64_t layer, size_t tile)
{
    return scoring_wants(s, row, tile) && !store_done(s->store, row, layer, (int64_t)tile);
}

static bool row_lacks(const struct scoring *s, size_t row, size_t tile)
{
    for (int64_t l = 0; l < qwen3_config(s->model)->layers; l++)
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

int64_t scoring_lowest_layer(const struct scoring *s)
{
    for (int64_t l = 0; l < qwen3_config(s->model)->layers; l++)
        for (size_t r = 0; r < s->rows->count; r++)
            for (size_t t = s->first_tile; t < s->end_tile; t++)
                if (scoring_lacks(s, r, l, t))
                    return l;
    return -1;
}

int scoring_group_of(enum qwen3_linear l)
{
    return l <= QWEN3_V ? 0 : l == QWEN3_O ? 1 : l <= QWEN3_UP ? 2 : 3;
}

enum qwen3_linear scoring_group_first(int group)
{
    static const enum qwen3_linear first[STORE_GROUPS] = {QWEN3_Q, QWEN3_O, QWEN3_GATE, QWEN3_DOWN};
    return first[group];
}

const struct quant_range *scoring_range(const struct scoring *s, const struct score_row *row,
                                        int64_t layer, enum qwen3_input input,
                                        struct quant_range *room)
{
    if (row->prefix == 0)
        return NULL;
    /* the prefix was looked up when the rows were made */
    int position = range_file_prefix(s->ranges, row->prefix, NULL);
    range_file_get(s->ranges, layer, input, position, room);
    return room;
}

/* All layers have the shapes of the first. */
static int weights_fit(const struct scoring *s, const struct candidate *c, struct aq_err *err)
{
    for (int l = 0; l < QWEN3_LINEARS; l++) {
        const struct backend_weight *w = qwen3_weight(s->model, 0, (enum qwen3_linear)l);
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
    for (int64_t l = 0; l < qwen3_config(s->model)->layers; l++)
        for (int i = 0; i < QWEN3_INPUTS; i++) {
            enum qwen3_input in = (enum qwen3_input)i;
            struct quant_range room;
            struct quant_plan *plan;
            if (quant_plan_act(&plan, spec, qwen3_input_cols(s->model, in),
                               scoring_range(s, row, l, in, &room), QUANT_UNROUNDED, err) < 0)
                return aq_err_prefix(err, "layers.%" PRId64 ", input '%s'", l,
                                     qwen3_input_name(in));
            quant_plan_free(plan);
        }
    return 0;
}

int scoring_fits(const struct scoring *s, struct aq_err *err)
{
    for (size_t r = 0; r < s->rows->count; r++) {
        const struct score_row *row = &s->rows->items[r];
        if (weights_fit(s, &s->candidates->items[row->candidate], err) < 0 ||
            inputs_fit(s, row, err) < 0)
            return -1;
    }
    return 0;
}

static int check_finite(const struct scoring *s, size_t row, int64_t layer, size_t tile,
                        const double *sums, struct aq_err *err)
{
    const struct tile *t = &s->tiles->items[tile];
    const struct candidate *c = &s->candidates->items[s->rows->items[row].candidate];
    for (int g = 0; g < STORE_GROUPS; g++)
        for (int32_t i = 0; i < t->desc.samples; i++)
            if (!isfinite(sums[(int64_t)g * t->desc.samples + i]))
                return aq_err_set(err, AQ_EINPUT,
                                  "layers.%" PRId64 ".%s: the score of '%s | %s' is not finite at "
                                  "sample %" PRId64,
                                  layer, qwen3_linear_name(scoring_group_first(g)), c->w, c->a,
                                  t->sample + i);
    return 0;
}

int scoring_save(const struct scoring *s, size_t row, int64_t layer, size_t tile,
                 const struct scoring_result *r, struct aq_err *err)
{
    const struct tile *t = &s->tiles->items[tile];
    int32_t n = t->desc.samples;
    if (check_finite(s, row, layer, tile, r->sums, err) < 0)
        return -1;
    float *clip = xcalloc((size_t)n, sizeof *clip);
    int bad = 0;
    for (int g = 0; g < STORE_GROUPS && bad == 0; g++) {
        for (int32_t i = 0; i < n; i++) /* counts below 2^24: exact in a float */
            clip[i] = (float)r->clip[(int64_t)g * n + i];
        bad = store_put(s->store, row, layer * STORE_GROUPS + g, t->sample, t->sample + n,
                        r->sums + (int64_t)g * n, clip, err);
    }
    free(clip);
    if (bad == 0)
        store_mark(s->store, row, layer, (int64_t)tile);
    return bad;
}

int64_t scoring_layer_elements(const struct scoring *s)
{
    int64_t sum = 0;
    for (int l = 0; l < QWEN3_LINEARS; l++) {
        const struct backend_weight *w = qwen3_weight(s->model, 0, (enum qwen3_linear)l);
        sum += w->rows * w->cols;
    }
    return sum;
}

struct backend_sizes scoring_sizes(const struct scoring *s)
{
    struct backend_sizes sizes = {.rows = s->tiles->rows};
    for (int l = 0; l < QWEN3_LINEARS; l++) {
        const struct backend_weight *w = qwen3_weight(s->model, 0, (enum qwen3_linear)l);
        int64_t n = w->rows * w->cols;
        sizes.outputs = w->rows > sizes.outputs ? w->rows : sizes.outputs;
        sizes.inputs = w->cols > sizes.inputs ? w->cols : sizes.inputs;
        sizes.weight = n > sizes.weight ? n : sizes.weight;
    }
    sizes.layer_bytes = qwen3_layer_bytes(s->model);
    sizes.end_bytes = qwen3_end_bytes(s->model);
    return sizes;
}

int scoring_has_room(const struct scoring *s, const struct scoring_bytes *plan, struct aq_err *err)
{
    if (s->b->ops != &backend_cpu_ops)
        return 0;
    uint64_t kept = plan->spilled ? 0 : plan->kept;
    uint64_t sum = kept + plan->batch + plan->operands + plan->sums + plan->scratch;
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
