/*
 * Second moments of activations in double: rows of text in double, then a product by cuBLASLt that
 * adds to what is there. A tile has one shape, so that equal tiles give equal bits in equal order.
 */
#include "backend/cuda/cuda.cuh"

/* to (rows, cols) = x, 0 in pad rows; rows without a token are 0 already. */
__global__ static void widen_rows(double *to, const float *x, int64_t cols,
                                  const int32_t *sample_of, const int32_t *first,
                                  const uint8_t *pad)
{
    int32_t row = (int32_t)blockIdx.x, s = sample_of[row];
    bool text = s >= 0 && !(pad[s] && first[s] == row);
    for (int64_t i = threadIdx.x; i < cols; i += THREADS)
        to[row * cols + i] = text ? (double)x[row * cols + i] : 0;
}

/* sums [cols] += |x|, a thread a column, rows in their order. */
__global__ static void add_magnitudes(double *sums, const double *x, int64_t rows, int64_t cols)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= cols)
        return;
    double sum = sums[i];
    for (int64_t r = 0; r < rows; r++)
        sum += fabs(x[r * cols + i]);
    sums[i] = sum;
}

/* To cuBLAS a row-major x (rows, n) is a matrix of n rows. */
static cublasStatus_t add_square(struct cuda_backend *c, double *sum, const double *x, int64_t rows,
                                 int64_t n, void *workspace, size_t bytes)
{
    cublasLtMatmulDesc_t op = NULL;
    cublasLtMatrixLayout_t in = NULL, out = NULL;
    cublasLtMatmulPreference_t wish = NULL;
    cublasLtMatmulHeuristicResult_t found = {};
    cublasOperation_t trans = CUBLAS_OP_T;
    double one = 1;
    int count = 0;
    cublasStatus_t s = cublasLtMatmulDescCreate(&op, CUBLAS_COMPUTE_64F, CUDA_R_64F);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_TRANSB, &trans, sizeof trans);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatrixLayoutCreate(&in, CUDA_R_64F, (uint64_t)n, (uint64_t)rows, n);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatrixLayoutCreate(&out, CUDA_R_64F, (uint64_t)n, (uint64_t)n, n);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulPreferenceCreate(&wish);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                 &bytes, sizeof bytes);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulAlgoGetHeuristic(c->lt, op, in, in, out, out, wish, 1, &found, &count);
    if (s == CUBLAS_STATUS_SUCCESS && count == 0)
        s = CUBLAS_STATUS_NOT_SUPPORTED;
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmul(c->lt, op, &one, x, in, x, in, &one, sum, out, sum, out, &found.algo,
                           workspace, bytes, c->stream);
    if (wish)
        (void)cublasLtMatmulPreferenceDestroy(wish);
    if (in)
        (void)cublasLtMatrixLayoutDestroy(in);
    if (out)
        (void)cublasLtMatrixLayoutDestroy(out);
    if (op)
        (void)cublasLtMatmulDescDestroy(op);
    return s;
}

void cuda_moments(struct backend *b, const struct backend_tile *t, double *square,
                  double *magnitudes, const void *x, int64_t cols)
{
    struct cuda_backend *c = cuda_of(b);
    const size_t workspace_bytes = (size_t)32 << 20;
    double *wide = (double *)cuda_scratch(c, SCRATCH_X, (size_t)(t->rows * cols) * sizeof *wide);
    void *workspace = cuda_scratch(c, SCRATCH_GEMM, workspace_bytes);
    if (!wide || !workspace)
        return;
    widen_rows<<<(unsigned)t->rows, THREADS, 0, c->stream>>>(wide, (const float *)x, cols,
                                                             t->sample_of, t->first, t->pad);
    add_magnitudes<<<(unsigned)((cols + THREADS - 1) / THREADS), THREADS, 0, c->stream>>>(
        magnitudes, wide, t->rows, cols);
    if (!cuda_launched(c, "magnitudes") || !square)
        return;
    cublasStatus_t s = add_square(c, square, wide, t->rows, cols, workspace, workspace_bytes);
    if (s != CUBLAS_STATUS_SUCCESS && cuda_good(c))
        c->host.err_set(&c->failed, AQ_ERUN, "second moments of %lld columns: %s", (long long)cols,
                        cublasLtGetStatusString(s));
}
