/*
 * Products by cuBLASLt, as batches of chunks of rows. The algorithm is asked for once per shape of a
 * chunk, always as if for a batch of the same size, and used for every batch: a result does not
 * depend on how many chunks share the call. With experts each chunk has a weight of its own, and the
 * batch is one of addresses.
 */
#include "backend/cuda/matmul.cuh"

#include <tuple>

enum {
    CHUNK_ROWS = 256,   /* two of cuBLAS's usual blocks */
    USUAL_ROWS = 6144,  /* of a call for which an algorithm should be good */
};

int64_t gemm_chunk(int64_t tile_rows)
{
    return tile_rows % CHUNK_ROWS == 0 ? CHUNK_ROWS : tile_rows;
}

typedef std::tuple<int64_t, int64_t, int64_t, bool, bool, bool, bool> gemm_key;

struct gemm_cache {
    std::map<gemm_key, cublasLtMatmulAlgo_t> algos;
};

int gemm_open(struct cuda_backend *c, struct aq_err *err)
{
    c->gemms = new gemm_cache;
    c->doubles = doubles_open();
    cublasStatus_t s = cublasLtCreate(&c->lt);
    if (s != CUBLAS_STATUS_SUCCESS)
        return c->host.err_set(err, AQ_EBACKEND, "cannot use cuBLASLt: %s",
                               cublasLtGetStatusString(s));
    return 0;
}

void gemm_close(struct cuda_backend *c)
{
    if (c->lt)
        (void)cublasLtDestroy(c->lt);
    delete c->gemms;
    doubles_close(c->doubles);
}

/* stride: elements from one of the batch to the next; ADDRESSES: each has its own. */
enum { ADDRESSES = -1 };

static cublasStatus_t layout_new(cublasLtMatrixLayout_t *out, cudaDataType_t type, int64_t rows,
                                 int64_t cols, int batch, int64_t stride)
{
    int32_t count = batch;
    uint32_t mode = CUBLASLT_BATCH_MODE_POINTER_ARRAY;
    cublasStatus_t s = cublasLtMatrixLayoutCreate(out, type, (uint64_t)rows, (uint64_t)cols, rows);
    if (s == CUBLAS_STATUS_SUCCESS && stride == ADDRESSES) {
        s = cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                             sizeof count);
        if (s == CUBLAS_STATUS_SUCCESS)
            s = cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_BATCH_MODE, &mode,
                                                 sizeof mode);
    } else if (s == CUBLAS_STATUS_SUCCESS && batch > 1) {
        s = matmul_batch(*out, batch, stride);
    }
    return s;
}

static cublasStatus_t call_new(struct matmul_call *out, const struct gemm *g, int64_t chunks)
{
    int batch = (int)chunks;
    cudaDataType_t type = g->is_bf16 ? CUDA_R_16BF : CUDA_R_32F;
    cublasOperation_t trans = CUBLAS_OP_T;
    *out = matmul_call{};
    cublasStatus_t s = cublasLtMatmulDescCreate(&out->op, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (s == CUBLAS_STATUS_SUCCESS && g->b_transposed)
        s = cublasLtMatmulDescSetAttribute(out->op, CUBLASLT_MATMUL_DESC_TRANSA, &trans,
                                           sizeof trans);
    bool listed = g->expert_of != NULL;
    int64_t w_stride = listed ? ADDRESSES : 0;
    if (s == CUBLAS_STATUS_SUCCESS)
        s = g->b_transposed ? layout_new(&out->a, type, g->k, g->n, batch, w_stride)
                            : layout_new(&out->a, type, g->n, g->k, batch, w_stride);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = layout_new(&out->b, type, g->k, g->chunk, batch, listed ? ADDRESSES : g->chunk * g->k);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = layout_new(&out->c, CUDA_R_32F, g->n, g->chunk, batch,
                       listed ? ADDRESSES : g->chunk * g->n);
    return s;
}

/* cuBLAS takes addresses for multiples of 256 bytes unless it is told otherwise. */
static cublasStatus_t ask_aligned(cublasLtMatmulPreference_t wish, const struct gemm *g)
{
    size_t size = g->is_bf16 ? sizeof(bf16) : sizeof(float);
    static const cublasLtMatmulPreferenceAttributes_t which[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    const size_t bytes[] = {(size_t)(g->n * g->k) * size, (size_t)(g->chunk * g->k) * size,
                            (size_t)(g->chunk * g->n) * sizeof(float),
                            (size_t)(g->chunk * g->n) * sizeof(float)};
    cublasStatus_t s = CUBLAS_STATUS_SUCCESS;
    for (int i = 0; i < 4 && s == CUBLAS_STATUS_SUCCESS; i++) {
        uint32_t align = 256;
        while (bytes[i] % align)
            align /= 2;
        s = cublasLtMatmulPreferenceSetAttribute(wish, which[i], &align, sizeof align);
    }
    return s;
}

static cublasStatus_t ask(struct cuda_backend *c, const struct gemm *g, cublasLtMatmulAlgo_t *algo)
{
    struct matmul_call usual;
    cublasLtMatmulPreference_t wish = NULL;
    cublasLtMatmulHeuristicResult_t found = {};
    int count = 0;
    size_t most = workspace_bytes;
    /* An expert's few rows invite to share K out among blocks, whose number could follow from how
       many chunks there are. */
    uint32_t reductions =
        g->chunk < CHUNK_ROWS ? CUBLASLT_REDUCTION_SCHEME_NONE : CUBLASLT_REDUCTION_SCHEME_MASK;
    cublasStatus_t s = call_new(&usual, g, (USUAL_ROWS + g->chunk - 1) / g->chunk);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulPreferenceCreate(&wish);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                 &most, sizeof most);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulPreferenceSetAttribute(
            wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions);
    if (s == CUBLAS_STATUS_SUCCESS && g->expert_of)
        s = ask_aligned(wish, g);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulAlgoGetHeuristic(c->lt, usual.op, usual.a, usual.b, usual.c, usual.c,
                                           wish, 1, &found, &count);
    if (s == CUBLAS_STATUS_SUCCESS && count == 0)
        s = CUBLAS_STATUS_NOT_SUPPORTED;
    if (wish)
        (void)cublasLtMatmulPreferenceDestroy(wish);
    matmul_call_free(&usual);
    *algo = found.algo;
    return s;
}

static cublasStatus_t algo_of(struct cuda_backend *c, const struct gemm *g,
                              cublasLtMatmulAlgo_t *algo)
{
    gemm_key key(g->chunk, g->n, g->k, g->b_transposed, g->is_bf16, g->accumulate,
                 g->expert_of != NULL);
    auto known = c->gemms->algos.find(key);
    if (known != c->gemms->algos.end()) {
        *algo = known->second;
        return CUBLAS_STATUS_SUCCESS;
    }
    cublasStatus_t s = ask(c, g, algo);
    if (s == CUBLAS_STATUS_SUCCESS)
        c->gemms->algos[key] = *algo;
    return s;
}

/* Addresses of the chunks: of weights, inputs and results, one list after the other. */
__global__ static void address_kernel(const char **to, int64_t chunks, struct expert_addresses w,
                                      const int32_t *expert_of, const char *x, int64_t x_bytes,
                                      const char *y, int64_t y_bytes)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= chunks)
        return;
    to[i] = (const char *)w.at[expert_of[i]];
    to[chunks + i] = x + i * x_bytes;
    to[2 * chunks + i] = y + i * y_bytes;
}

/* What cuBLAS is given for weight, input and result. */
struct matmul_args {
    const void *w, *x;
    void *y;
};

static bool args_of(struct cuda_backend *c, const struct gemm *g, struct matmul_args *out)
{
    *out = matmul_args{g->b, g->a, g->c};
    if (!g->expert_of)
        return g->b != NULL;
    int64_t chunks = g->m / g->chunk;
    size_t size = g->is_bf16 ? sizeof(bf16) : sizeof(float);
    const char **to =
        (const char **)cuda_scratch(c, SCRATCH_POINTERS, 3 * (size_t)chunks * sizeof *to);
    struct expert_addresses w = {};
    if (!to)
        return false;
    for (int e = 0; e < g->experts; e++)
        w.at[e] = g->weights[e];
    address_kernel<<<(unsigned)((chunks + THREADS - 1) / THREADS), THREADS, 0, c->stream>>>(
        to, chunks, w, g->expert_of, (const char *)g->a, (int64_t)((size_t)(g->chunk * g->k) * size),
        (const char *)g->c, (int64_t)((size_t)(g->chunk * g->n) * sizeof(float)));
    *out = matmul_args{to, to + chunks, (void *)(to + 2 * chunks)};
    return cuda_launched(c, "addresses of experts");
}

void gemm_run(struct cuda_backend *c, const struct gemm *g)
{
    float one = 1, zero = 0;
    struct matmul_call k = {};
    cublasLtMatmulAlgo_t algo;
    struct matmul_args at;
    void *workspace = cuda_scratch(c, SCRATCH_GEMM, workspace_bytes);
    if (!workspace || !g->a || !g->c || !args_of(c, g, &at))
        return;
    cublasStatus_t s = algo_of(c, g, &algo);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = call_new(&k, g, g->m / g->chunk);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmul(c->lt, k.op, &one, at.w, k.a, at.x, k.b, g->accumulate ? &one : &zero,
                           at.y, k.c, at.y, k.c, &algo, workspace, workspace_bytes, c->stream);
    matmul_call_free(&k);
    if (s != CUBLAS_STATUS_SUCCESS && cuda_good(c))
        c->host.err_set(&c->failed, AQ_ERUN, "product of %lld x %lld x %lld: %s", (long long)g->m,
                        (long long)g->n, (long long)g->k, cublasLtGetStatusString(s));
}

/* ---- products with weights as they are ---- */

void cuda_linear_forward(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                         const struct backend_weight *w)
{
    struct cuda_backend *c = cuda_of(b);
    struct gemm g = {t->rows, w->rows, w->cols, t->chunk};
    g.a = gemm_input(c, x, t->rows * w->cols);
    g.b = cuda_weight_typed(c, w, 0, w->rows);
    g.c = (float *)y;
    g.b_transposed = true;
    g.is_bf16 = c->config.bf16;
    gemm_run(c, &g);
}

void cuda_linear_backward(struct backend *b, const struct backend_tile *t, void *dx, const void *dy,
                          const struct backend_weight *w, int accumulate)
{
    struct cuda_backend *c = cuda_of(b);
    struct gemm g = {t->rows, w->cols, w->rows, t->chunk};
    g.a = gemm_input(c, dy, t->rows * w->rows);
    g.b = cuda_weight_typed(c, w, 0, w->rows);
    g.c = (float *)dx;
    g.is_bf16 = c->config.bf16;
    g.accumulate = accumulate;
    gemm_run(c, &g);
}
