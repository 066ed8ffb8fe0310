/*
 * Numbers of calibrated candidates, all in double but what lib/quant computes in fp32: factors of
 * second moments, GPTQ's codes, ranges and scales by the error of outputs. The large products are
 * cuBLAS's, what is between them has kernels here. Nothing is added up by timing.
 */
#include "backend/cuda/quantize.cuh"

#include <float.h>

/* ---- room ---- */

/* Parts of SCRATCH_SOLVE, each from a multiple of 256 bytes on. */
struct room {
    size_t bytes;
    char *at;
};

static size_t part_bytes(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

template <typename T> static size_t part(int64_t n)
{
    return part_bytes((size_t)n * sizeof(T));
}

template <typename T> static T *cut(struct room *r, int64_t n)
{
    T *p = (T *)r->at;
    r->at += part<T>(n);
    return p;
}

/* False after a failure, which the next download reports. */
static bool take_room(struct cuda_backend *c, size_t bytes, struct room *out)
{
    *out = room{bytes, (char *)cuda_scratch(c, SCRATCH_SOLVE, bytes)};
    return out->at != NULL;
}

static void upload(struct cuda_backend *c, void *to, const void *host, size_t bytes)
{
    if (cuda_good(c))
        (void)cuda_check(c, cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, c->stream),
                         "upload");
}

/* scale: host [n]; NULL stays NULL. */
static const float *upload_scale(struct cuda_backend *c, struct room *r, const float *scale,
                                 int64_t n)
{
    float *to = cut<float>(r, n);
    if (!scale)
        return NULL;
    upload(c, to, scale, (size_t)n * sizeof *to);
    return to;
}

static unsigned blocks_of(int64_t n, int64_t each)
{
    return (unsigned)((n + each - 1) / each);
}

/* ---- the weight in fp32 ---- */

/* A weight as it is on the device. */
struct loaded {
    const void *at;
    int is_bf16;
    int64_t rows, cols;
};

/* Row i is every step-th row of w, its columns multiplied. A block has a row. */
__global__ static void widen_kernel(float *to, struct loaded w, int64_t step, const float *scale)
{
    const int64_t row = blockIdx.x, from = row * step * w.cols;
    for (int64_t i = threadIdx.x; i < w.cols; i += THREADS) {
        float x = load_weight(w.at, w.is_bf16, from + i);
        to[row * w.cols + i] = scale ? x * scale[i] : x;
    }
}

static bool load(struct cuda_backend *c, const struct backend_weight *w, struct loaded *out)
{
    *out = loaded{cuda_weight(c, w), cuda_weight_is_bf16(c, w), w->rows, w->cols};
    return out->at != NULL;
}

/* All rows, in SCRATCH_WIDE. scale: on the device. */
static float *widen(struct cuda_backend *c, const struct backend_weight *w, const float *scale)
{
    struct loaded from;
    float *to = (float *)cuda_scratch(c, SCRATCH_WIDE, (size_t)(w->rows * w->cols) * sizeof(float));
    if (!to || !load(c, w, &from))
        return NULL;
    widen_kernel<<<(unsigned)w->rows, THREADS, 0, c->stream>>>(to, from, 1, scale);
    return cuda_launched(c, "widening a weight") ? to : NULL;
}

/* The largest magnitudes of a step's cells of w (rows, cols) in fp32. */
static bool cell_ranges(struct cuda_backend *c, const float *w, int64_t rows, int64_t cols,
                        const struct device_step *s, float *ranges)
{
    const struct sources m = {1, 0, 1, rows, cols, {w}};
    return step_ranges(c, (uint32_t *)ranges, &m, s);
}

int cuda_weight_ranges(struct backend *b, const struct backend_weight *w, const float *scale,
                       const struct quant_step *step, float *ranges, struct aq_err *err)
{
    struct cuda_backend *c = cuda_of(b);
    const struct device_step s = step_of(step, 1, w->rows, w->cols, 1);
    struct room r;
    float *cells = NULL;
    if (take_room(c, part<float>(w->cols) + part<float>(s.cells), &r)) {
        const float *wide = widen(c, w, upload_scale(c, &r, scale, w->cols));
        cells = cut<float>(&r, s.cells);
        if (wide)
            (void)cell_ranges(c, wide, w->rows, w->cols, &s, cells);
    }
    return b->ops->download(b, ranges, cells, (size_t)s.cells * sizeof *ranges, err);
}

/* ---- the factor ---- */

__device__ static double moment(const double *square, int64_t n, const float *scale, int64_t i,
                                int64_t j)
{
    double x = square[i * n + j];
    return scale ? x / ((double)scale[i] * (double)scale[j]) : x;
}

/* The lower triangle of the moments, columns from the last of the order to the first; 0 above. A
   block has a row. */
__global__ static void fill_kernel(double *u, const double *square, int64_t n, const int64_t *order,
                                   const float *scale, double added)
{
    const int64_t i = blockIdx.x, at = order[n - 1 - i];
    for (int64_t k = threadIdx.x; k < n; k += THREADS) {
        double x = k <= i ? moment(square, n, scale, at, order[n - 1 - k]) : 0;
        u[i * n + k] = k == i ? (x > 0 ? x : 1) + added : x;
    }
}

enum { LEAF = 64, PARTS = THREADS / LEAF }; /* PARTS threads a row, which share a warp */

/*
 * A block (n, n) on the diagonal, n <= LEAF, rows ld apart: the inverse of its lower factor in its
 * place, 0 above. bad: set to 1 by a pivot that is not positive.
 */
__global__ static void leaf_kernel(double *a, int64_t ld, int n, int32_t *bad)
{
    __shared__ double l[LEAF][LEAF + 1];
    const int row = (int)threadIdx.x / PARTS, first = (int)threadIdx.x % PARTS;
    for (int k = first; k < n && row < n; k += PARTS)
        l[row][k] = k <= row ? a[row * ld + k] : 0;
    __syncthreads();
    for (int i = 0; i < n; i++) {
        const double pivot = l[i][i], root = sqrt(pivot);
        __syncthreads(); /* all have read the pivot */
        if (threadIdx.x == 0) {
            l[i][i] = root;
            if (!(pivot > 0) || !isfinite(pivot))
                *bad = 1;
        }
        if (first == 0 && row > i && row < n)
            l[row][i] /= root;
        __syncthreads();
        for (int k = i + 1 + first; k <= row && row < n; k += PARTS)
            l[row][k] -= l[row][i] * l[k][i];
        __syncthreads();
    }
    /* columns of the inverse from the last to the first: those after j are the inverse's already */
    for (int j = n - 1; j >= 0; j--) {
        const double inverse = 1 / l[j][j];
        double sum = 0;
        for (int k = j + 1 + first; k <= row && row < n; k += PARTS)
            sum += l[row][k] * l[k][j];
        for (int k = PARTS / 2; k > 0; k /= 2)
            sum += __shfl_xor_sync(0xffffffffu, sum, k);
        __syncthreads(); /* all have read column j */
        if (first == 0 && row < n && row >= j)
            l[row][j] = row == j ? inverse : -(sum * inverse);
        __syncthreads();
    }
    for (int k = first; k < n && row < n; k += PARTS)
        a[row * ld + k] = l[row][k];
}

/* Rows before the cut: whole leaves, at least as many as after it. */
static int64_t first_half(int64_t n)
{
    return (n + 2 * LEAF - 1) / (2 * LEAF) * LEAF;
}

/*
 * A (n, n), rows ld apart, of which the lower triangle is read, becomes the inverse M of its lower
 * factor L, 0 above the diagonal. With A and L cut in two,
 *
 *     L21 = A21 M11', A22 -= L21 L21', M21 = -M22 (L21 M11),
 *
 * so that L21 alone of the factor is needed for a while: it is in x, room for first_half(n)^2.
 */
static void invert_factor(struct cuda_backend *c, double *a, int64_t ld, int64_t n, double *x,
                          int32_t *bad)
{
    if (!cuda_good(c))
        return;
    if (n <= LEAF) {
        leaf_kernel<<<1, THREADS, 0, c->stream>>>(a, ld, (int)n, bad);
        (void)cuda_launched(c, "a factor");
        return;
    }
    const int64_t h = first_half(n), rest = n - h;
    const size_t pitch = (size_t)ld * sizeof *a;
    double *a21 = a + h * ld, *a22 = a21 + h;
    invert_factor(c, a, ld, h, x, bad);
    const struct doubles factor = {rest, h, h, a21, ld, false, a, ld, true, x, h, 1, 0};
    const struct doubles update = {rest, rest, h, x, h, false, x, h, true, a22, ld, -1, 1};
    const struct doubles right = {rest, h, h, x, h, false, a, ld, false, a21, ld, 1, 0};
    const struct doubles left = {rest, h, rest, a22, ld, false, a21, ld, false, x, h, -1, 0};
    doubles_run(c, &factor);
    doubles_run(c, &update);
    doubles_run(c, &right);
    invert_factor(c, a22, ld, rest, x, bad);
    doubles_run(c, &left);
    if (!cuda_good(c))
        return;
    (void)cuda_check(c,
                     cudaMemcpy2DAsync(a21, pitch, x, (size_t)h * sizeof *x, (size_t)h * sizeof *x,
                                       (size_t)rest, cudaMemcpyDeviceToDevice, c->stream),
                     "copying");
    (void)cuda_check(
        c, cudaMemset2DAsync(a + h, pitch, 0, (size_t)rest * sizeof *a, (size_t)h, c->stream),
        "zeroing");
}

/* Elements from the front with those from the back. */
__global__ static void reverse_kernel(double *u, int64_t all)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= all / 2)
        return;
    double x = u[i];
    u[i] = u[all - 1 - i];
    u[all - 1 - i] = x;
}

__global__ static void check_kernel(const double *u, int64_t n, int32_t *bad)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n && (!(u[i * n + i] > 0) || !isfinite(u[i * n + i])))
        *bad = 1;
}

static size_t factor_room(int64_t n)
{
    return part<float>(n) + part<int64_t>(n) + part<int32_t>(1) +
           part<double>(first_half(n) * first_half(n));
}

int cuda_gptq_factor(struct backend *b, double *u, const double *square, int64_t n,
                     const int64_t *order, const float *scale, double added, struct aq_err *err)
{
    struct cuda_backend *c = cuda_of(b);
    struct room r;
    int32_t *bad = NULL, found = 0;
    if (take_room(c, factor_room(n), &r)) {
        const float *device_scale = upload_scale(c, &r, scale, n);
        int64_t *device_order = cut<int64_t>(&r, n);
        bad = cut<int32_t>(&r, 1);
        upload(c, device_order, order, (size_t)n * sizeof *order);
        upload(c, bad, &found, sizeof found);
        fill_kernel<<<(unsigned)n, THREADS, 0, c->stream>>>(u, square, n, device_order,
                                                            device_scale, added);
        (void)cuda_launched(c, "moments in their order");
        invert_factor(c, u, n, n, (double *)r.at, bad);
    }
    if (cuda_good(c)) {
        reverse_kernel<<<blocks_of(n * n / 2 + 1, THREADS), THREADS, 0, c->stream>>>(u, n * n);
        check_kernel<<<blocks_of(n, THREADS), THREADS, 0, c->stream>>>(u, n, bad);
        (void)cuda_launched(c, "a factor");
    }
    if (b->ops->download(b, &found, bad, sizeof found, err) < 0)
        return -1;
    return found ? 1 : 0;
}

/* ---- codes ---- */

enum { BLOCK = 128, SLOTS = BLOCK / WARP }; /* columns whose errors are passed on together */

struct coding {
    const double *u;      /* (n, n) */
    const int64_t *order; /* [n] */
    double *w;            /* (rows, n): columns in the order */
    double *errors;       /* (rows, BLOCK) */
    const float *ranges;  /* [grid] */
    double2 *scales;      /* [grid]: to codes, and back */
    int8_t *codes;        /* (rows, n) */
    int64_t rows, n, rows_each, block, grid_cols, cells;
    float lo, hi;
};

__global__ static void code_scales(struct coding j)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    float mul, back;
    if (i >= j.cells)
        return;
    int_scales(j.hi, j.ranges[i], &mul, &back);
    j.scales[i] = double2{(double)mul, (double)back};
}

/* Columns in their order. A block has a row. */
__global__ static void gather_kernel(struct coding j, const float *wide)
{
    const int64_t from = (int64_t)blockIdx.x * j.n;
    for (int64_t i = threadIdx.x; i < j.n; i += THREADS)
        j.w[from + i] = (double)wide[from + j.order[i]];
}

/*
 * Rows through `width` columns from `first` on. A warp has a row, and lane i its columns i, i + 32,
 * ... of the block; all lanes compute a column's code and error, each passes it on to its own.
 */
__global__ static void block_kernel(struct coding j, int64_t first, int width)
{
    const int64_t row = (int64_t)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    const int lane = (int)threadIdx.x % WARP;
    double w[SLOTS];
    if (row >= j.rows)
        return;
    for (int s = 0; s < SLOTS; s++)
        w[s] = s * WARP + lane < width ? j.w[row * j.n + first + s * WARP + lane] : 0;
    const double2 *scales = j.scales + row / j.rows_each * j.grid_cols;
    const double lo = (double)j.lo, hi = (double)j.hi;
#pragma unroll
    for (int s = 0; s < SLOTS; s++)
        for (int l = 0; l < WARP && s * WARP + l < width; l++) {
            const int k = s * WARP + l;
            const int64_t column = j.order[first + k];
            const double *u = j.u + (first + k) * j.n + first;
            const double2 scale = scales[column / j.block];
            const double at = __shfl_sync(0xffffffffu, w[s], l);
            double q = rint(at * scale.x);
            q = q < lo ? lo : q > hi ? hi : q;
            const double e = (at - q / scale.y) / u[k];
            if (lane == l) {
                j.codes[row * j.n + column] = (int8_t)q;
                j.errors[row * BLOCK + k] = e;
            }
            for (int t = s; t < SLOTS; t++)
                if (t * WARP + lane > k && t * WARP + lane < width)
                    w[t] -= e * u[t * WARP + lane];
        }
}

/* Codes of `bits` bits, low bits first. A block has a row, a thread a byte. */
__global__ static void pack_kernel(uint8_t *to, const int8_t *codes, int64_t n, int64_t row_bytes,
                                   int bits)
{
    const int8_t *from = codes + (int64_t)blockIdx.x * n;
    for (int64_t k = threadIdx.x; k < row_bytes; k += THREADS) {
        unsigned byte = 0;
        for (int i = 0; i < 8; i++) {
            int64_t bit = 8 * k + i, code = bit / bits;
            if (code < n)
                byte |= ((unsigned)from[code] >> (bit % bits) & 1) << i;
        }
        to[(int64_t)blockIdx.x * row_bytes + k] = (uint8_t)byte;
    }
}

static int64_t row_bytes_of(int64_t cols, int bits)
{
    return (cols * bits + 7) / 8;
}

static size_t codes_room(int64_t rows, int64_t n, int64_t cells, int bits)
{
    return part<float>(n) + part<int64_t>(n) + part<double>(rows * n) + part<double>(rows * BLOCK) +
           part<float>(cells) + part<double2>(cells) + part<int8_t>(rows * n) +
           part<uint8_t>(rows * row_bytes_of(n, bits));
}

static void run_codes(struct cuda_backend *c, const struct coding *j, const float *wide)
{
    if (!wide || !cuda_good(c))
        return;
    code_scales<<<blocks_of(j->cells, THREADS), THREADS, 0, c->stream>>>(*j);
    gather_kernel<<<(unsigned)j->rows, THREADS, 0, c->stream>>>(*j, wide);
    for (int64_t first = 0; first < j->n && cuda_launched(c, "codes"); first += BLOCK) {
        const int64_t width = j->n - first < BLOCK ? j->n - first : BLOCK, rest = first + width;
        const struct doubles pass_on = {
            j->rows, j->n - rest, width,       j->errors, BLOCK, false, j->u + first * j->n + rest,
            j->n,    false,       j->w + rest, j->n,      -1,    1};
        block_kernel<<<blocks_of(j->rows, THREADS / WARP), THREADS, 0, c->stream>>>(*j, first,
                                                                                    (int)width);
        doubles_run(c, &pass_on);
    }
}

int cuda_gptq_codes(struct backend *b, const double *u, const int64_t *order,
                    const struct backend_weight *w, const float *scale,
                    const struct quant_spec *spec, const float *ranges, uint8_t *packed,
                    struct aq_err *err)
{
    struct cuda_backend *c = cuda_of(b);
    const int bits = spec->step[0].bits;
    const int64_t row_bytes = row_bytes_of(w->cols, bits);
    const struct device_step s = step_of(&spec->step[0], 1, w->rows, w->cols, 1);
    const int64_t rows_each = s.groups == CELL_ALL_ROWS ? w->rows : s.rows_each;
    struct room r;
    uint8_t *device = NULL;
    if (take_room(c, codes_room(w->rows, w->cols, s.cells, bits), &r)) {
        const float *device_scale = upload_scale(c, &r, scale, w->cols);
        int64_t *device_order = cut<int64_t>(&r, w->cols);
        struct coding j = {u, device_order};
        j.w = cut<double>(&r, w->rows * w->cols);
        j.errors = cut<double>(&r, w->rows * BLOCK);
        float *device_ranges = cut<float>(&r, s.cells);
        j.ranges = device_ranges;
        j.scales = cut<double2>(&r, s.cells);
        j.codes = cut<int8_t>(&r, w->rows * w->cols);
        device = cut<uint8_t>(&r, w->rows * row_bytes);
        j.rows = w->rows, j.n = w->cols, j.rows_each = rows_each;
        j.block = s.block, j.grid_cols = s.grid_cols, j.cells = s.cells;
        j.lo = s.lo, j.hi = s.hi;
        upload(c, device_order, order, (size_t)w->cols * sizeof *order);
        upload(c, device_ranges, ranges, (size_t)s.cells * sizeof *ranges);
        run_codes(c, &j, widen(c, w, device_scale));
        if (cuda_good(c)) {
            pack_kernel<<<(unsigned)w->rows, THREADS, 0, c->stream>>>(device, j.codes, w->cols,
                                                                      row_bytes, bits);
            (void)cuda_launched(c, "packing codes");
        }
    }
    return b->ops->download(b, packed, device, (size_t)(w->rows * row_bytes), err);
}

/* ---- errors of outputs ---- */

enum { PIECE = 1 << 23 }; /* elements of differences that are multiplied at a time */

static int64_t piece_rows(int64_t rows, int64_t n)
{
    int64_t most = PIECE / n > 1 ? PIECE / n : 1;
    return rows < most ? rows : most;
}

/* d = q / scale - w, q being every step-th row of w scaled and quantized. A block has a row. */
__global__ static void difference_kernel(double *d, const float *q, struct loaded w, int64_t step,
                                         const float *scale, int64_t at)
{
    const int64_t row = at + blockIdx.x;
    for (int64_t i = threadIdx.x; i < w.cols; i += THREADS)
        d[(int64_t)blockIdx.x * w.cols + i] =
            (double)(q[row * w.cols + i] / scale[i]) -
            (double)load_weight(w.at, w.is_bf16, row * step * w.cols + i);
}

/* sums[row] = d . through. A block has a row. */
__global__ static void dot_kernel(double *sums, const double *d, const double *through, int64_t n)
{
    const int64_t from = (int64_t)blockIdx.x * n;
    double sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS)
        sum += d[from + i] * through[from + i];
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        sums[blockIdx.x] = sum;
}

/* A treatment's steps, in place. */
static bool quantize_rows(struct cuda_backend *c, float *w, int64_t rows, int64_t cols,
                          const struct quant_spec *spec, const char *name)
{
    struct sources m = {1, 0, 1, rows, cols, {w}};
    const struct quantized q = {w, FORM_F32, rows * cols, NULL, NULL, 0, NULL};
    int32_t number = (int32_t)c->quantized->size();
    m.range[0] = spec->group_amax;
    c->quantized->push_back(name);
    for (int k = 0; k < spec->steps && cuda_good(c); k++) {
        struct device_step s = step_of(&spec->step[k], 1, rows, cols, 1);
        struct scales scales;
        if (!step_scales(c, &m, &s, &scales, c->bad, number))
            return false;
        step_apply(c, &m, &s, &scales, &q);
    }
    return cuda_good(c);
}

struct measuring {
    const double *square;
    const float *scale; /* device */
    float *q;           /* (rows, cols) */
    double *d, *through, *sums;
};

static void row_errors(struct cuda_backend *c, const struct measuring *j, const struct loaded *w,
                       int64_t step, int64_t rows)
{
    const int64_t n = w->cols, each = piece_rows(rows, n);
    for (int64_t at = 0; at < rows && cuda_good(c); at += each) {
        const int64_t count = rows - at < each ? rows - at : each;
        const struct doubles p = {count, n,     n,          j->d, n, false, j->square,
                                  n,     false, j->through, n,    1, 0};
        difference_kernel<<<(unsigned)count, THREADS, 0, c->stream>>>(j->d, j->q, *w, step,
                                                                      j->scale, at);
        doubles_run(c, &p);
        dot_kernel<<<(unsigned)count, THREADS, 0, c->stream>>>(j->sums + at, j->d, j->through, n);
        (void)cuda_launched(c, "errors of outputs");
    }
}

static int64_t sampled_rows(int64_t rows, int64_t step)
{
    return (rows + step - 1) / step;
}

static size_t error_room(int64_t rows, int64_t n)
{
    return part<float>(n) + part<float>(rows * n) + 2 * part<double>(piece_rows(rows, n) * n) +
           part<double>(rows);
}

/* Adds that of one weight. */
static int add_error(struct backend *b, const double *square, const struct backend_weight *w,
                     int64_t step, const struct quant_spec *spec, const float *scale, double *error,
                     struct aq_err *err)
{
    struct cuda_backend *c = cuda_of(b);
    const int64_t rows = sampled_rows(w->rows, step), n = w->cols;
    double *sums = (double *)malloc((size_t)rows * sizeof *sums), sum = 0;
    struct measuring j = {square};
    struct loaded from;
    struct room r;
    if (!sums)
        return c->host.err_set(err, AQ_ERUN, "no memory for the errors of %lld rows",
                               (long long)rows);
    if (take_room(c, error_room(rows, n), &r) && load(c, w, &from)) {
        j.scale = upload_scale(c, &r, scale, n);
        j.q = cut<float>(&r, rows * n);
        j.d = cut<double>(&r, piece_rows(rows, n) * n);
        j.through = cut<double>(&r, piece_rows(rows, n) * n);
        j.sums = cut<double>(&r, rows);
        widen_kernel<<<(unsigned)rows, THREADS, 0, c->stream>>>(j.q, from, step, j.scale);
        if (cuda_launched(c, "scaling a weight") && quantize_rows(c, j.q, rows, n, spec, w->name))
            row_errors(c, &j, &from, step, rows);
    }
    int bad = b->ops->download(b, sums, j.sums, (size_t)rows * sizeof *sums, err);
    for (int64_t i = 0; i < rows && bad == 0; i++)
        sum += sums[i];
    *error += sum;
    free(sums);
    return bad;
}

int cuda_scaled_error(struct backend *b, const double *square,
                      const struct backend_weight *const *w, const int64_t *step, int count,
                      const struct quant_spec *spec, const float *scale, double *error,
                      struct aq_err *err)
{
    *error = 0;
    for (int i = 0; i < count; i++)
        if (add_error(b, square, w[i], step[i], spec, scale, error, err) < 0)
            return -1;
    return 0;
}

/* sums [cols] += |w| over the largest magnitude of its block, rows in their order. */
__global__ static void measure_kernel(double *sums, const float *w, int64_t rows, int64_t cols,
                                      const float *cells, int64_t block, int64_t grid_cols)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= cols)
        return;
    const float *most = cells + i / block;
    double sum = sums[i];
#pragma unroll 8
    for (int64_t k = 0; k < rows; k++)
        sum += (double)(fabsf(w[k * cols + i]) / (most[k * grid_cols] + FLT_MIN));
    sums[i] = sum;
}

static size_t measure_room(int64_t rows, int64_t cols, int64_t block)
{
    return part<double>(cols) + part<float>(rows * ((cols + block - 1) / block));
}

int cuda_weight_measure(struct backend *b, const struct backend_weight *const *w, int count,
                        int64_t block, double *mean, struct aq_err *err)
{
    struct cuda_backend *c = cuda_of(b);
    const int64_t cols = w[0]->cols;
    const struct quant_step step = {QUANT_INT, 8, QUANT_BLOCK, 1, (int32_t)block, 0};
    int64_t rows = 0, most = 0;
    struct room r;
    double *sums = NULL;
    for (int i = 0; i < count; i++) {
        rows += w[i]->rows;
        most = w[i]->rows > most ? w[i]->rows : most;
    }
    const int64_t grid_cols = (cols + block - 1) / block;
    if (take_room(c, measure_room(most, cols, block), &r)) {
        sums = cut<double>(&r, cols);
        float *cells = cut<float>(&r, most * grid_cols);
        (void)cuda_check(c, cudaMemsetAsync(sums, 0, (size_t)cols * sizeof *sums, c->stream),
                         "zeroing");
        for (int i = 0; i < count; i++) {
            const struct device_step s = step_of(&step, 1, w[i]->rows, cols, 1);
            const float *wide = widen(c, w[i], NULL);
            if (!wide || !cell_ranges(c, wide, w[i]->rows, cols, &s, cells))
                break;
            measure_kernel<<<blocks_of(cols, THREADS), THREADS, 0, c->stream>>>(
                sums, wide, w[i]->rows, cols, cells, s.block, s.grid_cols);
            (void)cuda_launched(c, "magnitudes of a weight");
        }
    }
    int bad = b->ops->download(b, mean, sums, (size_t)cols * sizeof *mean, err);
    for (int64_t i = 0; i < cols && bad == 0; i++)
        mean[i] /= (double)rows;
    return bad;
}

/* ---- clip ---- */

enum { CLIP_TRIALS = 11 };

struct clipping {
    const float *w;      /* (rows, n) */
    const float *most;   /* [cells] */
    float *found;        /* [cells] */
    double *best;        /* [cells] */
    double *squares;     /* [blocks of columns](block, block) */
    double *d, *through; /* (rows of a piece, n) */
    int64_t n, block, grid_cols;
    float lo, hi;
};

/* Moments of a block of columns, rows and columns that are there packed. A block of threads has a
   row of one. */
__global__ static void squares_kernel(struct clipping j, const double *square, const float *scale)
{
    const int64_t from = (int64_t)blockIdx.y * j.block, i = blockIdx.x;
    const int64_t width = j.n - from < j.block ? j.n - from : j.block;
    double *to = j.squares + (int64_t)blockIdx.y * j.block * j.block + i * width;
    for (int64_t k = threadIdx.x; k < width && i < width; k += THREADS)
        to[k] = moment(square, j.n, scale, from + i, from + k);
}

__device__ static float clip_range(float most, int trial)
{
    return most * ((float)(10 + trial) / 20);
}

/* Differences under the trial's ranges. A block has a row. */
__global__ static void clip_kernel(struct clipping j, int trial, int64_t at)
{
    const int64_t row = at + blockIdx.x;
    for (int64_t i = threadIdx.x; i < j.n; i += THREADS) {
        float w = j.w[row * j.n + i], mul, back;
        int_scales(j.hi, clip_range(j.most[row * j.grid_cols + i / j.block], trial), &mul, &back);
        float q = rintf(w * mul);
        q = q < j.lo ? j.lo : q > j.hi ? j.hi : q;
        j.d[(int64_t)blockIdx.x * j.n + i] = (double)(q / back) - (double)w;
    }
}

/* A block has a row, a warp one block of columns after the other. */
__global__ static void choose_kernel(struct clipping j, int trial, int64_t at)
{
    const int lane = (int)threadIdx.x % WARP;
    const double *d = j.d + (int64_t)blockIdx.x * j.n;
    const double *through = j.through + (int64_t)blockIdx.x * j.n;
    for (int64_t b = threadIdx.x / WARP; b < j.grid_cols; b += THREADS / WARP) {
        const int64_t end = (b + 1) * j.block < j.n ? (b + 1) * j.block : j.n;
        const int64_t cell = (at + blockIdx.x) * j.grid_cols + b;
        double sum = 0;
        for (int64_t i = b * j.block + lane; i < end; i += WARP)
            sum += d[i] * through[i];
        sum = warp_sum(sum);
        if (lane == 0 && sum < (trial ? j.best[cell] : INFINITY)) {
            j.best[cell] = sum;
            j.found[cell] = clip_range(j.most[cell], trial);
        } else if (lane == 0 && trial == 0) {
            j.best[cell] = INFINITY;
            j.found[cell] = j.most[cell];
        }
    }
}

/* Blocks of columns by themselves: whole ones as a batch, and the rest. */
static void clip_products(struct cuda_backend *c, const struct clipping *j, int64_t rows)
{
    const int64_t whole = j->n / j->block, left = j->n - whole * j->block, at = whole * j->block;
    const int64_t size = j->block * j->block;
    const struct doubles all = {rows,       j->block,   j->block, j->d,       j->n,    false,
                                j->squares, j->block,   false,    j->through, j->n,    1,
                                0,          (int)whole, j->block, size,       j->block};
    const struct doubles last = {rows,
                                 left,
                                 left,
                                 j->d + at,
                                 j->n,
                                 false,
                                 j->squares + whole * size,
                                 left,
                                 false,
                                 j->through + at,
                                 j->n,
                                 1,
                                 0};
    if (whole)
        doubles_run(c, &all);
    doubles_run(c, &last);
}

static size_t clip_room(int64_t rows, int64_t n, int64_t block)
{
    const int64_t grid_cols = (n + block - 1) / block, cells = rows * grid_cols;
    return part<float>(n) + 2 * part<float>(cells) + part<double>(cells) +
           part<double>(grid_cols * block * block) + 2 * part<double>(piece_rows(rows, n) * n);
}

static void run_clip(struct cuda_backend *c, const struct clipping *j, int64_t rows)
{
    const int64_t each = piece_rows(rows, j->n);
    for (int64_t at = 0; at < rows; at += each) {
        const int64_t count = rows - at < each ? rows - at : each;
        for (int t = 0; t < CLIP_TRIALS && cuda_good(c); t++) {
            clip_kernel<<<(unsigned)count, THREADS, 0, c->stream>>>(*j, t, at);
            clip_products(c, j, count);
            choose_kernel<<<(unsigned)count, THREADS, 0, c->stream>>>(*j, t, at);
            (void)cuda_launched(c, "ranges by their errors");
        }
    }
}

int cuda_clip_ranges(struct backend *b, const double *square, const struct backend_weight *w,
                     const float *scale, const struct quant_spec *spec, float *ranges,
                     struct aq_err *err)
{
    struct cuda_backend *c = cuda_of(b);
    const struct device_step s = step_of(&spec->step[0], 1, w->rows, w->cols, 1);
    struct clipping j = {};
    struct room r;
    if (take_room(c, clip_room(w->rows, w->cols, s.block), &r)) {
        const float *device_scale = upload_scale(c, &r, scale, w->cols);
        float *most = cut<float>(&r, s.cells);
        j.w = widen(c, w, device_scale);
        j.most = most;
        j.found = cut<float>(&r, s.cells);
        j.best = cut<double>(&r, s.cells);
        j.squares = cut<double>(&r, s.grid_cols * s.block * s.block);
        j.d = cut<double>(&r, piece_rows(w->rows, w->cols) * w->cols);
        j.through = cut<double>(&r, piece_rows(w->rows, w->cols) * w->cols);
        j.n = w->cols, j.block = s.block, j.grid_cols = s.grid_cols;
        j.lo = s.lo, j.hi = s.hi;
        upload(c, most, ranges, (size_t)s.cells * sizeof *ranges);
        if (j.w && cuda_good(c)) {
            squares_kernel<<<dim3((unsigned)s.block, (unsigned)s.grid_cols), THREADS, 0,
                             c->stream>>>(j, square, device_scale);
            run_clip(c, &j, w->rows);
        }
    }
    return b->ops->download(b, ranges, j.found, (size_t)s.cells * sizeof *ranges, err);
}

/* ---- plans ---- */

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

uint64_t cuda_solve_bytes(const struct backend *b, const struct quant_spec *spec, int64_t rows,
                          int64_t cols, int64_t sampled)
{
    const struct quant_methods *m = &spec->methods;
    const struct device_step s = step_of(&spec->step[0], 1, rows, cols, 1);
    size_t most = part<float>(cols) + part<float>(s.cells), steps = 0;
    (void)b;
    if (m->choice == QUANT_GPTQ)
        most = larger(factor_room(cols), codes_room(rows, cols, s.cells, spec->step[0].bits));
    else if (m->choice == QUANT_CLIP)
        most = clip_room(rows, cols, s.block);
    if (m->scaling == QUANT_AWQ) {
        most = larger(most, larger(error_room(sampled, cols), measure_room(rows, cols, s.block)));
        for (int k = 0; k < spec->steps; k++) {
            const struct device_step each = step_of(&spec->step[k], 1, sampled, cols, 1);
            steps = larger(steps, step_room(&each, 1, 1));
        }
    }
    return (uint64_t)most + steps + (uint64_t)(rows * cols) * sizeof(float);
}
