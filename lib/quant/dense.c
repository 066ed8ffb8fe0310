#include "quant/dense.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* A micro-tile is TILE_M rows by TILE_N columns; operands are packed in strips of these. */
enum { TILE_M = 8, TILE_N = 16, PANEL = 128, BLOCK_LARGE = 384, BLOCK_SMALL = 96 };

/* sum (TILE_M, TILE_N) = a' b over k; a: (k, TILE_M), b: (k, TILE_N), packed. */
typedef void tile_fn(int64_t k, const double *a, const double *b, double *sum);

static void tile_plain(int64_t k, const double *a, const double *b, double *sum)
{
    memset(sum, 0, TILE_M * TILE_N * sizeof *sum);
    for (; k > 0; k--, a += TILE_M, b += TILE_N)
        for (int i = 0; i < TILE_M; i++)
            for (int j = 0; j < TILE_N; j++)
                sum[i * TILE_N + j] += a[i] * b[j];
}

#if defined(__x86_64__)
/* 8 x 16 in 16 registers of 8. */
__attribute__((target("avx512f"))) static void tile_avx512(int64_t k, const double *a,
                                                           const double *b, double *sum)
{
    __m512d c[TILE_M][2];
    for (int i = 0; i < TILE_M; i++)
        c[i][0] = c[i][1] = _mm512_setzero_pd();
    for (; k > 0; k--, a += TILE_M, b += TILE_N) {
        __m512d b0 = _mm512_loadu_pd(b), b1 = _mm512_loadu_pd(b + 8);
#pragma GCC unroll 8
        for (int i = 0; i < TILE_M; i++) {
            __m512d x = _mm512_set1_pd(a[i]);
            c[i][0] = _mm512_fmadd_pd(x, b0, c[i][0]);
            c[i][1] = _mm512_fmadd_pd(x, b1, c[i][1]);
        }
    }
    for (int i = 0; i < TILE_M; i++) {
        _mm512_storeu_pd(sum + i * TILE_N, c[i][0]);
        _mm512_storeu_pd(sum + i * TILE_N + 8, c[i][1]);
    }
}

/* 4 x 8 in 8 registers of 4, four times. */
__attribute__((target("avx2,fma"))) static void tile_avx2(int64_t k, const double *a,
                                                          const double *b, double *sum)
{
    for (int quarter = 0; quarter < 4; quarter++) {
        int row = quarter / 2 * 4, col = quarter % 2 * 8;
        __m256d c[4][2];
        for (int i = 0; i < 4; i++)
            c[i][0] = c[i][1] = _mm256_setzero_pd();
        for (int64_t t = 0; t < k; t++) {
            const double *at = a + t * TILE_M + row, *bt = b + t * TILE_N + col;
            __m256d b0 = _mm256_loadu_pd(bt), b1 = _mm256_loadu_pd(bt + 4);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                __m256d x = _mm256_set1_pd(at[i]);
                c[i][0] = _mm256_fmadd_pd(x, b0, c[i][0]);
                c[i][1] = _mm256_fmadd_pd(x, b1, c[i][1]);
            }
        }
        for (int i = 0; i < 4; i++) {
            _mm256_storeu_pd(sum + (row + i) * TILE_N + col, c[i][0]);
            _mm256_storeu_pd(sum + (row + i) * TILE_N + col + 4, c[i][1]);
        }
    }
}
#endif

static tile_fn *best_tile(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f"))
        return tile_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return tile_avx2;
#endif
    return tile_plain;
}

/* ---- products ---- */

/* How a product is cut: into blocks of the result, each worker with room of its own. */
struct cut {
    const struct dense_product *p;
    tile_fn *tile;
    int64_t block, across; /* rows and columns of a block; blocks side by side */
    double *room;
    size_t room_each;
};

/*
 * Strips of `width` rows of a view, (k, width) each; zeros beyond its n rows. Rows that are side by
 * side in memory are copied, others gathered.
 */
static void pack(const struct dense_view *v, int64_t first, int64_t n, int64_t k0, int64_t k,
                 int width, double *to)
{
    for (int64_t s = 0; s < n; s += width, to += (size_t)k * (size_t)width) {
        int64_t used = n - s < width ? n - s : width;
        const double *from = v->data + (first + s) * v->row + k0 * v->col;
        if (used < width)
            memset(to, 0, (size_t)(k * width) * sizeof *to);
        if (v->row == 1)
            for (int64_t t = 0; t < k; t++)
                memcpy(to + t * width, from + t * v->col, (size_t)used * sizeof *to);
        else
            for (int64_t i = 0; i < used; i++)
                for (int64_t t = 0; t < k; t++)
                    to[t * width + i] = from[i * v->row + t * v->col];
    }
}

static void add_tile(const struct dense_product *p, int64_t row, int64_t col, int64_t rows,
                     int64_t cols, const double *sum)
{
    for (int64_t i = 0; i < rows; i++) {
        double *c = p->c + (row + i) * p->ld + col;
        for (int64_t j = 0; j < cols; j++)
            c[j] += p->sign * sum[i * TILE_N + j];
    }
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void multiply_block(void *arg, int64_t unit, int worker)
{
    const struct cut *cut = arg;
    const struct dense_product *p = cut->p;
    const struct dense_view bt = {p->b.data, p->b.col, p->b.row};
    int64_t row = unit / cut->across * cut->block, col = unit % cut->across * cut->block;
    int64_t rows = least(cut->block, p->m - row), cols = least(cut->block, p->n - col);
    double *a = cut->room + (size_t)worker * cut->room_each, sum[TILE_M * TILE_N];
    double *b = a + aq_round_up(cut->block, TILE_M) * DENSE_K;
    if (p->lower && col > row + rows - 1)
        return;
    int64_t from = p->b_lower ? col / DENSE_K * DENSE_K : 0;
    for (int64_t k0 = from; k0 < p->k; k0 += DENSE_K) {
        int64_t k = least(DENSE_K, p->k - k0);
        pack(&p->a, row, rows, k0, k, TILE_M, a);
        pack(&bt, col, cols, k0, k, TILE_N, b);
        for (int64_t j = 0; j < cols; j += TILE_N)
            for (int64_t i = 0; i < rows; i += TILE_M) {
                cut->tile(k, a + i * k, b + j * k, sum);
                add_tile(p, row + i, col + j, least(TILE_M, rows - i), least(TILE_N, cols - j),
                         sum);
            }
    }
}

void dense_multiply(struct aq_pool *pool, const struct dense_product *p)
{
    struct cut cut = {.p = p, .tile = best_tile()};
    if (p->m == 0 || p->n == 0 || p->k == 0)
        return;
    /* small enough that every thread has several; both are multiples of what b_lower skips by */
    cut.block = p->m * p->n >= (int64_t)BLOCK_LARGE * BLOCK_LARGE * 4 * aq_pool_threads(pool)
                    ? BLOCK_LARGE
                    : BLOCK_SMALL;
    cut.across = (p->n + cut.block - 1) / cut.block;
    cut.room_each =
        (size_t)(aq_round_up(cut.block, TILE_M) + aq_round_up(cut.block, TILE_N)) * DENSE_K;
    cut.room = xmalloc((size_t)aq_pool_threads(pool) * cut.room_each * sizeof *cut.room);
    aq_pool_run(pool, cut.across * ((p->m + cut.block - 1) / cut.block), multiply_block, &cut);
    free(cut.room);
}

void dense_add_square(struct aq_pool *pool, double *s, const double *x, int64_t rows, int64_t n)
{
    const struct dense_product p = {.m = n,
                                    .n = n,
                                    .k = rows,
                                    .a = {x, 1, n},
                                    .b = {x, n, 1},
                                    .c = s,
                                    .ld = n,
                                    .sign = 1,
                                    .lower = true};
    dense_multiply(pool, &p);
}

void dense_mirror(double *s, int64_t n)
{
    enum { STEP = 32 };
    for (int64_t r0 = 0; r0 < n; r0 += STEP)
        for (int64_t c0 = 0; c0 <= r0; c0 += STEP)
            for (int64_t r = r0; r < least(r0 + STEP, n); r++)
                for (int64_t c = c0; c < least(c0 + STEP, r); c++)
                    s[c * n + r] = s[r * n + c];
}

/* ---- factors ---- */

/* Of a block on the diagonal, rows ld apart. */
static int64_t factor_block(double *a, int64_t ld, int64_t n)
{
    for (int64_t j = 0; j < n; j++) {
        double *row = a + j * ld;
        for (int64_t i = 0; i < j; i++) {
            const double *other = a + i * ld;
            double sum = row[i];
            for (int64_t k = 0; k < i; k++)
                sum -= row[k] * other[k];
            row[i] = sum / other[i];
        }
        double pivot = row[j];
        for (int64_t k = 0; k < j; k++)
            pivot -= row[k] * row[k];
        if (!(pivot > 0) || !isfinite(pivot))
            return j;
        row[j] = sqrt(pivot);
    }
    return -1;
}

/* inverse (n, n) of a lower triangular block. */
static void invert_block(const double *l, int64_t ld, int64_t n, double *inverse)
{
    memset(inverse, 0, (size_t)(n * n) * sizeof *inverse);
    for (int64_t i = 0; i < n; i++) {
        const double *row = l + i * ld;
        double *out = inverse + i * n;
        for (int64_t k = 0; k < i; k++)
            for (int64_t j = 0; j <= k; j++)
                out[j] += row[k] * inverse[k * n + j];
        for (int64_t j = 0; j < i; j++)
            out[j] = -out[j] / row[i];
        out[i] = 1 / row[i];
    }
}

int64_t dense_cholesky(struct aq_pool *pool, double *a, int64_t n)
{
    double *inverse = xmalloc((size_t)PANEL * PANEL * sizeof *inverse);
    double *below = xmalloc((size_t)n * PANEL * sizeof *below);
    int64_t bad = -1;
    for (int64_t j = 0; j < n && bad < 0; j += PANEL) {
        int64_t width = least(PANEL, n - j), rest = n - j - width;
        double *diagonal = a + j * n + j, *panel = a + (j + width) * n + j;
        bad = factor_block(diagonal, n, width);
        if (bad >= 0) {
            bad += j;
            break;
        }
        invert_block(diagonal, n, width, inverse);
        /* what is below: times the inverse, transposed */
        memset(below, 0, (size_t)(rest * width) * sizeof *below);
        const struct dense_product solve = {.m = rest,
                                            .n = width,
                                            .k = width,
                                            .a = {panel, n, 1},
                                            .b = {inverse, 1, width},
                                            .c = below,
                                            .ld = width,
                                            .sign = 1};
        dense_multiply(pool, &solve);
        for (int64_t r = 0; r < rest; r++)
            memcpy(panel + r * n, below + r * width, (size_t)width * sizeof *below);
        const struct dense_product update = {.m = rest,
                                             .n = rest,
                                             .k = width,
                                             .a = {below, width, 1},
                                             .b = {below, 1, width},
                                             .c = panel + width,
                                             .ld = n,
                                             .sign = -1,
                                             .lower = true};
        dense_multiply(pool, &update);
    }
    for (int64_t r = 0; r < n && bad < 0; r++)
        memset(a + r * n + r + 1, 0, (size_t)(n - r - 1) * sizeof *a);
    free(inverse);
    free(below);
    return bad;
}

void dense_invert_lower(struct aq_pool *pool, double *l, int64_t n)
{
    double *inverse = xmalloc((size_t)PANEL * PANEL * sizeof *inverse);
    double *sums = xmalloc((size_t)PANEL * (size_t)n * sizeof *sums);
    for (int64_t i = 0; i < n; i += PANEL) {
        int64_t height = least(PANEL, n - i);
        double *row = l + i * n;
        invert_block(row + i, n, height, inverse);
        memset(sums, 0, (size_t)(height * i) * sizeof *sums);
        const struct dense_product above = {.m = height,
                                            .n = i,
                                            .k = i,
                                            .a = {row, n, 1},
                                            .b = {l, n, 1},
                                            .c = sums,
                                            .ld = i,
                                            .sign = 1,
                                            .b_lower = true};
        dense_multiply(pool, &above);
        for (int64_t r = 0; r < height; r++) {
            memset(row + r * n, 0, (size_t)i * sizeof *row);
            memcpy(row + r * n + i, inverse + r * height, (size_t)height * sizeof *row);
        }
        const struct dense_product left = {.m = height,
                                           .n = i,
                                           .k = height,
                                           .a = {inverse, height, 1},
                                           .b = {sums, i, 1},
                                           .c = row,
                                           .ld = n,
                                           .sign = -1};
        dense_multiply(pool, &left);
    }
    free(inverse);
    free(sums);
}
