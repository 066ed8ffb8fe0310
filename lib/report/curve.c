#include "report/curve.h"
#include "base/mem.h"
#include "solve/knapsack.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    MOST_POINTS = 1500, /* kept for drawing */
    MOST_RECIPES = 9,
    CURVE_STATES = 6 << 20,
};

struct problem {
    size_t *start;
    int64_t *costs;
    double *scores;
    double unit, total, fixed;
    struct prediction *parts; /* of each option, as the costs */
};

/* What effective bits are an average over; groups that are not searched stay at 16 bits. */
static double denominator(const struct manifest *m, double searched)
{
    const struct json *weights = json_find(m->aq, "weights");
    const char *parts = json_find_string(m->selection, "denominator");
    if (!weights || !parts)
        return searched;
    double total = json_find_number(weights, "lm");
    if (strstr(parts, "+head"))
        total += json_find_number(weights, "head");
    if (strstr(parts, "+vision"))
        total += json_find_number(weights, "vision");
    return fmax(total, searched); /* also if one of them is missing */
}

static bool problem_init(struct problem *p, const struct manifest *m)
{
    double *costs = xcalloc(m->option_count + 1, sizeof *costs), sum = 0, excess;
    double searched = 0, counted = 0; /* weights, and what the cost counts of them */
    size_t n = 0;
    p->start = xcalloc(m->count + 1, sizeof *p->start);
    p->costs = xcalloc(m->option_count + 1, sizeof *p->costs);
    p->scores = xcalloc(m->option_count + 1, sizeof *p->scores);
    bool known = m->count > 0;
    double worst = 0;
    for (size_t g = 0; g < m->count; g++) {
        double dearest = 0, most = 0;
        p->start[g] = n;
        known = known && m->groups[g].count > 0;
        for (size_t i = 0; i < m->groups[g].count; i++) {
            costs[n] = m->groups[g].options[i].cost;
            p->scores[n] = m->groups[g].options[i].score;
            dearest = fmax(dearest, costs[n]);
            most = fmax(most, fabs(p->scores[n++]));
        }
        sum += dearest;
        worst += most;
        searched += manifest_group_weights(&m->groups[g]);
        counted += manifest_group_weights(&m->groups[g]) * m->groups[g].share;
    }
    p->start[m->count] = n;
    known = known && isfinite(searched) && searched > 0 && isfinite(worst) &&
            knapsack_units(costs, n, sum, p->costs, &p->unit, &excess);
    p->fixed = denominator(m, searched) - searched;
    p->total = counted + p->fixed;
    free(costs);
    return known;
}

static double units_to_bits(const struct problem *p, int64_t units)
{
    return ((double)units * p->unit + p->fixed) / p->total * 16;
}

static int64_t bits_to_units(const struct problem *p, double bits)
{
    return (int64_t)floor((p->total * bits / 16 - p->fixed) / p->unit);
}

/* ---- what a choice is predicted to cost ---- */

/* Which interval holds is not known of a candidate that does not say what it does. */
static void read_parts(struct problem *p, const struct manifest *m)
{
    const char *method = json_find_string(m->scheme, "auto_quantize_method");
    const struct json *facts = json_find(m->selection, "candidates");
    p->parts = xcalloc(m->option_count + 1, sizeof *p->parts);
    for (size_t i = 0; i < m->option_count; i++) {
        const struct manifest_option *o = &m->options[i];
        const char *act = o->name ? json_find_string(json_find(facts, o->name), "a") : NULL;
        const struct predict_group own = {.per_token = method && act ? o->per_token : NAN,
                                          .per_token_dot = o->per_token_dot,
                                          .kl_div = method && strcmp(method, "kl_div") == 0,
                                          .activations = act && strcmp(act, "none") != 0};
        if (!o->none)
            prediction_add(&p->parts[i], &own);
    }
}

static struct prediction predict(const struct problem *p, const struct manifest *m,
                                 const int *option)
{
    struct prediction kl = {0};
    for (size_t g = 0; g < m->count; g++)
        prediction_join(&kl, &p->parts[p->start[g] + (size_t)option[g]]);
    prediction_end(&kl);
    return kl;
}

/* ---- recipes at a few budgets ---- */

/* Round budgets between the cheapest and the dearest useful one. */
static void choose_budgets(struct curve *c, double low, double high)
{
    static const double steps[] = {0.05, 0.1, 0.25, 0.5, 1, 2, 4};
    size_t s = 0;
    while (s + 1 < AQ_COUNT(steps) && (high - low) / steps[s] > MOST_RECIPES - 1)
        s++;
    double first = ceil(low / steps[s] - 1e-9) * steps[s];
    c->recipes = xcalloc(MOST_RECIPES + 1, sizeof *c->recipes);
    if (first - low > 1e-9)
        c->recipes[c->recipe_count++].budget = low;
    for (size_t i = 0;
         first + (double)i * steps[s] <= high + 1e-9 && c->recipe_count < MOST_RECIPES; i++)
        c->recipes[c->recipe_count++].budget = first + (double)i * steps[s];
}

static void fill_recipes(struct curve *c, const struct manifest *m, const struct problem *p,
                         const struct knapsack *k)
{
    for (size_t i = 0; i < c->recipe_count; i++) {
        struct curve_recipe *r = &c->recipes[i];
        /* rounding of the bits must not lose the cheapest assignment */
        ptrdiff_t at = knapsack_find(k, bits_to_units(p, r->budget * (1 + 1e-12)));
        at = at < 0 ? 0 : at;
        r->option = xcalloc(m->count + 1, sizeof *r->option);
        knapsack_choices(k, (size_t)at, r->option);
        r->at = (struct curve_point){units_to_bits(p, knapsack_points(k)[at].cost),
                                     knapsack_points(k)[at].score, predict(p, m, r->option)};
    }
}

/* ---- formats used uniformly ---- */

/* Every group takes the candidate where it may, else it stays unquantized. */
static struct curve_point uniform_point(const struct manifest *m, const struct problem *p,
                                        const struct manifest_option *o)
{
    double score = 0;
    int64_t cost = 0;
    int *option = xcalloc(m->count + 1, sizeof *option);
    for (size_t g = 0; g < m->count; g++) {
        size_t take = m->groups[g].count - 1;
        for (size_t i = 0; i < m->groups[g].count; i++)
            if (manifest_same_candidate(&m->groups[g].options[i], o))
                take = i;
        score += p->scores[p->start[g] + take];
        cost += p->costs[p->start[g] + take];
        option[g] = (int)take;
    }
    struct curve_point at = {units_to_bits(p, cost), score, predict(p, m, option)};
    free(option);
    return at;
}

static void add_uniforms(struct curve *c, const struct manifest *m, const struct problem *p)
{
    size_t cap = 0;
    for (size_t i = 0; i < m->option_count; i++) {
        const struct manifest_option *o = &m->options[i];
        bool known = o->none;
        for (size_t u = 0; u < c->uniform_count && !known; u++)
            known = manifest_same_candidate(o, c->uniforms[u].candidate);
        if (known)
            continue;
        AQ_GROW(c->uniforms, c->uniform_count, cap);
        c->uniforms[c->uniform_count++] =
            (struct curve_uniform){.candidate = o, .at = uniform_point(m, p, o)};
    }
}

/* ---- the manifest's own ---- */

static bool copy_recipe(struct curve *c, const struct manifest *m)
{
    for (size_t g = 0; g < m->count; g++)
        if (m->groups[g].chosen < 0)
            return false;
    c->recipe = xcalloc(m->count + 1, sizeof *c->recipe);
    for (size_t g = 0; g < m->count; g++)
        c->recipe[g] = (int)m->groups[g].chosen;
    return m->count > 0;
}

/* Bits of other tools are often rounded, or those of a budget: a little more is let through. */
static void find_recipe(struct curve *c, const struct manifest *m, const struct problem *p,
                        const struct knapsack *k)
{
    ptrdiff_t at = isnan(m->effective_bits)
                       ? -1
                       : knapsack_find(k, bits_to_units(p, m->effective_bits * (1 + 1e-9)));
    if (at < 0)
        return;
    c->recipe = xcalloc(m->count + 1, sizeof *c->recipe);
    c->recomputed = true;
    knapsack_choices(k, (size_t)at, c->recipe);
}

/* ---- all together ---- */

static void keep_points(struct curve *c, const struct manifest *m, const struct problem *p,
                        const struct knapsack *k)
{
    size_t n = knapsack_count(k), step = n / MOST_POINTS + 1;
    int *option = xcalloc(m->count + 1, sizeof *option);
    c->points = xcalloc(n / step + 2, sizeof *c->points);
    c->predicted = true;
    for (size_t i = 0; i < n; i++) {
        if (i % step != 0 && i + 1 != n)
            continue;
        knapsack_choices(k, i, option);
        struct curve_point *at = &c->points[c->count++];
        *at = (struct curve_point){units_to_bits(p, knapsack_points(k)[i].cost),
                                   knapsack_points(k)[i].score, predict(p, m, option)};
        c->predicted = c->predicted && isfinite(at->kl.nats);
    }
    c->gap = knapsack_gap(k);
    free(option);
}

void curve_init(struct curve *c, const struct manifest *m)
{
    struct problem p = {0};
    *c = (struct curve){0};
    bool have = copy_recipe(c, m);
    if (problem_init(&p, m)) {
        struct knapsack_problem problem = {m->count, p.start, p.costs, p.scores, CURVE_STATES};
        int64_t lo, hi;
        knapsack_reach(&problem, &lo, &hi);
        struct knapsack *k = knapsack_solve(&problem, lo, hi);
        c->known = true;
        read_parts(&p, m);
        keep_points(c, m, &p, k);
        choose_budgets(c, units_to_bits(&p, lo), units_to_bits(&p, hi));
        fill_recipes(c, m, &p, k);
        if (!have)
            find_recipe(c, m, &p, k);
        add_uniforms(c, m, &p);
        knapsack_free(k);
    }
    free(p.start);
    free(p.costs);
    free(p.scores);
    free(p.parts);
}

void curve_release(struct curve *c)
{
    for (size_t i = 0; i < c->recipe_count; i++)
        free(c->recipes[i].option);
    free(c->recipe);
    free(c->points);
    free(c->uniforms);
    free(c->recipes);
    *c = (struct curve){0};
}
