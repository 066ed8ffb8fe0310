#include "select/select_random.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- numbers ---- */

/* splitmix64 */
static uint64_t next(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* In (0, 1). */
static double uniform(uint64_t *state)
{
    return ((double)(next(state) >> 11) + 0.5) * 0x1p-53;
}

static double normal(uint64_t *state)
{
    const double turn = 6.283185307179586;
    double radius = sqrt(-2 * log(uniform(state)));
    return radius * cos(turn * uniform(state));
}

/* ---- recipes ---- */

struct sel_random sel_random_at(const struct sel_problem *p, double bits, int64_t seed,
                                int64_t number, int64_t count)
{
    int64_t pair = number / 2, pairs = (count + 1) / 2;
    double share = ((double)pair + 0.5) / (double)pairs;
    double units = (double)p->lo + share * (double)(p->hi - p->lo);
    return (struct sel_random){.seed = seed,
                               .number = number,
                               .count = count,
                               .near_optimal = number % 2 == 0,
                               .bits = bits > 0 ? bits : sel_units_to_bits(p, (int64_t)units)};
}

/* What an option would cost if only its bits mattered: error energy falls by 4 for each bit. */
static double by_bits(const struct sel_row *row, const struct sel_option *o)
{
    return row->weights * pow(4, -o->bits);
}

static void disturb(const struct sel_problem *p, const struct sel_random *r, double *scores)
{
    const double near = 0.35, far = 1.5;
    uint64_t state = (uint64_t)r->seed * UINT64_C(0xd1342543de82ef95) + (uint64_t)r->number;
    for (size_t g = 0; g < p->table->count; g++) {
        const struct sel_row *row = &p->table->rows[g];
        double group = exp(far * normal(&state));
        for (size_t i = p->start[g]; i < p->start[g + 1]; i++)
            scores[i] = r->near_optimal ? p->scores[i] * exp(near * normal(&state))
                                        : group * by_bits(row, &row->options[p->option[i]]);
    }
}

void sel_random_solve(const struct sel_problem *p, const struct sel_random *r,
                      struct sel_choice *out)
{
    const struct sel_budget budget = {.bits = r->bits};
    struct sel_problem other = *p;
    other.scores = xcalloc(p->start[p->table->count] + 1, sizeof *other.scores);
    disturb(p, r, other.scores);
    sel_solve(&other, &budget, out);
    free(other.scores);
}
