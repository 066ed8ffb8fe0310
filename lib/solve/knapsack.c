/*
 * A dynamic program over the groups, from the last to the first: a list of undominated (cost,
 * score) states, merged once per option of the next group. Working backwards gives the tie rule
 * for free: of two ways to one state the group added last, the first in order, decides.
 *
 * What keeps the lists short is a bound. Let L(w) be the smallest value of score + w * cost over
 * all assignments; it separates into groups. Let U(b) be the score of some assignment that budget b
 * can pay. One that is optimal for b has score + w * cost <= U(b) + w * b for every w >= 0. So with
 *
 *     gap(w) = max over budgets b served by w of U(b) + w * b, minus L(w)
 *
 * a state of the groups k.. is needed only if score + w * cost <= gap(w) + L_k(w) for one of the
 * weights w, where L_k is the same bound for the groups k.. alone. Over the cost of the state the
 * right-hand side is the upper envelope of straight lines, so the test costs one multiplication.
 * It drops no assignment that is optimal for a budget in the range.
 *
 * U comes from two sources. The corners of the lower convex hull of all assignments are known at
 * once: take the steps of the groups by falling gain per cost. With these a first run over the
 * groups, its lists thinned to a few hundred states, finds good answers between the corners; with
 * those the second run is exact, and its lists are short because the answers were nearly best.
 */
#include "solve/knapsack.h"
#include "base/mem.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    WEIGHT_WORK = 1 << 26,     /* lines of the bound times options: bounds the number of lines, */
    MIN_WEIGHTS = 256,         /* which has at least this many */
    DEFAULT_STATES = 24 << 20, /* 6 bytes each, kept for walking back */
    FIRST_STATES = 4 << 20,    /* of the first run */
    MIN_LEVEL = 256,           /* states a group may always have */
    MAX_FIRST_LEVEL = 4096,
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
struct hull_step {
    double rate; /* gain / cost */
    double gain;
    int64_t cost;
    size_t group;
    int option;   /* that the step leads to */
    size_t index; /* along the hull of the group */
};

/* The bound for one weight, and the budgets that it serves. */
struct weight {
    double w, bound, gap; /* bound: L(w) */
    int64_t from, to;
};

/* A line of the envelope: at + slope * cost, the highest from cost `from` on. */
struct envelope_line {
    double at, slope, from;
};

/* What remains of a list for walking back. */
struct trail {
    uint32_t *parent;
    uint16_t *option;
};

struct knapsack {
    size_t groups;
    struct trail *levels;
    struct knapsack_point *points; /* what the caller sees */
    uint32_t *place;               /* of each point: in the first list, or a corner */
    bool *is_corner;
    size_t count, states;
    int *corner_option; /* choice of the cheapest corner, and the steps from it, kept for corners */
    struct hull_step *steps;
    double gap;
};

/* The work in progress. */
struct solver {
    const struct knapsack_problem *p;
    struct option *options; /* undominated ones, by rising cost */
    size_t *start;
    struct hull_step *steps; /* by falling rate */
    size_t step_count;
    struct knapsack_point *corners; /* of the hull: step_count + 1 */
    struct weight *weights;
    size_t weight_count;
    double *below; /* per weight: L_k of the groups from the current one on */
    struct envelope_line *lines;
    size_t line_count;
    int64_t lo, hi;
    size_t states;
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
        s->steps[s->step_count++] = (struct hull_step){.rate = rate(a, b),
                                                       .gain = a->score - b->score,
                                                       .cost = b->cost - a->cost,
                                                       .group = g,
                                                       .option = b->number,
                                                       .index = i};
    }
}

static int by_rate(const void *a, const void *b)
{
    const struct hull_step *x = a, *y = b;
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
    s->corners = xcalloc(s->step_count + 1, sizeof *s->corners);
    struct knapsack_point *dearest = &s->corners[s->step_count];
    for (size_t g = s->p->groups; g-- > 0;) {
        const struct option *last = &s->options[s->start[g + 1] - 1];
        dearest->cost += last->cost;
        dearest->score += last->score;
    }
    /* from the dearest on: gains are added, and nothing cancels where the scores are small */
    for (size_t i = s->step_count; i-- > 0;)
        s->corners[i] = (struct knapsack_point){s->corners[i + 1].cost - s->steps[i].cost,
                                                s->corners[i + 1].score + s->steps[i].gain};
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
 * Chooses the weights: the steps that matter for budgets in [lo, hi], in runs of neighbours, each
 * served by the rate of its middle step. Behind the last step nothing improves: weight 0.
 */
static void make_weights(struct solver *s)
{
    size_t n = s->step_count, options = s->start[s->p->groups];
    size_t first = 0, last = n; /* steps [first, last) lie between corners around the range */
    while (first < n && s->corners[first + 1].cost <= s->lo)
        first++;
    while (last > first && s->corners[last - 1].cost > s->hi)
        last--;
    size_t used = last - first, most = WEIGHT_WORK / (options + 1);
    if (most < MIN_WEIGHTS)
        most = MIN_WEIGHTS;
    size_t runs = used < most ? used : most;
    s->weights = xcalloc(runs + 1, sizeof *s->weights);
    for (size_t r = 0; r < runs; r++) {
        size_t a = first + used * r / runs, b = first + used * (r + 1) / runs;
        s->weights[s->weight_count++] = (struct weight){.w = s->steps[(a + b) / 2].rate,
                                                        .from = s->corners[a].cost,
                                                        .to = s->corners[b].cost - 1};
    }
    if (last == n && s->hi >= s->corners[n].cost)
        s->weights[s->weight_count++] =
            (struct weight){.w = 0, .from = s->corners[n].cost, .to = s->hi};
    for (size_t r = 0; r < s->weight_count; r++)
        for (size_t g = 0; g < s->p->groups; g++)
            s->weights[r].bound += least_value(s, g, s->weights[r].w);
    s->below = xcalloc(s->weight_count + 1, sizeof *s->below);
    s->lines = xcalloc(s->weight_count + 1, sizeof *s->lines);
}

/*
 * Sets the gaps by a staircase of affordable assignments: point i is what budgets from its cost up
 * to the next point's can have. The first point must be the cheapest assignment.
 */
static void set_gaps(struct solver *s, const struct knapsack_point *points, size_t count)
{
    size_t at = 0;
    for (size_t r = 0; r < s->weight_count; r++) {
        struct weight *w = &s->weights[r];
        int64_t from = w->from > s->lo ? w->from : s->lo, to = w->to < s->hi ? w->to : s->hi;
        double top = -INFINITY;
        while (at + 1 < count && points[at + 1].cost <= from)
            at++;
        for (size_t i = at; i < count && points[i].cost <= to; i++) {
            int64_t end = i + 1 < count && points[i + 1].cost <= to ? points[i + 1].cost - 1 : to;
            top = fmax(top, points[i].score + w->w * (double)end);
        }
        double slack = 1e-11 * (fabs(top) + fabs(w->bound)); /* rounding must drop nothing */
        w->gap = fmax(top - w->bound, 0.0) + slack;
    }
}

/* The upper envelope of the lines gap + L_k(w) - w * cost; weights fall, so slopes rise. */
static void make_envelope(struct solver *s)
{
    size_t n = 0;
    for (size_t r = 0; r < s->weight_count; r++) {
        double slope = -s->weights[r].w, at = s->weights[r].gap + s->below[r];
        struct envelope_line line = {.at = at, .slope = slope, .from = -INFINITY};
        bool useless = false;
        while (n > 0) {
            const struct envelope_line *top = &s->lines[n - 1];
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
        struct state next = {0};
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
static void thin(struct solver *s, struct list *l, size_t level_cap)
{
    int64_t first = l->items[0].cost, span = l->items[l->count - 1].cost - first;
    double width = (double)span / (double)(level_cap - 1);
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

static void keep_level(struct trail *level, const struct list *l)
{
    level->parent = xcalloc(l->count + 1, sizeof *level->parent);
    level->option = xcalloc(l->count + 1, sizeof *level->option);
    for (size_t i = 0; i < l->count; i++) {
        level->parent[i] = l->items[i].parent;
        level->option[i] = l->items[i].option;
    }
}

static void swap_lists(struct list *a, struct list *b)
{
    struct list c = *a;
    *a = *b;
    *b = c;
}

/*
 * Goes through the groups from the last to the first. levels: NULL to keep nothing. Gives up, with
 * false, once there are more than `limit` states.
 */
static bool run_levels(struct solver *s, size_t level_cap, size_t limit, struct trail *levels,
                       struct list *result)
{
    struct list acc = {0}, out = {0};
    int64_t before = s->corners[0].cost; /* least cost of the groups not yet added */
    s->states = 0;
    s->thinned = false;
    memset(s->below, 0, s->weight_count * sizeof *s->below);
    result->count = 0;
    *push(result) = (struct state){0};
    for (size_t g = s->p->groups; g-- > 0 && s->states <= limit;) {
        before -= s->options[s->start[g]].cost;
        for (size_t r = 0; r < s->weight_count; r++)
            s->below[r] += least_value(s, g, s->weights[r].w);
        make_envelope(s);
        acc.count = 0;
        for (size_t i = s->start[g]; i < s->start[g + 1]; i++) {
            merge_option(s, &acc, result, &s->options[i], s->hi - before, &out);
            swap_lists(&acc, &out);
        }
        if (acc.count > level_cap)
            thin(s, &acc, level_cap);
        if (levels)
            keep_level(&levels[g], &acc);
        s->states += acc.count;
        swap_lists(result, &acc);
    }
    free(acc.items);
    free(out.items);
    return s->states <= limit;
}

static size_t cap_of(size_t states, size_t groups, size_t most)
{
    size_t cap = states / (groups + 1);
    return cap < MIN_LEVEL ? MIN_LEVEL : cap > most ? most : cap;
}

static struct knapsack_point *points_of(const struct list *l)
{
    struct knapsack_point *points = xcalloc(l->count + 1, sizeof *points);
    for (size_t i = 0; i < l->count; i++)
        points[i] = (struct knapsack_point){l->items[i].cost, l->items[i].score};
    return points;
}

/* ---- the answer ---- */

/*
 * How far the answer may be from the best: L, as a function of the budget, is the hull. Inside one
 * step of it the hull falls and the answer is a staircase, so the worst is at the ends of stairs.
 */
static double proven_gap(const struct solver *s, const struct knapsack *k)
{
    double gap = 0;
    size_t at = 0;
    for (size_t i = 0; i <= s->step_count; i++) {
        int64_t cost = s->corners[i].cost,
                top = i < s->step_count ? s->corners[i + 1].cost - 1 : s->hi;
        double w = i < s->step_count ? s->steps[i].rate : 0.0;
        while (at + 1 < k->count && k->points[at + 1].cost <= cost)
            at++;
        for (size_t j = at; j < k->count && k->points[j].cost <= top; j++) {
            int64_t end = j + 1 < k->count ? k->points[j + 1].cost - 1 : s->hi;
            end = end < top ? end : top;
            if (end >= cost && end >= s->lo && end <= s->hi)
                gap = fmax(gap,
                           k->points[j].score - (s->corners[i].score - w * (double)(end - cost)));
        }
    }
    return gap;
}

static void keep_corners(const struct solver *s, struct knapsack *k)
{
    k->corner_option = xcalloc(k->groups + 1, sizeof *k->corner_option);
    for (size_t g = 0; g < k->groups; g++)
        k->corner_option[g] = s->options[s->start[g]].number;
    k->steps = xcalloc(s->step_count + 1, sizeof *k->steps);
    memcpy(k->steps, s->steps, s->step_count * sizeof *k->steps);
}

static void add_point(struct knapsack *k, struct knapsack_point point, size_t place, bool is_corner)
{
    if (k->count && point.score >= k->points[k->count - 1].score)
        return;
    k->points[k->count] = point;
    k->place[k->count] = (uint32_t)place;
    k->is_corner[k->count++] = is_corner;
}

/*
 * The points for the caller: the first list, and if that was thinned the better of it and the
 * corners of the hull. Starts with what the budget lo can have.
 */
static void take_points(const struct solver *s, struct knapsack *k, const struct list *l,
                        bool corners)
{
    size_t i = 0, c = 0, most = corners ? s->step_count + 1 : 0;
    k->points = xcalloc(l->count + most + 1, sizeof *k->points);
    k->place = xcalloc(l->count + most + 1, sizeof *k->place);
    k->is_corner = xcalloc(l->count + most + 1, sizeof *k->is_corner);
    while (most > 0 && s->corners[most - 1].cost > s->hi)
        most--;
    while (i < l->count || c < most) {
        bool from_list = c >= most || (i < l->count && l->items[i].cost <= s->corners[c].cost);
        struct knapsack_point p = from_list
                                      ? (struct knapsack_point){l->items[i].cost, l->items[i].score}
                                      : s->corners[c];
        if (k->count && p.cost <= s->lo && p.score < k->points[k->count - 1].score)
            k->count = 0; /* a better assignment within the budget lo */
        add_point(k, p, from_list ? i : c, !from_list);
        i += from_list;
        c += !from_list;
    }
    if (corners)
        keep_corners(s, k);
}

static void release_levels(struct knapsack *k)
{
    for (size_t g = 0; g < k->groups; g++) {
        free(k->levels[g].parent);
        free(k->levels[g].option);
        k->levels[g] = (struct trail){NULL, NULL};
    }
}

/* False: more than max_states, and `strict` asks not to thin. */
static bool solve(struct solver *s, struct knapsack *k, bool strict)
{
    struct list list = {0};
    size_t groups = s->p->groups, states = s->p->max_states ? s->p->max_states : DEFAULT_STATES;
    bool corners_only = groups > KNAPSACK_EXACT_GROUPS && s->hi > s->lo, done = true;
    if (!corners_only) {
        size_t first = states < FIRST_STATES ? states : FIRST_STATES;
        make_weights(s);
        set_gaps(s, s->corners, s->step_count + 1);
        (void)run_levels(s, cap_of(first, groups, MAX_FIRST_LEVEL), SIZE_MAX, NULL, &list);
        if (s->thinned) {
            struct knapsack_point *good = points_of(&list);
            set_gaps(s, good, list.count);
            free(good);
        }
        done = run_levels(s, SIZE_MAX, states, k->levels, &list);
        if (!done && !strict) {
            release_levels(k);
            done = run_levels(s, cap_of(states, groups, SIZE_MAX), SIZE_MAX, k->levels, &list);
        }
    }
    if (done) {
        k->states = s->states;
        take_points(s, k, &list, corners_only || s->thinned);
        k->gap = corners_only || s->thinned ? proven_gap(s, k) : 0.0;
    }
    free(list.items);
    return done;
}

static struct knapsack *new_solution(const struct knapsack_problem *p, int64_t lo, int64_t hi,
                                     bool strict)
{
    struct solver s = {.p = p, .lo = lo, .hi = hi};
    struct knapsack *k = xcalloc(1, sizeof *k);
    bool done = true;
    k->groups = p->groups;
    k->levels = xcalloc(p->groups + 1, sizeof *k->levels);
    load_options(&s);
    make_steps(&s);
    if (hi >= s.corners[0].cost)
        done = solve(&s, k, strict);
    free(s.options);
    free(s.start);
    free(s.steps);
    free(s.corners);
    free(s.weights);
    free(s.below);
    free(s.lines);
    if (done)
        return k;
    knapsack_free(k);
    return NULL;
}

struct knapsack *knapsack_solve(const struct knapsack_problem *p, int64_t lo, int64_t hi)
{
    return new_solution(p, lo, hi, false);
}

struct knapsack *knapsack_corners(const struct knapsack_problem *p)
{
    struct solver s = {.p = p};
    struct knapsack *k = xcalloc(1, sizeof *k);
    k->groups = p->groups;
    k->levels = xcalloc(p->groups + 1, sizeof *k->levels);
    load_options(&s);
    make_steps(&s);
    k->points = xcalloc(s.step_count + 1, sizeof *k->points);
    k->place = xcalloc(s.step_count + 1, sizeof *k->place);
    k->is_corner = xcalloc(s.step_count + 1, sizeof *k->is_corner);
    /* between two steps of equal rate there is a choice of assignments, not a corner */
    for (size_t c = 0; c <= s.step_count; c++)
        if (c == 0 || c == s.step_count || s.steps[c - 1].rate > s.steps[c].rate)
            add_point(k, s.corners[c], c, true);
    keep_corners(&s, k);
    free(s.options);
    free(s.start);
    free(s.steps);
    free(s.corners);
    return k;
}

void knapsack_free(struct knapsack *k)
{
    if (!k)
        return;
    release_levels(k);
    free(k->levels);
    free(k->points);
    free(k->place);
    free(k->is_corner);
    free(k->corner_option);
    free(k->steps);
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
    size_t at = k->place[i];
    if (k->is_corner[i]) {
        memcpy(choice, k->corner_option, k->groups * sizeof *choice);
        for (size_t s = 0; s < at; s++)
            choice[k->steps[s].group] = k->steps[s].option;
        return;
    }
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

/* ---- every budget, in bounded memory ---- */

struct budget_sweep {
    const struct knapsack_problem *p;
    void (*visit)(const struct knapsack *k, size_t i, void *data);
    void *data;
    int64_t visited; /* cost of the last point shown; -1: none */
    double gap;
};

static void sweep(struct budget_sweep *w, int64_t lo, int64_t hi)
{
    struct knapsack *k = new_solution(w->p, lo, hi, lo < hi);
    if (!k) { /* too much at once: the halves have fewer states each */
        int64_t middle = lo + (hi - lo) / 2;
        sweep(w, lo, middle);
        sweep(w, middle + 1, hi);
        return;
    }
    for (size_t i = 0; i < k->count; i++)
        if (k->points[i].cost > w->visited && (w->visited < 0 || k->points[i].cost >= lo)) {
            w->visit(k, i, w->data);
            w->visited = k->points[i].cost;
        }
    if (k->gap > w->gap)
        w->gap = k->gap;
    knapsack_free(k);
}

double knapsack_sweep(const struct knapsack_problem *p, int64_t lo, int64_t hi,
                      void (*visit)(const struct knapsack *k, size_t i, void *data), void *data)
{
    struct budget_sweep w = {.p = p, .visit = visit, .data = data, .visited = -1};
    sweep(&w, lo, hi);
    return w.gap;
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
