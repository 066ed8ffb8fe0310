/*
 * What a GPU gives by itself: the rate of a bf16 product of 8192 x 8192 matrices of random numbers, in its first moments and
 * over some seconds (where the limit of power sets the clock), and of a copy. usage: gpu_rate [SECONDS]
 */
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static const int64_t n = 8192;
static const size_t copied = (size_t)4 << 30;

static void must(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "gpu_rate: %s failed\n", what);
    exit(1);
}

/* Close to uniform in -1..1; every bit of the mantissa is in use. */
__global__ static void fill(__nv_bfloat16 *to, uint32_t seed)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    uint32_t h = (uint32_t)i * 2654435761u + seed;
    h = (h ^ h >> 15) * 2246822519u;
    h = (h ^ h >> 13) * 3266489917u;
    to[i] = __float2bfloat16((float)(int32_t)(h ^ h >> 16) * 0x1p-31f);
}

struct product {
    cublasLtHandle_t lt;
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t in, out;
    cublasLtMatmulAlgo_t algo;
    __nv_bfloat16 *a, *b;
    float *c;
    void *room;
    size_t room_bytes;
};

static void prepare(struct product *p)
{
    cublasOperation_t trans = CUBLAS_OP_T;
    cublasLtMatmulPreference_t wish;
    cublasLtMatmulHeuristicResult_t found;
    int count = 0;
    p->room_bytes = (size_t)32 << 20;
    must(cudaMalloc(&p->a, n * n * 2) == cudaSuccess && cudaMalloc(&p->b, n * n * 2) == cudaSuccess &&
             cudaMalloc(&p->c, n * n * 4) == cudaSuccess && cudaMalloc(&p->room, p->room_bytes) == cudaSuccess,
         "taking memory");
    fill<<<(unsigned)(n * n / 256), 256>>>(p->a, 1);
    fill<<<(unsigned)(n * n / 256), 256>>>(p->b, 2);
    must(cublasLtCreate(&p->lt) == 0 && cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F) == 0 &&
             cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &trans, sizeof trans) == 0 &&
             cublasLtMatrixLayoutCreate(&p->in, CUDA_R_16BF, n, n, n) == 0 &&
             cublasLtMatrixLayoutCreate(&p->out, CUDA_R_32F, n, n, n) == 0 && cublasLtMatmulPreferenceCreate(&wish) == 0 &&
             cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &p->room_bytes,
                                                  sizeof p->room_bytes) == 0 &&
             cublasLtMatmulAlgoGetHeuristic(p->lt, p->op, p->in, p->in, p->out, p->out, wish, 1, &found, &count) == 0 &&
             count == 1,
         "describing the product");
    p->algo = found.algo;
}

/* TFLOP/s of a number of products. */
static double rate(const struct product *p, int times)
{
    float one = 1, zero = 0, ms;
    cudaEvent_t from, to;
    must(cudaEventCreate(&from) == cudaSuccess && cudaEventCreate(&to) == cudaSuccess, "an event");
    (void)cudaEventRecord(from);
    for (int i = 0; i < times; i++)
        must(cublasLtMatmul(p->lt, p->op, &one, p->a, p->in, p->b, p->in, &zero, p->c, p->out, p->c, p->out, &p->algo, p->room,
                            p->room_bytes, 0) == 0,
             "a product");
    (void)cudaEventRecord(to);
    must(cudaEventSynchronize(to) == cudaSuccess && cudaEventElapsedTime(&ms, from, to) == cudaSuccess, "the products");
    return 2.0 * (double)n * (double)n * (double)n * times / ms / 1e9;
}

static double copy_rate(void)
{
    char *a, *b;
    float ms, best = 1e30f;
    cudaEvent_t from, to;
    must(cudaMalloc(&a, copied) == cudaSuccess && cudaMalloc(&b, copied) == cudaSuccess, "taking memory");
    must(cudaEventCreate(&from) == cudaSuccess && cudaEventCreate(&to) == cudaSuccess, "an event");
    for (int i = 0; i < 5; i++) {
        (void)cudaEventRecord(from);
        (void)cudaMemcpyAsync(b, a, copied, cudaMemcpyDeviceToDevice, 0);
        (void)cudaEventRecord(to);
        must(cudaEventSynchronize(to) == cudaSuccess && cudaEventElapsedTime(&ms, from, to) == cudaSuccess, "a copy");
        best = ms < best ? ms : best;
    }
    return 2.0 * (double)copied / best / 1e9;
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? strtod(argv[1], NULL) : 5;
    struct product p = {};
    prepare(&p);
    (void)rate(&p, 3);
    double burst = rate(&p, 10);
    double whole = rate(&p, (int)(seconds * burst * 1e12 / (2.0 * (double)n * (double)n * (double)n)) + 1);
    printf("bf16 product: %.0f TFLOP/s in the first moments, %.0f over %.0f s; copy: %.2f TB/s\n", burst, whole, seconds,
           copy_rate());
    return 0;
}
