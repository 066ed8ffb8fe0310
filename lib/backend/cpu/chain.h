/*
 * Products in fp32 of a few rows, such as those that a mixture sends to one expert. A BLAS packs
 * its operands for every call, and what it makes of a row depends on how many there are; here each
 * result is one chain of fused multiply-adds over K, whatever the rest of the product is and
 * whichever instructions make it.
 */
#ifndef AQ_BACKEND_CPU_CHAIN_H
#define AQ_BACKEND_CPU_CHAIN_H

#include <stdint.h>

enum {
    CHAIN_ROWS = 12, /* of a tile of results */
    CHAIN_COLS = 32,
    CHAIN_K = 256, /* of K at a time: b's strip of so many stays in the first cache */
};

/*
 * c (CHAIN_ROWS, CHAIN_COLS), rows ldc apart: the chains of c, or of zeros where `first`, go on
 * over k steps of a (CHAIN_ROWS, k), rows lda apart, and b (k, CHAIN_COLS), gapless. half: only the
 * first half of the columns.
 */
typedef void chain_fn(int64_t k, const float *a, int64_t lda, const float *b, float *c, int64_t ldc,
                      int half, int first);

/* NULL: not on this machine. */
chain_fn *chain_avx512(void);
chain_fn *chain_avx2(void);
/* The best of them. */
chain_fn *chain_kernel(void);
/* What an identity says where experts' products are the BLAS's on one processor and this chain's on
   another with the same BLAS; else "". */
const char *chain_suffix(void);

#endif
