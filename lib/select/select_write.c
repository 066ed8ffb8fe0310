#include "select/select_write.h"
#include "base/mem.h"
#include "io/product.h"
#include "select/manifest.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char mixed_name[] = "mixed_autoquant_lm";

static char *handle_of(const struct sel_row *row)
{
    return xasprintf("%s.quant_recipe", row->name);
}

static struct json *number_or_null(double x)
{
    return isnan(x) ? json_new_null() : json_new_double(x);
}

static const struct sel_option *chosen(const struct sel_product *p, size_t g)
{
    return &p->table->rows[g].options[p->choice->option[g]];
}

/* ---- scheme, layers, state ---- */

static struct json *formats_of(const struct sel_table *t)
{
    struct json *list = json_new_array();
    for (size_t i = 0; i < t->candidate_count; i++) {
        const struct sel_candidate *c = &t->candidates[i];
        json_push(list, json_new_string(c->format ? c->format : c->label));
    }
    return list;
}

static struct json *scheme_of(const struct sel_product *p)
{
    const struct sel_table *t = p->table;
    struct json *s = json_copy(t->cells[0].scheme);
    json_set(s, "auto_quantize_bits", json_new_double(sel_budget_bits(&p->budget, p->table)));
    if (t->cell_count > 1) {
        json_set(s, "name", json_new_string(mixed_name));
        json_set(s, "quant_formats", formats_of(t));
    }
    return s;
}

static struct json *layers_of(const struct sel_table *t)
{
    if (t->cells[0].layers)
        return json_copy(t->cells[0].layers);
    struct json *layers = json_new_object();
    for (size_t g = 0; g < t->count; g++) {
        struct json *members = sel_members(&t->rows[g]);
        for (const struct json *m = json_first(members); m; m = json_next(m)) {
            struct json *layer = json_add_object(layers, json_string(m));
            json_add_bool(layer, "quantized", true);
            json_add_string(layer, "module_type", "QuantLinear");
        }
        json_free(members);
    }
    return layers;
}

static void add_best(struct json *best, const struct sel_choice *c)
{
    json_add_double(json_add_object(best, "constraints"), "effective_bits", c->effective_bits);
    json_add_double(best, "score", c->score);
    json_add_bool(best, "is_satisfied", c->satisfied);
}

static struct json *state_summary(const struct sel_product *p)
{
    struct json *state = json_new_object(), *keys = json_add_array(state, "keys");
    json_push(keys, json_new_string("candidate_stats"));
    json_push(keys, json_new_string("best"));
    json_push(keys, json_new_string("constraints"));
    add_best(state, p->choice);
    return state;
}

/* ---- the table ---- */

struct ranked {
    size_t row;
    double importance;
};

static int by_importance(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->importance != y->importance)
        return x->importance < y->importance ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

static double importance_of(const struct sel_row *row)
{
    double largest = row->options[0].score;
    for (size_t i = 1; i < row->count; i++)
        largest = fmax(largest, row->options[i].score);
    return largest;
}

static struct ranked *rank_rows(const struct sel_table *t)
{
    struct ranked *order = xcalloc(t->count + 1, sizeof *order);
    for (size_t g = 0; g < t->count; g++)
        order[g] = (struct ranked){g, importance_of(&t->rows[g])};
    qsort(order, t->count, sizeof *order, by_importance);
    return order;
}

static bool is_known(double x, const struct sel_option *o)
{
    return o->candidate != SEL_NONE && !isnan(x);
}

static void add_flat(struct json *entry, const struct sel_row *row)
{
    struct json *list = json_new_array();
    bool any = false;
    for (size_t i = 0; i < row->count; i++) {
        const char *flat = row->options[i].flat;
        json_push(list, flat ? json_new_string(flat) : json_new_null());
        any = any || flat;
    }
    if (any)
        json_add(entry, "flat", list);
    else
        json_free(list);
}

/* A number of each option, unless none of the candidates has it. */
static void add_known(struct json *entry, const char *key, const struct sel_row *row, size_t offset)
{
    struct json *list = json_new_array();
    bool any = false;
    for (size_t i = 0; i < row->count; i++) {
        double x;
        memcpy(&x, (const char *)&row->options[i] + offset, sizeof x);
        json_push(list, number_or_null(x));
        any = any || is_known(x, &row->options[i]);
    }
    if (any)
        json_add(entry, key, list);
    else
        json_free(list);
}

static struct json *entry_of(const struct sel_table *t, const struct sel_row *row, size_t rank)
{
    struct json *e = json_new_object();
    struct json *formats = json_add_array(e, "formats"), *scores = json_add_array(e, "scores");
    struct json *costs = json_add_array(e, "costs");
    json_add_double(e, "importance", importance_of(row));
    json_add_int(e, "rank", (int64_t)rank);
    struct json *candidates = json_add_array(e, "candidates");
    struct json *batch = json_new_array(), *error = json_new_array(), *storage = json_new_array();
    struct json *weight = json_new_array(), *activation = json_new_array();
    bool parts = false;
    double ratio = NAN; /* of the inputs, the same for all formats */
    for (size_t i = 0; i < row->count; i++) {
        const struct sel_option *o = &row->options[i];
        json_push(formats, json_new_string(o->format));
        json_push(scores, json_new_double(o->score));
        json_push(costs, json_new_double(o->cost));
        json_push(candidates, json_new_string(sel_candidate_name(t, o)));
        json_push(batch, number_or_null(o->per_batch_mean));
        json_push(error, number_or_null(o->error));
        json_push(storage, number_or_null(o->storage_bits));
        json_push(weight, number_or_null(o->weight_only));
        json_push(activation, number_or_null(o->activation_only));
        parts = parts || is_known(o->weight_only, o) || is_known(o->activation_only, o);
        ratio = isnan(ratio) ? o->range_ratio : ratio;
    }
    json_add(e, "scores_per_batch_mean", batch);
    json_add(e, "stderr", error);
    json_add(e, "storage_bits", storage);
    if (parts) {
        json_add(e, "weight_only", weight);
        json_add(e, "activation_only", activation);
    } else {
        json_free(weight);
        json_free(activation);
    }
    add_known(e, "scores_per_token", row, offsetof(struct sel_option, per_token));
    add_known(e, "per_token_dot", row, offsetof(struct sel_option, per_token_dot));
    add_known(e, "first_position", row, offsetof(struct sel_option, first_position));
    if (!isnan(ratio))
        json_add_double(e, "range_ratio", ratio);
    if (row->routed.experts)
        routed_write(&row->routed, e, "routed");
    add_flat(e, row);
    return e;
}

static void add_table(struct json *root, const struct sel_table *t)
{
    struct ranked *order = rank_rows(t);
    size_t *rank = xcalloc(t->count + 1, sizeof *rank);
    for (size_t i = 0; i < t->count; i++)
        rank[order[i].row] = i + 1;
    struct json *table = json_add_object(root, "layer_sensitivity");
    for (size_t g = 0; g < t->count; g++) {
        char *handle = handle_of(&t->rows[g]);
        json_add(table, handle, entry_of(t, &t->rows[g], rank[g]));
        free(handle);
    }
    struct json *list = json_add_array(root, "sensitivity_ranking");
    for (size_t i = 0; i < t->count; i++) {
        char *handle = handle_of(&t->rows[order[i].row]);
        struct json *e = json_push(list, json_new_object());
        json_add_string(e, "name", handle);
        json_add_double(e, "importance", order[i].importance);
        free(handle);
    }
    free(rank);
    free(order);
}

/* ---- what aq adds ---- */

static struct json *quantization_of(const struct sel_table *t)
{
    if (t->cell_count == 1)
        return t->cells[0].quantization ? json_copy(t->cells[0].quantization) : NULL;
    struct json *q = json_new_object(), *all = json_add_object(q, "candidates");
    for (size_t i = 0; i < t->candidate_count; i++)
        json_add(all, t->candidates[i].name,
                 t->candidates[i].quantization ? json_copy(t->candidates[i].quantization)
                                               : json_new_object());
    return q;
}

static void add_recipe(struct json *selection, const struct sel_product *p)
{
    struct json *recipe = json_add_object(selection, "recipe");
    for (size_t g = 0; g < p->table->count; g++) {
        const struct sel_option *o = chosen(p, g);
        char *handle = handle_of(&p->table->rows[g]), *label = manifest_format_label(o->format);
        struct json *e = json_add_object(recipe, handle);
        json_add_string(e, "candidate", sel_candidate_name(p->table, o));
        json_add_string(e, "label", label);
        json_add(e, "members", sel_members(&p->table->rows[g]));
        free(handle);
        free(label);
    }
}

static void add_rules(struct json *selection, const struct sel_product *p)
{
    struct json *list = json_add_array(selection, "pins");
    for (size_t i = 0; p->menu && i < p->menu->count; i++) {
        struct json *e = json_push(list, json_new_object());
        json_add_string(e, "match", p->menu->rules[i].match);
        json_add_string(e, "rule", sel_rule_names[p->menu->rules[i].kind]);
        json_add(e, "score_cost", number_or_null(p->rule_costs[i]));
    }
}

static void add_candidates(struct json *selection, const struct sel_table *t)
{
    struct json *all = json_add_object(selection, "candidates");
    for (size_t i = 0; i < t->candidate_count; i++)
        if (t->candidates[i].facts)
            json_add(all, t->candidates[i].name, json_copy(t->candidates[i].facts));
}

/* {"nats", "low", "high", "flagged": [names]}, or null. */
static struct json *prediction_of(const struct sel_product *p)
{
    const struct prediction all = sel_predict(p->table, p->choice->option);
    if (isnan(all.nats))
        return json_new_null();
    struct json *v = json_new_object();
    json_add_double(v, "nats", all.nats);
    json_add_double(v, "low", all.low);
    json_add_double(v, "high", all.high);
    struct json *flagged = json_add_array(v, "flagged");
    for (size_t g = 0; g < p->table->count; g++) {
        struct predict_group own;
        if (sel_predict_option(p->table, chosen(p, g), &own) && predict_flagged(&own))
            json_push(flagged, json_new_string(p->table->rows[g].name));
    }
    return v;
}

static struct json *selection_of(const struct sel_product *p)
{
    const struct sel_table *t = p->table;
    struct json *s = json_new_object();
    add_recipe(s, p);
    add_candidates(s, t);
    json_add_double(s, "budget", sel_budget_bits(&p->budget, p->table));
    json_add_double(s, "effective_bits", p->choice->effective_bits);
    struct json *reach = json_add_array(s, "reachable_bits");
    json_push(reach, json_new_double(sel_units_to_bits(p->problem, p->problem->lo)));
    json_push(reach, json_new_double(sel_units_to_bits(p->problem, p->problem->hi)));
    json_add(s, "storage_bits", number_or_null(p->choice->storage_bits));
    json_add_string(s, "cost", sel_cost_names[t->cost]);
    json_add_string(s, "cost_model", t->active ? "active" : "weight");
    json_add_string(s, "denominator", t->denominator);
    json_add_string(s, "solver", p->solver);
    if (p->random) {
        struct json *r = json_add_object(s, "random");
        json_add_string(r, "kind", p->random->near_optimal ? "near-optimal" : "random");
        json_add_int(r, "seed", p->random->seed);
        json_add_int(r, "number", p->random->number + 1);
        json_add_int(r, "count", p->random->count);
    }
    if (p->engine)
        json_add_string(s, "engine", p->engine);
    if (p->pairs) {
        struct json *v = json_add_object(s, "pairs");
        json_add_string(v, "singles", p->pairs->digest);
        json_add_double(v, "nats", sel_pairs_nats(p->pairs, t, p->choice->option));
    }
    if (p->polish)
        json_add(s, "polish", json_copy(p->polish));
    json_add_double(s, "gap", p->choice->gap);
    json_add_double(s, "rounding", p->problem->excess);
    json_add(s, "predicted_kl", prediction_of(p));
    add_rules(s, p);
    return s;
}

/* The groups as lm.json has them, with the checkpoint's names of their modules. */
static void add_groups(struct json *root, const struct sel_table *t)
{
    static const char *const keys[] = {"name", "members", "modules", "experts", "layer",
                                       "kind", "inputs",  "shapes",  "weights", "cost_weight"};
    for (size_t g = 0; g < t->count; g++)
        if (!t->rows[g].model)
            return;
    struct json *list = json_add_array(root, "groups");
    for (size_t g = 0; g < t->count; g++) {
        struct json *e = json_push(list, json_new_object());
        for (size_t i = 0; i < AQ_COUNT(keys); i++) {
            const struct json *v = json_get(t->rows[g].model, keys[i]);
            if (v)
                json_add(e, keys[i], json_copy(v));
        }
    }
}

static void add_origin(struct json *root, const struct sel_product *p)
{
    const struct sel_cell *first = &p->table->cells[0];
    if (!first->identity) /* a manifest of another tool: nothing to vouch for */
        return;
    struct json *aq = json_add_object(root, "aq");
    json_add_string(aq, "schema", MANIFEST_SCHEMA);
    json_add_string(aq, "normalization", first->facts[SEL_NORMALIZATION]);
    json_add(aq, "identity", json_copy(first->identity));
    struct json *weights = json_add_object(aq, "weights");
    json_add_double(weights, "lm", first->lm_weights);
    json_add_double(weights, "head", first->head_weights);
    json_add_double(weights, "vision", first->vision_weights);
    struct json *inputs =
        product_add_provenance(aq, p->tool ? p->tool : "aq-select", p->result_version);
    for (size_t i = 0; i < p->table->cell_count; i++) {
        const struct sel_cell *c = &p->table->cells[i];
        if (c->candidate_count && !json_get(inputs, c->candidates[0].name))
            json_add_string(inputs, c->candidates[0].name, c->digest);
    }
}

struct json *sel_manifest(const struct sel_product *p)
{
    const struct sel_cell *first = &p->table->cells[0];
    struct json *root = json_new_object(), *quantization = quantization_of(p->table);
    json_add(root, "scheme", scheme_of(p));
    if (first->model)
        json_add(root, "model", json_copy(first->model));
    struct json *layers = layers_of(p->table);
    json_add_int(root, "num_quantized_layers", (int64_t)json_size(layers));
    json_add(root, "layers", layers);
    json_add(root, "autoquant_state", state_summary(p));
    add_table(root, p->table);
    if (first->dataset)
        json_add(root, "dataset", json_copy(first->dataset));
    if (quantization)
        json_add(root, "quantization", quantization);
    json_add_string(json_add_object(root, "run_config"), "composed_yaml_path",
                    "composed-config.yaml");
    json_add(root, "selection", selection_of(p));
    add_origin(root, p);
    add_groups(root, p->table);
    return root;
}

/* ---- the state ---- */

struct json *sel_state(const struct sel_product *p)
{
    const struct sel_table *t = p->table;
    struct json *root = json_new_object(), *stats = json_add_object(root, "candidate_stats");
    struct json *best = json_add_object(root, "best"), *recipe = json_add_object(best, "recipe");
    for (size_t g = 0; g < t->count; g++) {
        char *handle = handle_of(&t->rows[g]);
        struct json *e = json_add_object(stats, handle);
        struct json *formats = json_add_array(e, "formats"), *scores = json_add_array(e, "scores");
        struct json *costs = json_add_array(e, "costs");
        for (size_t i = 0; i < t->rows[g].count; i++) {
            json_push(formats, json_new_string(t->rows[g].options[i].format));
            json_push(scores, json_new_double(t->rows[g].options[i].score));
            json_push(costs, json_new_double(t->rows[g].options[i].cost));
        }
        json_add_string(recipe, handle, chosen(p, g)->format);
        free(handle);
    }
    add_best(best, p->choice);
    json_add_double(json_add_object(root, "constraints"), "effective_bits",
                    sel_budget_bits(&p->budget, p->table));
    return root;
}
