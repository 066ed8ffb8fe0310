/*
 * Matrix products of one thread. Callers bring their own threads, so the library's are switched
 * off, and a variant that is not safe under several callers is locked.
 */
#ifndef AQ_BACKEND_CPU_BLAS_H
#define AQ_BACKEND_CPU_BLAS_H

#include "base/err.h"

#include <stdint.h>

enum { BLAS_N, BLAS_T }; /* as stored, transposed */

/*
 * First of all in main: OpenBLAS starts threads when it is loaded, and each waits for ever for
 * memory that a limit of the process does not leave it. Under a limit the program is therefore
 * started again, with OPENBLAS_NUM_THREADS=1 in its environment.
 */
void blas_begin(char **argv);
/* Once per process, before the first product. The first call returns a warning to pass on, or NULL.
 */
const char *blas_init(void);
/* Work memory for `callers` callers at once; after that products take no more. */
int blas_reserve(int callers, struct aq_err *err) AQ_MUST_CHECK;
/* "openblas-SkylakeX", or "cblas" for a library that does not say. */
const char *blas_name(void);

/* C (m, n) = op(A) op(B) + beta C, row-major, fp32; ld in elements. */
void blas_gemm(int ta, int tb, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda,
               const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
/* The same in plain C with double sums: what tests compare with. */
void blas_gemm_plain(int ta, int tb, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda,
                     const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

#endif
