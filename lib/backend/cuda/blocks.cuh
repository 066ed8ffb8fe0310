/* A product whose operands have a scale for each block along K, on Hopper's tensor cores. */
#ifndef AQ_BACKEND_CUDA_BLOCKS_CUH
#define AQ_BACKEND_CUDA_BLOCKS_CUH

#include "backend/cuda/cuda.cuh"

/*
 * One side: `terms` planes of (rows, k) bf16 numbers, whose sum is what is multiplied.
 *
 * Where it has blocks, a sum is kept in units of the scale of the block that it has come to: at the
 * end of block b - 1 it is multiplied by ratio[b] = scale[b - 1] / scale[b], so that one set of
 * accumulators is enough. The result is in units of the last block's scale, which the caller
 * multiplies by, as it does with a scale for a whole row.
 */
struct blocks_side {
    const void *data;
    int terms;
    int64_t plane; /* elements from a term to the next */
    int64_t rows;
    int64_t block;      /* columns, a multiple of BLOCKS_STEP; 0: one scale for all of K */
    const float *ratio; /* device, [ceil(k / block)][stride]; row 0 is not read */
    int64_t stride;     /* blocks_stride(rows) */
};

enum {
    BLOCKS_STEP = 64,  /* columns that the kernel takes at a time */
    BLOCKS_ROWS = 128, /* rows of a that it takes at a time: a chunk of an expert's */
};

/* Sides b of experts, alike but for where they are: BLOCKS_ROWS rows of a have one of them. */
struct blocks_experts {
    const int32_t *expert_of; /* device [a.rows / BLOCKS_ROWS] */
    int count;
    const void *const *data; /* [count]; NULL: has no rows */
    const float *const *ratio;
};

/* With room up to the last block of results, so that the kernel need not look where rows end. */
static inline int64_t blocks_stride(int64_t rows)
{
    return (rows + 255) / 256 * 256;
}

/* Is there such a kernel for the device? */
bool blocks_available(struct cuda_backend *c);
/* Can a matrix of `cols` columns have a scale for each `block` of them there? */
bool blocks_fit(int64_t cols, int64_t block);
/* z (a.rows, b.rows) = a b^T. A row of z follows from the rows of its two sides alone. experts:
   NULL, or in place of b's data and ratio. */
void blocks_run(struct cuda_backend *c, const struct blocks_side *a, const struct blocks_side *b,
                const struct blocks_experts *experts, int64_t k, float *z);

#endif
