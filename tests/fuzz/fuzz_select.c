/*
 * The knapsack against trying everything: the input is read as groups of options with small costs
 * and scores, and a budget.
 */
#include "solve/knapsack.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

enum { MAX_GROUPS = 6, MAX_OPTIONS = 4 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct bytes {
    const uint8_t *at;
    size_t left;
};

static unsigned take(struct bytes *b)
{
    if (!b->left)
        return 0;
    b->left--;
    return *b->at++;
}

struct best {
    int64_t cost;
    double score;
    int choice[MAX_GROUPS];
    bool found;
};

static bool improves(const struct best *a, const struct best *b, size_t groups)
{
    if (!b->found || a->score != b->score)
        return !b->found || a->score < b->score;
    if (a->cost != b->cost)
        return a->cost < b->cost;
    for (size_t g = 0; g < groups; g++)
        if (a->choice[g] != b->choice[g])
            return a->choice[g] < b->choice[g];
    return false;
}

static void try_all(const struct knapsack_problem *p, size_t g, int64_t budget, struct best *now,
                    struct best *best)
{
    if (g == p->groups) {
        if (now->cost <= budget && improves(now, best, p->groups)) {
            *best = *now;
            best->found = true;
        }
        return;
    }
    for (size_t i = p->start[g]; i < p->start[g + 1]; i++) {
        struct best next = *now;
        next.cost += p->costs[i];
        next.score += p->scores[i];
        next.choice[g] = (int)(i - p->start[g]);
        try_all(p, g + 1, budget, &next, best);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes b = {data, size};
    size_t start[MAX_GROUPS + 1] = {0}, n = 0;
    int64_t costs[MAX_GROUPS * MAX_OPTIONS];
    double scores[MAX_GROUPS * MAX_OPTIONS];
    struct knapsack_problem p = {1 + take(&b) % MAX_GROUPS, start, costs, scores, 0};
    int64_t budget = (int64_t)take(&b) * 4;
    for (size_t g = 0; g < p.groups; g++) {
        size_t options = 1 + take(&b) % MAX_OPTIONS;
        for (size_t i = 0; i < options; i++, n++) {
            costs[n] = take(&b);
            scores[n] = (double)take(&b) / 4 - 8; /* sums stay exact */
        }
        start[g + 1] = n;
    }
    struct best now = {0}, best = {0};
    try_all(&p, 0, budget, &now, &best);
    struct knapsack *k = knapsack_solve(&p, budget, budget);
    ptrdiff_t at = knapsack_find(k, budget);
    if ((at >= 0) != best.found)
        abort();
    if (best.found) {
        int choice[MAX_GROUPS];
        knapsack_choices(k, (size_t)at, choice);
        if (knapsack_points(k)[at].cost != best.cost || knapsack_points(k)[at].score != best.score)
            abort();
        for (size_t g = 0; g < p.groups; g++)
            if (choice[g] != best.choice[g])
                abort();
    }
    knapsack_free(k);
    return 0;
}
