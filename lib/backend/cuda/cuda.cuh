/*
 * The CUDA backend's inside, shared by the files of this directory.
 *
 * Activations are fp32. In bf16, inputs of linears are rounded to bf16 where they are made, so that
 * a product and its quantized twin see the same numbers; products take bf16 operands and sum in
 * fp32. Quantized operands are codes that bf16 holds exactly with a scale a row, or on Hopper a
 * scale a block, or an fp32 value split into three bf16 terms. In fp32 everything is an fp32
 * product.
 *
 * All work of a backend is on one stream; weights come in on a second. No kernel adds floating
 * point numbers in an order that depends on timing, and a product's algorithm follows from its
 * shape alone: equal calls give equal bits.
 */
#ifndef AQ_BACKEND_CUDA_CUDA_CUH
#define AQ_BACKEND_CUDA_CUDA_CUH

#include "backend/backend.h"
#include "quant/quant.h"

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <stdint.h>

#include <map>
#include <vector>

typedef __nv_bfloat16 bf16;

struct uploader;      /* weights.cu */
struct gemm_cache;    /* gemm.cu */
struct doubles_cache; /* doubles.cu */
struct kept_inputs;   /* kept.cu */

/* Device scratch by purpose; grows, never shrinks. */
enum scratch {
    SCRATCH_X,      /* inputs of products in their type */
    SCRATCH_W,      /* a weight in the compute type */
    SCRATCH_Z,      /* results of products */
    SCRATCH_BEFORE, /* a weight between the steps of its treatment */
    SCRATCH_ROWS,   /* scales and counts of the rows of an input */
    SCRATCH_RANGES,
    SCRATCH_PARTS, /* partial sums */
    SCRATCH_ATTENTION,
    SCRATCH_HEAD,
    SCRATCH_GEMM,     /* cuBLASLt's workspace */
    SCRATCH_POINTERS, /* to the chunks of a product with the weights of experts */
    SCRATCH_MAPS,     /* of the weights of experts, for the copy engine */
    SCRATCH_WIDE,     /* a weight in fp32 whose calibrated candidates are solved */
    SCRATCH_SOLVE,    /* what they are solved with; each op has one room of it, cut into parts */
    SCRATCHES
};

struct scratch_room {
    void *data;
    size_t bytes;
};

struct cuda_backend {
    struct backend base; /* first: struct backend * is this struct */
    struct backend_host host;
    struct backend_config config;
    cudaStream_t stream;
    cublasLtHandle_t lt;
    int multiprocessors;
    bool blocks; /* products with scales of blocks have a kernel */
    struct gemm_cache *gemms;
    struct doubles_cache *doubles;
    struct uploader *uploader;
    struct aq_err failed; /* the first failure since the last sync; code 0: none */
    uint64_t used, peak;  /* bytes held, limited by config.memory */
    struct scratch_room scratch[SCRATCHES];
    /* Whose planes SCRATCH_X and SCRATCH_ROWS hold: the next product may read the same. */
    const struct backend_operand *in_scratch;
    struct kept_inputs *kept;
    /* The first weight, in the order of quantizing, that is not finite; INT32_MAX: none. */
    int32_t *bad, *bad_host;
    std::vector<const char *> *quantized;           /* names of weights, by the same numbers */
    std::vector<struct backend_operand *> *waiting; /* with counts of clipped elements to raise */
    std::map<std::vector<float>, float *> *frequencies; /* of rotations: host's table -> device's */
    std::multimap<size_t, void *> *rooms;               /* of freed tiles, by size */
    bool said_rounded;                                  /* that weights are rounded to bf16 */
};

struct backend_tile {
    int32_t rows, samples, longest, used; /* used: rows that belong to a sample */
    int32_t chunk;                        /* rows of a product; divides rows */
    std::vector<int32_t> ends; /* [samples + 1]: ends[i] rows belong to the first i samples */
    int64_t squares;           /* sum of the samples' lengths squared */
    /* device */
    int32_t *first, *ids, *pos, *target, *sample_of; /* sample_of: -1 after the last */
    uint8_t *pad;
    int64_t *square_at; /* [samples]: where a sample's (n, n) matrix begins */
    /* Of a part, which has no ids, pos, target, pad, square_at and ends. Its samples are those of
       the tile under each expert, one expert after the other: an expert's last sample has the rows
       that fill it up. */
    int32_t *slots; /* device [rows]; -1 in rows that hold no token */
    int per_token, experts;
    int32_t *expert_of;     /* device [rows / chunk] */
    int32_t *row_of;        /* device [rows of the tile x per_token]: of a slot; -1: elsewhere */
    int32_t tile_rows;      /* of the tile */
    std::vector<bool> *has; /* [experts]: has it rows? */
    void *room;
    size_t bytes;
};

static inline struct cuda_backend *cuda_of(struct backend *b)
{
    return (struct cuda_backend *)b;
}

/* False after a failure: the op returns at once. */
static inline bool cuda_good(const struct cuda_backend *c)
{
    return c->failed.code == 0;
}
/* Keeps a failure; false if there is one. */
bool cuda_check(struct cuda_backend *c, cudaError_t e, const char *what);
/* The last launch. */
static inline bool cuda_launched(struct cuda_backend *c, const char *kernel)
{
    return cuda_check(c, cudaGetLastError(), kernel);
}

void *cuda_take(struct cuda_backend *c, size_t bytes, const char *purpose, struct aq_err *err);
void cuda_give(struct cuda_backend *c, void *p, size_t bytes);
/* NULL after a failure. */
void *cuda_scratch(struct cuda_backend *c, enum scratch s, size_t bytes);

/* ---- tile.cu ---- */
struct backend_tile *cuda_tile_new(struct backend *b, const struct backend_tile_desc *d,
                                   struct aq_err *err);
struct backend_tile *cuda_tile_part(struct backend *b, const struct backend_tile *t,
                                    const int32_t *slots, const int32_t *ends, int experts,
                                    int per_token, struct aq_err *err);
void cuda_tile_free(struct backend *b, struct backend_tile *t);

/* ---- weights.cu ---- */
int uploader_open(struct cuda_backend *c, struct aq_err *err);
void uploader_close(struct cuda_backend *c);
/* Gives one released weight's memory back; false: there is none. */
bool uploader_spare(struct cuda_backend *c);
int cuda_weights_load(struct backend *b, struct backend_weight *const *w, int count,
                      struct aq_err *err);
void cuda_weights_release(struct backend *b, struct backend_weight *const *w, int count);
/* A loaded weight's elements: bf16, or fp32. F16 is one of the two, converted on the way. */
static inline bool cuda_weight_is_bf16(const struct cuda_backend *c, const struct backend_weight *w)
{
    return w->dtype == NUM_BF16 || (c->config.bf16 && !w->exact);
}
/* The weight's elements on the device, once the stream waits for them; NULL after a failure. */
const void *cuda_weight(struct cuda_backend *c, const struct backend_weight *w);
/* The same in the compute type: its own bytes, or a copy in SCRATCH_W. Rows at < row < at + rows.
 */
const void *cuda_weight_typed(struct cuda_backend *c, const struct backend_weight *w, int64_t at,
                              int64_t rows);
/* Several weights of one shape in the compute type; `to` [count] is NULL where w is. False after a
   failure. */
bool cuda_weights_typed(struct cuda_backend *c, const struct backend_weight *const *w, int count,
                        const void **to);

/* ---- gemm.cu ---- */
/*
 * Row-major: C (m, n) = A (m, k) B, without gaps. B is (n, k) and taken transposed, or (k, n). All
 * of A and B bf16, or all fp32; C fp32. Made as products of `chunk` rows, which divides m: a row's
 * result does not depend on how many chunks there are.
 */
struct gemm {
    int64_t m, n, k, chunk;
    const void *a, *b;
    float *c;
    bool b_transposed, is_bf16, accumulate;
    /* Of experts: chunk i is multiplied by weights[expert_of[i]] instead of b. */
    const int32_t *expert_of;   /* device [m / chunk]; NULL: by b */
    const void *const *weights; /* host [experts], device addresses */
    const float *const *ratios; /* the same, of weights with blocks (blocks.cuh) */
    int experts;
};
/* The chunk of tiles with this many rows; it divides them. Parts of tiles have their own. */
int64_t gemm_chunk(int64_t tile_rows);
int gemm_open(struct cuda_backend *c, struct aq_err *err);
void gemm_close(struct cuda_backend *c);
void gemm_run(struct cuda_backend *c, const struct gemm *g);
/* x (rows, cols) as an operand of the compute type: itself, or rounded to bf16 in SCRATCH_X. */
const void *gemm_input(struct cuda_backend *c, const void *x, int64_t elements);

void cuda_linear_forward(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                         const struct backend_weight *w);
void cuda_linear_backward(struct backend *b, const struct backend_tile *t, void *dx, const void *dy,
                          const struct backend_weight *w, int accumulate);

/* ---- model.cu ---- */
void cuda_embed(struct backend *b, const struct backend_tile *t, void *h,
                const struct backend_weight *table, float factor);
void cuda_add(struct backend *b, const struct backend_tile *t, void *y, const void *x, int64_t cols,
              float factor);
void cuda_scale(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                int64_t cols, float factor);
void cuda_bias_add(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                   const struct backend_weight *bias);
void cuda_cols_copy(struct backend *b, const struct backend_tile *t, void *y, int64_t y_cols,
                    int64_t y_at, const void *x, int64_t x_cols, int64_t x_at, int64_t cols);
void cuda_rmsnorm_forward(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                          const struct backend_norm *norm);
void cuda_rmsnorm_backward(struct backend *b, const struct backend_tile *t, void *dx,
                           const void *dy, const void *x, const struct backend_norm *norm);
void cuda_norm_rope_forward(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                            int heads, int dim, const struct backend_norm *norm,
                            const struct backend_rope *rope);
void cuda_norm_rope_backward(struct backend *b, const struct backend_tile *t, void *dx,
                             const void *dy, const void *x, int heads, int dim,
                             const struct backend_norm *norm, const struct backend_rope *rope);
void cuda_glu_forward(struct backend *b, const struct backend_tile *t, void *y, const void *gate,
                      const void *up, int64_t cols, enum backend_act act);
void cuda_glu_pair_forward(struct backend *b, const struct backend_tile *t, void *y,
                           const void *gate_up, int64_t cols, enum backend_act act);
void cuda_glu_backward(struct backend *b, const struct backend_tile *t, void *dgate, void *dup,
                       const void *dy, const void *gate, const void *up, int64_t cols,
                       enum backend_act act);
void cuda_amax(struct backend *b, const struct backend_tile *t, const void *x, int64_t cols,
               int32_t from, int32_t to, float *per_sample, float *per_channel);

/* ---- experts.cu ---- */
void cuda_route(struct backend *b, const struct backend_tile *t, float *p, int32_t *sel, float *w,
                const void *logits, int experts, int per_token, int normed);
void cuda_route_backward(struct backend *b, const struct backend_tile *t, void *dlogits,
                         const float *p, const int32_t *sel, const float *w, const float *q,
                         int experts, int per_token, int normed);
void cuda_part_take(struct backend *b, const struct backend_tile *part, void *y, const void *x,
                    int64_t cols, const float *w);
void cuda_part_add(struct backend *b, const struct backend_tile *part, void *y, const void *x,
                   int64_t cols, const float *w);
void cuda_part_put(struct backend *b, const struct backend_tile *part, void *y, const void *x,
                   int64_t cols);
void cuda_part_dot(struct backend *b, const struct backend_tile *part, float *q, const void *g,
                   const void *f, int64_t cols);
void cuda_experts_forward(struct backend *b, const struct backend_tile *part, void *y,
                          const void *x, const struct backend_weight *const *w);
void cuda_experts_backward(struct backend *b, const struct backend_tile *part, void *dx,
                           const void *dy, const struct backend_weight *const *w);
/* The most experts of a part: their addresses are arguments of a kernel. */
enum { MOST_EXPERTS = 256 };
struct expert_addresses {
    const void *at[MOST_EXPERTS];
};

/* ---- attention.cu ---- */
void cuda_attention_forward(struct backend *b, const struct backend_tile *t, void *o, const void *q,
                            const void *k, const void *v, const struct backend_attention *as);
void cuda_attention_backward(struct backend *b, const struct backend_tile *t, void *dq, void *dk,
                             void *dv, const void *d_o, const void *q, const void *k, const void *v,
                             const struct backend_attention *as);

/* ---- head.cu ---- */
void cuda_loss(struct backend *b, const struct backend_tile *t, double *loss, void *dh,
               const void *h, const struct backend_head *head);
void cuda_kl(struct backend *b, const struct backend_tile *t, double *const *kl, const void *h,
             const void *const *hq, int count, const struct backend_head *head,
             struct backend_logits *kept);
void cuda_logits(struct backend *b, const struct backend_tile *t, void *z, const void *h,
                 const struct backend_head *head);
void cuda_compare(struct backend *b, const struct backend_tile *t, struct backend_side *sides,
                  const void *z, const void *zq, int64_t at, int64_t ids);

/* ---- operand.cu ---- */
struct backend_operand *cuda_operand_new(struct backend *b, int64_t rows, int64_t cols,
                                         int is_weight, struct aq_err *err);
void cuda_operand_free(struct backend *b, struct backend_operand *op);
void cuda_quantize_weight(struct backend *b, struct backend_operand *op,
                          const struct backend_weight *w, const struct quant_spec *spec);
void cuda_quantize_act(struct backend *b, struct backend_operand *op, const struct backend_tile *t,
                       const void *x, int64_t cols, const struct quant_spec *spec,
                       const struct quant_range *range, double *clipped);
/* Raises the counts that no product has raised yet. */
void cuda_flush_clipped(struct cuda_backend *c);

/* ---- kept.cu ---- */
struct kept_inputs *kept_open();
void kept_close(struct cuda_backend *c);
void cuda_inputs_keep(struct backend *b, uint64_t bytes);

/* ---- score.cu ---- */
/* Of the results of a turn of products, and of the inputs quantized together; one job may exceed
 * it. */
static const size_t cuda_turn_bytes = (size_t)512 << 20;
void cuda_linear_quantized(struct backend *b, const struct backend_tile *t, void *y,
                           const struct backend_operand *x, const struct backend_operand *w);
int cuda_products(const struct backend *b, const struct quant_spec *weight,
                  const struct quant_spec *act);
void cuda_score(struct backend *b, const struct backend_operand *w,
                const struct backend_score_job *jobs, int count);
void cuda_experts_quantized(struct backend *b, const struct backend_tile *part, void *y,
                            const struct backend_operand *x,
                            const struct backend_operand *const *w);
void cuda_score_output(struct backend *b, const struct backend_score_job *job, const void *yq,
                       int64_t cols);
void cuda_dots_end(struct backend *b, const struct backend_tile *t, double *dots, double *sums,
                   int64_t stride, int count);

/* ---- doubles.cu ---- */
/*
 * Row-major, in double: C (m, n) = alpha A (m, k) B (k, n) + beta C, rows lda, ldb, ldc apart.
 * Transposed: what is stored is (k, m), (n, k). Batches are strides apart; batch 0 is one product.
 */
struct doubles {
    int64_t m, n, k;
    const double *a;
    int64_t lda;
    bool a_transposed;
    const double *b;
    int64_t ldb;
    bool b_transposed;
    double *c;
    int64_t ldc;
    double alpha, beta;
    int batch;
    int64_t a_stride, b_stride, c_stride;
};
struct doubles_cache *doubles_open(void);
void doubles_close(struct doubles_cache *d);
/* The algorithm follows from the shape and from how the addresses are aligned. */
void doubles_run(struct cuda_backend *c, const struct doubles *p);

/* ---- moments.cu ---- */
void cuda_magnitudes(struct backend *b, const struct backend_tile *t, const void *x, int64_t cols,
                     int32_t from, int32_t to, double *sums);
void cuda_moments(struct backend *b, const struct backend_tile *t, double *square, const void *x,
                  int64_t cols);
int cuda_moments_end(struct backend *b, double *square, int64_t n, double *diagonal,
                     struct aq_err *err);

/* ---- solve.cu ---- */
uint64_t cuda_solve_bytes(const struct backend *b, const struct quant_spec *spec, int64_t rows,
                          int64_t cols, int64_t sampled);
int cuda_gptq_factor(struct backend *b, double *u, const double *square, int64_t n,
                     const int64_t *order, const float *scale, double added, struct aq_err *err);
int cuda_gptq_codes(struct backend *b, const double *u, const int64_t *order,
                    const struct backend_weight *w, const float *scale,
                    const struct quant_spec *spec, const float *ranges, uint8_t *packed,
                    struct aq_err *err);
int cuda_weight_ranges(struct backend *b, const struct backend_weight *w, const float *scale,
                       const struct quant_step *step, float *ranges, struct aq_err *err);
int cuda_clip_ranges(struct backend *b, const double *square, const struct backend_weight *w,
                     const float *scale, const struct quant_spec *spec, float *ranges,
                     struct aq_err *err);
int cuda_weight_measure(struct backend *b, const struct backend_weight *const *w, int count,
                        int64_t block, double *mean, struct aq_err *err);
int cuda_scaled_error(struct backend *b, const double *square,
                      const struct backend_weight *const *w, const int64_t *step, int count,
                      const struct quant_spec *spec, const float *scale, double *error,
                      struct aq_err *err);

/* ---- small device helpers ---- */

enum { WARP = 32, THREADS = 256 };

#ifdef __CUDACC__

/* So many numbers of a row, read and written at once. */
template <int n> struct alignas(n * sizeof(float)) floats {
    float e[n];
};

/* Can all rows of these be read and written four numbers at a time? */
static inline bool in_quads(int64_t cols, const void *a, const void *b, const void *c)
{
    return cols % 4 == 0 && ((uintptr_t)a | (uintptr_t)b | (uintptr_t)c) % 16 == 0;
}

__device__ static inline float load_weight(const void *w, int is_bf16, int64_t i)
{
    return is_bf16 ? __bfloat162float(((const bf16 *)w)[i]) : ((const float *)w)[i];
}

/* The butterflies give every lane the same bits: at each step two lanes add the same two numbers.
 */
__device__ static inline float warp_sum(float v)
{
    for (int k = WARP / 2; k > 0; k /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, k);
    return v;
}

__device__ static inline double warp_sum(double v)
{
    for (int k = WARP / 2; k > 0; k /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, k);
    return v;
}

/* Sum over the block, in an order that is always the same; all threads get it. */
__device__ static inline double block_sum(double v)
{
    __shared__ double part[THREADS / WARP + 1];
    for (int k = WARP / 2; k > 0; k /= 2)
        v += __shfl_down_sync(0xffffffffu, v, k);
    __syncthreads(); /* an earlier result may still be read */
    if (threadIdx.x % WARP == 0)
        part[threadIdx.x / WARP] = v;
    __syncthreads();
    if (threadIdx.x == 0) {
        double sum = 0;
        for (unsigned i = 0; i < blockDim.x / WARP; i++)
            sum += part[i];
        part[THREADS / WARP] = sum;
    }
    __syncthreads();
    return part[THREADS / WARP];
}

/* Largest of bits: of magnitudes, with every NaN above infinity. */
__device__ static inline uint32_t block_max(uint32_t v)
{
    __shared__ uint32_t part[THREADS / WARP + 1];
    v = __reduce_max_sync(0xffffffffu, v);
    __syncthreads();
    if (threadIdx.x % WARP == 0)
        part[threadIdx.x / WARP] = v;
    __syncthreads();
    if (threadIdx.x < WARP) {
        uint32_t m = threadIdx.x < blockDim.x / WARP ? part[threadIdx.x] : 0;
        m = __reduce_max_sync(0xffffffffu, m);
        if (threadIdx.x == 0)
            part[THREADS / WARP] = m;
    }
    __syncthreads();
    return part[THREADS / WARP];
}

__device__ static inline uint32_t magnitude_bits(float x)
{
    return __float_as_uint(x) & 0x7fffffffu;
}

__device__ static inline float bits_magnitude(uint32_t bits)
{
    return bits > 0x7f800000u ? __uint_as_float(0x7fc00000u) : __uint_as_float(bits);
}

__device__ static inline float round_bf16(float x)
{
    return __bfloat162float(__float2bfloat16_rn(x));
}

#endif

#endif
