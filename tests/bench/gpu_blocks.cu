/*
 * The product with scales of blocks (lib/backend/cuda/blocks.cu) against cuBLAS's plain bf16 product of the same shape, in turn:
 * a rate each, medians of nine runs, and the ratio. Shapes are those of Qwen3-VL-4B's linears with 6,144 rows.
 */
#include "../../lib/backend/cuda/blocks.cu"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

bool cuda_check(struct cuda_backend *c, cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return true;
    fprintf(stderr, "gpu_blocks: %s: %s\n", what, cudaGetErrorString(e));
    exit(1);
}

void *cuda_scratch(struct cuda_backend *, enum scratch, size_t)
{
    return NULL; /* only products of experts ask for any */
}

__device__ static uint32_t noise(uint32_t i)
{
    uint32_t h = i * 2654435761u;
    h = (h ^ h >> 15) * 2246822519u;
    h = (h ^ h >> 13) * 3266489917u;
    return h ^ h >> 16;
}

/* Close to uniform in -1..1; codes: the integers of int4. */
__global__ static void fill(bf16 *to, int64_t n, int codes)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    uint32_t h = noise((uint32_t)i);
    if (i < n)
        to[i] = __float2bfloat16(codes ? (float)((int)(h % 15) - 7) : (float)(int32_t)h * 0x1p-31f);
}

__global__ static void fill_ratios(float *to, int64_t n)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n)
        to[i] = exp2f((float)(int32_t)noise((uint32_t)i) * 0x1p-31f);
}

static unsigned blocks_of(int64_t n)
{
    return (unsigned)((n + THREADS - 1) / THREADS);
}

template <typename F> static float median_ms(cudaStream_t s, F run)
{
    enum { RUNS = 9 };
    std::vector<float> ms;
    cudaEvent_t from, to;
    cudaEventCreate(&from);
    cudaEventCreate(&to);
    for (int i = 0; i < RUNS + 2; i++) {
        float t = 0;
        cudaEventRecord(from, s);
        run();
        cudaEventRecord(to, s);
        cudaEventSynchronize(to);
        cudaEventElapsedTime(&t, from, to);
        if (i >= 2)
            ms.push_back(t);
    }
    std::sort(ms.begin(), ms.end());
    return ms[RUNS / 2];
}

struct plain {
    cublasLtHandle_t lt;
    void *room;
};

static float plain_ms(struct plain *p, cudaStream_t s, const bf16 *a, const bf16 *b, float *z, int64_t m, int64_t n, int64_t k)
{
    size_t bytes = (size_t)32 << 20;
    float one = 1, zero = 0;
    int count = 0;
    cublasOperation_t trans = CUBLAS_OP_T;
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t la, lb, lc;
    cublasLtMatmulPreference_t wish;
    cublasLtMatmulHeuristicResult_t found;
    cublasLtMatmulDescCreate(&op, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_TRANSA, &trans, sizeof trans);
    cublasLtMatrixLayoutCreate(&la, CUDA_R_16BF, k, n, k);
    cublasLtMatrixLayoutCreate(&lb, CUDA_R_16BF, k, m, k);
    cublasLtMatrixLayoutCreate(&lc, CUDA_R_32F, n, m, n);
    cublasLtMatmulPreferenceCreate(&wish);
    cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes);
    if (cublasLtMatmulAlgoGetHeuristic(p->lt, op, la, lb, lc, lc, wish, 1, &found, &count) || !count) {
        fprintf(stderr, "gpu_blocks: no product by cuBLAS\n");
        exit(1);
    }
    return median_ms(s, [&] {
        cublasLtMatmul(p->lt, op, &one, b, la, a, lb, &zero, z, lc, z, lc, &found.algo, p->room, bytes, s);
    });
}

static void compare(struct cuda_backend *c, struct plain *p, int64_t n, int64_t k, int64_t block, bool both)
{
    const int64_t m = 6144;
    bf16 *a, *b;
    float *z, *of_a, *of_b;
    int64_t na = (k + block - 1) / block * blocks_stride(m), nb = (k + block - 1) / block * blocks_stride(n);
    cuda_check(c, cudaMalloc(&a, m * k * 2), "memory");
    cuda_check(c, cudaMalloc(&b, n * k * 2), "memory");
    cuda_check(c, cudaMalloc(&z, m * n * 4), "memory");
    cuda_check(c, cudaMalloc(&of_a, (na + 256) * 4), "memory");
    cuda_check(c, cudaMalloc(&of_b, (nb + 256) * 4), "memory");
    fill<<<blocks_of(m * k), THREADS>>>(a, m * k, 0);
    fill<<<blocks_of(n * k), THREADS>>>(b, n * k, 1);
    fill_ratios<<<blocks_of(na), THREADS>>>(of_a, na);
    fill_ratios<<<blocks_of(nb), THREADS>>>(of_b, nb);
    cuda_check(c, cudaDeviceSynchronize(), "numbers");
    struct blocks_side left = {a, 1, 0, m, both ? block : 0, of_a, blocks_stride(m)};
    struct blocks_side right = {b, 1, 0, n, block, of_b, blocks_stride(n)};
    float own = median_ms(c->stream, [&] { blocks_run(c, &left, &right, NULL, k, z); });
    float plain = plain_ms(p, c->stream, a, b, z, m, n, k);
    double work = 2e-9 * (double)m * (double)n * (double)k;
    printf("%4lld x %4lld x %4lld, %sblocks of %3lld: %3.0f TFLOP/s, plain product %3.0f: %.2f of its rate\n", (long long)m,
           (long long)n, (long long)k, both ? "both sides in " : "", (long long)block, work / own, work / plain, plain / own);
    cudaFree(a);
    cudaFree(b);
    cudaFree(z);
    cudaFree(of_a);
    cudaFree(of_b);
}

int main()
{
    struct cuda_backend *c = (struct cuda_backend *)calloc(1, sizeof *c);
    struct plain p = {};
    cuda_check(c, cudaDeviceGetAttribute(&c->multiprocessors, cudaDevAttrMultiProcessorCount, 0), "a GPU");
    if (!blocks_available(c)) {
        puts("no kernel for blocks on this GPU: nothing to compare");
        return 0;
    }
    cuda_check(c, cudaStreamCreate(&c->stream), "a stream");
    cuda_check(c, cudaMalloc(&p.room, (size_t)32 << 20), "memory");
    if (cublasLtCreate(&p.lt))
        return 1;
    static const int64_t shapes[][2] = {{2560, 2560}, {9728, 2560}, {2560, 9728}};
    for (int i = 0; i < 3; i++) {
        compare(c, &p, shapes[i][0], shapes[i][1], 128, false);
        compare(c, &p, shapes[i][0], shapes[i][1], 64, false);
        compare(c, &p, shapes[i][0], shapes[i][1], 128, true);
    }
    return 0;
}
