#include "eval/polish_command.h"

#include "base/file.h"
#include "base/mem.h"
#include "base/msg.h"
#include "base/progress.h"
#include "eval/pass.h"
#include "eval/polish.h"
#include "eval/receipt.h"
#include "eval/recipe.h"
#include "eval/trial.h"
#include "select/select_engine.h"
#include "select/select_pairs.h"
#include "select/select_write.h"
#include "store/score_sums.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HELD_OUT = POLISH_TEXTS }; /* of the domains, after those of the polish */

struct command {
    const struct polish_options *o;
    struct eval_inputs in;
    struct eval_domains texts, held; /* parts of in.domains; their lists of tiles are their own */
    struct manifest manifest;
    struct sel_engine *engine;
    struct sel_table table;
    struct sel_problem problem;
    struct sel_budget budget;
    struct recipes recipes;
    struct trials *trials;
    size_t *start; /* [rows]: the manifest's options, of all options */
    int *options;  /* [rows]: of a row, for recipes_set */
    int64_t *layers;
    struct sel_pairs pairs;
    double *nats; /* [all options] */
    double *both; /* (all options, all options): their interactions; NULL: unknown */
    int32_t *labels[POLISH_TEXTS + 1];
    int64_t *first[POLISH_TEXTS];
    struct polish_job job;
    struct polish_result result;
    struct aq_progress progress;
    bool have_held, kept_optimum;
    double held_before, held_after;
    struct score_mean held_gain;
};

/* ---- texts ---- */

static int check_text(const struct command *c, size_t i, struct aq_err *err)
{
    const struct eval_domain *d = &c->in.domains.items[i];
    if (d->tokens.samples < POLISH_SAMPLES)
        return aq_err_set(err, AQ_EINPUT,
                          "'%s' has %" PRId64 " samples: fewer than %d give no error to judge by",
                          aq_show(d->path), d->tokens.samples, POLISH_SAMPLES);
    for (size_t k = 0; k < i; k++)
        if (strcmp(c->in.domains.items[k].tokens.digest, d->tokens.digest) == 0)
            return aq_err_set(err, AQ_EINPUT,
                              "'%s' and '%s' are one text: what chooses a recipe cannot judge it",
                              aq_show(c->in.domains.items[k].path), aq_show(d->path));
    return 0;
}

static int open_texts(struct command *c, struct aq_err *err)
{
    struct aq_names words = AQ_NAMES_INIT;
    aq_names_add(&words, c->o->search);
    aq_names_add(&words, c->o->confirm);
    if (c->o->held_out)
        aq_names_add(&words, c->o->held_out);
    int r = eval_inputs_open(&c->in, &c->o->where, &words, err);
    c->have_held = c->o->held_out != NULL;
    for (size_t i = 0; i < words.count && r == 0; i++)
        r = check_text(c, i, err);
    aq_names_release(&words);
    c->texts = (struct eval_domains){.items = c->in.domains.items, .count = POLISH_TEXTS};
    c->held = (struct eval_domains){.items = c->in.domains.items + HELD_OUT, .count = 1};
    return r;
}

/* Counted positions of each sample, and the tiles as pieces. */
static void list_samples(struct command *c)
{
    for (size_t i = 0; i < POLISH_TEXTS; i++) {
        const struct eval_domain *d = &c->texts.items[i];
        size_t samples = (size_t)d->tokens.samples;
        c->labels[i] = xcalloc(samples + 1, sizeof *c->labels[i]);
        c->first[i] = xcalloc(d->tiles.count + 1, sizeof *c->first[i]);
        for (size_t s = 0; s < samples; s++)
            c->labels[i][s] = (int32_t)(d->positions[s + 1] - d->positions[s]);
        for (size_t t = 0; t < d->tiles.count; t++)
            c->first[i][t + 1] = c->first[i][t] + d->tiles.items[t].desc.samples;
        c->job.texts[i] = (struct polish_samples){.samples = d->tokens.samples,
                                                  .labels = c->labels[i],
                                                  .pieces = d->tiles.count,
                                                  .first = c->first[i]};
        if (i == POLISH_SEARCH && d->positions[samples] < POLISH_POSITIONS)
            aq_warn("the search text has %" PRId64 " positions: with fewer than %d a gain of 1 %% "
                    "cannot be distinguished from noise",
                    d->positions[samples], POLISH_POSITIONS);
    }
}

/* ---- the recipe and its options ---- */

static int read_table(struct command *c, struct aq_err *err)
{
    const struct json *s = c->manifest.selection;
    const char *denominator = json_find_string(s, "denominator"),
               *engine = json_find_string(s, "engine");
    if (engine && !(c->engine = sel_engine_open(c->o->where.conf_dir, engine, err)))
        return -1;
    const struct sel_table_options o = {.cost = engine ? NULL : json_find_string(s, "cost"),
                                        .cost_model = c->manifest.active ? "active" : "weight",
                                        .count_vision =
                                            denominator && strstr(denominator, "vision"),
                                        .engine = c->engine,
                                        .monotone = SEL_MONOTONE_AS_RUN};
    const struct sel_menu none = {0};
    if (sel_table_read(&c->table, c->o->scores, c->o->count, &o, err) < 0 ||
        sel_menu_apply(&none, &c->table, -1, err) < 0)
        return -1;
    c->budget.bits = json_find_number(s, "budget");
    if (!(c->budget.bits > 0 && c->budget.bits <= 16))
        return aq_err_set(err, AQ_EINPUT, "%s: selection.budget is missing",
                          aq_show(c->o->manifest));
    return sel_problem_init(&c->problem, &c->table, err);
}

/* The option of a row that the manifest's recipe takes. */
static int find_start(struct command *c, size_t row, struct aq_err *err)
{
    const struct sel_row *x = &c->table.rows[row];
    struct manifest_choice choice;
    if (manifest_choice(&c->manifest, x->name, &choice, err) < 0)
        return -1;
    for (size_t i = c->problem.start[row]; i < c->problem.start[row + 1]; i++)
        if (strcmp(sel_candidate_name(&c->table, &x->options[c->problem.option[i]]),
                   choice.candidate) == 0) {
            c->start[row] = i;
            return 0;
        }
    return aq_err_set(err, AQ_EINPUT, "%s: '%s' of %s is in none of the scores",
                      aq_show(c->o->manifest), aq_show(choice.candidate), aq_show(x->name));
}

/* Number of an option's candidate in the pairs; -1: nothing is quantized. */
static int64_t candidate_at(const struct command *c, size_t row, size_t option)
{
    int candidate = c->table.rows[row].options[c->problem.option[option]].candidate;
    return candidate == SEL_NONE ? -1 : (int64_t)(row * c->pairs.candidates) + candidate;
}

/* What each option was measured to cost alone, and any two of them together. */
static int take_pairs(struct command *c, struct aq_err *err)
{
    size_t rows = c->table.count, all = c->problem.start[rows];
    if (sel_pairs_read(&c->pairs, c->o->pairs, &c->table, err) < 0)
        return -1;
    size_t n = c->pairs.groups * c->pairs.candidates;
    int64_t *at = xcalloc(all + 1, sizeof *at);
    for (size_t row = 0; row < rows; row++)
        for (size_t i = c->problem.start[row]; i < c->problem.start[row + 1]; i++)
            at[i] = candidate_at(c, row, i);
    c->both = xcalloc(all * all + 1, sizeof *c->both);
    for (size_t i = 0; i < all; i++) {
        c->nats[i] = at[i] < 0 ? 0 : c->pairs.nats[at[i]];
        for (size_t k = 0; k < all && at[i] >= 0; k++)
            if (at[k] >= 0)
                c->both[i * all + k] = c->pairs.cov[(size_t)at[i] * n + (size_t)at[k]];
    }
    free(at);
    return 0;
}

/* What each option is predicted to cost, in nats. */
static int predict_options(struct command *c, struct aq_err *err)
{
    if (c->o->pairs)
        return take_pairs(c, err);
    for (size_t row = 0; row < c->table.count; row++)
        for (size_t i = c->problem.start[row]; i < c->problem.start[row + 1]; i++) {
            const struct sel_option *o = &c->table.rows[row].options[c->problem.option[i]];
            struct predict_group g;
            c->nats[i] = sel_predict_option(&c->table, o, &g) ? predict_nats(&g) : 0;
            if (isnan(c->nats[i]))
                return aq_err_set(err, AQ_EINPUT, "%s: nothing is predicted from these scores",
                                  aq_show(c->table.cells[0].path));
        }
    return 0;
}

static int open_recipe(struct command *c, struct aq_err *err)
{
    size_t rows;
    int64_t cost = 0;
    if (manifest_read(&c->manifest, c->o->manifest, err) < 0 ||
        manifest_is_of(&c->manifest, c->in.lm.digest, c->in.lm.groups.count, c->o->where.reference,
                       err) < 0 ||
        read_table(c, err) < 0 || recipes_open(&c->recipes, &c->table, &c->in, err) < 0)
        return -1;
    rows = c->table.count;
    c->start = xcalloc(rows + 1, sizeof *c->start);
    c->options = xcalloc(rows + 1, sizeof *c->options);
    c->layers = xcalloc(rows + 1, sizeof *c->layers);
    c->nats = xcalloc(c->problem.start[rows] + 1, sizeof *c->nats);
    for (size_t row = 0; row < rows; row++) {
        if (find_start(c, row, err) < 0)
            return -1;
        cost += c->problem.costs[c->start[row]];
        c->layers[row] = recipes_layer(&c->recipes, row);
    }
    if (cost > sel_budget_units(&c->problem, &c->budget))
        return aq_err_set(err, AQ_EINPUT, "%s: the recipe is over its own budget",
                          aq_show(c->o->manifest));
    const char *tokens = c->table.cells[0].facts[SEL_TOKENS];
    if (tokens && strcmp(tokens, c->texts.items[POLISH_SEARCH].tokens.digest) == 0)
        aq_warn("the search text is the one that made the scores");
    return predict_options(c, err);
}

/* ---- measuring ---- */

static void to_options(const struct command *c, const size_t *choice)
{
    for (size_t row = 0; row < c->table.count; row++)
        c->options[row] = c->problem.option[choice[row]];
}

static int measure(void *arg, const struct polish_measure *m, struct aq_err *err)
{
    struct command *c = arg;
    size_t at = c->texts.first_tile[m->text];
    const struct trial_range range = {at + m->first, at + m->end, m->layer};
    to_options(c, m->choice);
    recipes_set(&c->recipes, c->options);
    int r = trials_run(c->trials, &c->recipes.mixed, &range, m->keep, m->sums, err);
    aq_progress_update(&c->progress, c->result.trials);
    return r;
}

static double seconds(void *arg)
{
    (void)arg;
    return aq_now();
}

static int search(struct command *c, struct aq_err *err)
{
    char *dir = aq_path_dir(c->o->output ? c->o->output : ".");
    const struct trial_job job = {.device = c->o->where.device,
                                  .config = eval_inputs_config(&c->in),
                                  .memory = c->o->where.memory,
                                  .spill_dir = dir,
                                  .lm = &c->in.lm,
                                  .domains = &c->texts,
                                  .operands = c->recipes.candidates,
                                  .count = c->recipes.count};
    int r = trials_open(&c->trials, &job, err);
    free(dir);
    if (r < 0)
        return -1;
    list_samples(c);
    c->job.moves = (struct move_problem){.groups = c->table.count,
                                         .start = c->problem.start,
                                         .costs = c->problem.costs,
                                         .nats = c->nats,
                                         .both = c->both,
                                         .layer = c->layers,
                                         .layers = c->in.lm.arch.num_hidden_layers,
                                         .head = trials_head_cost(c->trials),
                                         .budget = sel_budget_units(&c->problem, &c->budget)};
    c->job.measure = measure;
    c->job.clock = seconds;
    c->job.arg = c;
    c->job.trials = (size_t)c->o->trials;
    c->job.seconds = c->o->seconds;
    aq_progress_begin(&c->progress, "polishing", (uint64_t)c->o->trials);
    r = polish_run(&c->job, c->start, &c->result, err);
    aq_progress_end(&c->progress);
    trials_close(c->trials);
    c->trials = NULL;
    return r;
}

/* ---- held-out text: read once, at the end ---- */

static int nothing_saved(void *arg, size_t end, struct aq_err *err)
{
    (void)arg;
    (void)end;
    (void)err;
    return 0;
}

/* The recipe as an operand of its own; free its linears and experts. */
static struct eval_operand copy_recipe(struct command *c, const size_t *choice)
{
    struct eval_operand o = c->recipes.mixed;
    size_t n = (size_t)(o.layers * MODEL_LINEARS);
    to_options(c, choice);
    recipes_set(&c->recipes, c->options);
    o.linears = xcalloc(n + 1, sizeof *o.linears);
    memcpy(o.linears, c->recipes.mixed.linears, n * sizeof *o.linears);
    n = (size_t)(o.layers * EXPERT_HALVES);
    o.experts = xcalloc(n + 1, sizeof *o.experts);
    memcpy(o.experts, c->recipes.mixed.experts, n * sizeof *o.experts);
    return o;
}

static void compare_held(struct command *c, const struct eval_part_domain *d)
{
    size_t n = (size_t)d->samples;
    double *before = xcalloc(n + 1, sizeof *before), *after = xcalloc(n + 1, sizeof *after);
    double *gain = xcalloc(n + 1, sizeof *gain);
    c->labels[HELD_OUT] = xcalloc(n + 1, sizeof(int32_t));
    for (size_t s = 0; s < n; s++) {
        for (int64_t i = d->offsets[s]; i < d->offsets[s + 1]; i++) {
            before[s] += d->values[0].kl[i];
            after[s] += d->values[1].kl[i];
        }
        gain[s] = after[s] - before[s];
        c->labels[HELD_OUT][s] = (int32_t)(d->offsets[s + 1] - d->offsets[s]);
    }
    c->held_before = score_per_token(before, c->labels[HELD_OUT], d->samples).mean;
    c->held_after = score_per_token(after, c->labels[HELD_OUT], d->samples).mean;
    c->held_gain = score_per_token(gain, c->labels[HELD_OUT], d->samples);
    free(before);
    free(after);
    free(gain);
}

static int judge(struct command *c, struct aq_err *err)
{
    struct eval_operand both[] = {copy_recipe(c, c->start), copy_recipe(c, c->result.choice)};
    const struct eval_pass_job job = {.device = c->o->where.device,
                                      .config = eval_inputs_config(&c->in),
                                      .memory = c->o->where.memory,
                                      .lm = &c->in.lm,
                                      .domains = &c->held,
                                      .operands = both,
                                      .count = AQ_COUNT(both)};
    struct eval_pass *pass = NULL;
    struct eval_part part = {0};
    int r = eval_pass_open(&pass, &job, err);
    if (r == 0) {
        const struct eval_domain *d = &c->held.items[0];
        eval_part_init(&part, json_new_object(), AQ_COUNT(both), eval_pass_noise(pass));
        eval_part_add(&part, d->name, d->tokens.samples, d->positions);
        r = eval_pass_run(pass, 0, c->held.first_tile[1], &part, nothing_saved, NULL, err);
    }
    if (r == 0)
        compare_held(c, &part.domains[0]);
    eval_pass_close(pass);
    eval_part_release(&part);
    for (size_t i = 0; i < AQ_COUNT(both); i++) {
        free(both[i].linears);
        free(both[i].experts);
    }
    return r;
}

/* A gain that may be chance is not taken: the optimum of the scores is at least explained. */
static void decide(struct command *c)
{
    const struct polish_difference gain = {c->held_gain.mean, c->held_gain.error};
    c->kept_optimum = c->result.accepted == 0 || (c->have_held && !polish_is_gain(&gain));
    if (c->result.accepted == 0)
        aq_note(0, "no move was accepted: the recipe stays as it is");
    else if (c->kept_optimum)
        aq_note(0,
                "held-out text: %+.3g +- %.2g nats is not distinguishable from no gain: the recipe "
                "stays as it is",
                c->held_gain.mean, c->held_gain.error);
}

/* ---- the manifest ---- */

static struct json *text_of(const struct command *c, size_t i, double before, double after)
{
    const struct eval_domain *d = &c->in.domains.items[i];
    struct json *v = json_new_object();
    json_add_string(v, "name", d->name);
    json_add_string(v, "tokens", d->tokens.digest);
    json_add_int(v, "samples", d->tokens.samples);
    json_add_int(v, "positions", d->positions[d->tokens.samples]);
    json_add_double(v, "before", before);
    json_add_double(v, "after", after);
    return v;
}

static void add_difference(struct json *v, const char *key, const struct polish_difference *d)
{
    struct json *x = json_add_object(v, key);
    json_add_double(x, "difference", d->mean);
    json_add_finite(x, "se", d->error);
}

static const char *name_of(const struct command *c, size_t row, size_t option)
{
    return sel_candidate_name(&c->table, &c->table.rows[row].options[c->problem.option[option]]);
}

/* Moves that the search text accepted, in their order. */
static void add_steps(struct json *list, const struct command *c)
{
    for (size_t i = 0; i < c->result.step_count; i++) {
        const struct polish_step *s = &c->result.steps[i];
        struct json *v = json_push(list, json_new_object());
        json_add_int(v, "trial", (int64_t)s->trial);
        struct json *changes = json_add_array(v, "changes");
        for (int k = 0; k < s->move.count; k++) {
            struct json *e = json_push(changes, json_new_object());
            size_t row = s->move.group[k];
            json_add_string(e, "group", c->table.rows[row].name);
            json_add_string(e, "from", name_of(c, row, s->from[k]));
            json_add_string(e, "to", name_of(c, row, s->move.option[k]));
        }
        json_add_double(v, "predicted", s->move.predicted);
        add_difference(v, "search", &s->search);
        add_difference(v, "confirm", &s->confirm);
        json_add_bool(v, "accepted", s->accepted);
    }
}

static struct json *polish_of(const struct command *c)
{
    static const char *const names[] = {"search", "confirm"};
    const struct polish_result *r = &c->result;
    struct json *v = json_new_object();
    for (size_t i = 0; i < POLISH_TEXTS; i++)
        json_add(v, names[i], text_of(c, i, r->before[i], r->after[i]));
    if (c->have_held && r->accepted) {
        struct json *held =
            json_add(v, "held_out", text_of(c, HELD_OUT, c->held_before, c->held_after));
        json_add_double(held, "difference", c->held_gain.mean);
        json_add_finite(held, "se", c->held_gain.error);
    } else {
        json_add_null(v, "held_out");
    }
    json_add_int(v, "trials", (int64_t)r->trials);
    json_add_int(v, "accepted", (int64_t)r->accepted);
    json_add_string(v, "stopped", polish_stop_names[r->stop]);
    json_add_bool(v, "complete", r->stop != POLISH_TIMED);
    json_add_string(v, "kept", c->kept_optimum ? "start" : "polished");
    json_add_double(v, "spread", r->spread);
    if (c->o->pairs) {
        json_add_string(v, "pairs", c->pairs.digest);
        json_add_double(v, "share", r->share);
    }
    add_steps(json_add_array(v, "moves"), c);
    return v;
}

static int write_manifest(struct command *c, struct aq_err *err)
{
    struct sel_choice choice;
    struct json *polish = polish_of(c);
    to_options(c, c->kept_optimum ? c->start : c->result.choice);
    sel_choice_take(&c->table, c->options, &choice);
    const struct sel_product p = {.table = &c->table,
                                  .problem = &c->problem,
                                  .choice = &choice,
                                  .budget = c->budget,
                                  .engine = json_find_string(c->manifest.selection, "engine"),
                                  .solver = "polish",
                                  .polish = polish,
                                  .tool = "aq-eval",
                                  .result_version = EVAL_RESULT_VERSION};
    struct json *m = sel_manifest(&p);
    struct aq_buf text = AQ_BUF_INIT;
    int r = json_write(&text, m, 0, err);
    if (r == 0)
        r = aq_write_file(c->o->output, text.data, text.len, err);
    aq_buf_release(&text);
    json_free(m);
    json_free(polish);
    sel_choice_release(&choice);
    return r;
}

/* ---- the call ---- */

static int run(struct command *c, struct aq_err *err)
{
    if (open_texts(c, err) < 0 || open_recipe(c, err) < 0 || search(c, err) < 0)
        return -1;
    aq_note(0, "%zu trials, %zu accepted: %s", c->result.trials, c->result.accepted,
            polish_stop_names[c->result.stop]);
    if (c->have_held && c->result.accepted && judge(c, err) < 0)
        return -1;
    decide(c);
    return write_manifest(c, err);
}

int eval_polish(const struct polish_options *o, struct aq_err *err)
{
    struct command c = {.o = o};
    int r = run(&c, err);
    trials_close(c.trials);
    polish_release(&c.result);
    recipes_close(&c.recipes);
    sel_problem_release(&c.problem);
    sel_table_release(&c.table);
    sel_engine_close(c.engine);
    manifest_release(&c.manifest);
    free(c.texts.first_tile);
    free(c.held.first_tile);
    eval_inputs_close(&c.in);
    free(c.start);
    free(c.options);
    free(c.layers);
    free(c.nats);
    free(c.both);
    sel_pairs_release(&c.pairs);
    for (size_t i = 0; i <= POLISH_TEXTS; i++)
        free(c.labels[i]);
    for (size_t i = 0; i < POLISH_TEXTS; i++)
        free(c.first[i]);
    return r;
}
