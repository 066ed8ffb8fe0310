/*
 * Products in double by cuBLASLt. The algorithm is asked for once per shape and alignment, which
 * follow from a call's place in its op: equal ops give equal bits on one kind of GPU.
 */
#include "backend/cuda/matmul.cuh"

#include <array>

enum { KEYS = 16 };
typedef std::array<int64_t, KEYS> doubles_key;

struct doubles_cache {
    std::map<doubles_key, cublasLtMatmulAlgo_t> algos;
};

struct doubles_cache *doubles_open(void)
{
    return new doubles_cache;
}

void doubles_close(struct doubles_cache *d)
{
    delete d;
}

/* Bytes, at most the 256 that cuBLAS takes for granted unless it is told otherwise. */
static uint32_t alignment(const void *p)
{
    uint32_t align = 256;
    while ((uintptr_t)p % align)
        align /= 2;
    return align;
}

/* Of all that a batch reaches. */
static uint32_t alignment_of(const double *p, int64_t stride, int batch)
{
    uint32_t first = alignment(p), second = batch ? alignment(p + stride) : first;
    return first < second ? first : second;
}

/* A row-major matrix of `rows` rows, which to cuBLAS has as many columns. */
static cublasStatus_t layout_new(cublasLtMatrixLayout_t *out, int64_t rows, int64_t cols,
                                 int64_t ld, int batch, int64_t stride)
{
    cublasStatus_t s =
        cublasLtMatrixLayoutCreate(out, CUDA_R_64F, (uint64_t)cols, (uint64_t)rows, ld);
    if (s == CUBLAS_STATUS_SUCCESS && batch)
        s = matmul_batch(*out, batch, stride);
    return s;
}

static cublasStatus_t call_new(struct matmul_call *k, const struct doubles *p)
{
    cublasOperation_t trans = CUBLAS_OP_T;
    *k = matmul_call{};
    cublasStatus_t s = cublasLtMatmulDescCreate(&k->op, CUBLAS_COMPUTE_64F, CUDA_R_64F);
    if (s == CUBLAS_STATUS_SUCCESS && p->b_transposed)
        s = cublasLtMatmulDescSetAttribute(k->op, CUBLASLT_MATMUL_DESC_TRANSA, &trans,
                                           sizeof trans);
    if (s == CUBLAS_STATUS_SUCCESS && p->a_transposed)
        s = cublasLtMatmulDescSetAttribute(k->op, CUBLASLT_MATMUL_DESC_TRANSB, &trans,
                                           sizeof trans);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = p->b_transposed ? layout_new(&k->a, p->n, p->k, p->ldb, p->batch, p->b_stride)
                            : layout_new(&k->a, p->k, p->n, p->ldb, p->batch, p->b_stride);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = p->a_transposed ? layout_new(&k->b, p->k, p->m, p->lda, p->batch, p->a_stride)
                            : layout_new(&k->b, p->m, p->k, p->lda, p->batch, p->a_stride);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = layout_new(&k->c, p->m, p->n, p->ldc, p->batch, p->c_stride);
    return s;
}

static cublasStatus_t ask(struct cuda_backend *c, struct matmul_call *k, const uint32_t align[3],
                          cublasLtMatmulAlgo_t *algo)
{
    static const cublasLtMatmulPreferenceAttributes_t which[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    const uint32_t bytes[] = {align[1], align[0], align[2], align[2]};
    cublasLtMatmulPreference_t wish = NULL;
    cublasLtMatmulHeuristicResult_t found = {};
    size_t most = workspace_bytes;
    int count = 0;
    cublasStatus_t s = cublasLtMatmulPreferenceCreate(&wish);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                 &most, sizeof most);
    for (int i = 0; i < 4 && s == CUBLAS_STATUS_SUCCESS; i++)
        s = cublasLtMatmulPreferenceSetAttribute(wish, which[i], &bytes[i], sizeof bytes[i]);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulAlgoGetHeuristic(c->lt, k->op, k->a, k->b, k->c, k->c, wish, 1, &found,
                                           &count);
    if (s == CUBLAS_STATUS_SUCCESS && count == 0)
        s = CUBLAS_STATUS_NOT_SUPPORTED;
    if (wish)
        (void)cublasLtMatmulPreferenceDestroy(wish);
    *algo = found.algo;
    return s;
}

void doubles_run(struct cuda_backend *c, const struct doubles *p)
{
    const uint32_t align[3] = {alignment_of(p->a, p->a_stride, p->batch),
                               alignment_of(p->b, p->b_stride, p->batch),
                               alignment_of(p->c, p->c_stride, p->batch)};
    const doubles_key key = {p->m,           p->n,     p->k,        p->lda,       p->ldb,
                             p->ldc,         p->batch, p->a_stride, p->b_stride,  p->c_stride,
                             align[0],       align[1], align[2],    p->beta != 0, p->a_transposed,
                             p->b_transposed};
    struct matmul_call k = {};
    cublasLtMatmulAlgo_t algo;
    void *workspace = cuda_scratch(c, SCRATCH_GEMM, workspace_bytes);
    if (!workspace || p->m == 0 || p->n == 0 || p->k == 0)
        return;
    auto known = c->doubles->algos.find(key);
    cublasStatus_t s = call_new(&k, p);
    if (s == CUBLAS_STATUS_SUCCESS && known != c->doubles->algos.end()) {
        algo = known->second;
    } else if (s == CUBLAS_STATUS_SUCCESS) {
        s = ask(c, &k, align, &algo);
        if (s == CUBLAS_STATUS_SUCCESS)
            c->doubles->algos[key] = algo;
    }
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmul(c->lt, k.op, &p->alpha, p->b, k.a, p->a, k.b, &p->beta, p->c, k.c, p->c,
                           k.c, &algo, workspace, workspace_bytes, c->stream);
    matmul_call_free(&k);
    if (s != CUBLAS_STATUS_SUCCESS && cuda_good(c))
        c->host.err_set(&c->failed, AQ_ERUN, "product in double of %lld x %lld x %lld: %s",
                        (long long)p->m, (long long)p->n, (long long)p->k,
                        cublasLtGetStatusString(s));
}
