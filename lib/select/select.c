#include "select/select.h"
#include "base/fmt.h"
#include "base/mem.h"
#include "solve/knapsack.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the problem ---- */

static int check_scores(const struct sel_table *t, struct aq_err *err)
{
    double worst = 0;
    for (size_t g = 0; g < t->count; g++) {
        double most = 0;
        for (size_t i = 0; i < t->rows[g].count; i++)
            most = fmax(most, fabs(t->rows[g].options[i].score));
        worst += most;
    }
    if (!isfinite(worst))
        return aq_err_set(err, AQ_EINPUT, "%s: the sum of the scores is too large",
                          aq_show(t->cells[0].path));
    return 0;
}

int sel_problem_init(struct sel_problem *p, const struct sel_table *t, struct aq_err *err)
{
    *p = (struct sel_problem){.table = t};
    size_t most = 0;
    for (size_t g = 0; g < t->count; g++)
        most += t->rows[g].count;
    p->start = xcalloc(t->count + 1, sizeof *p->start);
    p->option = xcalloc(most + 1, sizeof *p->option);
    p->costs = xcalloc(most + 1, sizeof *p->costs);
    p->scores = xcalloc(most + 1, sizeof *p->scores);
    double *costs = xcalloc(most + 1, sizeof *costs), sum = 0;
    size_t n = 0;
    for (size_t g = 0; g < t->count; g++) {
        double dearest = 0;
        p->start[g] = n;
        for (size_t i = 0; i < t->rows[g].count; i++) {
            const struct sel_option *o = &t->rows[g].options[i];
            if (!o->allowed)
                continue;
            p->option[n] = (int)i;
            costs[n] = o->cost;
            p->scores[n++] = o->score;
            dearest = fmax(dearest, o->cost);
        }
        sum += dearest;
    }
    p->start[t->count] = n;
    bool fits = knapsack_units(costs, n, sum, p->costs, &p->unit, &p->excess);
    free(costs);
    if (!fits)
        return aq_err_set(err, AQ_EINPUT, "%s: the costs are too large to be added exactly",
                          aq_show(t->cells[0].path));
    struct knapsack_problem k = {t->count, p->start, p->costs, p->scores, 0};
    knapsack_reach(&k, &p->lo, &p->hi);
    return check_scores(t, err);
}

void sel_problem_release(struct sel_problem *p)
{
    free(p->start);
    free(p->option);
    free(p->costs);
    free(p->scores);
    *p = (struct sel_problem){0};
}

double sel_units_to_bits(const struct sel_problem *p, int64_t units)
{
    return ((double)units * p->unit + p->table->fixed) / p->table->total * 16;
}

double sel_budget_bits(const struct sel_budget *b, const struct sel_table *t)
{
    return b->bits > 0 ? b->bits : (double)b->bytes * 8 / t->total;
}

int64_t sel_budget_units(const struct sel_problem *p, const struct sel_budget *b)
{
    const struct sel_table *t = p->table;
    double total =
        b->bits > 0 ? t->total * b->bits / 16 : (double)b->bytes / 2; /* 16-bit weights */
    double units = floor((total - t->fixed) / p->unit);
    int64_t n = !(units >= 0) ? -1 : units < (double)p->hi ? (int64_t)units : p->hi;
    /* A budget in bits is what sel_units_to_bits printed, or comes close to it: the product above
       is rounded, and could miss it by one on either side. */
    while (b->bits > 0 && n < p->hi && sel_units_to_bits(p, n + 1) <= b->bits)
        n++;
    while (b->bits > 0 && n >= 0 && sel_units_to_bits(p, n) > b->bits)
        n--;
    return n;
}

/* ---- one budget ---- */

/* Sums in the order of the rows, so that equal choices give equal bits everywhere. */
static void add_up(const struct sel_table *t, struct sel_choice *c)
{
    double cost = t->fixed, storage = 16 * t->fixed;
    c->score = 0;
    for (size_t g = 0; g < t->count; g++) {
        const struct sel_option *o = &t->rows[g].options[c->option[g]];
        c->score += o->score;
        cost += o->cost;
        storage += o->storage_bits * t->rows[g].weights;
    }
    c->effective_bits = cost / t->total * 16;
    c->storage_bits = storage / t->weights;
}

static void cheapest(const struct sel_problem *p, int *option)
{
    for (size_t g = 0; g < p->table->count; g++) {
        size_t best = p->start[g];
        for (size_t i = best + 1; i < p->start[g + 1]; i++)
            if (p->costs[i] < p->costs[best] ||
                (p->costs[i] == p->costs[best] && p->scores[i] < p->scores[best]))
                best = i;
        option[g] = p->option[best];
    }
}

void sel_solve(const struct sel_problem *p, const struct sel_budget *b, struct sel_choice *out)
{
    const struct sel_table *t = p->table;
    struct knapsack_problem problem = {t->count, p->start, p->costs, p->scores, 0};
    int64_t budget = sel_budget_units(p, b);
    *out = (struct sel_choice){.option = xcalloc(t->count + 1, sizeof *out->option)};
    struct knapsack *k = knapsack_solve(&problem, budget, budget);
    ptrdiff_t at = knapsack_find(k, budget);
    if (at < 0) {
        cheapest(p, out->option);
    } else {
        knapsack_choices(k, (size_t)at, out->option);
        for (size_t g = 0; g < t->count; g++)
            out->option[g] = p->option[p->start[g] + (size_t)out->option[g]];
        out->satisfied = true;
        out->gap = knapsack_gap(k);
    }
    knapsack_free(k);
    add_up(t, out);
}

void sel_choice_take(const struct sel_table *t, const int *option, struct sel_choice *out)
{
    *out = (struct sel_choice){.option = xcalloc(t->count + 1, sizeof *out->option),
                               .satisfied = true};
    memcpy(out->option, option, t->count * sizeof *option);
    add_up(t, out);
}

void sel_choice_release(struct sel_choice *c)
{
    free(c->option);
    *c = (struct sel_choice){0};
}

/* ---- ModelOpt's threshold ---- */

/* Each group takes its first format, by rising bits, with a score of at most t. */
static int64_t take_below(const struct sel_problem *p, double threshold, int *option)
{
    int64_t cost = 0;
    for (size_t g = 0; g < p->table->count; g++) {
        size_t pick = p->start[g];
        for (size_t i = p->start[g]; i < p->start[g + 1]; i++)
            if (p->scores[i] <= threshold) {
                pick = i;
                break;
            }
        option[g] = p->option[pick];
        cost += p->costs[pick];
    }
    return cost;
}

void sel_threshold(const struct sel_problem *p, const struct sel_budget *b, struct sel_choice *out)
{
    enum { ROUNDS = 100 };
    const struct sel_table *t = p->table;
    int64_t budget = sel_budget_units(p, b), cost = 0;
    double low = INFINITY, high = -INFINITY;
    for (size_t i = 0; i < p->start[t->count]; i++) {
        low = fmin(low, p->scores[i]);
        high = fmax(high, p->scores[i]);
    }
    *out = (struct sel_choice){.option = xcalloc(t->count + 1, sizeof *out->option)};
    double threshold = (low + high) / 2;
    for (int round = 0; round < ROUNDS; round++) {
        cost = take_below(p, threshold, out->option);
        if (cost <= budget)
            high = threshold;
        else
            low = threshold;
        threshold = (low + high) / 2;
    }
    out->satisfied = cost <= budget; /* of the last round, whatever was seen before */
    add_up(t, out);
}

/* ---- every budget ---- */

static void add_change(struct aq_buf *out, const struct sel_table *t, const char *bits,
                       const char *score, size_t g, int from, int to)
{
    const struct sel_row *row = &t->rows[g];
    aq_buf_adds(out, bits);
    aq_buf_addc(out, '\t');
    aq_buf_adds(out, score);
    aq_buf_addc(out, '\t');
    aq_buf_adds(out, aq_show(row->name));
    aq_buf_addc(out, '\t');
    aq_buf_adds(out, from < 0 ? "-" : aq_show(sel_candidate_name(t, &row->options[from])));
    aq_buf_addc(out, '\t');
    aq_buf_adds(out, aq_show(sel_candidate_name(t, &row->options[to])));
    aq_buf_addc(out, '\n');
}

/* Rows are made as the points come by. */
struct frontier_writer {
    const struct sel_problem *p;
    struct aq_buf *out;
    int *before, *now;
    bool first;
};

static void add_point(const struct knapsack *k, size_t i, void *data)
{
    struct frontier_writer *w = data;
    const struct sel_problem *p = w->p;
    const struct sel_table *t = p->table;
    char bits[AQ_FMT_MAX], score_text[AQ_FMT_MAX];
    double score = 0;
    knapsack_choices(k, i, w->now);
    for (size_t g = 0; g < t->count; g++)
        score += p->scores[p->start[g] + (size_t)w->now[g]];
    aq_fmt_double(sel_units_to_bits(p, knapsack_points(k)[i].cost), bits);
    aq_fmt_double(score, score_text);
    for (size_t g = 0; g < t->count; g++)
        if (w->first || w->now[g] != w->before[g])
            add_change(w->out, t, bits, score_text, g,
                       w->first ? -1 : p->option[p->start[g] + (size_t)w->before[g]],
                       p->option[p->start[g] + (size_t)w->now[g]]);
    int *swap = w->before;
    w->before = w->now;
    w->now = swap;
    w->first = false;
}

double sel_frontier(const struct sel_problem *p, struct aq_buf *out)
{
    struct knapsack_problem problem = {p->table->count, p->start, p->costs, p->scores, 0};
    struct frontier_writer w = {.p = p,
                                .out = out,
                                .before = xcalloc(p->table->count + 1, sizeof *w.before),
                                .now = xcalloc(p->table->count + 1, sizeof *w.now),
                                .first = true};
    aq_buf_adds(out, "bits\tscore\tgroup\tfrom\tto\n");
    double gap = knapsack_sweep(&problem, p->lo, p->hi, add_point, &w);
    free(w.before);
    free(w.now);
    return gap;
}
