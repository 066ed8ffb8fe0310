/* Do two lists of numbers put the same things in the same order? Ties count as half. */
#ifndef AQ_SOLVE_RANKS_H
#define AQ_SOLVE_RANKS_H

#include <stddef.h>

/* Spearman's rho: the correlation of the average ranks. NAN below 2 values or if one list is flat.
 */
double rank_spearman(const double *x, const double *y, size_t n);
/* Kendall's tau-b, in n log n. NAN as above. */
double rank_kendall(const double *x, const double *y, size_t n);

#endif
