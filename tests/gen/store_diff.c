/*
 * How far the scores of one store are from those of another, made from the same inputs by another
 * device, over the first SAMPLES samples: tiles of other lengths hold different ones after them.
 * Each row of the first on a line: treatment, prefix, "weights" if the activations are not
 * quantized, else "both"; the greatest relative difference of a layer group, that of the sum over
 * all groups, and how far below the tenth largest group the first store has any that is among the
 * ten largest of the second: 0 if they are the same.
 */
#include "base/fmt.h"
#include "base/mem.h"
#include "base/msg.h"
#include "store/store.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOP = 10 };

static double *group_scores(const struct store *s, const struct store_row *r, int64_t samples)
{
    int64_t groups = s->shape.groups;
    double *sum = xcalloc((size_t)groups, sizeof *sum);
    for (int64_t g = 0; g < groups; g++)
        for (int64_t i = 0; i < samples; i++)
            sum[g] += store_sum(s, r, g, i);
    return sum;
}

static int64_t rank(const double *score, int64_t groups, int64_t g)
{
    int64_t above = 0;
    for (int64_t i = 0; i < groups; i++)
        above += i < g ? score[i] >= score[g] : score[i] > score[g];
    return above;
}

static double relative(double found, double expected)
{
    double off = fabs(found - expected);
    return off > 0 ? off / fabs(expected) : 0;
}

/* Of the groups that y has among its largest: how far the smallest of x is below x's tenth. */
static double below_tenth(const double *x, const double *y, int64_t groups)
{
    double tenth = 0, least = INFINITY;
    for (int64_t g = 0; g < groups; g++) {
        if (rank(x, groups, g) == TOP - 1)
            tenth = x[g];
        if (rank(y, groups, g) < TOP && x[g] < least)
            least = x[g];
    }
    return tenth > 0 ? (tenth - least) / tenth : 0;
}

static void print_row(const struct store *a, const struct store_row *ra, const struct store *b,
                      const struct store_row *rb, int64_t samples)
{
    int64_t groups = a->shape.groups;
    double *x = group_scores(a, ra, samples), *y = group_scores(b, rb, samples), sum_x = 0,
           sum_y = 0, worst = 0;
    for (int64_t g = 0; g < groups; g++) {
        double off = relative(y[g], x[g]);
        worst = off > worst ? off : worst;
        sum_x += x[g];
        sum_y += y[g];
    }
    printf("%s %" PRId64 " %s %.3e %.3e %.3e\n", ra->key.id, ra->key.prefix,
           strcmp(ra->a, "none") == 0 ? "weights" : "both", worst, relative(sum_y, sum_x),
           below_tenth(x, y, groups));
    free(x);
    free(y);
}

static int compare(const char *expected, const char *found, int64_t samples, struct aq_err *err)
{
    struct store a, b;
    if (store_open(&a, expected, err) < 0)
        return -1;
    if (store_open(&b, found, err) < 0) {
        store_close(&a);
        return -1;
    }
    int r = 0;
    if (a.shape.layers != b.shape.layers || a.shape.samples != b.shape.samples)
        r = aq_err_set(err, AQ_EINPUT, "the stores differ in layers or samples");
    else if (samples > a.shape.samples)
        r = aq_err_set(err, AQ_EINPUT, "there are only %" PRId64 " samples", a.shape.samples);
    for (size_t i = 0; i < a.count && r == 0; i++) {
        const struct store_row *other = store_find(&b, a.rows[i].key.id, a.rows[i].key.prefix);
        if (other)
            print_row(&a, &a.rows[i], &b, other, samples);
        else
            r = aq_err_set(err, AQ_EINPUT, "%s lacks the row %s", found, a.rows[i].key.id);
    }
    store_close(&a);
    store_close(&b);
    return r;
}

int main(int argc, char **argv)
{
    struct aq_err err = {0};
    int64_t samples;
    if (argc != 4 || !aq_parse_i64(argv[3], &samples) || samples < 1) {
        (void)fprintf(stderr, "usage: store_diff EXPECTED FOUND SAMPLES\n");
        return AQ_EUSAGE;
    }
    if (compare(argv[1], argv[2], samples, &err) == 0)
        return 0;
    (void)fprintf(stderr, "store_diff: %s\n", err.msg);
    return err.code;
}
