/*
 * What a product by cuBLASLt is described with. cuBLAS is column-major, so that C^T = B' A^T: B of
 * ours is its A.
 */
#ifndef AQ_BACKEND_CUDA_MATMUL_CUH
#define AQ_BACKEND_CUDA_MATMUL_CUH

#include "backend/cuda/cuda.cuh"

static const size_t workspace_bytes = (size_t)32 << 20;

struct matmul_call {
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t a, b, c;
};

static inline void matmul_call_free(struct matmul_call *k)
{
    if (k->a)
        (void)cublasLtMatrixLayoutDestroy(k->a);
    if (k->b)
        (void)cublasLtMatrixLayoutDestroy(k->b);
    if (k->c)
        (void)cublasLtMatrixLayoutDestroy(k->c);
    if (k->op)
        (void)cublasLtMatmulDescDestroy(k->op);
}

/* A batch of as many matrices, `stride` elements from one to the next. */
static inline cublasStatus_t matmul_batch(cublasLtMatrixLayout_t of, int32_t count, int64_t stride)
{
    cublasStatus_t s = cublasLtMatrixLayoutSetAttribute(of, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                                                        &count, sizeof count);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatrixLayoutSetAttribute(of, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                             &stride, sizeof stride);
    return s;
}

#endif
