/*
 * Causal attention of longer samples by matrix instructions, in bf16. A number is the sum of two
 * bf16 terms, which have 16 of its 24 bits, and a product is three products of terms that add up in
 * fp32: what is left out is below 2^-16 of it, where rounding the result to bf16 takes 2^-9.
 *
 * A block makes ROWS rows of a head, a warp 16 of them. Keys and values come in KEYS at a time,
 * values while scores are made and the next keys while outputs are added up. The softmax is made as
 * the keys come in: sums are relative to the largest score so far, and shrink when there is a
 * larger one. Blocks of keys begin at multiples of KEYS from the sample's first row, so that a
 * row's bits depend on its sample alone.
 */
#include "backend/cuda/attention.cuh"

enum { ROWS = 64, KEYS = 64, FLASH_THREADS = 128, WARP_ROWS = 16, PAD = 8 };
/* Shorter samples leave most of a block empty. */
enum { LEAST_ROWS = 48 };

/* ---- two terms ---- */

struct two_terms {
    __nv_bfloat162 high, low;
};

__device__ static struct two_terms split(float x, float y)
{
    struct two_terms t;
    t.high = __floats2bfloat162_rn(x, y);
    t.low = __floats2bfloat162_rn(x - __low2float(t.high), y - __high2float(t.high));
    return t;
}

/* Four numbers at a time, into the same places of two matrices. */
__device__ static void split_to(bf16 *high, bf16 *low, const struct floats<4> &x)
{
    struct two_terms a = split(x.e[0], x.e[1]), b = split(x.e[2], x.e[3]);
    ((__nv_bfloat162 *)high)[0] = a.high;
    ((__nv_bfloat162 *)high)[1] = b.high;
    ((__nv_bfloat162 *)low)[0] = a.low;
    ((__nv_bfloat162 *)low)[1] = b.low;
}

/* terms (4, n) = k's high and low terms, and v's */
__global__ static void split_kernel(bf16 *terms, const float *k, const float *v, int64_t n)
{
    int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * 4;
    const float *x = blockIdx.y ? v : k;
    terms += 2 * blockIdx.y * n;
    if (i < n)
        split_to(terms + i, terms + n + i, *(const struct floats<4> *)(x + i));
}

/* ---- instructions ---- */

__device__ static uint32_t shared_at(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes, or zeros, without waiting */
__device__ static void fetch16(bf16 *to, const bf16 *from, bool there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_at(to)), "l"(from),
                 "r"(there ? 16 : 0)
                 : "memory");
}

__device__ static void fetched()
{
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
}

/* Four matrices of 8 x 8; lanes 8 i to 8 i + 7 have the addresses of matrix i's rows. */
__device__ static void load_matrices(uint32_t (&m)[4], const bf16 *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(shared_at(row))
                 : "memory");
}

__device__ static void load_transposed(uint32_t (&m)[4], const bf16 *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(shared_at(row))
                 : "memory");
}

/* d (16, 8) += a (16, 16) b (16, 8); lane 4 g + t has of d rows g and g + 8, columns 2 t and 2 t +
 * 1 */
__device__ static void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* d, e (16, 8 each) += the product of two terms' sums but for that of the low ones; high, low: b of
   d in the first two, of e in the others */
__device__ static void multiply_terms(float (&d)[4], float (&e)[4], const uint32_t (&a_high)[4],
                                      const uint32_t (&a_low)[4], const uint32_t (&high)[4],
                                      const uint32_t (&low)[4])
{
    multiply_add(d, a_low, high[0], high[1]);
    multiply_add(e, a_low, high[2], high[3]);
    multiply_add(d, a_high, low[0], low[1]);
    multiply_add(e, a_high, low[2], low[3]);
    multiply_add(d, a_high, high[0], high[1]);
    multiply_add(e, a_high, high[2], high[3]);
}

/* ---- a block of rows ---- */

/* Two matrices (64, dim) in shared memory, whose rows are `ld` apart. */
template <int dim> struct side {
    static constexpr int ld = dim + PAD; /* eight rows one after another use different banks */
    static constexpr int matrix = ROWS * ld;
    bf16 *high, *low;

    __device__ void fetch(const bf16 *from_high, const bf16 *from_low, int64_t from_ld, int n) const
    {
        enum { PACKS = dim / 8 };
#pragma unroll 4
        for (int i = (int)threadIdx.x; i < KEYS * PACKS; i += FLASH_THREADS) {
            int r = i / PACKS, c = i % PACKS * 8;
            int64_t at = (r < n ? r : 0) * from_ld + c;
            fetch16(high + r * ld + c, from_high + at, r < n);
            fetch16(low + r * ld + c, from_low + at, r < n);
        }
    }

    __device__ void take(const float *from, int64_t from_ld, int n) const
    {
        enum { PACKS = dim / 4 };
#pragma unroll 4
        for (int i = (int)threadIdx.x; i < ROWS * PACKS; i += FLASH_THREADS) {
            int r = i / PACKS, c = i % PACKS * 4;
            struct floats<4> x = {
            };
            if (r < n)
                x = *(const struct floats<4> *)(from + r * from_ld + c);
            split_to(high + r * ld + c, low + r * ld + c, x);
        }
    }
};

/* What a lane has of 16 rows: scores of KEYS keys, then their exp; sums over the keys so far. */
template <int dim> struct rows_state {
    float z[KEYS / 8][4];
    float o[dim / 8][4];
    float top[2], sum[2]; /* of rows g and g + 8; sum: of the lane's keys */
};

/* z = q k', keys of `pairs` times 16 alone */
template <int dim>
__device__ static void make_scores(struct rows_state<dim> &s, const struct side<dim> &q,
                                   const struct side<dim> &k, int pairs)
{
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    int q_at = (warp * WARP_ROWS + lane % 16) * q.ld + lane / 16 * 8;
    int k_at = (lane % 8 + lane / 16 * 8) * k.ld + lane / 8 % 2 * 8;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
        s.z[n][0] = s.z[n][1] = s.z[n][2] = s.z[n][3] = 0;
#pragma unroll 2
    for (int step = 0; step < dim; step += 16) {
        uint32_t q_high[4], q_low[4];
        load_matrices(q_high, q.high + q_at + step);
        load_matrices(q_low, q.low + q_at + step);
#pragma unroll
        for (int p = 0; p < KEYS / 16; p++) {
            if (p >= pairs)
                continue;
            uint32_t high[4], low[4];
            load_matrices(high, k.high + k_at + p * 16 * k.ld + step);
            load_matrices(low, k.low + k_at + p * 16 * k.ld + step);
            multiply_terms(s.z[2 * p], s.z[2 * p + 1], q_high, q_low, high, low);
        }
    }
}

/* 2^x; what is below the normal numbers is 0 */
__device__ static float power_of_two(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* How products become powers of two. */
struct scoring {
    float scale, cap; /* of q . k; cap 0: none */
    bool apart;       /* they come first: a cap, or larger products that are not larger scores */
    float log2e;      /* of what is left; else of the scale too */
    int window;       /* 0: none */
};

/* Row `reader` of a half (rows g, g + 8) sees keys from first to itself. Scores that it does not
   see are -infinity; -infinity is returned if it sees none. at: the first key. */
template <int dim>
__device__ static float half_top(struct rows_state<dim> &s, const struct scoring &c, int half,
                                 bool masked, int at, int reader)
{
    int column = at + (int)threadIdx.x % 4 * 2;
    int first = c.window > 0 && reader >= c.window ? reader - c.window + 1 : 0;
    float top = -INFINITY;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float &z = s.z[n][2 * half + e];
            if (c.apart)
                z = c.cap > 0 ? c.cap * tanhf(z * c.scale / c.cap) : z * c.scale;
            if (masked) {
                int key = column + n * 8 + e;
                z = key <= reader && key >= first ? z : -INFINITY;
            }
            top = fmaxf(top, z);
        }
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    return fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
}

/* Scores become exp(score - top), that of keys that are not seen 0; o and sum follow the new top.
   at: the first key, row: the lane's first row, both of the sample; masked: some row of the warp
   does not see some of these keys. */
template <int dim>
__device__ static void make_exps(struct rows_state<dim> &s, const struct scoring &c, bool masked,
                                 int at, int row)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float top = fmaxf(s.top[half], half_top<dim>(s, c, half, masked, at, row + 8 * half));
        float from = top == -INFINITY ? 0 : top * c.log2e; /* it has seen no key yet */
        float shrink = power_of_two(__fmaf_rn(s.top[half], c.log2e, -from));
        float sum = s.sum[half] * shrink;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int e = 2 * half; e < 2 * half + 2; e++) {
                s.z[n][e] = power_of_two(__fmaf_rn(s.z[n][e], c.log2e, -from));
                sum += s.z[n][e];
            }
#pragma unroll
        for (int n = 0; n < dim / 8; n++) {
            s.o[n][2 * half] *= shrink;
            s.o[n][2 * half + 1] *= shrink;
        }
        s.top[half] = top;
        s.sum[half] = sum;
    }
}

/* o += z v, keys of `pairs` times 16 alone */
template <int dim>
__device__ static void add_outputs(struct rows_state<dim> &s, const struct side<dim> &v, int pairs)
{
    int lane = (int)threadIdx.x % WARP;
    int v_at = lane % 16 * v.ld + lane / 16 * 8;
#pragma unroll
    for (int p = 0; p < KEYS / 16; p++) {
        if (p >= pairs)
            continue;
        uint32_t z_high[4], z_low[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float *x = &s.z[2 * p + i / 2][i % 2 * 2];
            struct two_terms t = split(x[0], x[1]);
            z_high[i] = *(uint32_t *)&t.high;
            z_low[i] = *(uint32_t *)&t.low;
        }
#pragma unroll
        for (int n = 0; n < dim / 16; n++) {
            uint32_t high[4], low[4];
            load_transposed(high, v.high + v_at + p * 16 * v.ld + n * 16);
            load_transposed(low, v.low + v_at + p * 16 * v.ld + n * 16);
            multiply_terms(s.o[2 * n], s.o[2 * n + 1], z_high, z_low, high, low);
        }
    }
}

template <int dim>
__device__ static void store_outputs(const struct rows_state<dim> &s, float *o, int64_t ld,
                                     int64_t row, int64_t n)
{
    int column = (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = s.sum[half];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        float inverse = 1 / sum;
        float *to = o + (row + 8 * half) * ld + column;
        if (row + 8 * half >= n)
            continue;
#pragma unroll
        for (int k = 0; k < dim / 8; k++) {
            struct floats<2> x = {
                round_bf16(s.o[k][2 * half] * inverse), round_bf16(s.o[k][2 * half + 1] * inverse)
            };
            *(struct floats<2> *)(to + k * 8) = x;
        }
    }
}

__device__ static void clear_row(float *o, int dim)
{
    for (int i = (int)threadIdx.x; i < dim; i += FLASH_THREADS)
        o[i] = 0;
}

/* terms: (4, rows, kv_heads x dim). Block x: a head of a sample, or of what follows the last one;
   block y: its rows, the last, which see most, first. */
template <int dim>
__global__ static void __launch_bounds__(FLASH_THREADS, dim > 128 ? 1 : 2)
    matrix_kernel(struct attention a, const bf16 *terms)
{
    extern __shared__ __align__(16) unsigned char shared_bytes[]; /* q, k, v */
    typedef struct side<dim> side;
    bf16 *room = (bf16 *)shared_bytes;
    const side q = {room, room + side::matrix},
               k = {q.low + side::matrix, q.low + 2 * side::matrix},
               v = {k.low + side::matrix, k.low + 2 * side::matrix};
    int sample = (int)blockIdx.x / a.heads, head = (int)blockIdx.x % a.heads;
    int tile = (int)(gridDim.y - 1 - blockIdx.y), kv = head / (a.heads / a.kv_heads);
    int64_t o_ld = (int64_t)a.heads * dim, ld = (int64_t)a.kv_heads * dim;
    float *o = a.o + head * dim;
    if (sample == a.samples) {
        for (int64_t row = a.first[sample] + tile; row < a.rows; row += gridDim.y)
            clear_row(o + row * o_ld, dim);
        return;
    }
    int64_t pad = a.pad[sample] ? 1 : 0, start = a.first[sample] + pad,
            n = a.first[sample + 1] - start, begin = (int64_t)tile * ROWS;
    if (n < LEAST_ROWS || begin >= n)
        return;
    if (tile == 0 && pad)
        clear_row(o + (start - 1) * o_ld, dim);
    int64_t end = begin + ROWS < n ? begin + ROWS : n, plane = a.rows * ld;
    int first = (int)begin + (int)threadIdx.x / WARP * WARP_ROWS; /* row of the warp */
    int last = first + WARP_ROWS - 1, row = first + (int)threadIdx.x % WARP / 4;
    const bool apart = a.cap > 0 || !(a.scale > 0);
    const struct scoring scoring = {a.scale, a.cap, apart, (apart ? 1 : a.scale) * 1.44269504F,
                                    a.window};
    const bf16 *keys = terms + start * ld + kv * dim, *values = keys + 2 * plane;
    struct rows_state<dim> s = {
    };
    s.top[0] = s.top[1] = -INFINITY;
    int at = (int)first_seen(a, begin) / KEYS * KEYS, length = (int)n;
    k.fetch(keys + at * ld, keys + plane + at * ld, ld, length - at);
    q.take(a.q + (start + begin) * o_ld + head * dim, o_ld, (int)(end - begin));
    for (; at < end; at += KEYS) {
        int next = at + KEYS, seen = (last - at) / 16 + 1; /* 16 at a time, some to be masked */
        int pairs = seen < KEYS / 16 ? seen : KEYS / 16;
        bool masked = next - 1 > first || (a.window > 0 && last - at >= a.window);
        fetched();
        v.fetch(values + at * ld, values + plane + at * ld, ld, length - at);
        make_scores<dim>(s, q, k, pairs);
        make_exps<dim>(s, scoring, masked, at, row);
        fetched();
        if (next < end)
            k.fetch(keys + next * ld, keys + plane + next * ld, ld, length - next);
        add_outputs<dim>(s, v, pairs);
    }
    store_outputs<dim>(s, o + start * o_ld, o_ld, row, n);
}

typedef void flash_kernel(struct attention a, const bf16 *terms);

static flash_kernel *kernel_of(int dim)
{
    return dim == 64    ? matrix_kernel<64>
           : dim == 96  ? matrix_kernel<96>
           : dim == 128 ? matrix_kernel<128>
           : dim == 256 ? matrix_kernel<256>
                        : NULL;
}

int attention_by_matrices(struct cuda_backend *c, const struct attention *a)
{
    flash_kernel *kernel = c->config.bf16 ? kernel_of(a->dim) : NULL;
    size_t bytes = (size_t)6 * ROWS * (size_t)(a->dim + PAD) * sizeof(bf16);
    int64_t n = a->rows * a->kv_heads * a->dim;
    int tiles = (a->longest + ROWS - 1) / ROWS, most = 0;
    (void)cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, c->config.device);
    if (!kernel || bytes > (size_t)most)
        return INT_MAX;
    if (a->longest < LEAST_ROWS)
        return LEAST_ROWS;
    bf16 *terms = (bf16 *)cuda_scratch(c, SCRATCH_ATTENTION, (size_t)(4 * n) * sizeof *terms);
    if (!terms || !attention_allow(c, (const void *)kernel, bytes))
        return LEAST_ROWS;
    dim3 parts((unsigned)((n / 4 + THREADS - 1) / THREADS), 2);
    split_kernel<<<parts, THREADS, 0, c->stream>>>(terms, a->k, a->v, n);
    kernel<<<dim3((unsigned)((a->samples + 1) * a->heads), (unsigned)tiles), FLASH_THREADS, bytes,
             c->stream>>>(*a, terms);
    return LEAST_ROWS;
}
