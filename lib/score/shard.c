#include "score/shard.h"

#include "base/fmt.h"
#include "base/mem.h"
#include "score/cost.h"

#include <stdlib.h>
#include <string.h>

/* A sequence of cells, and what the job at work has touched. */
struct split {
    const struct shard_work *w;
    bool by_row;
    int64_t *tile_of, *weight_of; /* the last job that has a cell of it; -1: none */
};

static size_t cell_at(const struct split *s, size_t i)
{
    const struct shard_work *w = s->w;
    size_t tile = s->by_row ? i % w->tiles : i / w->rows;
    size_t row = w->order[s->by_row ? i / w->tiles : i % w->rows];
    return tile * w->rows + row;
}

/* What the cell costs this job, which has it from then on if it takes it. */
static uint64_t cost_to(const struct split *s, size_t cell, int64_t job)
{
    const struct shard_work *w = s->w;
    size_t tile = cell / w->rows, weight = w->weight[cell % w->rows];
    return w->cost[cell] + (s->tile_of[tile] == job ? 0 : w->fixed[tile]) +
           (s->weight_of[weight] == job ? 0 : w->quantizing);
}

/*
 * Gives cells to one job after another, each up to `limit`, which a single cell may exceed. Returns
 * how many jobs that takes, or jobs + 1 as soon as it is more. own may be NULL.
 */
static int64_t fill(struct split *s, uint64_t limit, int64_t which, int64_t jobs, bool *own)
{
    const struct shard_work *w = s->w;
    int64_t job = 0;
    uint64_t load = 0;
    for (size_t t = 0; t < w->tiles; t++)
        s->tile_of[t] = -1;
    for (size_t r = 0; r < w->rows; r++)
        s->weight_of[r] = -1;
    for (size_t i = 0; i < w->tiles * w->rows; i++) {
        size_t cell = cell_at(s, i);
        if (w->cost[cell] == 0)
            continue;
        if (load && load + cost_to(s, cell, job) > limit) {
            if (++job == jobs)
                return jobs + 1;
            load = 0;
        }
        load += cost_to(s, cell, job);
        s->tile_of[cell / w->rows] = job;
        s->weight_of[w->weight[cell % w->rows]] = job;
        if (own)
            own[cell] = job == which;
    }
    return job + 1;
}

/* The least limit with which the jobs are enough. */
static uint64_t least_limit(struct split *s, int64_t jobs)
{
    const struct shard_work *w = s->w;
    uint64_t low = 0, high = 0;
    for (size_t cell = 0; cell < w->tiles * w->rows; cell++)
        high += w->cost[cell] ? w->cost[cell] + w->fixed[cell / w->rows] + w->quantizing : 0;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (fill(s, middle, 0, jobs, NULL) <= jobs)
            high = middle;
        else
            low = middle + 1;
    }
    return high;
}

void shard_split(const struct shard_work *w, int64_t which, int64_t jobs, bool *own)
{
    struct split s = {w, false, xcalloc(w->tiles, sizeof *s.tile_of),
                      xcalloc(w->rows, sizeof *s.weight_of)};
    uint64_t by_tile = least_limit(&s, jobs);
    s.by_row = true;
    uint64_t by_row = least_limit(&s, jobs);
    s.by_row = by_row < by_tile;
    memset(own, 0, w->tiles * w->rows * sizeof *own);
    (void)fill(&s, s.by_row ? by_row : by_tile, which, jobs, own);
    free(s.tile_of);
    free(s.weight_of);
}

/* Rows of one weight treatment together, as they are scored; weight: [rows], the number of each
   row's. Caller frees. */
static size_t *order_of(const struct scoring *s, size_t *weight)
{
    size_t n = s->rows->count, count = 0;
    size_t *order = xcalloc(n, sizeof *order);
    bool *placed = xcalloc(n, sizeof *placed);
    for (size_t first = 0; first < n; first++) {
        const char *w = s->candidates->items[s->rows->items[first].candidate].w;
        for (size_t r = first; r < n; r++) {
            if (placed[r] || strcmp(s->candidates->items[s->rows->items[r].candidate].w, w) != 0)
                continue;
            placed[r] = true;
            weight[r] = first;
            order[count++] = r;
        }
    }
    free(placed);
    return order;
}

void shard_take(struct scoring *s, int64_t which, int64_t jobs, bool **own)
{
    const double unit = 1e6; /* operations: small beside any cell, so that sums stay in 64 bits */
    const double passes = cost_passes(s), plain = cost_plain(s);
    size_t rows = s->rows->count, tiles = s->end_tile;
    size_t *weight = xcalloc(rows, sizeof *weight), *order = order_of(s, weight);
    uint64_t *cost = xcalloc(tiles * rows, sizeof *cost), *fixed = xcalloc(tiles, sizeof *fixed);
    for (size_t t = 0; t < tiles; t++) {
        fixed[t] = (uint64_t)(passes / unit);
        for (size_t r = 0; r < rows; r++)
            if (scoring_wants(s, r, t))
                cost[t * rows + r] = 1 + (uint64_t)(cost_row(s, plain, r, t) / unit);
    }
    /* a pass over a weight's bytes takes about as long as half a product with a tile */
    uint64_t quantizing = s->kl_div ? 0 : (uint64_t)(cost_forward(s) / unit / 2);
    const struct shard_work work = {tiles, rows, order, weight, cost, fixed, quantizing};
    bool *mine = xcalloc(tiles * rows, sizeof *mine);
    shard_split(&work, which, jobs, mine);
    /* tiles of which nothing is left take no memory */
    size_t first = SIZE_MAX, end = 0;
    for (size_t cell = 0; cell < tiles * rows; cell++) {
        if (!mine[cell])
            continue;
        first = first == SIZE_MAX ? cell / rows : first;
        end = cell / rows + 1;
    }
    s->first_tile = end ? first : 0;
    s->end_tile = end;
    s->own = *own = mine;
    free(order);
    free(weight);
    free(cost);
    free(fixed);
}

int shard_parse(const char *text, int64_t *which, int64_t *jobs, struct aq_err *err)
{
    *which = 0;
    *jobs = 1;
    if (!text)
        return 0;
    char *copy = xstrdup(text), *slash = strchr(copy, '/');
    int64_t k = 0;
    bool good = slash != NULL;
    if (good) {
        *slash = '\0';
        good = aq_parse_i64(copy, &k) && aq_parse_i64(slash + 1, jobs) && *jobs >= 1 &&
               *jobs <= 100000 && k >= 1 && k <= *jobs;
    }
    free(copy);
    *which = k - 1;
    return good ? 0
                : aq_err_set(err, AQ_EUSAGE, "--shard: '%s' is not K/N with 1 <= K <= N",
                             aq_show(text));
}
