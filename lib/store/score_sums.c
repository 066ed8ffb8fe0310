#include "store/score_sums.h"

#include <math.h>

struct score_mean score_per_token(const double *sums, const int32_t *labels, int64_t count)
{
    double sum = 0, n = 0, squares = 0, m = (double)count;
    for (int64_t i = 0; i < count; i++) {
        sum += sums[i];
        n += labels[i];
    }
    double mean = sum / n;
    for (int64_t i = 0; i < count; i++) {
        double d = sums[i] - mean * labels[i];
        squares += d * d;
    }
    return (struct score_mean){mean, count < 2 ? NAN : sqrt(m / (m - 1) * squares) / n};
}

/*
 * P(|T| <= t) for a whole number of degrees: a finite sum (Abramowitz and Stegun 26.7.3 and 26.7.4)
 * of powers of cos^2, theta = atan(t / sqrt(degrees)).
 */
static double student_within(double t, int64_t degrees)
{
    const double pi = 3.14159265358979323846;
    double theta = atan(t / sqrt((double)degrees)), c2 = cos(theta) * cos(theta);
    double term = degrees % 2 ? cos(theta) : 1, sum = 0;
    for (int64_t k = degrees % 2 ? 1 : 0; k <= degrees - 2; k += 2) {
        sum += term;
        term *= c2 * (double)(k + 1) / (double)(k + 2);
    }
    return degrees % 2 ? 2 / pi * (theta + sin(theta) * sum) : sin(theta) * sum;
}

double score_student(int64_t degrees)
{
    double low = 0, high = 13; /* 12.7 for one degree */
    for (int i = 0; i < 60; i++) {
        double t = (low + high) / 2;
        if (student_within(t, degrees) < 0.95)
            low = t;
        else
            high = t;
    }
    return (low + high) / 2;
}

static void per_token(struct score_sums *out, const double *sums, const int32_t *labels,
                      int64_t count)
{
    struct score_mean m = score_per_token(sums, labels, count);
    for (int64_t i = 0; i < count; i++)
        out->sum += sums[i];
    out->per_token = m.mean;
    out->per_token_se = m.error;
    out->per_token_low = out->per_token_high = NAN;
    if (count < 2 || !(m.mean > 0))
        return;
    double wide = score_student(count - 1) * m.error / m.mean;
    out->per_token_low = m.mean * exp(-wide);
    out->per_token_high = m.mean * exp(wide);
    if (isinf(out->per_token_high)) /* an error far above the score says nothing */
        out->per_token_low = out->per_token_high = NAN;
}

static double batch_term(const double *sums, const int32_t *labels, int64_t count, bool kl_div)
{
    double sum = 0, n = 0;
    for (int64_t i = 0; i < count; i++) {
        sum += sums[i];
        n += labels[i];
    }
    if (kl_div)
        return sum;
    return n > 0 ? sum / (n * n) : 0;
}

void score_sums(struct score_sums *out, const double *sums, const int32_t *labels, int64_t count,
                int64_t batch, bool kl_div)
{
    int64_t batch_count = (count + batch - 1) / batch;
    double squares = 0, batches = (double)batch_count;
    *out = (struct score_sums){0};
    per_token(out, sums, labels, count);
    for (int64_t at = 0; at < count; at += batch) {
        int64_t n = count - at < batch ? count - at : batch;
        out->per_batch_mean += batch_term(sums + at, labels + at, n, kl_div);
    }
    for (int64_t at = 0; at < count; at += batch) {
        int64_t n = count - at < batch ? count - at : batch;
        double d = batch_term(sums + at, labels + at, n, kl_div) - out->per_batch_mean / batches;
        squares += d * d;
    }
    out->per_batch_mean_se = batches < 2 ? NAN : sqrt(batches / (batches - 1) * squares);
}
