#include "eval/swaps.h"

static void largest(int64_t *x, int64_t y)
{
    *x = y > *x ? y : *x;
}

void eval_model_sizes(struct backend_sizes *sizes, const struct nn_model *m,
                      const struct backend *b)
{
    const struct model_layer *shape = nn_layer(m, 0);
    for (int l = 0; l < shape->linear_count; l++) {
        largest(&sizes->outputs, shape->linears[l].rows);
        largest(&sizes->inputs, shape->linears[l].cols);
        largest(&sizes->weight, shape->linears[l].rows * shape->linears[l].cols);
    }
    const struct lm_arch *a = nn_arch(m);
    largest(&sizes->keys, a->num_key_value_heads * a->head_dim);
    if (a->experts) {
        largest(&sizes->outputs, 2 * a->moe_intermediate_size);
        largest(&sizes->inputs, a->moe_intermediate_size);
        largest(&sizes->weight, 2 * a->moe_intermediate_size * a->hidden_size);
        nn_expert_sizes(sizes, a, b);
    }
    uint64_t layer = nn_layer_bytes(m), ends = nn_end_bytes(m);
    sizes->layer_bytes = layer > sizes->layer_bytes ? layer : sizes->layer_bytes;
    sizes->end_bytes = ends > sizes->end_bytes ? ends : sizes->end_bytes;
}

static int take_experts(struct eval_swaps *s, const struct lm_arch *a, int32_t rows,
                        struct aq_err *err)
{
    if (s->experts.gate_up)
        return 0;
    s->experts_of = a;
    return nn_expert_operands_new(&s->experts, a, s->b, rows, err);
}

int eval_swaps_open(struct eval_swaps *s, struct backend *b, const struct eval_operand *operands,
                    size_t count, int32_t tile_rows, struct aq_err *err)
{
    int64_t rows[MODEL_LINEARS] = {0}, cols[MODEL_LINEARS] = {0}, inputs[MODEL_LINEARS] = {0};
    bool makes[MODEL_LINEARS] = {false}, scales[MODEL_LINEARS] = {false};
    uint64_t experts_made = 0;
    *s = (struct eval_swaps){.b = b};
    for (size_t i = 0; i < count; i++) {
        const struct eval_operand *o = &operands[i];
        if (o->linears && o->arch->experts && take_experts(s, o->arch, tile_rows, err) < 0)
            return -1;
        for (int64_t k = 0; o->linears && k < o->layers * EXPERT_HALVES; k++)
            if (quant_has_method(&o->experts[k].w))
                experts_made = made_experts_bytes(o->arch, b);
        for (int64_t layer = 0; o->linears && layer < o->layers; layer++) {
            struct model_layer shape;
            model_layer_describe(&shape, o->arch, layer);
            for (int l = 0; l < shape.linear_count; l++) {
                const struct eval_linear *e = eval_operand_linear(o, layer, l);
                if (!e->swapped)
                    continue;
                largest(&rows[l], shape.linears[l].rows);
                largest(&cols[l], shape.linears[l].cols);
                /* operands mix freely in a recipe, so any linear may be the first of its input */
                largest(&inputs[l], shape.linears[l].cols);
                makes[l] |= quant_has_method(&e->w);
                scales[l] |= e->w.methods.scaling != QUANT_NO_SCALING;
            }
        }
    }
    s->made_bytes = experts_made;
    for (int l = 0; l < MODEL_LINEARS; l++) {
        if (makes[l])
            s->made_bytes += (uint64_t)(rows[l] * cols[l]) * sizeof(float);
        if (scales[l])
            s->made_bytes += (uint64_t)tile_rows * (uint64_t)inputs[l] * b->act_size;
        if (rows[l] && !(s->w[l] = b->ops->operand_new(b, rows[l], cols[l], 1, err)))
            return -1;
        if (inputs[l] && !(s->xq[l] = b->ops->operand_new(b, tile_rows, inputs[l], 0, err)))
            return -1;
    }
    return 0;
}

void eval_swaps_close(struct eval_swaps *s)
{
    made_experts_release(&s->made_experts);
    if (s->experts_of)
        nn_expert_operands_free(&s->experts, s->experts_of, s->b);
    for (int l = 0; s->b && l < MODEL_LINEARS; l++) {
        made_release(s->b, &s->made[l]);
        if (s->w[l])
            s->b->ops->operand_free(s->b, s->w[l]);
        if (s->xq[l])
            s->b->ops->operand_free(s->b, s->xq[l]);
    }
    *s = (struct eval_swaps){0};
}

/* What the hook of a forward pass must know. */
struct feeding {
    struct eval_swaps *s;
    const struct eval_operand *o;
    const struct backend_tile *tile;
    int64_t layer;
    const struct model_layer *shape;
};

static void feed(void *arg, int input, const void *x)
{
    const struct feeding *f = arg;
    for (int l = 0; l < f->shape->linear_count; l++) {
        const struct eval_linear *e = eval_operand_linear(f->o, f->layer, l);
        if (f->shape->linears[l].input != input || !e->swapped || e->same_as >= 0)
            continue;
        f->s->b->ops->quantize_act(f->s->b, f->s->xq[l], f->tile, x, f->shape->inputs[input].cols,
                                   &e->a, e->ranged || e->range.factor ? &e->range : NULL, NULL);
    }
}

/* The operand's weights of this layer, and its swaps. */
static int prepare(struct eval_swaps *s, struct nn_model *m, const struct eval_operand *o,
                   int64_t layer, struct nn_swap *swap, struct aq_err *err)
{
    const struct model_layer *shape = nn_layer(m, layer);
    const struct made_from from = {
        .b = s->b, .model = m, .groups = o->groups, .solved = o->solved, .pool = s->pool};
    for (int l = 0; l < shape->linear_count; l++) {
        const struct eval_linear *e = eval_operand_linear(o, layer, l);
        if (!e->swapped)
            continue;
        if (made_quantize(&from, &s->made[l], s->w[l], layer, l, &e->w, e->id, err) < 0)
            return -1;
        swap->w[l] = s->w[l];
        swap->x[l] = s->xq[e->same_as < 0 ? l : e->same_as];
    }
    return 0;
}

/* The experts of this layer under the operand's treatment; NULL: as they are. */
static const struct nn_expert_swap *prepare_experts(struct eval_swaps *s, struct nn_model *m,
                                                    const struct eval_operand *o, int64_t layer,
                                                    struct nn_expert_swap *room)
{
    const struct eval_linear *x = &o->experts[layer * EXPERT_HALVES];
    *room = s->experts;
    for (int h = 0; h < EXPERT_HALVES; h++) {
        room->w[h] = &x[h].w;
        room->a[h] = &x[h].a;
        room->range[h] = x[h].ranged || x[h].range.factor ? &x[h].range : NULL;
        s->made_experts.id[h] = x[h].id;
    }
    s->made_experts.from = (struct made_from){
        .b = s->b, .model = m, .groups = o->groups, .solved = o->solved, .pool = s->pool};
    room->quantize = made_expert;
    room->arg = &s->made_experts;
    return x[EXPERT_GATE_UP].swapped || x[EXPERT_DOWN].swapped ? room : NULL;
}

int eval_swaps_layer(struct eval_swaps *s, struct nn_model *m, const struct eval_operand *operand,
                     int64_t layer, const struct eval_step *steps, size_t count, struct aq_err *err)
{
    struct nn_swap swap = {0};
    bool swaps = operand && operand->linears;
    struct nn_expert_swap room;
    if (swaps && prepare(s, m, operand, layer, &swap, err) < 0)
        return -1;
    if (swaps)
        swap.experts = prepare_experts(s, m, operand, layer, &room);
    for (size_t i = 0; i < count; i++) {
        struct feeding f = {s, operand, steps[i].tile, layer, nn_layer(m, layer)};
        swap.ready = swaps ? feed : NULL;
        swap.arg = &f;
        swap.routes = steps[i].hold;
        const struct nn_acts *acts =
            nn_layer_forward(m, layer, steps[i].tile, steps[i].from, steps[i].to,
                             swaps || steps[i].hold ? &swap : NULL);
        if (steps[i].keep && nn_layer(m, layer)->experts &&
            nn_routes_keep(acts->routes, steps[i].keep, err) < 0)
            return -1;
    }
    return nn_check(m, err);
}
