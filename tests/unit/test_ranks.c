/* lib/solve/ranks against the definitions, pair by pair; lib/base/names beside it. */
#include "tap.h"

#include "base/names.h"
#include "solve/ranks.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

enum { MOST = 40 };

/* NaN where there is nothing to compare. */
static double ratio(double a, double b)
{
    return b > 0 ? a / b : NAN;
}

static double kendall_by_pairs(const double *x, const double *y, size_t n)
{
    double sum = 0, tx = 0, ty = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = i + 1; j < n; j++) {
            int a = (x[i] > x[j]) - (x[i] < x[j]), b = (y[i] > y[j]) - (y[i] < y[j]);
            sum += a * b;
            tx += a != 0;
            ty += b != 0;
        }
    return ratio(sum, sqrt(tx * ty));
}

static double spearman_by_counting(const double *x, const double *y, size_t n)
{
    double xy = 0, xx = 0, yy = 0;
    for (size_t i = 0; i < n; i++) {
        double a = 0, b = 0;
        for (size_t j = 0; j < n; j++) {
            a += (x[j] < x[i]) + (x[j] == x[i]) / 2.0;
            b += (y[j] < y[i]) + (y[j] == y[i]) / 2.0;
        }
        a -= (double)n / 2;
        b -= (double)n / 2;
        xy += a * b;
        xx += a * a;
        yy += b * b;
    }
    return ratio(xy, sqrt(xx * yy));
}

static bool near(double a, double b)
{
    return (isnan(a) && isnan(b)) || fabs(a - b) < 1e-12;
}

static void test_random(void)
{
    int wrong = 0;
    srand(7);
    for (int i = 0; i < 2000; i++) {
        double x[MOST], y[MOST];
        size_t n = 2 + (size_t)rand() % (MOST - 2);
        int range = 1 + rand() % 30;
        for (size_t j = 0; j < n; j++) {
            x[j] = rand() % range;
            y[j] = rand() % 2 ? x[j] : rand() % range;
        }
        wrong += !near(rank_kendall(x, y, n), kendall_by_pairs(x, y, n)) ||
                 !near(rank_spearman(x, y, n), spearman_by_counting(x, y, n));
    }
    tap_ok(wrong == 0, "2,000 random lists with ties equal the definitions");
}

static void test_edges(void)
{
    const double up[] = {1, 2, 3, 4}, down[] = {9, 5, 2, 0}, flat[] = {1, 1, 1, 1};
    tap_ok(rank_spearman(up, up, 4) == 1 && rank_kendall(up, up, 4) == 1, "the same order is 1");
    tap_ok(rank_spearman(up, down, 4) == -1 && rank_kendall(up, down, 4) == -1,
           "the reverse is -1");
    tap_ok(isnan(rank_spearman(up, flat, 4)) && isnan(rank_kendall(flat, up, 4)),
           "a flat list says nothing");
    tap_ok(isnan(rank_spearman(up, up, 1)) && isnan(rank_kendall(up, up, 0)),
           "nor does a list of one or none");
}

static void test_names(void)
{
    struct aq_names n = AQ_NAMES_INIT;
    static const char *const list[] = {"b", "a", "", "c", "a", "b"};
    for (size_t i = 0; i < 4; i++)
        aq_names_add(&n, list[i]);
    tap_ok(aq_names_sort(&n) == -1, "no name twice");
    tap_ok(aq_names_find(&n, "a") == 1 && aq_names_find(&n, "") == 2 &&
               aq_names_find(&n, "d") == -1,
           "found by name");
    for (size_t i = 4; i < 6; i++)
        aq_names_add(&n, list[i]);
    tap_ok(aq_names_sort(&n) == 4, "the first repeated name in their own order");
    aq_names_release(&n);
    tap_ok(aq_names_sort(&n) == -1 && aq_names_find(&n, "a") == -1, "an empty index");
    aq_names_release(&n);
}

int main(void)
{
    test_random();
    test_edges();
    test_names();
    return tap_done();
}
