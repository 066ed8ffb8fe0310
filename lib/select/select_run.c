#include "select/select_run.h"
#include "base/file.h"
#include "base/fmt.h"
#include "base/mem.h"
#include "base/msg.h"
#include "io/pickle.h"
#include "select/select_engine.h"
#include "select/select_pairs.h"
#include "select/select_random.h"
#include "select/select_write.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct sel_run {
    const struct sel_request *q;
    struct sel_engine *engine; /* NULL: none */
    struct sel_table table;
    struct sel_menu menu;
    struct sel_problem problem;
    struct sel_choice choice;
    struct sel_pairs pairs;
    struct sel_budget budget;
    const char *solver;
    double *rule_costs;
};

/* ---- what to do ---- */

static int set_budget(struct sel_run *r, struct aq_err *err)
{
    const struct sel_request *q = r->q;
    const struct sel_cell *first = &r->table.cells[0];
    r->budget.bytes = q->bytes;
    if (!q->bytes)
        r->budget.bits = q->bits > 0 ? q->bits : first->effective_bits;
    if (!q->bytes && !(r->budget.bits > 0 && r->budget.bits <= 16))
        return aq_err_set(err, AQ_EINPUT, "%s: the budget of the run is outside (0, 16]",
                          aq_show(first->path));
    return 0;
}

/* The threshold search is ModelOpt's for kl_div alone; its switch is without effect elsewhere. */
static int set_solver(struct sel_run *r, struct aq_err *err)
{
    const struct sel_cell *first = &r->table.cells[0];
    const char *method = first->facts[SEL_METHOD], *asked = r->q->solver;
    bool kl = method && strcmp(method, "kl_div") == 0;
    if (asked && strcmp(asked, "threshold") == 0 && !kl)
        return aq_err_set(err, AQ_EUSAGE, "--solver threshold is for kl_div scores only");
    if (!asked && kl)
        asked = json_find_string(first->autoquant, "solver");
    if (r->q->pairs) {
        r->solver = "pairs";
        return 0;
    }
    r->solver = asked && strcmp(asked, "threshold") == 0 ? "threshold" : "exact";
    return 0;
}

static enum sel_monotone monotone_of(const char *text)
{
    if (strcmp(text, "v40") == 0)
        return SEL_MONOTONE_V40;
    return strcmp(text, "v39") == 0 ? SEL_MONOTONE_V39 : SEL_MONOTONE_OFF;
}

/* ---- solving ---- */

static int solve(struct sel_run *r, struct sel_choice *out, struct aq_err *err)
{
    if (r->q->pairs)
        return sel_pairs_solve(&r->pairs, &r->problem, &r->budget, out, err);
    if (strcmp(r->solver, "threshold") == 0)
        sel_threshold(&r->problem, &r->budget, out);
    else
        sel_solve(&r->problem, &r->budget, out);
    return 0;
}

/* What a rule cost: the score with all rules, minus the score without this one. */
static int cost_of_rule(struct sel_run *r, size_t rule, struct aq_err *err)
{
    struct sel_choice free_choice = {0};
    if (sel_menu_apply(&r->menu, &r->table, (ptrdiff_t)rule, err) < 0)
        return -1;
    sel_problem_release(&r->problem);
    if (sel_problem_init(&r->problem, &r->table, err) < 0)
        return -1;
    if (solve(r, &free_choice, err) < 0)
        return -1;
    r->rule_costs[rule] =
        r->choice.satisfied && free_choice.satisfied ? r->choice.score - free_choice.score : NAN;
    sel_choice_release(&free_choice);
    return 0;
}

static int cost_of_rules(struct sel_run *r, struct aq_err *err)
{
    r->rule_costs = xcalloc(r->menu.count + 1, sizeof *r->rule_costs);
    for (size_t i = 0; i < r->menu.count; i++)
        if (cost_of_rule(r, i, err) < 0)
            return -1;
    if (r->menu.count == 0)
        return 0;
    sel_problem_release(&r->problem);
    if (sel_menu_apply(&r->menu, &r->table, -1, err) < 0)
        return -1;
    return sel_problem_init(&r->problem, &r->table, err);
}

/* ---- messages ---- */

/* Groups that an engine leaves nothing but 16 bits, where there are such. */
static char *unserved_groups(const struct sel_table *t)
{
    const struct sel_row *first = NULL;
    size_t n = 0;
    for (size_t g = 0; g < t->count; g++) {
        n += t->rows[g].unserved != NULL;
        first = first ? first : t->rows[g].unserved ? &t->rows[g] : NULL;
    }
    return first ? xasprintf("; the engine serves no candidate of %zu of %zu groups: %s: %s", n,
                             t->count, aq_show(first->name), first->unserved)
                 : xstrdup("");
}

static int check_reached(const struct sel_run *r, struct aq_err *err)
{
    char asked[AQ_FMT_MAX], least[AQ_FMT_MAX];
    int status = 0;
    if (r->choice.satisfied)
        return 0;
    char *unserved = unserved_groups(&r->table);
    aq_fmt_double(sel_budget_bits(&r->budget, &r->table), asked);
    aq_fmt_double(sel_units_to_bits(&r->problem, r->problem.lo), least);
    if (r->q->strict)
        status =
            aq_err_set(err, AQ_EINPUT,
                       "%s: the budget of %s bits is out of reach: the smallest reachable is %s%s",
                       aq_show(r->table.cells[0].path), asked, least, unserved);
    else
        aq_warn("the budget of %s bits is out of reach: the smallest reachable is %s%s", asked,
                least, unserved);
    free(unserved);
    return status;
}

static void report_precision(const struct sel_run *r, double gap)
{
    char text[AQ_FMT_MAX];
    if (gap > 0)
        aq_warn("too many groups for an exact answer: the score is within %s of the best",
                aq_fmt_double(gap, text));
    if (r->problem.excess > 0)
        aq_warn("costs were rounded up, by at most %s weights of 16 bits each",
                aq_fmt_double(r->problem.excess, text));
}

/* One line, however many layers there are. */
static void report_unseen(const struct sel_table *t)
{
    const struct sel_row *worst = NULL;
    size_t count = 0;
    for (size_t g = 0; g < t->count; g++) {
        const struct sel_row *row = &t->rows[g];
        if (!row->routed.experts || !routed_partly(&row->routed))
            continue;
        count++;
        if (!worst || row->routed.unseen > worst->routed.unseen)
            worst = row;
    }
    if (worst)
        aq_warn("%zu group%s of experts %s scored on part of %s weights: no token reaches %" PRId64
                " of the %" PRId64 " experts of '%s'",
                count, count > 1 ? "s" : "", count > 1 ? "are" : "is", count > 1 ? "their" : "its",
                worst->routed.unseen, worst->routed.experts, aq_show(worst->name));
}

/* ---- products ---- */

static int write_frontier(struct sel_run *r, struct aq_err *err)
{
    struct aq_buf out = AQ_BUF_INIT;
    report_precision(r, sel_frontier(&r->problem, &out));
    int status = aq_write_file(r->q->output, out.data, out.len, err);
    aq_buf_release(&out);
    return status;
}

static int write_state(const struct sel_product *p, const char *path, struct aq_err *err)
{
    struct aq_buf out = AQ_BUF_INIT;
    struct json *state = sel_state(p);
    torch_archive(&out, state);
    json_free(state);
    int status = aq_write_file(path, out.data, out.len, err);
    aq_buf_release(&out);
    return status;
}

static struct sel_product product_of(const struct sel_run *r)
{
    return (struct sel_product){.table = &r->table,
                                .problem = &r->problem,
                                .choice = &r->choice,
                                .menu = &r->menu,
                                .rule_costs = r->rule_costs,
                                .budget = r->budget,
                                .solver = r->solver,
                                .pairs = r->q->pairs ? &r->pairs : NULL,
                                .engine = r->q->engine,
                                .result_version = r->q->result_version};
}

/* One of --random's recipes. */
static int write_random(struct sel_run *r, int64_t number, struct aq_err *err)
{
    const struct sel_random random =
        sel_random_at(&r->problem, r->q->bits, r->q->seed, number, r->q->random);
    struct aq_buf text = AQ_BUF_INIT;
    sel_random_solve(&r->problem, &random, &r->choice);
    r->budget = (struct sel_budget){.bits = random.bits};
    struct sel_product p = product_of(r);
    p.random = &random;
    struct json *manifest = sel_manifest(&p);
    char *path = xasprintf("%s/%lld.json", r->q->dir, (long long)number + 1);
    int status = json_write(&text, manifest, 0, err);
    if (status == 0)
        status = aq_write_file(path, text.data, text.len, err);
    json_free(manifest);
    free(path);
    aq_buf_release(&text);
    sel_choice_release(&r->choice);
    return status;
}

static int write_randoms(struct sel_run *r, struct aq_err *err)
{
    r->rule_costs = xcalloc(r->menu.count + 1, sizeof *r->rule_costs);
    for (size_t i = 0; i < r->menu.count; i++)
        r->rule_costs[i] = NAN; /* not asked of them */
    int status = aq_make_dirs(r->q->dir, err);
    for (int64_t i = 0; i < r->q->random && status == 0; i++)
        status = write_random(r, i, err);
    return status;
}

static int write_products(const struct sel_run *r, struct aq_err *err)
{
    const struct sel_product p = product_of(r);
    struct aq_buf text = AQ_BUF_INIT;
    struct json *manifest = sel_manifest(&p);
    int status = json_write(&text, manifest, 0, err);
    json_free(manifest);
    if (status == 0 && r->q->state)
        status = write_state(&p, r->q->state, err);
    if (status == 0)
        status = aq_write_file(r->q->output, text.data, text.len, err);
    aq_buf_release(&text);
    return status;
}

static int read_inputs(struct sel_run *r, struct aq_err *err)
{
    const struct sel_request *q = r->q;
    if (q->engine && !(r->engine = sel_engine_open(q->conf_dir, q->engine, err)))
        return -1;
    struct sel_table_options o = {.cost = q->bytes ? "storage" : q->cost,
                                  .cost_model = q->bytes ? "weight" : q->cost_model,
                                  .count_vision = q->count_vision,
                                  .unchecked = q->unchecked,
                                  .engine = r->engine,
                                  .monotone =
                                      q->monotone ? monotone_of(q->monotone) : SEL_MONOTONE_AS_RUN};
    if (sel_table_read(&r->table, q->inputs, q->input_count, &o, err) < 0)
        return -1;
    if (set_budget(r, err) < 0 || set_solver(r, err) < 0)
        return -1;
    if (q->menu && sel_menu_read(&r->menu, q->menu, &r->table, err) < 0)
        return -1;
    if (sel_menu_apply(&r->menu, &r->table, -1, err) < 0)
        return -1;
    if (q->pairs && sel_pairs_read(&r->pairs, q->pairs, &r->table, err) < 0)
        return -1;
    return sel_problem_init(&r->problem, &r->table, err);
}

static int run(struct sel_run *r, struct aq_err *err)
{
    if (read_inputs(r, err) < 0)
        return -1;
    if (r->q->frontier)
        return write_frontier(r, err);
    if (r->q->random)
        return write_randoms(r, err);
    if (solve(r, &r->choice, err) < 0 || cost_of_rules(r, err) < 0 || check_reached(r, err) < 0)
        return -1;
    report_precision(r, r->choice.gap);
    report_unseen(&r->table);
    return write_products(r, err);
}

int sel_run(const struct sel_request *q, struct aq_err *err)
{
    struct sel_run r = {.q = q};
    int status = run(&r, err);
    free(r.rule_costs);
    sel_choice_release(&r.choice);
    sel_pairs_release(&r.pairs);
    sel_problem_release(&r.problem);
    sel_menu_release(&r.menu);
    sel_table_release(&r.table);
    sel_engine_close(r.engine);
    return status;
}
