/*
 * A dynamic program over the groups, from the last to the first: a list of undominated (cost,
 * score) states, merged once per option of the next group. Working backwards gives the tie rule
 * for free: of two ways to one state the group added last, the first in order, decides.
 *
 * What keeps the lists short is a bound. Let L(w) be the least value of score + w * cost over all
 * assignments; it separates into groups. The corners of the lower convex hull of all assignments
 * are known at once (take the steps of the groups by falling gain per cost), and between two
 * corners a feasible score U(b) is known. An assignment that is optimal for the budget b has
 * score + w * cost <= U(b) + w * b for every w >= 0. So with
 *
 *     gap(w) = max over budgets b served by w of U(b) + w * b, minus L(w)
 *
 * a state of the groups k.. is needed only if score + w * cost <= gap(w) + L_k(w) for one of the
 * weights w, where L_k is the same bound for the groups k.. alone. Over the cost of the state the
 * right-hand side is the upper envelope of straight lines, so the test costs one multiplication.
 * It drops no assignment that is optimal for a budget in the range.
 */
#include "solve/knapsack.h"
#include "base/mem.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_WEIGHTS = 512,         /* lines of the bound */
    DEFAULT_STATES = 24 << 20, /* 6 bytes each, kept for walking back */
    MIN_LEVEL = 1 << 12,       /* states a group may always have */
};

/* An option that is worth having, and its number in the problem. */
struct option {
    int64_t cost;
    double score;
    int number;
};

struct state {
    int64_t cost;
    double score;
    uint32_t parent; /* in the list of the next group */
    uint16_t option;
};

struct list {
    struct state *items;
    size_t count, cap;
};

/* One step along the hull of one group: costs more, scores less. */
struct step {
    double rate; /* gain / cost */
    double gain;
    int64_t cost;
    size_t group, index; /* from option index - 1 of the group's hull to index */
};

/* The bound for one weight. */
struct weight {
    double w, gap;
};

/* A line of the envelope: at + slope * cost, the highest from cost `from` on. */
struct line {
    double at, slope, from;
};

/* What remains of a list for walking back. */
struct level {
    uint32_t *parent;
    uint16_t *option;
};

struct knapsack {
    size_t groups;
    struct level *levels;
    struct knapsack_point *points;
    size_t count, states;
    double gap;
};

/* The work in progress. */
struct solver {
    const struct knapsack_problem *p;
    struct option *options; /* undominated ones, by rising cost */
    size_t *start;
    struct step *steps; /* by falling rate */
    size_t step_count;
    int64_t least;      /* cost of the cheapest assignment */
    double least_score; /* and its score */
    struct weight *weights;
    size_t weight_count;
    double *below; /* per weight: L_k of the groups from the current one on */
    struct line *lines;
    size_t line_count;
    int64_t lo, hi;
    size_t level_cap;
    bool thinned;
};

/* ---- options of one group ---- */

static int by_cost(const void *a, const void *b)
{
    const struct option *x = a, *y = b;
    if (x->cost != y->cost)
        return x->cost < y->cost ? -1 : 1;
    if (x->score != y->score)
        return x->score < y->score ? -1 : 1;
    return x->number - y->number;
}

/* Sorts and drops what another option makes useless; returns how many remain. */
static size_t prune_options(struct option *o, size_t n)
{
    qsort(o, n, sizeof *o, by_cost);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (kept == 0 || o[i].score < o[kept - 1].score)
            o[kept++] = o[i];
    return kept;
}

static void load_options(struct solver *s)
{
    const struct knapsack_problem *p = s->p;
    s->options = xcalloc(p->start[p->groups] + 1, sizeof *s->options);
    s->start = xcalloc(p->groups + 1, sizeof *s->start);
    size_t at = 0;
    for (size_t g = 0; g < p->groups; g++) {
        s->start[g] = at;
        size_t n = p->start[g + 1] - p->start[g];
        assert(n >= 1 && n <= KNAPSACK_MAX_OPTIONS);
        for (size_t i = 0; i < n; i++)
            s->options[at + i] = (struct option){.cost = p->costs[p->start[g] + i],
                                                 .score = p->scores[p->start[g] + i],
                                                 .number = (int)i};
        at += prune_options(s->options + at, n);
        s->least += s->options[s->start[g]].cost;
        s->least_score += s->options[s->start[g]].score;
    }
    s->start[p->groups] = at;
}

/* ---- the hull ---- */

static double rate(const struct option *a, const struct option *b)
{
    return (a->score - b->score) / (double)(b->cost - a->cost);
}

/* Adds the steps of one group's lower convex hull: falling rates. */
static void add_steps(struct solver *s, size_t g, size_t *hull)
{
    size_t n = 0;
    for (size_t i = s->start[g]; i < s->start[g + 1]; i++) {
        const struct option *o = s->options;
        while (n >= 2 && rate(&o[hull[n - 2]], &o[hull[n - 1]]) <= rate(&o[hull[n - 1]], &o[i]))
            n--;
        hull[n++] = i;
    }
    for (size_t i = 1; i < n; i++) {
        const struct option *a = &s->options[hull[i - 1]], *b = &s->options[hull[i]];
        s->steps[s->step_count++] = (struct step){.rate = rate(a, b),
                                                  .gain = a->score - b->score,
                                                  .cost = b->cost - a->cost,
                                                  .group = g,
                                                  .index = i};
    }
}

static int by_rate(const void *a, const void *b)
{
    const struct step *x = a, *y = b;
    if (x->rate != y->rate)
        return x->rate > y->rate ? -1 : 1;
    if (x->group != y->group)
        return x->group < y->group ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

static void make_steps(struct solver *s)
{
    size_t total = s->start[s->p->groups];
    s->steps = xcalloc(total + 1, sizeof *s->steps);
    size_t *hull = xcalloc(total + 1, sizeof *hull);
    for (size_t g = 0; g < s->p->groups; g++)
        add_steps(s, g, hull);
    free(hull);
    qsort(s->steps, s->step_count, sizeof *s->steps, by_rate);
}

/* ---- the bound ---- */

/* min over the options of group g of score + w * cost */
static double least_value(const struct solver *s, size_t g, double w)
{
    double least = INFINITY;
    for (size_t i = s->start[g]; i < s->start[g + 1]; i++) {
        double v = s->options[i].score + w * (double)s->options[i].cost;
        if (v < least)
            least = v;
    }
    return least;
}

/*
 * Chooses the weights: the steps that matter for budgets in [lo, hi], in at most MAX_WEIGHTS runs
 * of neighbours, each served by the rate of its middle step. Behind the last step nothing improves
 * and the weight 0 with gap 0 is right.
 */
static void make_weights(struct solver *s)
{
    size_t n = s->step_count;
    int64_t *cost = xcalloc(n + 1, sizeof *cost); /* of the hull corners */
    double *score = xcalloc(n + 1, sizeof *score);
    cost[0] = s->least;
    score[0] = s->least_score;
    for (size_t i = 0; i < n; i++) {
        cost[i + 1] = cost[i] + s->steps[i].cost;
        score[i + 1] = score[i] - s->steps[i].gain;
    }
    size_t first = 0, last = n; /* steps [first, last) lie between corners around the range */
    while (first < n && cost[first + 1] <= s->lo)
        first++;
    while (last > first && cost[last - 1] > s->hi)
        last--;
    size_t used = last - first, runs = used < MAX_WEIGHTS ? used : MAX_WEIGHTS;
    s->weights = xcalloc(runs + 1, sizeof *s->weights);
    for (size_t r = 0; r < runs; r++) {
        size_t a = first + used * r / runs, b = first + used * (r + 1) / runs;
        double w = s->steps[(a + b) / 2].rate, top = -INFINITY;
        for (size_t i = a; i < b; i++) { /* U(budget) = score[i] up to the next corner */
            int64_t until = cost[i + 1] - 1 < s->hi ? cost[i + 1] - 1 : s->hi;
            top = fmax(top, score[i] + w * (double)until);
        }
        s->weights[s->weight_count++] = (struct weight){w, top};
    }
    if (last == n && s->hi >= cost[n])
        s->weights[s->weight_count++] = (struct weight){0.0, score[n]};
    free(cost);
    free(score);
    for (size_t r = 0; r < s->weight_count; r++) {
        struct weight *w = &s->weights[r];
        double bound = 0;
        for (size_t g = 0; g < s->p->groups; g++)
            bound += least_value(s, g, w->w);
        double slack = 1e-11 * (fabs(w->gap) + fabs(bound)); /* rounding must drop nothing */
        w->gap = fmax(w->gap - bound, 0.0) + slack;
    }
    s->below = xcalloc(s->weight_count + 1, sizeof *s->below);
    s->lines = xcalloc(s->weight_count + 1, sizeof *s->lines);
}

/* The upper envelope of the lines gap + L_k(w) - w * cost; weights fall, so slopes rise. */
static void make_envelope(struct solver *s)
{
    size_t n = 0;
    for (size_t r = 0; r < s->weight_count; r++) {
        double slope = -s->weights[r].w, at = s->weights[r].gap + s->below[r];
        struct line line = {.at = at, .slope = slope, .from = -INFINITY};
        bool useless = false;
        while (n > 0) {
            const struct line *top = &s->lines[n - 1];
            if (slope <= top->slope) { /* parallel: the higher one stays */
                useless = at <= top->at;
                if (useless)
                    break;
                n--;
                continue;
            }
            line.from = (top->at - at) / (slope - top->slope);
            if (line.from > top->from)
                break;
            line.from = -INFINITY;
            n--;
        }
        if (!useless)
            s->lines[n++] = line;
    }
    s->line_count = n;
}

/* ---- lists ---- */

static struct state *push(struct list *l)
{
    AQ_GROW(l->items, l->count, l->cap);
    return &l->items[l->count++];
}

/* Merges acc with base moved by one option into out: undominated, affordable, within the bound. */
static void merge_option(const struct solver *s, const struct list *acc, const struct list *base,
                         const struct option *o, int64_t limit, struct list *out)
{
    size_t i = 0, j = 0, line = 0;
    double best = INFINITY;
    out->count = 0;
    while (i < acc->count || j < base->count) {
        struct state next;
        if (j < base->count) {
            next = (struct state){.cost = base->items[j].cost + o->cost,
                                  .score = base->items[j].score + o->score,
                                  .parent = (uint32_t)j,
                                  .option = (uint16_t)o->number};
        }
        if (j >= base->count ||
            (i < acc->count &&
             (acc->items[i].cost < next.cost ||
              (acc->items[i].cost == next.cost &&
               (acc->items[i].score < next.score ||
                (acc->items[i].score == next.score && acc->items[i].option < next.option))))))
            next = acc->items[i++];
        else
            j++;
        if (next.cost > limit)
            break;
        if (next.score >= best)
            continue;
        double cost = (double)next.cost;
        while (line + 1 < s->line_count && cost >= s->lines[line + 1].from)
            line++;
        if (next.score > s->lines[line].at + s->lines[line].slope * cost)
            continue;
        best = next.score;
        *push(out) = next;
    }
}

/*
 * Too many states: of each of level_cap equal stretches of cost only the best score stays. Every
 * state left is a true assignment, so the answer stays feasible; how good it is, the bound says.
 */
static void thin(struct solver *s, struct list *l)
{
    int64_t first = l->items[0].cost, span = l->items[l->count - 1].cost - first;
    double width = (double)span / (double)(s->level_cap - 1);
    size_t kept = 1; /* the cheapest state stays: it alone may be affordable */
    for (size_t i = 1; i < l->count; i++) {
        double here = floor((double)(l->items[i].cost - first) / width);
        double next =
            i + 1 < l->count ? floor((double)(l->items[i + 1].cost - first) / width) : INFINITY;
        if (next > here)
            l->items[kept++] = l->items[i];
    }
    l->count = kept;
    s->thinned = true;
}

static void keep_level(struct level *level, const struct list *l)
{
    level->parent = xcalloc(l->count + 1, sizeof *level->parent);
    level->option = xcalloc(l->count + 1, sizeof *level->option);
    for (size_t i = 0; i < l->count; i++) {
        level->parent[i] = l->items[i].parent;
        level->option[i] = l->items[i].option;
    }
}

static void run_levels(struct solver *s, struct knapsack *k, struct list *last)
{
    struct list base = {0}, acc = {0}, out = {0};
    int64_t before = s->least; /* least cost of the groups not yet added */
    *push(&base) = (struct state){0};
    for (size_t g = s->p->groups; g-- > 0;) {
        before -= s->options[s->start[g]].cost;
        for (size_t r = 0; r < s->weight_count; r++)
            s->below[r] += least_value(s, g, s->weights[r].w);
        make_envelope(s);
        acc.count = 0;
        for (size_t i = s->start[g]; i < s->start[g + 1]; i++) {
            merge_option(s, &acc, &base, &s->options[i], s->hi - before, &out);
            struct list swap = acc;
            acc = out;
            out = swap;
        }
        if (acc.count > s->level_cap)
            thin(s, &acc);
        keep_level(&k->levels[g], &acc);
        k->states += acc.count;
        struct list swap = base;
        base = acc;
        acc = swap;
    }
    *last = base;
    free(acc.items);
    free(out.items);
}

/* ---- the answer ---- */

/* L(budget): no assignment of cost at most budget scores less. Corners of the hull, interpolated.
 */
static double proven_gap(const struct solver *s, const struct knapsack *k)
{
    double gap = 0, score = s->least_score;
    int64_t cost = s->least;
    size_t at = 0; /* the last point that the corner can pay */
    for (size_t i = 0; i <= s->step_count; i++) {
        int64_t next = i < s->step_count ? cost + s->steps[i].cost : INT64_MAX;
        double w = i < s->step_count ? s->steps[i].rate : 0.0;
        /* Inside [cost, next) the bound falls and the answer is a staircase: look at the stairs'
         * ends. */
        while (at + 1 < k->count && k->points[at + 1].cost <= cost)
            at++;
        for (size_t j = at; j < k->count && k->points[j].cost < next && k->points[j].cost <= s->hi;
             j++) {
            int64_t end = j + 1 < k->count ? k->points[j + 1].cost - 1 : s->hi;
            end = end < next - 1 ? end : next - 1;
            end = end < s->hi ? end : s->hi;
            if (end >= cost && end >= s->lo)
                gap = fmax(gap, k->points[j].score - (score - w * (double)(end - cost)));
        }
        if (i < s->step_count) {
            score -= s->steps[i].gain;
            cost = next;
        }
    }
    return gap;
}

static void take_points(struct solver *s, struct knapsack *k, const struct list *l)
{
    k->points = xcalloc(l->count + 1, sizeof *k->points);
    k->count = l->count;
    for (size_t i = 0; i < l->count; i++)
        k->points[i] = (struct knapsack_point){l->items[i].cost, l->items[i].score};
    k->gap = s->thinned ? proven_gap(s, k) : 0.0;
}

struct knapsack *knapsack_solve(const struct knapsack_problem *p, int64_t lo, int64_t hi,
                                struct aq_err *err)
{
    struct solver s = {.p = p, .lo = lo, .hi = hi};
    struct knapsack *k = xcalloc(1, sizeof *k);
    k->groups = p->groups;
    k->levels = xcalloc(p->groups + 1, sizeof *k->levels);
    load_options(&s);
    if (hi >= s.least) {
        struct list last = {0};
        size_t states = p->max_states ? p->max_states : DEFAULT_STATES;
        s.level_cap = states / (p->groups + 1);
        if (s.level_cap < MIN_LEVEL)
            s.level_cap = MIN_LEVEL;
        make_steps(&s);
        make_weights(&s);
        run_levels(&s, k, &last);
        take_points(&s, k, &last);
        free(last.items);
    }
    free(s.options);
    free(s.start);
    free(s.steps);
    free(s.weights);
    free(s.below);
    free(s.lines);
    return k;
}

void knapsack_free(struct knapsack *k)
{
    if (!k)
        return;
    for (size_t g = 0; g < k->groups; g++) {
        free(k->levels[g].parent);
        free(k->levels[g].option);
    }
    free(k->levels);
    free(k->points);
    free(k);
}

size_t knapsack_count(const struct knapsack *k)
{
    return k->count;
}

const struct knapsack_point *knapsack_points(const struct knapsack *k)
{
    return k->points;
}

void knapsack_choices(const struct knapsack *k, size_t i, int *choice)
{
    size_t at = i;
    for (size_t g = 0; g < k->groups; g++) {
        choice[g] = k->levels[g].option[at];
        at = k->levels[g].parent[at];
    }
}

ptrdiff_t knapsack_find(const struct knapsack *k, int64_t budget)
{
    size_t below = 0, above = k->count; /* points[below - 1] fits, points[above] does not */
    while (below < above) {
        size_t middle = below + (above - below) / 2;
        if (k->points[middle].cost <= budget)
            below = middle + 1;
        else
            above = middle;
    }
    return (ptrdiff_t)below - 1;
}

size_t knapsack_states(const struct knapsack *k)
{
    return k->states;
}

double knapsack_gap(const struct knapsack *k)
{
    return k->gap;
}

void knapsack_reach(const struct knapsack_problem *p, int64_t *lo, int64_t *hi)
{
    *lo = *hi = 0;
    for (size_t g = 0; g < p->groups; g++) {
        size_t cheap = p->start[g], best = p->start[g];
        for (size_t i = p->start[g] + 1; i < p->start[g + 1]; i++) {
            if (p->costs[i] < p->costs[cheap])
                cheap = i;
            if (p->scores[i] < p->scores[best] ||
                (p->scores[i] == p->scores[best] && p->costs[i] < p->costs[best]))
                best = i;
        }
        *lo += p->costs[cheap];
        *hi += p->costs[best];
    }
}

bool knapsack_units(const double *values, size_t count, double sum, int64_t *costs, double *unit,
                    double *excess)
{
    const double limit = 0x1p60;
    if (!(sum >= 0 && sum < limit))
        return false;
    double scale = 1;
    bool whole = false;
    for (int shift = 0; !whole && shift <= 40 && sum * scale * 2 + (double)count < limit; shift++) {
        whole = true;
        for (size_t i = 0; i < count && whole; i++)
            whole = values[i] * scale == floor(values[i] * scale);
        if (!whole)
            scale *= 2;
    }
    *unit = 1 / scale;
    *excess = 0;
    for (size_t i = 0; i < count; i++) {
        if (!(values[i] >= 0 && values[i] <= sum))
            return false;
        double up = ceil(values[i] * scale);
        costs[i] = (int64_t)up;
        *excess = fmax(*excess, up * *unit - values[i]);
    }
    return true;
}
