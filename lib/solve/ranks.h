/* Do two lists of numbers put the same things in the same order? Ties count as half. */
#ifndef AQ_SOLVE_RANKS_H
#define AQ_SOLVE_RANKS_H

#include <stddef.h>

/* Ranks from 1; equal values share the mean of their places. Caller frees. */
double *rank_averages(const double *v, size_t n);
/* The correlation of two lists of average ranks: Spearman's rho of what they rank. */
double rank_correlation(const double *a, const double *b, size_t n);
/* Spearman's rho: the correlation of the average ranks. NAN below 2 values or if one list is flat.
 */
double rank_spearman(const double *x, const double *y, size_t n);
/* Kendall's tau-b, in n log n. NAN as above. */
double rank_kendall(const double *x, const double *y, size_t n);

#endif
