/* What the kernels of attention share. */
#ifndef AQ_BACKEND_CUDA_ATTENTION_CUH
#define AQ_BACKEND_CUDA_ATTENTION_CUH

#include "backend/cuda/cuda.cuh"

#include <limits.h>

struct attention {
    const int32_t *sample_of, *first;
    const uint8_t *pad;
    const int64_t *square_at;
    int64_t squares;
    const float *q, *d_o; /* (rows, heads x dim) */
    const float *k, *v;   /* (rows, kv_heads x dim) */
    float *o, *dq;        /* as q */
    float *dk, *dv;       /* as k */
    float *p, *ds;        /* [heads of the turn][squares]: of a sample (n, n), row by row */
    int heads, kv_heads, dim;
    int kv_from, end_head; /* of the turn */
    int longest;           /* sample */
    int by_matrices;       /* samples of so many rows and more are made elsewhere */
    int samples;
    int64_t rows;
    float scale, cap; /* cap 0: none */
    int window;       /* 0: none */
    int round;
};

/* The first key that the row sees. */
__device__ static inline int64_t first_seen(const struct attention &a, int64_t at)
{
    return a.window > 0 && at >= a.window ? at - a.window + 1 : 0;
}

/* Shared memory beyond what every launch may have must be asked for. */
bool attention_allow(struct cuda_backend *c, const void *kernel, size_t bytes);

/* matrix_attention.cu: outputs of samples with so many rows or more, their pad rows not counted,
   and zeros in rows after the last sample where there is one of these. INT_MAX: not for this shape.
   Rows can be read four numbers at a time. */
int attention_by_matrices(struct cuda_backend *c, const struct attention *a);

#endif
