/*
 * Standard errors and intervals of scores: against values worked out by hand and published tables
 * of Student's distribution.
 */
#include "tap.h"

#include "store/score_sums.h"

#include <math.h>

static bool near(double found, double expected, double relative)
{
    return fabs(found - expected) <= relative * fabs(expected);
}

static void student(void)
{
    /* two-sided 95 %, as tables print it */
    static const struct {
        int degrees;
        double t;
    } table[] = {{1, 12.7062}, {2, 4.3027},   {3, 3.1824},   {4, 2.7764},
                 {5, 2.5706},  {9, 2.2622},   {15, 2.1314},  {31, 2.0395},
                 {60, 2.0003}, {120, 1.9799}, {127, 1.9788}, {511, 1.9646}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        double t = score_student(table[i].degrees);
        tap_ok(near(t, table[i].t, 2.5e-5), "Student's 97.5 %% point for %d degrees: %.4f",
               table[i].degrees, t);
    }
}

/* Three samples: S = 6, 1, 5 with 2, 1, 3 labels. r = 12 / 6 = 2; residuals 2, -1, -1. */
static void three_samples(void)
{
    static const double sums[] = {6, 1, 5};
    static const int32_t labels[] = {2, 1, 3};
    struct score_sums s;
    score_sums(&s, sums, labels, 3, 2, false);
    double error = sqrt(3.0 / 2 * 6) / 6; /* the factor m / (m - 1) counts */
    tap_ok(s.sum == 12 && s.per_token == 2, "sum and mean over tokens");
    tap_ok(near(s.per_token_se, error, 1e-15), "standard error %.6f", s.per_token_se);
    /* for two degrees P(|T| <= t) is t / sqrt(2 + t^2) */
    double wide = 0.95 * sqrt(2 / (1 - 0.95 * 0.95)) * error / 2;
    tap_ok(near(s.per_token_low, 2 * exp(-wide), 1e-12) &&
               near(s.per_token_high, 2 * exp(wide), 1e-12),
           "interval %.4f to %.4f", s.per_token_low, s.per_token_high);
    /* batches {6, 1} and {5}: 7 / 9 and 5 / 9; spread +-1/9 around 2/3 */
    tap_ok(near(s.per_batch_mean, 12.0 / 9, 1e-15), "mean over batches");
    tap_ok(near(s.per_batch_mean_se, sqrt(2.0 / 1 * 2 / 81), 1e-15), "its standard error %.6f",
           s.per_batch_mean_se);
}

static void nothing_to_say(void)
{
    static const double one[] = {3}, zero[] = {0, 0}, divergence[] = {1, -3};
    static const int32_t labels[] = {2, 2};
    struct score_sums s;
    score_sums(&s, one, labels, 1, 8, false);
    tap_ok(isnan(s.per_token_se) && isnan(s.per_token_low) && isnan(s.per_batch_mean_se),
           "one sample has no error");
    score_sums(&s, zero, labels, 2, 8, false);
    tap_ok(s.per_token_se == 0 && isnan(s.per_token_low), "a score of 0 has no interval");
    score_sums(&s, divergence, labels, 2, 8, true);
    tap_ok(s.per_token < 0 && isnan(s.per_token_low), "nor has one below 0");
    tap_ok(s.per_batch_mean == -2, "kl_div's raw form is the plain sum");
}

int main(void)
{
    student();
    three_samples();
    nothing_to_say();
    return tap_done();
}
