/* How score/shard shares work out: every wanted cell has one owner, and no job has much more than
 * its part. */
#include "tap.h"

#include "base/mem.h"
#include "score/shard.h"

#include <stdlib.h>
#include <string.h>

enum {
    TILES = 5,
    ROWS = 23,
    MOST_JOBS = 40,
    PASSES = 3000,
    MOST_CELL = 3000,
    QUANTIZING = 500,
    DEAR = 20000
};

struct shared {
    uint64_t cost[TILES * ROWS], fixed[TILES];
    size_t order[ROWS], weight[ROWS];
    struct shard_work work;
};

/* seed 0: a single tile has all the work */
static void make(struct shared *s, unsigned seed)
{
    srand(seed);
    for (size_t t = 0; t < TILES; t++) {
        s->fixed[t] = PASSES;
        for (size_t r = 0; r < ROWS; r++) {
            bool wanted = seed == 0 ? t == 0 : rand() % 4 > 0;
            s->cost[t * ROWS + r] = wanted ? 1000 + (uint64_t)(rand() % 2000) : 0;
        }
    }
    for (size_t r = 0; r < ROWS; r++) {
        s->order[r] = (r * 7) % ROWS;
        s->weight[s->order[r]] = r / 3; /* three rows each */
    }
    s->work = (struct shard_work){TILES, ROWS, s->order, s->weight, s->cost, s->fixed, QUANTIZING};
}

static uint64_t load_of(const struct shared *s, const bool *own)
{
    bool tiles[TILES] = {false}, weights[ROWS] = {false};
    uint64_t sum = 0;
    for (size_t cell = 0; cell < TILES * ROWS; cell++) {
        if (!own[cell])
            continue;
        size_t t = cell / ROWS, w = s->weight[cell % ROWS];
        sum += s->cost[cell] + (tiles[t] ? 0 : s->fixed[t]) + (weights[w] ? 0 : s->work.quantizing);
        tiles[t] = weights[w] = true;
    }
    return sum;
}

/* Cells that have not exactly one owner, or an owner though nobody wants them; the largest load. */
static int share(const struct shared *s, int64_t jobs, uint64_t *largest)
{
    int owners[TILES * ROWS] = {0}, wrong = 0;
    *largest = 0;
    for (int64_t k = 0; k < jobs; k++) {
        bool own[TILES * ROWS];
        memset(own, 1, sizeof own); /* all of it must be set */
        shard_split(&s->work, k, jobs, own);
        uint64_t load = load_of(s, own);
        *largest = load > *largest ? load : *largest;
        for (size_t i = 0; i < TILES * ROWS; i++)
            owners[i] += own[i];
    }
    for (size_t i = 0; i < TILES * ROWS; i++)
        wrong += owners[i] != (s->cost[i] > 0);
    return wrong;
}

static void test_owners(void)
{
    int wrong = 0;
    for (unsigned seed = 0; seed < 30; seed++)
        for (int64_t jobs = 1; jobs <= MOST_JOBS; jobs++) {
            struct shared s;
            uint64_t largest;
            make(&s, seed);
            wrong += share(&s, jobs, &largest);
        }
    tap_ok(wrong == 0, "every wanted cell has one owner, from 1 to 40 jobs (%d have not)", wrong);
    struct shared s;
    uint64_t largest;
    make(&s, 1);
    tap_ok(share(&s, 1000, &largest) == 0, "also with more jobs than cells");
    memset(s.cost, 0, sizeof s.cost);
    tap_ok(share(&s, 3, &largest) == 0 && largest == 0, "nothing wanted: nobody computes anything");
}

/* A job has at most an even part of what all cost together, a cell, a weight treatment, and either
   the passes of one more tile or those of all tiles and no weight treatment twice. */
static void test_even(void)
{
    int wrong = 0;
    for (unsigned seed = 0; seed < 30; seed++)
        for (int64_t jobs = 2; jobs <= 8; jobs++) {
            struct shared s;
            bool everything[TILES * ROWS];
            uint64_t largest;
            make(&s, seed);
            share(&s, jobs, &largest);
            for (size_t i = 0; i < TILES * ROWS; i++)
                everything[i] = s.cost[i] > 0;
            uint64_t all = load_of(&s, everything), passes = (seed == 0 ? 1 : TILES) * PASSES;
            uint64_t by_row = (all - passes) / (uint64_t)jobs + passes;
            wrong += largest > by_row + MOST_CELL + QUANTIZING;
        }
    tap_ok(wrong == 0, "loads are even (%d are not)", wrong);
    struct shared s;
    uint64_t one, four;
    make(&s, 0);
    share(&s, 1, &one);
    share(&s, 4, &four);
    tap_ok(four < one * 2 / 5, "four jobs on a single tile: %llu instead of %llu",
           (unsigned long long)four, (unsigned long long)one);
    /* one candidate over all tiles: row by row would leave all to one job */
    for (size_t i = 0; i < TILES * ROWS; i++)
        s.cost[i] = i % ROWS == 4 ? 1000 : 0;
    share(&s, TILES, &four);
    tap_ok(four == 1000 + PASSES + QUANTIZING, "one row: a tile to each job (%llu)",
           (unsigned long long)four);
    /* cheap passes, dear weights: row by row, so that few are quantized by two jobs */
    make(&s, 1);
    s.work.quantizing = DEAR;
    for (size_t t = 0; t < TILES; t++)
        s.fixed[t] = 1000;
    share(&s, 2, &four);
    share(&s, 1, &one);
    tap_ok(four <= one / 2 + TILES * 1000 + MOST_CELL + DEAR, "cheap passes: %llu of %llu",
           (unsigned long long)four, (unsigned long long)one);
}

int main(void)
{
    test_owners();
    test_even();
    return tap_done();
}
