/*
 * The kernel: blocks of 128 x 256 results, 64 columns of K at a time. One warp fetches both sides
 * into a ring of four stages by the copy engine (TMA); two groups of four warps each multiply 64
 * rows by wgmma with their sums in registers. The grid is as large as the device; each block of
 * threads takes several blocks of results, and fetches for the next while the last is written.
 *
 * wgmma is of sm_90a alone. Other devices compute such operands as three bf16 terms (FORM_TERMS).
 */
#include "backend/cuda/blocks.cuh"

#include <cuda.h>

#include <algorithm>
#include <numeric>

enum {
    TILE_M = BLOCKS_ROWS,
    TILE_N = 256,
    TILE_K = BLOCKS_STEP, /* 128 bytes: a row of the swizzle */
    STAGES = 4,
    GROUP = 128, /* threads of a warpgroup */
    GROUP_M = TILE_M / 2,
    SUMS = TILE_N / 2, /* of a thread: 64 x 256 results, 128 threads */
    A_BYTES = TILE_M * TILE_K * 2,
    B_BYTES = TILE_N * TILE_K * 2,
    RASTER = 8, /* rows of blocks of results that neighbours in time share */
    ALIGN = 1024,
    SHARED = STAGES * (A_BYTES + B_BYTES) + ALIGN + 2 * STAGES * 8,
};

struct scaled_side {
    int terms, segments; /* of a block */
    int64_t rows, stride;
    const float *ratio; /* NULL: no blocks */
};

struct blocks_args {
    struct scaled_side a, b;
    int64_t k, segment; /* columns between two multiplications of sums; k where there are none */
    float *z;
    const int32_t *expert_of; /* [tiles_m]; NULL: all have one b */
    const CUtensorMap *maps;  /* device, of experts */
    int products;             /* of terms */
    int tiles_m, tiles_n;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define WITH_WGMMA 1
#endif

#ifdef WITH_WGMMA

__device__ static inline uint32_t shared_at(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

__device__ static inline void barrier_init(uint32_t at, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(arrivals));
}

__device__ static inline void barrier_expect(uint32_t at, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes)
                 : "memory");
}

__device__ static inline void barrier_arrive(uint32_t at)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
}

__device__ static inline void barrier_wait(uint32_t at, uint32_t phase)
{
    uint32_t done = 0;
    while (!done)
        asm volatile("{\n.reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done)
                     : "r"(at), "r"(phase)
                     : "memory");
}

/* A box of the map's (terms, rows, k) numbers; what lies outside is zero. */
__device__ static inline void fetch_box(uint32_t to, const CUtensorMap *map, uint32_t barrier, int k,
                                        int row, int term)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
                 "[%1, {%3, %4, %5}], [%2];" ::"r"(to),
                 "l"(map), "r"(barrier), "r"(k), "r"(row), "r"(term)
                 : "memory");
}

/* Rows of 128 bytes, swizzled in groups of eight: the half of a description that has the place, and
   the half that does not. Places that are q * 16 columns on are q * 2 further. */
__device__ static inline uint32_t matrix_at(uint32_t shared)
{
    return shared >> 4 | 1u << 16;
}
static const uint32_t matrix_kind = 1024 >> 4 | 1u << 30;

/* d (64, 256) += A (64, 16) B (256, 16)^T */
__device__ static inline void multiply_add(float (&d)[SUMS], uint32_t a, uint32_t b)
{
    asm volatile(
        "{\n.reg .b64 a, b;\n"
        "mov.b64 a, {%128, %130};\n"
        "mov.b64 b, {%129, %130};\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, "
        "%8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, "
        "%24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, "
        "%40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, "
        "%56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, "
        "%72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, "
        "%88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, "
        "%104, %105, %106, %107, %108, %109, %110, %111, "
        "%112, %113, %114, %115, %116, %117, %118, %119, "
        "%120, %121, %122, %123, %124, %125, %126, %127}, "
        "a, b, 1, 1, 1, 0, 0;\n}\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
          "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]),
          "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),
          "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]),
          "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]),
          "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]),
          "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]),
          "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]),
          "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]),
          "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
        : "r"(a), "r"(b), "r"(matrix_kind));
}

/* The sums are the compiler's again, or the tensor cores'. */
__device__ static inline void sums_settle(float (&d)[SUMS])
{
#pragma unroll
    for (int i = 0; i < SUMS; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

__device__ static inline void multiply_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ static inline void multiply_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int left> __device__ static inline void multiply_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(left) : "memory");
}

/* A place in the ring. */
struct ring {
    int stage;
    uint32_t phase;
    __device__ inline void next()
    {
        if (++stage == STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }
};

/* The order of the blocks of results: RASTER rows of them, column by column. */
__device__ static inline void tile_at(const struct blocks_args &g, int tile, int *m, int *n)
{
    int strip = tile / (RASTER * g.tiles_n), rest = tile % (RASTER * g.tiles_n);
    int height = min(RASTER, g.tiles_m - strip * RASTER);
    *m = strip * RASTER + rest % height;
    *n = rest / height;
}

/* The products of terms, in the order in which they are added: a third term times a second is below
   the last bit of a result. */
#define FOR_TERMS(g, i, j)                                                                          \
    for (int order = 2; order >= 0; order--)                                                       \
        for (int i = 0, j = order; i <= order; i++, j--)                                           \
            if (i < (g).a.terms && j < (g).b.terms)

__device__ static void fetch_all(const struct blocks_args &g, const CUtensorMap *a,
                                 const CUtensorMap *common, uint32_t data, uint32_t full,
                                 uint32_t empty)
{
    struct ring r = {0, 0};
    for (int tile = (int)blockIdx.x; tile < g.tiles_m * g.tiles_n; tile += (int)gridDim.x) {
        int m, n;
        tile_at(g, tile, &m, &n);
        const CUtensorMap *b = g.expert_of ? g.maps + g.expert_of[m] : common;
        if (g.expert_of) /* written by a copy, which the copy engine's cache of maps does not see */
            asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(b) : "memory");
        for (int64_t from = 0; from < g.k; from += g.segment) {
            int64_t to = min(from + g.segment, g.k);
            FOR_TERMS(g, i, j)
            for (int64_t k = from; k < to; k += TILE_K, r.next()) {
                uint32_t at = data + (uint32_t)r.stage * (A_BYTES + B_BYTES);
                uint32_t barrier = full + (uint32_t)r.stage * 8;
                barrier_wait(empty + (uint32_t)r.stage * 8, r.phase ^ 1);
                barrier_expect(barrier, A_BYTES + B_BYTES);
                fetch_box(at, a, barrier, (int)k, m * TILE_M, i);
                fetch_box(at + A_BYTES, b, barrier, (int)k, n * TILE_N, j);
            }
        }
    }
}

/* What multiplies the sums of a thread: two rows, and a pair of columns in eight. */
struct factors {
    bool rows, cols; /* is there anything to multiply by? */
    float row[2];
    float2 col[SUMS / 4];
};

/* A side's blocks, as the segments go by. */
struct blocks_walk {
    const float *ratio; /* of the block that is next */
    int left;           /* segments until then */
    __device__ inline void start(const struct scaled_side &s, const float *of, int64_t at)
    {
        ratio = of ? of + at : NULL;
        left = s.segments;
    }
    /* The ratios of the block that begins with the next segment, if one does. */
    __device__ inline const float *next(const struct scaled_side &s)
    {
        if (!ratio || --left > 0)
            return NULL;
        left = s.segments;
        return ratio += s.stride;
    }
};

/* Asked for a segment ahead, and not looked at: what is read outside a matrix, in the room after it,
   multiplies sums that nobody stores. */
__device__ static inline void factors_load(struct factors &f, const float *a, const float *b)
{
    f.rows = a != NULL;
    f.cols = b != NULL;
    if (a) {
        f.row[0] = a[0];
        f.row[1] = a[8];
    }
    if (b) {
#pragma unroll
        for (int j = 0; j < SUMS / 4; j++)
            f.col[j] = *(const float2 *)(b + 8 * j);
    }
}

__device__ static inline void factors_apply(float (&d)[SUMS], const struct factors &f)
{
    if (f.cols) {
#pragma unroll
        for (int j = 0; j < SUMS; j++)
            d[j] *= j % 2 ? f.col[j / 4].y : f.col[j / 4].x;
    }
    if (f.rows) {
#pragma unroll
        for (int j = 0; j < SUMS; j++)
            d[j] *= f.row[j / 2 % 2];
    }
}

/* The products of a stage begin. a, b: the descriptions of the first stage's matrices. */
__device__ static inline void step(float (&d)[SUMS], const struct ring &r, uint32_t a, uint32_t b,
                                   uint32_t full)
{
    uint32_t further = (uint32_t)r.stage * ((A_BYTES + B_BYTES) >> 4);
    barrier_wait(full + (uint32_t)r.stage * 8, r.phase);
    multiply_fence();
#pragma unroll
    for (uint32_t q = 0; q < TILE_K / 16; q++)
        multiply_add(d, a + further + 2 * q, b + further + 2 * q);
    multiply_commit();
}

/* Neighbours, as far as they are within z. */
__device__ static inline void store_pair(const struct blocks_args &g, int64_t row, int64_t col,
                                         float left, float right)
{
    float *to = g.z + row * g.b.rows + col;
    if (row >= g.a.rows || col >= g.b.rows)
        return;
    if (g.b.rows % 2 == 0) {
        *(float2 *)to = make_float2(left, right);
        return;
    }
    to[0] = left;
    if (col + 1 < g.b.rows)
        to[1] = right;
}

__device__ static void multiply_all(const struct blocks_args &g,
                                    const struct expert_addresses &ratios, uint32_t data,
                                    uint32_t full, uint32_t empty)
{
    /* of all threads of a warp, which the compiler does not see */
    int group = __shfl_sync(0xffffffffu, (int)threadIdx.x / GROUP - 1, 0);
    uint32_t a = matrix_at(data + (uint32_t)group * (A_BYTES / 2)), b = matrix_at(data + A_BYTES);
    int lane = (int)threadIdx.x % WARP;
    int warp = (int)threadIdx.x % GROUP / WARP;
    bool speaks = threadIdx.x % GROUP == 0;
    struct ring r = {0, 0};
    float d[SUMS];
    struct factors f;
    for (int tile = (int)blockIdx.x; tile < g.tiles_m * g.tiles_n; tile += (int)gridDim.x) {
        int m, n;
        tile_at(g, tile, &m, &n);
        int64_t row = (int64_t)m * TILE_M + group * GROUP_M + warp * 16 + lane / 4;
        int64_t col = (int64_t)n * TILE_N + lane % 4 * 2;
        struct blocks_walk a_walk, b_walk;
        const float *own = g.expert_of ? (const float *)ratios.at[g.expert_of[m]] : g.b.ratio;
        a_walk.start(g.a, g.a.ratio, row);
        b_walk.start(g.b, own, col);
#pragma unroll
        for (int i = 0; i < SUMS; i++)
            d[i] = 0;
        for (int64_t from = 0; from < g.k; from += g.segment) {
            int columns = (int)min(g.segment, g.k - from);
            int steps = g.products * ((columns + TILE_K - 1) / TILE_K);
            if (from > 0)
                factors_apply(d, f);
            sums_settle(d);
            step(d, r, a, b, full);
            if (from + g.segment < g.k)
                factors_load(f, a_walk.next(g.a), b_walk.next(g.b));
            for (int i = 1; i < steps; i++) {
                uint32_t before = empty + (uint32_t)r.stage * 8;
                r.next();
                step(d, r, a, b, full);
                multiply_wait<1>();
                if (speaks)
                    barrier_arrive(before);
            }
            multiply_wait<0>();
            sums_settle(d);
            if (speaks)
                barrier_arrive(empty + (uint32_t)r.stage * 8);
            r.next();
        }
#pragma unroll
        for (int j = 0; j < SUMS / 4; j++) {
            store_pair(g, row, col + 8 * j, d[4 * j], d[4 * j + 1]);
            store_pair(g, row + 8, col + 8 * j, d[4 * j + 2], d[4 * j + 3]);
        }
    }
}

#endif

__global__ static void __launch_bounds__(3 * GROUP, 1)
    blocks_kernel(const __grid_constant__ struct blocks_args g,
                  const __grid_constant__ struct expert_addresses ratios,
                  const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b)
{
#ifdef WITH_WGMMA
    extern __shared__ uint8_t room[];
    uint32_t data = (shared_at(room) + ALIGN - 1) / ALIGN * ALIGN;
    uint32_t full = data + STAGES * (A_BYTES + B_BYTES), empty = full + STAGES * 8;
    if (threadIdx.x == 0) {
        for (uint32_t i = 0; i < STAGES; i++) {
            barrier_init(full + i * 8, 1);
            barrier_init(empty + i * 8, 2);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async;" ::: "memory");
    }
    __syncthreads();
    if (threadIdx.x < GROUP) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0)
            fetch_all(g, &a, &b, data, full, empty);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        multiply_all(g, ratios, data, full, empty);
    }
#endif
}

/* ---- host ---- */

typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                              const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                              const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                              CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* The driver's function, without linking with its library; NULL: it has none. */
static encode_fn encoder()
{
    static encode_fn found = [] {
        void *f = NULL;
        cudaDriverEntryPointQueryResult how;
        if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault,
                                             &how) != cudaSuccess ||
            how != cudaDriverEntryPointSuccess)
            f = NULL;
        return (encode_fn)f;
    }();
    return found;
}

bool blocks_available(struct cuda_backend *c)
{
    cudaFuncAttributes attr;
    int major = 0, minor = 0;
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, c->config.device) !=
            cudaSuccess ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, c->config.device) !=
            cudaSuccess ||
        major != 9 || minor != 0)
        return false;
    /* built for sm_90a, not from what is common to all */
    bool built = cudaFuncGetAttributes(&attr, blocks_kernel) == cudaSuccess &&
                 attr.binaryVersion == 90 && attr.numRegs > SUMS;
    (void)cudaGetLastError();
    return built && encoder() &&
           cudaFuncSetAttribute(blocks_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                SHARED) == cudaSuccess;
}

bool blocks_fit(int64_t cols, int64_t block)
{
    return cols % 8 == 0 && cols < INT32_MAX && block < cols && block % BLOCKS_STEP == 0;
}

static bool map_side(CUtensorMap *map, const struct blocks_side *s, const void *data, int64_t k,
                     int tile)
{
    cuuint64_t size[3] = {(cuuint64_t)k, (cuuint64_t)s->rows, (cuuint64_t)s->terms};
    cuuint64_t stride[2] = {(cuuint64_t)k * 2, (cuuint64_t)(s->terms > 1 ? s->plane : s->rows * k) * 2};
    cuuint32_t box[3] = {TILE_K, (cuuint32_t)tile, 1}, step[3] = {1, 1, 1};
    return encoder()(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void *>(data), size,
                     stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                     CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                     CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/* As many as FOR_TERMS goes through. */
static int products_of(int a, int b)
{
    return a * b == 9 ? 6 : a * b;
}

static struct scaled_side scaled(const struct blocks_side *s, int64_t segment)
{
    return scaled_side{s->terms, (int)(s->block / segment), s->rows, s->stride,
                       s->block ? s->ratio : NULL};
}

/* A map for each expert, on the device; NULL after a failure. ratios: where theirs are. */
static const CUtensorMap *map_experts(struct cuda_backend *c, const struct blocks_side *b,
                                      const struct blocks_experts *x, int64_t k,
                                      struct expert_addresses *ratios)
{
    CUtensorMap maps[MOST_EXPERTS] = {};
    size_t bytes = (size_t)x->count * sizeof maps[0];
    void *to = cuda_scratch(c, SCRATCH_MAPS, bytes);
    bool good = to != NULL;
    for (int e = 0; e < x->count && good; e++) {
        ratios->at[e] = b->block ? x->ratio[e] : NULL;
        if (x->data[e])
            good = map_side(&maps[e], b, x->data[e], k, TILE_N);
    }
    if (!good || !cuda_check(c, cudaMemcpyAsync(to, maps, bytes, cudaMemcpyHostToDevice, c->stream),
                             "maps of experts"))
        return NULL;
    return (const CUtensorMap *)to;
}

void blocks_run(struct cuda_backend *c, const struct blocks_side *a, const struct blocks_side *b,
                const struct blocks_experts *experts, int64_t k, float *z)
{
    CUtensorMap a_map, b_map = {};
    struct expert_addresses ratios = {};
    const CUtensorMap *maps = NULL;
    if (!cuda_good(c) || !a->data || !z)
        return;
    bool mapped = map_side(&a_map, a, a->data, k, TILE_M);
    if (mapped && experts)
        mapped = (maps = map_experts(c, b, experts, k, &ratios)) != NULL;
    else if (mapped)
        mapped = map_side(&b_map, b, b->data, k, TILE_N);
    if (!mapped && !cuda_good(c))
        return;
    if (!mapped) {
        c->host.err_set(&c->failed, AQ_ERUN, "product of %lld x %lld x %lld: no map of its operands",
                        (long long)a->rows, (long long)b->rows, (long long)k);
        return;
    }
    int64_t segment = std::gcd(a->block, b->block);
    segment = segment ? segment : k;
    struct blocks_args g = {scaled(a, segment), scaled(b, segment), k, segment, z,
                            experts ? experts->expert_of : NULL, maps};
    g.products = products_of(a->terms, b->terms);
    g.tiles_m = (int)((a->rows + TILE_M - 1) / TILE_M);
    g.tiles_n = (int)((b->rows + TILE_N - 1) / TILE_N);
    int grid = std::min(g.tiles_m * g.tiles_n, c->multiprocessors);
    blocks_kernel<<<grid, 3 * GROUP, SHARED, c->stream>>>(g, ratios, a_map, b_map);
    (void)cuda_launched(c, "product of blocks");
}
