#include "store/score_sums.h"

#include <math.h>

static void per_token(struct score_sums *out, const double *sums, const int32_t *labels,
                      int64_t count)
{
    double n = 0, squares = 0, m = (double)count;
    for (int64_t i = 0; i < count; i++) {
        out->sum += sums[i];
        n += labels[i];
    }
    out->per_token = out->sum / n;
    for (int64_t i = 0; i < count; i++) {
        double d = sums[i] - out->per_token * labels[i];
        squares += d * d;
    }
    out->per_token_se = count < 2 ? NAN : sqrt(m / (m - 1) * squares) / n;
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
