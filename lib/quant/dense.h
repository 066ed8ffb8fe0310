/*
 * Dense products and factors in fp64, for what calibrated candidates are solved from. An element's
 * sum runs over k in a fixed order (blocks of DENSE_K, each from its first to its last), whatever
 * the number of threads and however the work is cut: the same bits every time on one machine.
 * Matrices are row-major.
 */
#ifndef AQ_QUANT_DENSE_H
#define AQ_QUANT_DENSE_H

#include "base/pool.h"

#include <stdbool.h>
#include <stdint.h>

enum { DENSE_K = 256 };

/* A matrix whose element (i, k) is at data[i * row + k * col]. */
struct dense_view {
    const double *data;
    int64_t row, col;
};

/* c (m, n), rows `ld` apart, += sign * a (m, k) b (k, n). */
struct dense_product {
    int64_t m, n, k;
    struct dense_view a, b;
    double *c;
    int64_t ld;
    double sign;  /* 1 or -1 */
    bool lower;   /* only the elements (i, j) with j <= i are wanted; others may be computed */
    bool b_lower; /* b is lower triangular: its rows above the diagonal are zero */
};
void dense_multiply(struct aq_pool *pool, const struct dense_product *p);

/* s (n, n) += x' x of x (rows, n): the lower triangle; the upper one is left as it is, or not. */
void dense_add_square(struct aq_pool *pool, double *s, const double *x, int64_t rows, int64_t n);
/* Copies the lower triangle to the upper one. */
void dense_mirror(struct aq_pool *pool, double *s, int64_t n);

/*
 * The lower factor L of A = L L', in place of A's lower triangle; the upper one is not read and is
 * zero afterwards. Returns -1, or the first column whose pivot is not positive: A is lost then.
 */
int64_t dense_cholesky(struct aq_pool *pool, double *a, int64_t n);
/* The inverse of a lower triangular matrix, in place. */
void dense_invert_lower(struct aq_pool *pool, double *l, int64_t n);

#endif
