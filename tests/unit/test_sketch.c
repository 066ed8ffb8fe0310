/* Inner products of sketches against sums over the whole vocabulary in double. */
#include "eval/sketch.h"
#include "tap.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

enum { ROWS = 400, IDS = 300, FIRST = 170, HIDDEN = 20, INPUTS = 3, LEFT_OUT = 7 };

static struct aq_err err;
static float z[ROWS * IDS], one[ROWS * IDS], two[ROWS * IDS];
static float w[IDS * HIDDEN], input[INPUTS][ROWS * HIDDEN], divisor = 1, cap;
static int32_t target[ROWS];

static double uniform(void)
{
    static uint64_t state = 3;
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(state >> 11) * 0x1p-53 - 0.5;
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

static void must(int status)
{
    if (status < 0) {
        printf("Bail out! %s\n", err.msg);
        exit(2);
    }
}

/* The logits of h in double, as the head of one matrix makes them. */
static void logits_of(float *to, const float *h)
{
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < IDS; i++) {
            double sum = 0;
            for (int k = 0; k < HIDDEN; k++)
                sum += (double)h[r * HIDDEN + k] * w[i * HIDDEN + k];
            sum /= divisor;
            to[r * IDS + i] = (float)(cap > 0 ? cap * tanh(sum / cap) : sum);
        }
}

/* Sketches of input[1] and input[2] against input[0], and of that against itself. */
static void run(int threads, float out[INPUTS][ROWS][SKETCH])
{
    static const int64_t from[] = {0, FIRST, IDS};
    static const int32_t first[] = {0, ROWS};
    static int32_t ids[ROWS], pos[ROWS];
    const uint8_t pad = 0;
    const struct backend_tile_desc desc = {ROWS, 1, first, &pad, ids, pos, target};
    const struct backend_config config = {.threads = threads, .matrix = BACKEND_MATRIX_PLAIN};
    struct backend_weight slices[2], *list[] = {&slices[0], &slices[1]};
    struct backend_head head[2];
    struct aq_pool *pool = aq_pool_new(threads, &err);
    struct backend *b;
    struct sketch *s;
    must(pool ? 0 : -1);
    must(backend_open(&b, "cpu", &config, &err));
    struct backend_tile *tile = b->ops->tile_new(b, &desc, &err);
    void *x0 = b->ops->alloc(b, sizeof input[0], "a test", &err);
    must(tile && x0 ? 0 : -1);
    for (int i = 0; i < 2; i++) {
        slices[i] = (struct backend_weight){.host = w + from[i] * HIDDEN,
                                            .dtype = NUM_F32,
                                            .rows = from[i + 1] - from[i],
                                            .cols = HIDDEN,
                                            .name = "w"};
        head[i] = (struct backend_head){&slices[i], divisor, cap};
    }
    must(b->ops->weights_load(b, list, 2, &err));
    b->ops->upload(b, x0, input[0], sizeof input[0]);
    const struct sketch_job job = {b, tile, &desc, pool, x0, head, 2};
    must(sketch_new(&s, &job, &err));
    for (int i = 0; i < INPUTS; i++)
        sketch_of(s, pool, input[i], &out[i][0][0]);
    sketch_free(s);
    b->ops->weights_release(b, list, 2);
    b->ops->free(b, x0, sizeof input[0]);
    b->ops->tile_free(b, tile);
    backend_close(b);
    aq_pool_free(pool);
}

static void check(const char *what)
{
    static float found[INPUTS][ROWS][SKETCH], lone[INPUTS][ROWS][SKETCH];
    double half = 0, sum = 0, exact = 0, square = 0;
    bool zero = true;
    run(2, found);
    run(1, lone);
    logits_of(z, input[0]);
    logits_of(one, input[1]);
    logits_of(two, input[2]);
    for (int r = 0; r < ROWS; r++) {
        double own = 0, both = 0;
        if (r == LEFT_OUT)
            continue;
        for (int k = 0; k < SKETCH; k++) {
            own += (double)found[1][r][k] * found[1][r][k];
            both += (double)found[1][r][k] * found[2][r][k];
            zero = zero && found[0][r][k] == 0;
        }
        half += own / 2 / kl_of(z + r * IDS, one + r * IDS);
        double expected = covariance(z + r * IDS, one + r * IDS, two + r * IDS);
        sum += both;
        exact += expected;
        square += (both - expected) * (both - expected);
    }
    tap_ok(zero, "%s: an unchanged input: exactly 0", what);
    tap_ok(same_bits(found, lone, sizeof found), "%s: the same bits for any number of threads",
           what);
    tap_ok(fabs(half / (ROWS - 1) - 1) < 0.03, "%s: half of the square is the divergence: %.3f",
           what, half / (ROWS - 1));
    tap_ok(fabs(sum - exact) < 4 * sqrt(square) && fabs(sum / exact - 1) < 0.05,
           "%s: inner products: %.3f of the exact ones", what, sum / exact);
}

int main(void)
{
    for (int i = 0; i < IDS * HIDDEN; i++) {
        /* the second slice nearly repeats the first: buckets must tell them apart; and what all
           logits share changes nothing */
        const int twin = i - FIRST * HIDDEN;
        w[i] = (float)(i % HIDDEN == 0 ? 1 : twin < 0 ? uniform() : w[twin] + 0.2 * uniform());
    }
    for (int i = 0; i < ROWS * HIDDEN; i++) {
        const double change = 0.02 * uniform() + (i % HIDDEN == 0 ? 0.1 : 0);
        input[0][i] = (float)(6 * uniform());
        input[1][i] = (float)(input[0][i] + change);
        input[2][i] = (float)(input[0][i] + 0.6 * change + 0.01 * uniform());
    }
    target[LEFT_OUT] = -1;
    check("logits as they are");
    divisor = 0.5F;
    cap = 4;
    check("divided and capped");
    return tap_done();
}
