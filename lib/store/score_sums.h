/*
 * Sums over samples, normalised. S_i is the raw sum of sample i, n_i its labels (kl_div: its
 * positions), m the number of samples.
 *
 *     per_token       r = sum S / sum n,
 *                     standard error sqrt(m / (m - 1) * sum (S_i - r n_i)^2) / sum n,
 *                     95 % interval r exp(-+ t se / r), t of Student's distribution with m - 1
 *                     degrees of freedom: sums of squares are skewed, their logarithms much less
 *     per_batch_mean  gradient: sum over batches of (sum S) / (sum n)^2; kl_div: sum S;
 *                     standard error from the spread of the batches' terms
 */
#ifndef AQ_STORE_SCORE_SUMS_H
#define AQ_STORE_SCORE_SUMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct score_sums {
    double sum;
    double per_token, per_token_se;           /* the error is NAN for fewer than 2 samples */
    double per_token_low, per_token_high;     /* NAN without an error, or if the score is not > 0 */
    double per_batch_mean, per_batch_mean_se; /* NAN for fewer than 2 batches */
};

/* count > 0; labels add up to more than 0. A batch without labels adds nothing. */
void score_sums(struct score_sums *out, const double *sums, const int32_t *labels, int64_t count,
                int64_t batch, bool kl_div);

/* A mean over tokens and its standard error; NAN for fewer than 2 samples. */
struct score_mean {
    double mean, error;
};
struct score_mean score_per_token(const double *sums, const int32_t *labels, int64_t count);

/* The 97.5 % point of Student's distribution. */
double score_student(int64_t degrees);

#endif
