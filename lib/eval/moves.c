#include "eval/moves.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Changes of one group that moves of three are made of: more are too many to look at. */
enum { CHANGES_OF_THREE = 500 };

/* One group takes another option. */
struct move_change {
    size_t group, option, now; /* options of all options */
    int64_t cost;              /* difference */
    double nats;               /* difference */
    double together;           /* difference in the interactions with all other groups */
    double square;             /* sum of the squares of both predictions */
    double reduced;            /* nats at the price of a unit of cost */
};

double move_improvement(double mean, double spread)
{
    if (!(spread > 0))
        return mean < 0 ? -mean : 0;
    double z = -mean / spread;
    double density = exp(-0.5 * z * z) / sqrt(2 * 3.14159265358979323846);
    return spread * (density + z * 0.5 * erfc(-z / sqrt(2)));
}

bool move_same(const struct move *a, const struct move *b)
{
    if (a->count != b->count)
        return false;
    for (int i = 0; i < a->count; i++)
        if (a->option[i] != b->option[i])
            return false;
    return true;
}

/* ---- changes ---- */

static double both(const struct move_problem *p, size_t a, size_t b)
{
    return p->both[a * p->start[p->groups] + b];
}

/* With the other groups as they are. */
static double together(const struct move_problem *p, const size_t *choice, size_t group,
                       size_t option)
{
    double sum = 0;
    for (size_t g = 0; p->both && g < p->groups; g++)
        if (g != group)
            sum += both(p, option, choice[g]) - both(p, choice[group], choice[g]);
    return sum;
}

/* Two changes at once: what the sum of both leaves out. */
static double mixed(const struct move_problem *p, const struct move_change *a,
                    const struct move_change *b)
{
    if (!p->both)
        return 0;
    return both(p, a->option, b->option) - both(p, a->option, b->now) - both(p, a->now, b->option) +
           both(p, a->now, b->now);
}

static size_t list_changes(const struct move_problem *p, const size_t *choice,
                           struct move_change *out)
{
    size_t n = 0;
    for (size_t g = 0; g < p->groups; g++)
        for (size_t i = p->start[g]; i < p->start[g + 1]; i++) {
            size_t now = choice[g];
            if (i != now)
                out[n++] = (struct move_change){.group = g,
                                                .option = i,
                                                .now = now,
                                                .cost = p->costs[i] - p->costs[now],
                                                .nats = p->nats[i] - p->nats[now],
                                                .together = together(p, choice, g, i),
                                                .square = p->nats[i] * p->nats[i] +
                                                          p->nats[now] * p->nats[now]};
        }
    return n;
}

/*
 * What a unit of cost is worth near an optimum: no upgrade gains more by unit, no downgrade loses
 * less. Half way between the two where they do not cross.
 */
static double price_of(const struct move_change *c, size_t n, double share)
{
    double up = 0, down = INFINITY;
    for (size_t i = 0; i < n; i++) {
        if (c[i].cost == 0)
            continue;
        double worth = -(c[i].nats + share * c[i].together) / (double)c[i].cost;
        if (c[i].cost > 0)
            up = fmax(up, worth);
        else if (worth > 0)
            down = fmin(down, worth);
    }
    return isinf(down) ? up : (up + down) / 2;
}

static int by_reduced(const void *a, const void *b)
{
    const struct move_change *x = a, *y = b;
    if (x->reduced != y->reduced)
        return x->reduced < y->reduced ? -1 : 1;
    return x->option < y->option ? -1 : x->option > y->option;
}

static int by_option(const void *a, const void *b)
{
    const struct move_change *x = a, *y = b;
    return x->option < y->option ? -1 : x->option > y->option;
}

/* ---- the most promising ---- */

/* A heap with the least promising move first. */
struct finder {
    const struct move_problem *p;
    double spread;
    const struct move *tried;
    size_t tried_count;
    struct move *heap;
    size_t count;
};

static double promise(const struct move *m)
{
    return m->improvement / m->cost;
}

/* Does a come before b? Of equal ones the smaller options do. */
static bool before(const struct move *a, const struct move *b)
{
    double x = promise(a), y = promise(b);
    if (x != y)
        return x > y;
    if (a->count != b->count)
        return a->count < b->count;
    for (int i = 0; i < a->count; i++)
        if (a->option[i] != b->option[i])
            return a->option[i] < b->option[i];
    return false;
}

static void sink(struct move *heap, size_t n, size_t at)
{
    for (;;) {
        size_t least = at, child = 2 * at + 1;
        for (size_t k = child; k < child + 2 && k < n; k++)
            if (before(&heap[least], &heap[k]))
                least = k;
        if (least == at)
            return;
        struct move swap = heap[at];
        heap[at] = heap[least];
        heap[least] = swap;
        at = least;
    }
}

static void climb(struct move *heap, size_t at)
{
    while (at > 0 && before(&heap[(at - 1) / 2], &heap[at])) {
        struct move swap = heap[at];
        heap[at] = heap[(at - 1) / 2];
        heap[(at - 1) / 2] = swap;
        at = (at - 1) / 2;
    }
}

static bool was_tried(const struct finder *f, const struct move *m)
{
    for (size_t i = 0; i < f->tried_count; i++)
        if (move_same(&f->tried[i], m))
            return true;
    return false;
}

static void consider(struct finder *f, const struct move_change *const *c, int count)
{
    double nats = 0, square = 0;
    int64_t layer = f->p->layers;
    struct move m = {.count = count};
    for (int i = 0; i < count; i++) {
        nats += c[i]->nats;
        m.together += c[i]->together;
        for (int k = 0; k < i; k++)
            m.together += mixed(f->p, c[k], c[i]);
        square += c[i]->square;
        m.group[i] = c[i]->group;
        m.option[i] = c[i]->option;
        layer = f->p->layer[c[i]->group] < layer ? f->p->layer[c[i]->group] : layer;
    }
    m.predicted = nats += f->p->share * m.together;
    m.spread = f->spread * sqrt(square);
    if (nats > 4 * m.spread) /* one in 30,000 is an improvement */
        return;
    m.improvement = move_improvement(nats, m.spread);
    m.cost = ((double)(f->p->layers - layer) + f->p->head) / ((double)f->p->layers + f->p->head);
    bool full = f->count == MOVES_MOST;
    if (!(m.improvement > 0) || (full && !before(&m, &f->heap[0])) || was_tried(f, &m))
        return;
    if (full) {
        f->heap[0] = m;
        sink(f->heap, f->count, 0);
    } else {
        f->heap[f->count] = m;
        climb(f->heap, f->count++);
    }
}

/* ---- moves of one, two and three groups ---- */

static void find_pairs(struct finder *f, const struct move_change *c, size_t n, int64_t room)
{
    for (size_t i = 0; i < n; i++) {
        const struct move_change *one[] = {&c[i]};
        if (c[i].cost <= room)
            consider(f, one, 1);
        for (size_t k = i + 1; k < n; k++) {
            const struct move_change *two[] = {&c[i], &c[k]};
            if (c[k].group != c[i].group && c[i].cost + c[k].cost <= room)
                consider(f, two, 2);
        }
    }
}

static void find_triples(struct finder *f, const struct move_change *c, size_t n, int64_t room)
{
    for (size_t i = 0; i < n; i++)
        for (size_t k = i + 1; k < n; k++) {
            if (c[k].group == c[i].group)
                continue;
            for (size_t j = k + 1; j < n; j++) {
                const struct move_change *three[] = {&c[i], &c[k], &c[j]};
                if (c[j].group != c[k].group && c[i].cost + c[k].cost + c[j].cost <= room)
                    consider(f, three, 3);
            }
        }
}

static int by_promise(const void *a, const void *b)
{
    return before(a, b) ? -1 : before(b, a) ? 1 : 0;
}

void moves_find(struct moves *m, const struct move_problem *p, const size_t *choice, double spread,
                const struct move *tried, size_t tried_count)
{
    struct move_change *c = xcalloc(p->start[p->groups] + 1, sizeof *c);
    size_t n = list_changes(p, choice, c);
    struct finder f = {.p = p,
                       .spread = spread,
                       .tried = tried,
                       .tried_count = tried_count,
                       .heap = xcalloc(MOVES_MOST, sizeof *f.heap)};
    int64_t room = p->budget;
    for (size_t g = 0; g < p->groups; g++)
        room -= p->costs[choice[g]];
    find_pairs(&f, c, n, room);
    double price = price_of(c, n, p->share);
    for (size_t i = 0; i < n; i++) /* what uncertainty may make of it counts too */
        c[i].reduced = c[i].nats + p->share * c[i].together + price * (double)c[i].cost -
                       spread * sqrt(c[i].square);
    qsort(c, n, sizeof *c, by_reduced);
    n = n < CHANGES_OF_THREE ? n : CHANGES_OF_THREE;
    qsort(c, n, sizeof *c, by_option);
    find_triples(&f, c, n, room);
    qsort(f.heap, f.count, sizeof *f.heap, by_promise);
    *m = (struct moves){f.heap, f.count};
    free(c);
}

void moves_release(struct moves *m)
{
    free(m->items);
    *m = (struct moves){0};
}
