/* lib/solve/knapsack: against trying everything, on small random problems; bounds, ties, limits. */
#include "tap.h"

#include "base/mem.h"
#include "solve/knapsack.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

enum { MAX_GROUPS = 8, MAX_OPTIONS = 5 };

struct instance {
    size_t groups;
    size_t start[MAX_GROUPS + 1];
    int64_t costs[MAX_GROUPS * MAX_OPTIONS];
    double scores[MAX_GROUPS * MAX_OPTIONS];
};

static uint64_t state = 88172645463325252ULL;

static uint64_t next_random(uint64_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % below;
}

/* Small whole scores and costs: sums are exact and ties abound. */
static void random_instance(struct instance *p, uint64_t cost_range, uint64_t score_range)
{
    size_t n = 0;
    p->groups = 1 + next_random(6);
    for (size_t g = 0; g < p->groups; g++) {
        p->start[g] = n;
        size_t options = 1 + next_random(MAX_OPTIONS);
        for (size_t i = 0; i < options; i++, n++) {
            p->costs[n] = (int64_t)next_random(cost_range);
            p->scores[n] = (double)next_random(score_range) / 4 - (score_range > 50 ? 2 : 0);
        }
    }
    p->start[p->groups] = n;
}

static struct knapsack_problem problem_of(const struct instance *p)
{
    return (struct knapsack_problem){p->groups, p->start, p->costs, p->scores, 0};
}

struct answer {
    int64_t cost;
    double score;
    int choice[MAX_GROUPS];
    bool found;
};

static bool better(const struct answer *a, const struct answer *b, size_t groups)
{
    if (!b->found)
        return true;
    if (a->score != b->score)
        return a->score < b->score;
    if (a->cost != b->cost)
        return a->cost < b->cost;
    for (size_t g = 0; g < groups; g++)
        if (a->choice[g] != b->choice[g])
            return a->choice[g] < b->choice[g];
    return false;
}

static struct answer try_all(const struct instance *p, int64_t budget)
{
    struct answer best = {0}, now = {.found = true};
    for (;;) {
        now.cost = 0;
        now.score = 0;
        for (size_t g = p->groups; g-- > 0;) {
            now.cost += p->costs[p->start[g] + (size_t)now.choice[g]];
            now.score += p->scores[p->start[g] + (size_t)now.choice[g]];
        }
        if (now.cost <= budget && better(&now, &best, p->groups))
            best = now;
        size_t g = 0;
        while (g < p->groups && (size_t)++now.choice[g] == p->start[g + 1] - p->start[g])
            now.choice[g++] = 0;
        if (g == p->groups)
            return best;
    }
}

static bool same_answer(const struct knapsack *k, int64_t budget, const struct answer *a,
                        size_t groups)
{
    int choice[MAX_GROUPS];
    ptrdiff_t at = knapsack_find(k, budget);
    if (!a->found)
        return at < 0;
    if (at < 0 || knapsack_points(k)[at].cost != a->cost ||
        knapsack_points(k)[at].score != a->score)
        return false;
    knapsack_choices(k, (size_t)at, choice);
    return memcmp(choice, a->choice, groups * sizeof *choice) == 0;
}

static void test_against_all(uint64_t cost_range, uint64_t score_range, int cases)
{
    int wrong = 0, budgets = 0;
    for (int i = 0; i < cases; i++) {
        struct instance p;
        int64_t lo, hi;
        random_instance(&p, cost_range, score_range);
        struct knapsack_problem problem = problem_of(&p);
        knapsack_reach(&problem, &lo, &hi);
        struct knapsack *all = knapsack_solve(&problem, lo, hi);
        int64_t step = (hi - lo) / 7 + 1;
        for (int64_t b = lo - 1; b <= hi + step; b += step, budgets++) {
            struct answer a = try_all(&p, b);
            struct knapsack *one = knapsack_solve(&problem, b, b);
            wrong += !same_answer(one, b, &a, p.groups) || !same_answer(all, b, &a, p.groups);
            knapsack_free(one);
        }
        wrong += knapsack_gap(all) != 0;
        knapsack_free(all);
    }
    tap_ok(wrong == 0, "%d budgets of %d random problems equal trying everything (%d wrong)",
           budgets, cases, wrong);
}

static void test_undominated(void)
{
    int wrong = 0;
    for (int i = 0; i < 300; i++) {
        struct instance p;
        int64_t lo, hi;
        random_instance(&p, 1000, 1000);
        struct knapsack_problem problem = problem_of(&p);
        knapsack_reach(&problem, &lo, &hi);
        struct knapsack *k = knapsack_solve(&problem, lo, hi);
        const struct knapsack_point *q = knapsack_points(k);
        for (size_t j = 1; j < knapsack_count(k); j++)
            wrong += q[j].cost <= q[j - 1].cost || q[j].score >= q[j - 1].score;
        wrong += q[0].cost != lo || q[knapsack_count(k) - 1].cost != hi;
        knapsack_free(k);
    }
    tap_ok(wrong == 0, "points rise in cost, fall in score and span the reach");
}

static void test_ties(void)
{
    /* (8,8,8) and (NONE,4,8) of the specification: equal score and cost, the first wins */
    static const size_t start[] = {0, 3, 6, 9};
    static const int64_t costs[] = {100, 200, 400, 200, 400, 800, 50, 100, 200};
    static const double scores[] = {5, 1, 0, 3, 2, 0, 9, 0.5, 0};
    const struct knapsack_problem p = {3, start, costs, scores, 0};
    static const struct {
        int64_t budget;
        double score;
        int64_t cost;
        int choice[3];
    } expected[] = {
        {525, 4.5, 500, {1, 0, 1}}, {437, 8.5, 400, {0, 0, 1}}, {700, 3.5, 700, {1, 1, 1}}};
    for (size_t i = 0; i < AQ_COUNT(expected); i++) {
        int choice[3];
        struct knapsack *k = knapsack_solve(&p, expected[i].budget, expected[i].budget);
        ptrdiff_t at = knapsack_find(k, expected[i].budget);
        knapsack_choices(k, (size_t)at, choice);
        tap_ok(knapsack_points(k)[at].score == expected[i].score &&
                   knapsack_points(k)[at].cost == expected[i].cost &&
                   memcmp(choice, expected[i].choice, sizeof choice) == 0,
               "worked example at %lld", (long long)expected[i].budget);
        knapsack_free(k);
    }
}

/* A problem of many groups, for the limits. */
struct large {
    size_t *start;
    int64_t *costs;
    double *scores;
    struct knapsack_problem p;
};

static void large_init(struct large *l, size_t groups, size_t options)
{
    l->start = xcalloc(groups + 1, sizeof *l->start);
    l->costs = xcalloc(groups * options, sizeof *l->costs);
    l->scores = xcalloc(groups * options, sizeof *l->scores);
    for (size_t g = 0; g < groups; g++) {
        double base = pow(10, -(double)next_random(5));
        l->start[g + 1] = (g + 1) * options;
        for (size_t i = 0; i < options; i++) {
            l->costs[g * options + i] = (int64_t)((i + 1) * (1000 + next_random(999)));
            l->scores[g * options + i] =
                base * pow(2, -(double)(2 * i)) * (1 + (double)next_random(100) / 100);
        }
    }
    l->p = (struct knapsack_problem){groups, l->start, l->costs, l->scores, 0};
}

static void large_release(struct large *l)
{
    free(l->start);
    free(l->costs);
    free(l->scores);
}

struct seen {
    int64_t last;
    double score;
    size_t count;
    bool ordered;
};

static void see(const struct knapsack *k, size_t i, void *data)
{
    struct seen *s = data;
    const struct knapsack_point *p = &knapsack_points(k)[i];
    s->ordered = s->ordered && p->cost > s->last && (s->count == 0 || p->score < s->score);
    s->last = p->cost;
    s->score = p->score;
    s->count++;
}

static void test_limits(void)
{
    struct large l;
    int64_t lo, hi;
    large_init(&l, 60, 5);
    knapsack_reach(&l.p, &lo, &hi);
    struct knapsack *exact = knapsack_solve(&l.p, lo, hi);
    l.p.max_states = 2000; /* far too few */
    struct knapsack *rough = knapsack_solve(&l.p, lo, hi);
    struct seen seen = {.last = -1, .ordered = true};
    l.p.max_states = 40000;
    double gap = knapsack_sweep(&l.p, lo, hi, see, &seen);
    tap_ok(gap == 0 && seen.ordered && seen.count == knapsack_count(exact),
           "a sweep in pieces gives the same %zu points", seen.count);
    bool within = knapsack_gap(rough) > 0;
    for (int64_t b = lo; b <= hi; b += (hi - lo) / 997) {
        double best = knapsack_points(exact)[knapsack_find(exact, b)].score;
        double found = knapsack_points(rough)[knapsack_find(rough, b)].score;
        /* scores of corners are added in another order */
        within = within && found >= best * (1 - 1e-12) &&
                 found - best <= knapsack_gap(rough) * (1 + 1e-9);
    }
    tap_ok(within, "too few states: never better than the best, and within the gap of %g",
           knapsack_gap(rough));
    knapsack_free(exact);
    knapsack_free(rough);
    large_release(&l);
}

static void test_many_groups(void)
{
    struct large l;
    int64_t lo, hi;
    large_init(&l, 1500, 5);
    knapsack_reach(&l.p, &lo, &hi);
    struct knapsack *all = knapsack_solve(&l.p, lo, hi);
    int64_t middle = lo + (hi - lo) / 3;
    struct knapsack *one = knapsack_solve(&l.p, middle, middle);
    double best = knapsack_points(one)[knapsack_find(one, middle)].score;
    double corner = knapsack_points(all)[knapsack_find(all, middle)].score;
    tap_ok(knapsack_gap(all) > 0 && corner >= best && corner - best <= knapsack_gap(all),
           "1,500 groups: a corner within the gap of the exact answer");
    int *choice = xcalloc(l.p.groups, sizeof *choice);
    bool sums = true;
    for (size_t i = 0; i < knapsack_count(all); i += 97) {
        int64_t cost = 0;
        knapsack_choices(all, i, choice);
        for (size_t g = 0; g < l.p.groups; g++)
            cost += l.costs[l.start[g] + (size_t)choice[g]];
        sums = sums && cost == knapsack_points(all)[i].cost;
    }
    tap_ok(sums, "the choices of the corners add up");
    free(choice);
    knapsack_free(all);
    knapsack_free(one);
    large_release(&l);
}

static void test_units(void)
{
    int64_t costs[3];
    double unit, excess;
    const double fine[] = {0.75, 3, 12451840.125}, third[] = {1.0 / 3, 1, 2}, bad[] = {-1, 0, 0};
    tap_ok(knapsack_units(fine, 3, 12451844, costs, &unit, &excess) && unit == 0.125 &&
               excess == 0 && costs[0] == 6 && costs[2] == 99614721,
           "eighths become whole");
    bool fits = knapsack_units(third, 3, 4, costs, &unit, &excess);
    tap_ok(fits && excess > 0 && excess < 1e-9 && (double)costs[0] * unit >= third[0],
           "a third is rounded up, by %g", excess);
    tap_ok(!knapsack_units(bad, 3, 1, costs, &unit, &excess), "a negative cost is refused");
    tap_ok(!knapsack_units(fine, 3, INFINITY, costs, &unit, &excess), "an infinite sum is refused");
    tap_ok(!knapsack_units(fine, 3, 0x1p61, costs, &unit, &excess), "a sum beyond 2^60 is refused");
}

int main(void)
{
    test_against_all(40, 9, 2000);
    test_against_all(3, 3, 1000);
    test_against_all(100000, 1000, 2000);
    test_undominated();
    test_ties();
    test_limits();
    test_many_groups();
    test_units();
    return tap_done();
}
