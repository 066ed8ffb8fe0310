/* Divergences and inner products from slices against sums over the whole vocabulary. */
#include "eval/sketch.h"
#include "tap.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

enum { ROWS = 400, IDS = 300, FIRST = 170 };

static float z[ROWS * IDS], one[ROWS * IDS], two[ROWS * IDS];
static int32_t target[ROWS];

static double uniform(void)
{
    static uint64_t state = 3;
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(state >> 11) * 0x1p-53 - 0.5;
}

/* A slice of columns as the caller has it. */
static float *slice(const float *x, int64_t from, int64_t ids)
{
    float *out = malloc(sizeof *out * (size_t)(ROWS * ids));
    for (int r = 0; r < ROWS; r++)
        for (int64_t i = 0; i < ids; i++)
            out[r * ids + i] = x[r * IDS + from + i];
    return out;
}

/* The reference is the same each time: its largest logits are found in the first. */
static struct sketch *run(struct aq_pool *pool, const float *zq)
{
    static double top[ROWS];
    static bool known;
    static const int64_t from[] = {0, FIRST}, ids[] = {FIRST, IDS - FIRST};
    for (int r = 0; r < ROWS && !known; r++)
        top[r] = -INFINITY;
    struct sketch *s = sketch_new(ROWS, target, top);
    for (int pass = known; pass < 2; pass++)
        for (int i = 0; i < 2; i++) {
            float *a = slice(z, from[i], ids[i]), *b = slice(zq, from[i], ids[i]);
            if (pass == 0)
                sketch_top(s, pool, a, ids[i]);
            else
                sketch_slice(s, pool, a, b, ids[i]);
            free(a);
            free(b);
        }
    known = true;
    return s;
}

static double log_sum(const float *x)
{
    double sum = 0;
    for (int i = 0; i < IDS; i++)
        sum += exp((double)x[i]);
    return log(sum);
}

static double kl_of(const float *a, const float *b)
{
    double all = log_sum(a), allq = log_sum(b), sum = 0;
    for (int i = 0; i < IDS; i++)
        sum += exp(a[i] - all) * ((a[i] - all) - (b[i] - allq));
    return sum;
}

/* sum p (x - E x) (y - E y), x and y what changed. */
static double covariance(const float *a, const float *b, const float *c)
{
    double all = log_sum(a), x = 0, y = 0, xy = 0;
    for (int i = 0; i < IDS; i++) {
        double p = exp(a[i] - all), dx = (double)b[i] - a[i], dy = (double)c[i] - a[i];
        x += p * dx;
        y += p * dy;
        xy += p * dx * dy;
    }
    return xy - x * y;
}

int main(void)
{
    struct aq_err err = {0};
    struct aq_pool *pool = aq_pool_new(2, &err), *lone = aq_pool_new(1, &err);
    for (int i = 0; i < ROWS * IDS; i++) {
        int twin = i - FIRST; /* the second slice repeats the first: buckets must tell them apart */
        if (i % IDS >= FIRST) {
            z[i] = z[twin];
            one[i] = one[twin];
            two[i] = two[twin];
            continue;
        }
        double change = 0.03 + 0.02 * uniform(); /* what all logits share changes nothing */
        z[i] = (float)(8 * uniform());
        one[i] = (float)(z[i] + change);
        two[i] = (float)(z[i] + 0.6 * change + 0.01 * uniform());
    }
    target[7] = -1;
    struct sketch *a = run(pool, one), *b = run(pool, two), *same = run(pool, z),
                  *c = run(lone, one);
    double worst = 0, half = 0, found = 0, expected = 0, square = 0;
    bool zero = true, bits = true;
    for (int r = 0; r < ROWS; r++) {
        float x[SKETCH], y[SKETCH], w[SKETCH];
        const float *row = z + r * IDS;
        if (r == 7)
            continue;
        double kl = sketch_row(a, r, x), own = 0, both = 0;
        (void)sketch_row(b, r, y);
        bits = bits && sketch_row(c, r, w) == kl;
        for (int k = 0; k < SKETCH; k++) {
            own += (double)x[k] * x[k];
            both += (double)x[k] * y[k];
            bits = bits && w[k] == x[k];
        }
        worst = fmax(worst, fabs(kl / kl_of(row, one + r * IDS) - 1));
        half += own / 2 / kl;
        double exact = covariance(row, one + r * IDS, two + r * IDS);
        found += both;
        expected += exact;
        square += (both - exact) * (both - exact);
        zero = zero && sketch_row(same, r, w) == 0;
        for (int k = 0; k < SKETCH; k++)
            zero = zero && w[k] == 0;
    }
    tap_ok(worst < 1e-9, "divergences: off by %.1e at most", worst);
    tap_ok(zero, "equal logits: exactly 0");
    tap_ok(bits, "the same bits for any number of threads");
    tap_ok(fabs(half / (ROWS - 1) - 1) < 0.03, "half of the square is the divergence: %.3f",
           half / (ROWS - 1));
    tap_ok(fabs(found - expected) < 4 * sqrt(square) && fabs(found / expected - 1) < 0.05,
           "inner products: %.3f of the exact ones", found / expected);
    sketch_free(a);
    sketch_free(b);
    sketch_free(c);
    sketch_free(same);
    aq_pool_free(pool);
    aq_pool_free(lone);
    return tap_done();
}
