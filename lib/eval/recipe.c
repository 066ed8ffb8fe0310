#include "eval/recipe.h"

#include "base/mem.h"
#include "select/manifest.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- rows and groups ---- */

static int find_groups(struct recipes *r, const struct eval_inputs *in, struct aq_err *err)
{
    const struct sel_table *t = r->table;
    const char *path = t->cells[0].path, *lm = t->cells[0].facts[SEL_LM];
    if (lm && strcmp(lm, in->lm.digest) != 0)
        return aq_err_set(err, AQ_EINPUT, "%s was made from another checkpoint than %s",
                          aq_show(path), aq_show(in->where->reference));
    if (t->count != r->groups->count)
        return aq_err_set(err, AQ_EINPUT, "%s has %zu groups, the reference %zu", aq_show(path),
                          t->count, r->groups->count);
    r->group = xcalloc(t->count + 1, sizeof *r->group);
    for (size_t row = 0; row < t->count; row++) {
        size_t g = 0;
        while (g < r->groups->count && strcmp(r->groups->items[g].name, t->rows[row].name) != 0)
            g++;
        if (g == r->groups->count)
            return aq_err_set(err, AQ_EINPUT, "%s: the reference has no group '%s'", aq_show(path),
                              aq_show(t->rows[row].name));
        r->group[row] = g;
    }
    return 0;
}

int64_t recipes_layer(const struct recipes *r, size_t row)
{
    return r->groups->items[r->group[row]].layer;
}

/* ---- candidates ---- */

static bool has_option(const struct sel_row *row, int candidate)
{
    for (size_t i = 0; i < row->count; i++)
        if (row->options[i].candidate == candidate)
            return true;
    return false;
}

static int make_candidate(struct recipes *r, struct eval_inputs *in, size_t c, struct aq_err *err)
{
    const struct eval_reference ref = eval_inputs_reference(in);
    const struct sel_table *t = r->table;
    const struct sel_candidate *own = &t->candidates[c];
    const char *w = json_find_string(own->facts, "w"), *a = json_find_string(own->facts, "a");
    const char *prefix = t->candidate_cell[c]->facts[SEL_PREFIX];
    const struct manifest_choice choice = {own->name, w, a};
    struct eval_operand *o = &r->candidates[c];
    if (!w || !a)
        return aq_err_set(err, AQ_EINPUT, "%s does not say what its candidate '%s' does",
                          aq_show(t->candidate_cell[c]->path), aq_show(own->name));
    o->path = own->name;
    o->arch = &in->lm.arch;
    o->groups = &in->lm.groups;
    o->solved = ref.solved;
    eval_operand_take_linears(o, o->arch);
    for (size_t row = 0; row < t->count; row++)
        if (has_option(&t->rows[row], (int)c) &&
            eval_operand_apply(o, &ref, &choice, prefix ? strtoll(prefix, NULL, 10) : 0,
                               r->group[row], err) < 0)
            return -1;
    eval_operand_share(o);
    return 0;
}

int recipes_open(struct recipes *r, const struct sel_table *table, struct eval_inputs *in,
                 struct aq_err *err)
{
    *r = (struct recipes){.table = table, .groups = &in->lm.groups};
    if (find_groups(r, in, err) < 0)
        return -1;
    r->candidates = xcalloc(table->candidate_count + 1, sizeof *r->candidates);
    for (size_t c = 0; c < table->candidate_count; c++) {
        r->count++;
        if (make_candidate(r, in, c, err) < 0)
            return -1;
    }
    r->mixed.path = "recipe";
    r->mixed.arch = &in->lm.arch;
    r->mixed.groups = &in->lm.groups;
    r->mixed.solved = in->solved.path ? &in->solved : NULL;
    eval_operand_take_linears(&r->mixed, &in->lm.arch);
    r->choice = xcalloc(table->count + 1, sizeof *r->choice);
    for (size_t row = 0; row < table->count; row++) {
        const struct sel_row *x = &table->rows[row];
        while ((size_t)r->choice[row] < x->count &&
               x->options[r->choice[row]].candidate != SEL_NONE)
            r->choice[row]++;
    }
    return 0;
}

void recipes_close(struct recipes *r)
{
    for (size_t c = 0; c < r->count; c++)
        eval_operand_close(&r->candidates[c]);
    free(r->candidates);
    free(r->mixed.linears);
    free(r->mixed.experts); /* ranges of channels are the candidates' */
    free(r->group);
    free(r->choice);
    *r = (struct recipes){0};
}

/* ---- a recipe ---- */

static void set_group(struct recipes *r, size_t row, int candidate)
{
    const struct model_group *g = &r->groups->items[r->group[row]];
    struct model_layer shape;
    model_layer_describe(&shape, r->mixed.arch, g->layer);
    int of_layer = (int)(r->group[row] - r->groups->first[g->layer]);
    int first = shape.groups[of_layer].first, count = shape.groups[of_layer].linears;
    struct eval_linear *to = &r->mixed.linears[g->layer * MODEL_LINEARS];
    if (g->experts) {
        struct eval_linear none = {.same_as = -1};
        for (int h = 0; h < EXPERT_HALVES; h++) {
            size_t at = (size_t)(g->layer * EXPERT_HALVES + h);
            const struct eval_linear *from =
                candidate == SEL_NONE ? &none : &r->candidates[candidate].experts[at];
            if (shape.groups[of_layer].half[h])
                r->mixed.experts[at] = *from;
        }
        return;
    }
    for (int l = first; l < first + count; l++)
        if (candidate == SEL_NONE)
            to[l] = (struct eval_linear){.same_as = -1};
        else
            to[l] = r->candidates[candidate].linears[g->layer * MODEL_LINEARS + l];
}

void recipes_set(struct recipes *r, const int *option)
{
    int64_t first = r->mixed.layers;
    for (size_t row = 0; row < r->table->count; row++) {
        if (option[row] == r->choice[row])
            continue;
        set_group(r, row, r->table->rows[row].options[option[row]].candidate);
        r->choice[row] = option[row];
        int64_t layer = recipes_layer(r, row);
        first = layer < first ? layer : first;
    }
    for (int64_t layer = first; layer < r->mixed.layers; layer++)
        eval_operand_share_layer(&r->mixed, layer);
}
