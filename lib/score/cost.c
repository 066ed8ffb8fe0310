#include "score/cost.h"

/* One tile through all linears of a layer. A token meets some experts only. */
static double layer_operations(const struct scoring *s)
{
    const struct lm_arch *a = nn_arch(s->model);
    double all = (double)scoring_layer_elements(s);
    double idle = 3.0 * (double)(a->experts - a->experts_per_token) *
                  (double)a->moe_intermediate_size * (double)a->hidden_size;
    return 2.0 * s->tiles->rows * (all - idle);
}

/* One tile through the head. */
static double head_operations(const struct scoring *s)
{
    const struct lm_arch *c = nn_arch(s->model);
    return 2.0 * s->tiles->rows * (double)c->vocab_size * (double)c->hidden_size;
}

double cost_forward(const struct scoring *s)
{
    return (double)nn_layers(s->model) * layer_operations(s);
}

double cost_passes(const struct scoring *s)
{
    if (s->kl_div)
        return cost_forward(s) + head_operations(s);
    /* forward but for the last layer, recomputed forward, gradient of the inputs; the head forward
       and back */
    return 3 * cost_forward(s) - layer_operations(s) + 2 * head_operations(s);
}

double cost_cell(const struct scoring *s, int64_t layer)
{
    /* The gradient takes the products of its layer; kl_div, for each group, those of all layers
       from there on. */
    if (!s->kl_div)
        return layer_operations(s);
    double after = (double)(nn_layers(s->model) - layer);
    return nn_layer(s->model, layer)->group_count *
           (after * layer_operations(s) + head_operations(s));
}

/* The part of a tile's rows that the products of a row take. */
static double part_of_tile(const struct scoring *s, size_t row, size_t tile)
{
    const struct tile *t = &s->tiles->items[tile];
    int32_t samples = scoring_samples(s, row, tile), chunk = s->b->chunk_rows;
    if (s->kl_div || chunk == 0)
        return 1;
    int32_t chunks = (t->desc.first[samples] + chunk - 1) / chunk;
    int32_t all = (s->tiles->rows + chunk - 1) / chunk;
    return (double)chunks / all;
}

double cost_plain(const struct scoring *s)
{
    double sum = 0;
    for (int64_t l = 0; l < nn_layers(s->model); l++)
        sum += cost_cell(s, l);
    return sum;
}

double cost_row(const struct scoring *s, double plain, size_t row, size_t tile)
{
    const struct candidate *c = &s->candidates->items[s->rows->items[row].candidate];
    int products = s->kl_div ? 1 : s->b->ops->products(s->b, &c->ws, &c->as);
    return plain * products * part_of_tile(s, row, tile);
}
