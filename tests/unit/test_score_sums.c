/* Means and standard errors against numbers that were worked out in exact fractions. */
#include "store/score_sums.h"
#include "tap.h"

#include <math.h>

static bool near(double x, double y)
{
    return fabs(x - y) <= 1e-15 * fabs(y);
}

int main(void)
{
    /* S = 1 2 4 9, n = 1 2 2 3: r = 2; residuals -1 -2 0 3; squares 14; se = sqrt(4/3 * 14) / 8 */
    static const double sums[] = {1, 2, 4, 9};
    static const int32_t labels[] = {1, 2, 2, 3};
    struct score_sums s;
    score_sums(&s, sums, labels, 4, 2, false);
    tap_ok(s.sum == 16 && s.per_token == 2, "sum and mean per token");
    tap_ok(near(s.per_token_se, sqrt(56.0 / 3) / 8),
           "standard error of a ratio, m / (m - 1): %.17g", s.per_token_se);
    /* batches: 3 / 9 and 13 / 25; mean 32/75, deviations 7/75; se = sqrt(2 / 1 * 2 * (7/75)^2) */
    tap_ok(near(s.per_batch_mean, 3.0 / 9 + 13.0 / 25), "sum over batches");
    tap_ok(near(s.per_batch_mean_se, 14.0 / 75), "its standard error, b / (b - 1): %.17g",
           s.per_batch_mean_se);
    score_sums(&s, sums, labels, 4, 2, true);
    tap_ok(s.per_batch_mean == 16, "kl_div: the plain sum");
    score_sums(&s, sums, labels, 1, 2, false);
    tap_ok(isnan(s.per_token_se) && isnan(s.per_batch_mean_se), "one sample, one batch: no error");
    /* 49 * (1 / 49) is not 1: a residual that is a rounding */
    score_sums(&s, (const double[]){1}, (const int32_t[]){49}, 1, 2, false);
    tap_ok(isnan(s.per_token_se) && isnan(s.per_batch_mean_se), "also where it does not divide");
    return tap_done();
}
