/* The block solver against every combination there is. */
#include "select/select_pairs.h"
#include "tap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GROUPS = 6, CANDIDATES = 2, OPTIONS = 3, ALL = GROUPS * CANDIDATES };

static uint64_t state = 7;

static double uniform(void)
{
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(state >> 11) * 0x1p-53;
}

/* Groups 0 to 2 are of layer 0, 3 and 4 of layer 1, 5 of layer 2. Options: two candidates, none. */
struct world {
    struct sel_cell cell;
    struct sel_table table;
    struct sel_row rows[GROUPS];
    struct sel_option options[GROUPS * OPTIONS];
    size_t start[GROUPS + 1];
    int option[GROUPS * OPTIONS];
    int64_t costs[GROUPS * OPTIONS], layer[GROUPS];
    double scores[GROUPS * OPTIONS], nats[ALL], pair[ALL * ALL];
    struct sel_pairs pairs;
    struct sel_problem problem;
};

static void make(struct world *w)
{
    static const int64_t layers[GROUPS] = {0, 0, 0, 1, 1, 2};
    memset(w, 0, sizeof *w);
    memcpy(w->layer, layers, sizeof layers);
    for (size_t g = 0; g < GROUPS; g++) {
        w->rows[g] = (struct sel_row){.name = "g",
                                      .weights = 1 + (double)(g % 3),
                                      .options = w->options + g * OPTIONS,
                                      .count = OPTIONS};
        w->start[g + 1] = (g + 1) * OPTIONS;
        for (int i = 0; i < OPTIONS; i++) {
            size_t at = g * OPTIONS + (size_t)i;
            w->options[at].candidate = i < CANDIDATES ? i : SEL_NONE;
            w->options[at].cost = w->rows[g].weights * (double)(4 << i) / 16;
            w->option[at] = i;
            w->costs[at] = (int64_t)(w->rows[g].weights * (4 << i));
        }
    }
    for (size_t a = 0; a < ALL; a++)
        w->nats[a] = uniform() * (a % CANDIDATES ? 1 : 4);
    for (size_t a = 0; a < ALL; a++)
        for (size_t b = 0; b < a; b++)
            if (a / CANDIDATES != b / CANDIDATES)
                w->pair[a * ALL + b] = w->pair[b * ALL + a] = 2 * uniform() - 1;
    w->table = (struct sel_table){.cells = &w->cell,
                                  .cell_count = 1,
                                  .rows = w->rows,
                                  .count = GROUPS,
                                  .candidate_count = CANDIDATES,
                                  .total = 12};
    w->pairs = (struct sel_pairs){.path = "pairs",
                                  .groups = GROUPS,
                                  .candidates = CANDIDATES,
                                  .nats = w->nats,
                                  .pair = w->pair,
                                  .layer = w->layer};
    w->problem = (struct sel_problem){.table = &w->table,
                                      .start = w->start,
                                      .option = w->option,
                                      .costs = w->costs,
                                      .scores = w->scores,
                                      .unit = 1.0 / 16,
                                      .lo = 48,
                                      .hi = 192};
}

/* The sum again, from its definition. */
static double sum_of(const struct world *w, const int *choice)
{
    double sum = 0;
    for (int a = 0; a < GROUPS; a++) {
        sum += choice[a] < CANDIDATES ? w->nats[a * CANDIDATES + choice[a]] : 0;
        for (int b = 0; b < a; b++)
            if (w->layer[a] == w->layer[b] && choice[a] < CANDIDATES && choice[b] < CANDIDATES)
                sum += w->pair[(a * CANDIDATES + choice[a]) * ALL + b * CANDIDATES + choice[b]];
    }
    return sum;
}

static double best_of_all(const struct world *w, int64_t budget)
{
    double best = INFINITY;
    for (int n = 0; n < 729; n++) {
        int choice[GROUPS], rest = n;
        int64_t cost = 0;
        for (int g = 0; g < GROUPS; g++, rest /= OPTIONS) {
            choice[g] = rest % OPTIONS;
            cost += w->costs[g * OPTIONS + choice[g]];
        }
        if (cost <= budget)
            best = fmin(best, sum_of(w, choice));
    }
    return best;
}

int main(void)
{
    static struct world w;
    struct aq_err err = {0};
    int right = 0, within = 0, same = 0, tried = 0;
    for (int round = 0; round < 20; round++) {
        make(&w);
        for (int64_t budget = 48; budget <= 192; budget += 12, tried++) {
            const struct sel_budget b = {.bits = (double)budget / 12};
            struct sel_choice c;
            int64_t cost = 0;
            if (sel_pairs_solve(&w.pairs, &w.problem, &b, &c, &err) < 0)
                break;
            for (int g = 0; g < GROUPS; g++)
                cost += w.costs[g * OPTIONS + c.option[g]];
            right += fabs(sum_of(&w, c.option) - best_of_all(&w, budget)) < 1e-12;
            same += sel_pairs_nats(&w.pairs, &w.table, c.option) - sum_of(&w, c.option) < 1e-12;
            within += cost <= budget && c.satisfied && c.gap == 0;
            sel_choice_release(&c);
        }
    }
    tap_ok(tried == 260 && right == tried, "the best of all combinations: %d of %d", right, tried);
    tap_ok(same == tried, "the sum that it says it has");
    tap_ok(within == tried, "within the budget, exactly");
    const struct sel_budget none = {.bits = 3};
    struct sel_choice c;
    tap_ok(sel_pairs_solve(&w.pairs, &w.problem, &none, &c, &err) == 0 && !c.satisfied &&
               c.option[0] == 0 && c.option[5] == 0,
           "out of reach: the cheapest");
    sel_choice_release(&c);
    return tap_done();
}
