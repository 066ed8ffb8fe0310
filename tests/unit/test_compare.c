/* Two distributions compared in slices of the vocabulary by the CPU's backend, against sums in long
 * double over all of it. */
#include "backend/backend.h"
#include "base/mem.h"
#include "eval/compare.h"
#include "tap.h"

#include <math.h>
#include <stdlib.h>

enum { ROWS = 70, IDS = 37, OTHERS = 2 };

static float logits[1 + OTHERS][ROWS][IDS];
static int32_t target[ROWS];

static void fill(void)
{
    uint64_t x = 1;
    for (int s = 0; s <= OTHERS; s++)
        for (int r = 0; r < ROWS; r++)
            for (int i = 0; i < IDS; i++) {
                x = x * 6364136223846793005U + 1442695040888963407U;
                logits[s][r][i] = (float)((double)(x >> 40) / (1 << 24) * 40 - 20);
            }
    for (int r = 0; r < ROWS; r++)
        target[r] = r % 7 == 3 ? -1 : r % IDS;
    /* a row whose largest logits are equal: the lowest counts */
    logits[0][0][4] = logits[0][0][30] = 50;
    logits[1][0][4] = 40;
    logits[1][0][30] = 60;
    logits[2][0][4] = 60;
    logits[2][0][30] = 40;
}

static long double log_sum(const float *z)
{
    long double sum = 0;
    for (int i = 0; i < IDS; i++)
        sum += expl(z[i]);
    return logl(sum);
}

static int top(const float *z)
{
    int best = 0;
    for (int i = 1; i < IDS; i++)
        if (z[i] > z[best])
            best = i;
    return best;
}

static struct comparison expected(int other, int r)
{
    const float *z = logits[0][r], *q = logits[1 + other][r];
    long double all = log_sum(z), allq = log_sum(q), kl = 0, rkl = 0;
    for (int i = 0; i < IDS; i++) {
        long double lp = z[i] - all, lq = q[i] - allq;
        kl += expl(lp) * (lp - lq);
        rkl += expl(lq) * (lq - lp);
    }
    return (struct comparison){(double)kl, (double)rkl, (double)(all - z[target[r]]),
                               (double)(allq - q[target[r]]), top(z) == top(q)};
}

static double apart(double a, double b)
{
    return fabs(a - b) / (fabs(b) + 1e-6);
}

/* The number of ids in a slice; the last may be shorter. */
static void check(struct backend *be, const struct backend_tile *tile, int step)
{
    static struct backend_side sides[OTHERS][ROWS][2];
    float *part[1 + OTHERS];
    for (int s = 0; s <= OTHERS; s++)
        part[s] = xcalloc((size_t)ROWS * IDS, sizeof(float));
    for (int at = 0; at < IDS; at += step) {
        int n = step < IDS - at ? step : IDS - at;
        for (int s = 0; s <= OTHERS; s++)
            for (int r = 0; r < ROWS; r++)
                memcpy(part[s] + (size_t)r * (size_t)n, logits[s][r] + at,
                       (size_t)n * sizeof(float));
        for (int o = 0; o < OTHERS; o++)
            be->ops->compare(be, tile, sides[o][0], part[0], part[1 + o], at, n);
    }
    double worst = 0;
    int tops = 0;
    for (int o = 0; o < OTHERS; o++)
        for (int r = 0; r < ROWS; r++) {
            if (target[r] < 0)
                continue;
            struct comparison found = compare_sides(&sides[o][r][0], &sides[o][r][1]);
            struct comparison want = expected(o, r);
            const double far[] = {apart(found.kl, want.kl), apart(found.rkl, want.rkl),
                                  apart(found.nll_reference, want.nll_reference),
                                  apart(found.nll, want.nll)};
            for (size_t i = 0; i < AQ_COUNT(far); i++)
                if (!(far[i] <= worst))
                    worst = far[i];
            tops += found.same_top != want.same_top;
        }
    tap_ok(worst < 1e-12, "slices of %d ids: divergences and losses (%.1e)", step, worst);
    tap_ok(tops == 0, "slices of %d ids: the most likely id", step);
    for (int s = 0; s <= OTHERS; s++)
        free(part[s]);
}

int main(void)
{
    static const int steps[] = {IDS, 20, 5, 1};
    static const int32_t starts[] = {0, ROWS};
    static const uint8_t pads[] = {0};
    static int32_t ids[ROWS], positions[ROWS];
    static const struct backend_tile_desc d = {ROWS, 1, starts, pads, ids, positions, target};
    struct backend_config config = {.threads = 2};
    struct backend *be;
    struct aq_err err;
    if (backend_open(&be, "cpu", &config, &err) < 0)
        return 1;
    fill();
    struct backend_tile *tile = be->ops->tile_new(be, &d, &err);
    for (size_t i = 0; i < AQ_COUNT(steps); i++)
        check(be, tile, steps[i]);
    be->ops->tile_free(be, tile);
    backend_close(be);
    return tap_done();
}
