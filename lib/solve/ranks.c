#include "solve/ranks.h"
#include "base/mem.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct pair {
    double x, y;
};

struct ranked_value {
    double value;
    size_t at;
};

static int by_value(const void *a, const void *b)
{
    const struct ranked_value *p = a, *q = b;
    return p->value < q->value ? -1 : p->value > q->value;
}

double *rank_averages(const double *v, size_t n)
{
    struct ranked_value *order = xcalloc(n + 1, sizeof *order);
    double *rank = xcalloc(n + 1, sizeof *rank);
    for (size_t i = 0; i < n; i++)
        order[i] = (struct ranked_value){v[i], i};
    qsort(order, n, sizeof *order, by_value);
    for (size_t i = 0; i < n;) {
        size_t end = i + 1;
        while (end < n && order[end].value == order[i].value)
            end++;
        for (size_t j = i; j < end; j++)
            rank[order[j].at] = ((double)i + 1 + (double)end) / 2;
        i = end;
    }
    free(order);
    return rank;
}

double rank_correlation(const double *a, const double *b, size_t n)
{
    double mean = ((double)n + 1) / 2, ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < n; i++) {
        ab += (a[i] - mean) * (b[i] - mean);
        aa += (a[i] - mean) * (a[i] - mean);
        bb += (b[i] - mean) * (b[i] - mean);
    }
    return n >= 2 && aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : NAN;
}

double rank_spearman(const double *x, const double *y, size_t n)
{
    double *a = rank_averages(x, n), *b = rank_averages(y, n);
    double rho = rank_correlation(a, b, n);
    free(a);
    free(b);
    return rho;
}

static int by_x_then_y(const void *a, const void *b)
{
    const struct pair *p = a, *q = b;
    if (p->x != q->x)
        return p->x < q->x ? -1 : 1;
    return p->y < q->y ? -1 : p->y > q->y;
}

static uint64_t pairs_of(uint64_t n)
{
    return n * (n - 1) / 2;
}

/* Merge sort by y that counts the exchanges: the discordant pairs (Knight 1966). */
static uint64_t sort_counting(struct pair *p, struct pair *spare, size_t n)
{
    if (n < 2)
        return 0;
    size_t half = n / 2, i = 0, j = half;
    uint64_t swaps = sort_counting(p, spare, half) + sort_counting(p + half, spare, n - half);
    for (size_t k = 0; k < n; k++) {
        if (j >= n || (i < half && p[i].y <= p[j].y)) {
            spare[k] = p[i++];
        } else {
            swaps += half - i;
            spare[k] = p[j++];
        }
    }
    memcpy(p, spare, n * sizeof *p);
    return swaps;
}

double rank_kendall(const double *x, const double *y, size_t n)
{
    if (n < 2)
        return NAN;
    struct pair *p = xcalloc(n, sizeof *p), *spare = xcalloc(n, sizeof *spare);
    uint64_t tied_x = 0, tied_y = 0, tied_both = 0, all = pairs_of(n);
    for (size_t i = 0; i < n; i++)
        p[i] = (struct pair){x[i], y[i]};
    qsort(p, n, sizeof *p, by_x_then_y);
    uint64_t run_x = 1, run_both = 1, run_y = 1;
    for (size_t i = 1; i <= n; i++) {
        bool same_x = i < n && p[i].x == p[i - 1].x, same = same_x && p[i].y == p[i - 1].y;
        tied_x += same_x ? 0 : pairs_of(run_x);
        tied_both += same ? 0 : pairs_of(run_both);
        run_x = same_x ? run_x + 1 : 1;
        run_both = same ? run_both + 1 : 1;
    }
    uint64_t swaps = sort_counting(p, spare, n);
    for (size_t i = 1; i <= n; i++) {
        bool same_y = i < n && p[i].y == p[i - 1].y;
        tied_y += same_y ? 0 : pairs_of(run_y);
        run_y = same_y ? run_y + 1 : 1;
    }
    free(p);
    free(spare);
    double concordant_minus =
        (double)all - (double)tied_x - (double)tied_y + (double)tied_both - 2 * (double)swaps;
    double scale = sqrt((double)(all - tied_x) * (double)(all - tied_y));
    return scale > 0 ? concordant_minus / scale : NAN;
}
