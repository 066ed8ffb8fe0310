#include "select/select_table.h"

#include "select/members.h"
#include "select/select_engine.h"
#include "base/fmt.h"
#include "base/mem.h"
#include "base/names.h"
#include "io/json_digest.h"
#include "base/msg.h"
#include "base/pool.h"

#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- do the inputs belong together? ---- */

static bool same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

/* "tokens ('ab..' and 'cd..'), prefix ('16' and '128')" for the facts in [from, to) that differ. */
static void list_differences(struct aq_buf *out, const struct sel_cell *a, const struct sel_cell *b,
                             enum sel_fact from, enum sel_fact to)
{
    for (int f = from; f < (int)to; f++)
        if (!same_text(a->facts[f], b->facts[f]))
            aq_buf_addf(out, "%s%s ('%.20s' and '%.20s')", out->len ? ", " : "", sel_fact_names[f],
                        a->facts[f] ? aq_show(a->facts[f]) : "-",
                        b->facts[f] ? aq_show(b->facts[f]) : "-");
}

static int check_known(const struct sel_cell *c, struct aq_err *err)
{
    struct aq_buf missing = AQ_BUF_INIT;
    for (int f = 0; f < SEL_MUST_AGREE; f++)
        if (!c->facts[f] && f != SEL_PADDING) /* the digest of the tokens covers the padding */
            aq_buf_addf(&missing, "%s%s", missing.len ? ", " : "", sel_fact_names[f]);
    if (!missing.len)
        return 0;
    aq_err_set(err, AQ_EINPUT, "%s: does not say where its scores come from: no %s",
               aq_show(c->path), missing.data);
    aq_buf_release(&missing);
    return aq_err_hint(err, "give --unchecked to select from it all the same");
}

/* A manifest has none: its numbers are there for people to read and join. */
static int check_digest(const struct sel_cell *c, struct aq_err *err)
{
    if (c->is_manifest)
        return 0;
    struct jref root = jref_root(c->root, c->path);
    if (json_check_digest(&root, err) == 0)
        return 0;
    return aq_err_hint(err, "'aq-score collect' writes it again; --unchecked takes it as it is");
}

static int check_facts(const struct sel_cell *a, const struct sel_cell *b, struct aq_err *err)
{
    struct aq_buf list = AQ_BUF_INIT;
    int r = 0;
    list_differences(&list, a, b, 0, SEL_MUST_AGREE);
    if (list.len)
        r = aq_err_set(err, AQ_EINPUT, "'%s' and '%s' cannot be joined: they differ in %s",
                       aq_show(a->path), aq_show(b->path), list.data);
    aq_buf_reset(&list);
    list_differences(&list, a, b, SEL_MUST_AGREE, SEL_FACTS);
    if (r == 0 && list.len)
        aq_warn("'%s' and '%s' differ in %s: small differences of their scores may come from that",
                aq_show(a->path), aq_show(b->path), list.data);
    aq_buf_release(&list);
    return r;
}

static int check_groups(const struct sel_cell *a, const struct sel_cell *b, struct aq_err *err)
{
    char x[AQ_FMT_MAX], y[AQ_FMT_MAX];
    if (a->group_count != b->group_count)
        return aq_err_set(err, AQ_EINPUT, "'%s' has %zu groups, '%s' has %zu", aq_show(a->path),
                          a->group_count, aq_show(b->path), b->group_count);
    for (size_t i = 0; i < a->group_count; i++) {
        if (strcmp(a->groups[i].name, b->groups[i].name) != 0)
            return aq_err_set(err, AQ_EINPUT, "group %zu is '%s' in '%s' and '%s' in '%s'", i,
                              aq_show(a->groups[i].name), aq_show(a->path),
                              aq_show(b->groups[i].name), aq_show(b->path));
        if (a->groups[i].weights != b->groups[i].weights)
            return aq_err_set(err, AQ_EINPUT, "'%s' has %s weights in '%s' and %s in '%s'",
                              aq_show(a->groups[i].name), aq_fmt_double(a->groups[i].weights, x),
                              aq_show(a->path), aq_fmt_double(b->groups[i].weights, y),
                              aq_show(b->path));
    }
    return 0;
}

static int check_cells(const struct sel_table *t, bool unchecked, struct aq_err *err)
{
    for (size_t i = 0; i < t->cell_count; i++) {
        const struct sel_cell *first = &t->cells[0], *c = &t->cells[i];
        if (!unchecked && (check_known(c, err) < 0 || check_digest(c, err) < 0))
            return -1;
        if (i > 0 &&
            ((!unchecked && check_facts(first, c, err) < 0) || check_groups(first, c, err) < 0))
            return -1;
    }
    return 0;
}

/* ---- candidates ---- */

static bool same_scores(const struct sel_cell *a, size_t x, const struct sel_cell *b, size_t y)
{
    for (size_t g = 0; g < a->group_count; g++) {
        const struct sel_value *p = sel_value_at(a, g, x), *q = sel_value_at(b, g, y);
        if (p->present != q->present || (p->present && p->score != q->score))
            return false;
    }
    return true;
}

/* Two cells of a sweep may mean the same thing; choosing between them would be a coin toss. */
static bool is_repeated(const struct sel_table *t, const struct sel_cell *cell, size_t x)
{
    const struct sel_candidate *c = &cell->candidates[x];
    for (size_t i = 0; i < t->candidate_count && c->treatment; i++) {
        const struct sel_candidate *known = &t->candidates[i];
        const struct sel_cell *other = t->candidate_cell[i];
        if (known->treatment && strcmp(known->treatment, c->treatment) == 0 &&
            same_scores(other, t->candidate_column[i], cell, x)) {
            aq_note(1, "'%s' is the same treatment as '%s' and is left out", aq_show(c->name),
                    aq_show(known->name));
            return true;
        }
    }
    return false;
}

/*
 * Presets keep their names; the others are counted by their place in the list, as ModelOpt does. So
 * is a preset that is there already: a label names one candidate.
 */
static char *joint_label(const struct sel_table *t, const char *label)
{
    bool custom = strncmp(label, "CUSTOM_", 7) == 0;
    for (size_t i = 0; i < t->candidate_count && !custom; i++)
        custom = strcmp(t->candidates[i].label, label) == 0;
    return custom ? xasprintf("CUSTOM_%zu", t->candidate_count) : xstrdup(label);
}

static int join_candidates(struct sel_table *t, struct aq_err *err)
{
    size_t most = 0;
    for (size_t i = 0; i < t->cell_count; i++)
        most += t->cells[i].candidate_count;
    t->candidates = xcalloc(most + 1, sizeof *t->candidates);
    t->candidate_cell = xcalloc(most + 1, sizeof *t->candidate_cell);
    t->candidate_column = xcalloc(most + 1, sizeof *t->candidate_column);
    struct aq_names names = AQ_NAMES_INIT;
    for (size_t i = 0; i < t->cell_count; i++) {
        struct sel_cell *cell = &t->cells[i];
        for (size_t x = 0; x < cell->candidate_count; x++) {
            aq_names_add(&names, cell->candidates[x].name);
            if (is_repeated(t, cell, x))
                continue;
            struct sel_candidate *c = &t->candidates[t->candidate_count];
            *c = cell->candidates[x];
            c->label = joint_label(t, c->label);
            t->candidate_column[t->candidate_count] = x;
            t->candidate_cell[t->candidate_count++] = cell;
        }
    }
    int r = 0;
    ptrdiff_t twice = aq_names_sort(&names);
    if (twice >= 0)
        r = aq_err_set(err, AQ_EINPUT, "candidate '%s' is given twice",
                       aq_show(names.items[twice]));
    aq_names_release(&names);
    return r;
}

/* ---- rows ---- */

/* Are the members of this group switched off in the run of that cell? */
static bool is_disabled(const struct sel_cell *c, const struct sel_row *row)
{
    const struct json *list = json_find(c->autoquant, "disabled_layers");
    if (!list || json_type(list) != JSON_ARRAY || !json_first(list))
        return false;
    bool found = false;
    struct json *members = sel_members(row);
    for (const struct json *p = json_first(list); p && !found; p = json_next(p))
        for (const struct json *m = json_first(members); m && !found; m = json_next(m))
            found = json_type(p) == JSON_STRING && fnmatch(json_string(p), json_string(m), 0) == 0;
    json_free(members);
    return found;
}

static int by_bits(const void *a, const void *b)
{
    const struct sel_option *x = a, *y = b;
    if (x->bits != y->bits)
        return x->bits < y->bits ? -1 : 1;
    return x->candidate - y->candidate;
}

static int cost_unknown(const struct sel_table *t, const struct sel_cell *c, struct aq_err *err)
{
    aq_err_set(err, AQ_EINPUT, "%s: does not say what its candidates cost by the rule '%s'",
               aq_show(c->path), sel_cost_names[t->cost]);
    return aq_err_hint(err, "it knows '%s'; give its scores.json, or --cost %s",
                       sel_cost_names[c->cost], sel_cost_names[c->cost]);
}

/* The first reason, until a candidate is served. */
static void take_reason(struct sel_row *row, const struct sel_served *found)
{
    if (found->serves) {
        free(row->unserved);
        row->unserved = NULL;
    } else if (row->count == 1) {
        row->unserved = xstrdup(found->why);
    }
}

/* What the engine's file makes of an option: whether it may be chosen, and its bits. */
static int ask_engine(const struct sel_table *t, const struct sel_table_options *o,
                      struct sel_row *row, struct sel_option *option, struct aq_err *err)
{
    struct sel_served found;
    if (!o->engine)
        return 0;
    if (sel_engine_serves(o->engine, &t->candidates[option->candidate], row, &found, err) < 0)
        return -1;
    option->banned = !found.serves;
    take_reason(row, &found);
    if (!found.serves || o->cost)
        return 0;
    option->bits = option->storage_bits = found.bits;
    option->cost = found.bits / 16 * row->weights * row->share;
    return 0;
}

static int add_option(struct sel_table *t, const struct sel_table_options *o, struct sel_row *row,
                      size_t g, size_t candidate, struct aq_err *err)
{
    const struct sel_cell *cell = t->candidate_cell[candidate];
    const struct sel_value *v = sel_value_at(cell, g, t->candidate_column[candidate]);
    if (!v->present || is_disabled(cell, row))
        return 0;
    if (isnan(v->cost[t->cost]))
        return cost_unknown(t, cell, err);
    row->options[row->count++] = (struct sel_option){.candidate = (int)candidate,
                                                     .flat = v->flat,
                                                     .score = v->score,
                                                     .per_batch_mean = v->per_batch_mean,
                                                     .error = v->error,
                                                     .weight_only = v->weight_only,
                                                     .activation_only = v->activation_only,
                                                     .per_token = v->per_token,
                                                     .per_token_dot = v->per_token_dot,
                                                     .first_position = v->first_position,
                                                     .range_ratio = v->range_ratio,
                                                     .bits = v->bits[t->cost],
                                                     .storage_bits = v->bits[SEL_COST_STORAGE],
                                                     .cost = v->cost[t->cost] * row->share,
                                                     .allowed = true};
    return ask_engine(t, o, row, &row->options[row->count - 1], err);
}

static void add_formats(const struct sel_table *t, struct sel_row *row)
{
    char bits[AQ_FMT_MAX];
    for (size_t i = 0; i < row->count; i++) {
        struct sel_option *o = &row->options[i];
        const char *label = o->candidate == SEL_NONE ? "NONE" : t->candidates[o->candidate].label;
        o->format = xasprintf("%s(effective-bits: %s)", label, aq_fmt_double(o->bits, bits));
    }
}

/* ModelOpt's rule that more bits never score worse; see enum sel_monotone. */
static void make_monotone(struct sel_row *row, enum sel_monotone how)
{
    double before = row->options[0].score;
    for (size_t i = 1; i < row->count && how != SEL_MONOTONE_OFF; i++) {
        double own = row->options[i].score;
        row->options[i].score = fmin(own, before);
        before = how == SEL_MONOTONE_V40 ? row->options[i].score : own;
    }
}

/* ModelOpt's active_moe: experts count with the share of them that a token uses. */
static int read_share(const struct sel_table *t, struct sel_row *row, struct aq_err *err)
{
    const char *path = t->cells[0].path;
    row->share = 1;
    if (!t->active)
        return 0;
    if (!row->model || !json_get(row->model, "cost_weight")) {
        aq_err_set(err, AQ_EINPUT, "%s: does not say which share of '%s' a token uses",
                   aq_show(path), aq_show(row->name));
        return aq_err_hint(err, "give its scores.json, or --cost-model weight");
    }
    struct jref group = jref_root(row->model, path);
    return manifest_cost_weight(&group, &row->share, err);
}

static int make_rows(struct sel_table *t, const struct sel_table_options *o,
                     enum sel_monotone monotone, struct aq_err *err)
{
    const struct sel_cell *first = &t->cells[0];
    t->rows = xcalloc(first->group_count, sizeof *t->rows);
    t->options = xcalloc(first->group_count * (t->candidate_count + 1), sizeof *t->options);
    struct sel_option *next = t->options;
    for (size_t g = 0; g < first->group_count; g++) {
        struct sel_row *row = &t->rows[t->count++];
        *row = (struct sel_row){.name = first->groups[g].name,
                                .members = first->groups[g].members,
                                .model = first->groups[g].model,
                                .routed = first->groups[g].routed,
                                .weights = first->groups[g].weights,
                                .options = next};
        if (read_share(t, row, err) < 0)
            return -1;
        for (size_t c = 0; c < t->candidate_count; c++)
            if (add_option(t, o, row, g, c, err) < 0)
                return -1;
        qsort(row->options, row->count, sizeof *row->options, by_bits);
        row->options[row->count++] = (struct sel_option){.candidate = SEL_NONE,
                                                         .error = NAN,
                                                         .weight_only = NAN,
                                                         .activation_only = NAN,
                                                         .per_token_dot = NAN,
                                                         .first_position = NAN,
                                                         .range_ratio = NAN,
                                                         .bits = 16,
                                                         .storage_bits = 16,
                                                         .cost = row->weights * row->share,
                                                         .allowed = true};
        next += row->count;
        add_formats(t, row);
        make_monotone(row, monotone);
    }
    return 0;
}

static bool has_component(const char *name, const char *word)
{
    size_t n = strlen(word);
    for (const char *at = name; at; at = strchr(at, '.') ? strchr(at, '.') + 1 : NULL)
        if (strncmp(at, word, n) == 0 && (at[n] == '.' || at[n] == '\0'))
            return true;
    return false;
}

/* What the effective bits are an average over. */
static int make_denominator(struct sel_table *t, bool count_vision, struct aq_err *err)
{
    const struct sel_cell *first = &t->cells[0];
    double searched = 0, counted = 0, head = 0;
    bool vision = count_vision, sums_up = true;
    for (size_t i = 0; i < t->count; i++) {
        searched += t->rows[i].weights;
        counted += t->rows[i].weights * t->rows[i].share;
        if (has_component(t->rows[i].name, "lm_head"))
            head += t->rows[i].weights;
        vision = vision || has_component(t->rows[i].name, "visual");
    }
    bool ours = !first->is_manifest || first->manifest.aq;
    double rest = ours ? first->lm_weights - (searched - head) : 0;
    sums_up = rest >= 0;
    t->fixed = rest + (count_vision ? first->vision_weights : 0);
    t->total = counted + t->fixed;
    t->weights = searched + t->fixed;
    t->denominator = xasprintf("lm%s%s", head > 0 ? "+head" : "", vision ? "+vision" : "");
    if (!sums_up)
        return aq_err_set(err, AQ_EINPUT,
                          "%s: weights.lm is less than the sum of the weights of the groups",
                          aq_show(first->path));
    return 0;
}

/* ---- all together ---- */

static enum sel_monotone monotone_of_run(const struct sel_cell *c)
{
    const struct json *v = json_find(c->autoquant, "monotone");
    return v && json_type(v) == JSON_BOOL && json_bool(v) ? SEL_MONOTONE_V40 : SEL_MONOTONE_OFF;
}

struct files_read {
    struct sel_cell *cells;
    const char *const *paths;
};

static int read_unit(void *arg, int64_t unit, struct aq_err *err)
{
    const struct files_read *r = arg;
    return sel_cell_read(&r->cells[unit], r->paths[unit], err);
}

/* Files have nothing in common, and parsing hundreds is most of what pages over a sweep take. The
   first that is wrong is the call's error, whichever was read first. */
static int read_cells(struct sel_table *t, const char *const *paths, struct aq_err *err)
{
    struct files_read r = {t->cells, paths};
    struct aq_tried *tried = aq_pool_try((int64_t)t->cell_count, read_unit, &r);
    int status = aq_tried_error(tried, (int64_t)t->cell_count, err);
    free(tried);
    return status;
}

int sel_table_read(struct sel_table *t, const char *const *paths, size_t count,
                   const struct sel_table_options *o, struct aq_err *err)
{
    *t = (struct sel_table){.cells = xcalloc(count + 1, sizeof *t->cells), .cell_count = count};
    if (read_cells(t, paths, err) < 0)
        return -1;
    t->cost = o->engine ? SEL_COST_STORAGE : t->cells[0].cost;
    for (int rule = 0; o->cost && rule < SEL_COSTS; rule++)
        if (strcmp(o->cost, sel_cost_names[rule]) == 0)
            t->cost = (enum sel_cost)rule;
    bool named = o->cost_model != NULL;
    t->active = named ? strcmp(o->cost_model, "active") == 0 : t->cells[0].active;
    enum sel_monotone monotone =
        o->monotone == SEL_MONOTONE_AS_RUN ? monotone_of_run(&t->cells[0]) : o->monotone;
    if (check_cells(t, o->unchecked, err) < 0 || join_candidates(t, err) < 0 ||
        make_rows(t, o, monotone, err) < 0)
        return -1;
    return make_denominator(t, o->count_vision || t->cells[0].count_vision, err);
}

void sel_table_release(struct sel_table *t)
{
    for (size_t g = 0; g < t->count; g++) {
        for (size_t i = 0; i < t->rows[g].count; i++)
            free(t->rows[g].options[i].format);
        free(t->rows[g].unserved);
    }
    for (size_t i = 0; i < t->candidate_count; i++)
        free(t->candidates[i].label);
    for (size_t i = 0; i < t->cell_count; i++)
        sel_cell_release(&t->cells[i]);
    free(t->cells);
    free(t->candidates);
    free(t->candidate_cell);
    free(t->candidate_column);
    free(t->rows);
    free(t->options);
    free(t->denominator);
    *t = (struct sel_table){0};
}

/* Which interval holds is not known of a candidate that does not say what it does. */
static struct predict_group predict_group_of(const struct sel_cell *c, const struct json *facts,
                                             double per_token, double per_token_dot)
{
    const char *method = c->facts[SEL_METHOD], *act = json_find_string(facts, "a");
    return (struct predict_group){.per_token = method && act ? per_token : NAN,
                                  .per_token_dot = per_token_dot,
                                  .kl_div = method && strcmp(method, "kl_div") == 0,
                                  .activations = act && strcmp(act, "none") != 0};
}

bool sel_predict_option(const struct sel_table *t, const struct sel_option *o,
                        struct predict_group *out)
{
    if (o->candidate == SEL_NONE)
        return false;
    *out = predict_group_of(t->candidate_cell[o->candidate], t->candidates[o->candidate].facts,
                            o->per_token, o->per_token_dot);
    return true;
}

struct predict_group sel_predict_value(const struct sel_cell *c, size_t group, size_t candidate)
{
    const struct sel_value *v = sel_value_at(c, group, candidate);
    return predict_group_of(c, c->candidates[candidate].facts, v->present ? v->per_token : NAN,
                            v->per_token_dot);
}

struct prediction sel_predict(const struct sel_table *t, const int *option)
{
    struct prediction p = {0};
    for (size_t g = 0; g < t->count; g++) {
        struct predict_group own;
        if (sel_predict_option(t, &t->rows[g].options[option[g]], &own))
            prediction_add(&p, &own);
    }
    prediction_end(&p);
    return p;
}

const char *sel_candidate_name(const struct sel_table *t, const struct sel_option *o)
{
    return o->candidate == SEL_NONE ? "NONE" : t->candidates[o->candidate].name;
}

struct json *sel_members(const struct sel_row *row)
{
    return members_list(row->members, row->name);
}
