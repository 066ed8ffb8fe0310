#include "quant/dense.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/*
 * A micro-tile is TILE_M rows by TILE_N columns; operands are packed in strips of these, a block of
 * BLOCK_ROWS rows stays in the second cache while the columns' strips pass by.
 */
enum { TILE_M = 8, TILE_N = 24, BLOCK_ROWS = 192, BLOCK_COLS = 384 };

/* c (TILE_M, TILE_N), rows ld apart, += sign * a' b over k; a: (k, TILE_M), b: (k, TILE_N), packed.
 */
typedef void tile_fn(int64_t k, const double *a, const double *b, double *c, int64_t ld,
                     double sign);
/* to[i] -= factor * x[i] */
typedef void take_fn(double *to, const double *x, double factor, int64_t n);

static void tile_plain(int64_t k, const double *a, const double *b, double *c, int64_t ld,
                       double sign)
{
    double sum[TILE_M][TILE_N] = {{0}};
    for (; k > 0; k--, a += TILE_M, b += TILE_N)
        for (int i = 0; i < TILE_M; i++)
            for (int j = 0; j < TILE_N; j++)
                sum[i][j] += a[i] * b[j];
    for (int i = 0; i < TILE_M; i++)
        for (int j = 0; j < TILE_N; j++)
            c[i * ld + j] += sign * sum[i][j];
}

static void take_plain(double *to, const double *x, double factor, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        to[i] -= factor * x[i];
}

#if defined(__x86_64__)
/* 8 x 24 in 24 registers of 8. The result is fetched while the sums are made, and b, of which a
   strip is longer than the first cache, some rows ahead. */
__attribute__((target("avx512f"))) static void
tile_avx512(int64_t k, const double *a, const double *b, double *c, int64_t ld, double sign)
{
    enum { AHEAD = 8 * TILE_N };
    __m512d sum[TILE_M][3], by = _mm512_set1_pd(sign);
    for (int i = 0; i < TILE_M; i++)
        for (int j = 0; j < 3; j++) {
            sum[i][j] = _mm512_setzero_pd();
            _mm_prefetch((const char *)(c + i * ld + (ptrdiff_t)8 * j), _MM_HINT_T0);
        }
    for (; k > 0; k--, a += TILE_M, b += TILE_N) {
        __m512d b0 = _mm512_loadu_pd(b), b1 = _mm512_loadu_pd(b + 8), b2 = _mm512_loadu_pd(b + 16);
        _mm_prefetch((const char *)(b + AHEAD), _MM_HINT_T0);
        _mm_prefetch((const char *)(b + AHEAD + 8), _MM_HINT_T0);
        _mm_prefetch((const char *)(b + AHEAD + 16), _MM_HINT_T0);
#pragma GCC unroll 8
        for (int i = 0; i < TILE_M; i++) {
            __m512d x = _mm512_set1_pd(a[i]);
            sum[i][0] = _mm512_fmadd_pd(x, b0, sum[i][0]);
            sum[i][1] = _mm512_fmadd_pd(x, b1, sum[i][1]);
            sum[i][2] = _mm512_fmadd_pd(x, b2, sum[i][2]);
        }
    }
    for (int i = 0; i < TILE_M; i++, c += ld)
        for (int j = 0; j < 3; j++) {
            double *to = c + (ptrdiff_t)8 * j;
            _mm512_storeu_pd(to, _mm512_fmadd_pd(by, sum[i][j], _mm512_loadu_pd(to)));
        }
}

__attribute__((target("avx512f"))) static void take_avx512(double *to, const double *x,
                                                           double factor, int64_t n)
{
    __m512d f = _mm512_set1_pd(factor);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm512_storeu_pd(to + i,
                         _mm512_fnmadd_pd(f, _mm512_loadu_pd(x + i), _mm512_loadu_pd(to + i)));
    __mmask8 rest = (__mmask8)((1 << (n - i)) - 1);
    _mm512_mask_storeu_pd(to + i, rest,
                          _mm512_fnmadd_pd(f, _mm512_maskz_loadu_pd(rest, x + i),
                                           _mm512_maskz_loadu_pd(rest, to + i)));
}

/* 4 x 12 in 12 registers of 4, four times. */
__attribute__((target("avx2,fma"))) static void
tile_avx2(int64_t k, const double *a, const double *b, double *to, int64_t ld, double sign)
{
    __m256d by = _mm256_set1_pd(sign);
    for (int quarter = 0; quarter < 4; quarter++) {
        int row = quarter / 2 * 4, col = quarter % 2 * 12;
        __m256d c[4][3];
        for (int i = 0; i < 4; i++)
            c[i][0] = c[i][1] = c[i][2] = _mm256_setzero_pd();
        for (int64_t t = 0; t < k; t++) {
            const double *at = a + t * TILE_M + row, *bt = b + t * TILE_N + col;
            __m256d b0 = _mm256_loadu_pd(bt), b1 = _mm256_loadu_pd(bt + 4),
                    b2 = _mm256_loadu_pd(bt + 8);
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                __m256d x = _mm256_set1_pd(at[i]);
                c[i][0] = _mm256_fmadd_pd(x, b0, c[i][0]);
                c[i][1] = _mm256_fmadd_pd(x, b1, c[i][1]);
                c[i][2] = _mm256_fmadd_pd(x, b2, c[i][2]);
            }
        }
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 3; j++) {
                double *at = to + (row + i) * ld + col + (ptrdiff_t)4 * j;
                _mm256_storeu_pd(at, _mm256_fmadd_pd(by, c[i][j], _mm256_loadu_pd(at)));
            }
    }
}

__attribute__((target("avx2,fma"))) static void take_avx2(double *to, const double *x,
                                                          double factor, int64_t n)
{
    __m256d f = _mm256_set1_pd(factor);
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        _mm256_storeu_pd(to + i,
                         _mm256_fnmadd_pd(f, _mm256_loadu_pd(x + i), _mm256_loadu_pd(to + i)));
    for (; i < n; i++)
        to[i] = __builtin_fma(-factor, x[i], to[i]);
}
#endif

struct dense_kernels {
    tile_fn *tile;
    take_fn *take;
};

static struct dense_kernels best_kernels(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f"))
        return (struct dense_kernels){tile_avx512, take_avx512};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return (struct dense_kernels){tile_avx2, take_avx2};
#endif
    return (struct dense_kernels){tile_plain, take_plain};
}

/* ---- products ---- */

enum { PACK_ROWS = 4 * TILE_N }; /* of a unit: whole strips of both widths */

/* A product over columns k0 to k0 + k of a: both operands are packed, then blocks are multiplied.
 */
struct cut {
    const struct dense_product *p;
    tile_fn *tile;
    double *a, *b; /* strips of TILE_M rows of p->a, of TILE_N columns of p->b; k columns each */
    int64_t k0, k;
    int64_t pack_a; /* units that pack a; the others pack b */
    int64_t cols;   /* of b that are not all zero */
    int64_t across; /* blocks side by side */
};

/* A strip of `width` rows of a view, (k, width); zeros beyond those that are used. */
static inline __attribute__((always_inline)) void pack_strip(const double *from,
                                                             const struct dense_view *v,
                                                             int64_t used, int64_t k, int width,
                                                             double *to)
{
    enum { STEP = 8 };
    if (used < width)
        memset(to, 0, (size_t)(k * width) * sizeof *to);
    if (v->row == 1 && used == width) { /* rows side by side in memory */
        for (int64_t t = 0; t < k; t++)
            memcpy(to + t * width, from + t * v->col, (size_t)width * sizeof *to);
        return;
    }
    int64_t i0 = 0, t0 = 0;
    for (; i0 + STEP <= used; i0 += STEP)
        for (t0 = 0; t0 + STEP <= k; t0 += STEP)
            for (int64_t t = t0; t < t0 + STEP; t++)
                for (int64_t i = i0; i < i0 + STEP; i++)
                    to[t * width + i] = from[i * v->row + t * v->col];
    for (int64_t t = 0; t < k; t++)
        for (int64_t i = t < k / STEP * STEP ? i0 : 0; i < used; i++)
            to[t * width + i] = from[i * v->row + t * v->col];
}

/* Rows first to first + n of a view, in strips. */
static void pack(const struct dense_view *v, int64_t first, int64_t n, int64_t k0, int64_t k,
                 int width, double *to)
{
    for (int64_t s = 0; s < n; s += width, to += (size_t)k * (size_t)width) {
        const double *from = v->data + (first + s) * v->row + k0 * v->col;
        if (width == TILE_M)
            pack_strip(from, v, aq_least(n - s, TILE_M), k, TILE_M, to);
        else
            pack_strip(from, v, aq_least(n - s, TILE_N), k, TILE_N, to);
    }
}

static void pack_unit(void *arg, int64_t unit, int worker)
{
    const struct cut *cut = arg;
    const struct dense_product *p = cut->p;
    const struct dense_view bt = {p->b.data, p->b.col, p->b.row};
    (void)worker;
    if (unit < cut->pack_a) {
        int64_t at = unit * PACK_ROWS;
        pack(&p->a, at, aq_least(PACK_ROWS, p->m - at), cut->k0, cut->k, TILE_M,
             cut->a + at * cut->k);
    } else {
        int64_t at = (unit - cut->pack_a) * PACK_ROWS;
        pack(&bt, at, aq_least(PACK_ROWS, cut->cols - at), cut->k0, cut->k, TILE_N,
             cut->b + at * cut->k);
    }
}

/* A tile at the edge: rows and columns of it are there. */
static void edge_tile(const struct cut *cut, const double *a, const double *b, double *c,
                      int64_t rows, int64_t cols)
{
    double sum[TILE_M * TILE_N] = {0};
    cut->tile(cut->k, a, b, sum, TILE_N, 1);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            c[i * cut->p->ld + j] += cut->p->sign * sum[i * TILE_N + j];
}

static void multiply_unit(void *arg, int64_t unit, int worker)
{
    const struct cut *cut = arg;
    const struct dense_product *p = cut->p;
    int64_t row = unit / cut->across * BLOCK_ROWS, col = unit % cut->across * BLOCK_COLS;
    int64_t end_row = aq_least(row + BLOCK_ROWS, p->m),
            end_col = aq_least(col + BLOCK_COLS, cut->cols);
    (void)worker;
    for (int64_t j = col; j < end_col; j += TILE_N)
        for (int64_t i = row; i < end_row; i += TILE_M) {
            const double *a = cut->a + i * cut->k, *b = cut->b + j * cut->k;
            double *c = p->c + i * p->ld + j;
            if (p->lower && j > i + TILE_M - 1)
                continue;
            if (i + TILE_M <= p->m && j + TILE_N <= cut->cols)
                cut->tile(cut->k, a, b, c, p->ld, p->sign);
            else
                edge_tile(cut, a, b, c, aq_least(TILE_M, p->m - i),
                          aq_least(TILE_N, cut->cols - j));
        }
}

void dense_multiply(struct aq_pool *pool, const struct dense_product *p)
{
    struct cut cut = {.p = p, .tile = best_kernels().tile};
    if (p->m == 0 || p->n == 0 || p->k == 0)
        return;
    int64_t k = aq_least(p->k, DENSE_K), a = aq_round_up(p->m, TILE_M) * k,
            b = aq_round_up(p->n, TILE_N) * k;
    cut.a = xmalloc((size_t)(a + b) * sizeof *cut.a);
    cut.b = cut.a + a;
    cut.pack_a = aq_div_up(p->m, PACK_ROWS);
    for (cut.k0 = 0; cut.k0 < p->k; cut.k0 += DENSE_K) {
        cut.k = aq_least(DENSE_K, p->k - cut.k0);
        cut.cols = p->b_lower ? aq_least(p->n, cut.k0 + cut.k) : p->n;
        cut.across = aq_div_up(cut.cols, BLOCK_COLS);
        aq_pool_run(pool, cut.pack_a + aq_div_up(cut.cols, PACK_ROWS), pack_unit, &cut);
        aq_pool_run(pool, cut.across * aq_div_up(p->m, BLOCK_ROWS), multiply_unit, &cut);
    }
    free(cut.a);
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

struct mirror {
    double *s;
    int64_t n;
};

enum { MIRROR_STEP = 32 };

static void mirror_unit(void *arg, int64_t unit, int worker)
{
    const struct mirror *m = arg;
    int64_t n = m->n, r0 = unit * MIRROR_STEP;
    double *s = m->s;
    (void)worker;
    for (int64_t c0 = 0; c0 <= r0; c0 += MIRROR_STEP)
        for (int64_t c = c0; c < c0 + MIRROR_STEP; c++)
            for (int64_t r = c < r0 ? r0 : c + 1; r < aq_least(r0 + MIRROR_STEP, n); r++)
                s[c * n + r] = s[r * n + c];
}

void dense_mirror(struct aq_pool *pool, double *s, int64_t n)
{
    struct mirror m = {s, n};
    aq_pool_run(pool, aq_div_up(n, MIRROR_STEP), mirror_unit, &m);
}

/* ---- factors ---- */

/* Of a block on the diagonal, rows ld apart. u: room for (n, n), where it is made as an upper
   triangle, row after row. */
static int64_t factor_block(const struct dense_kernels *k, double *a, int64_t ld, int64_t n,
                            double *u)
{
    int64_t bad = -1;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i; j < n; j++)
            u[i * n + j] = a[j * ld + i];
    for (int64_t i = 0; i < n && bad < 0; i++) {
        double *row = u + i * n;
        if (!(row[i] > 0) || !isfinite(row[i])) {
            bad = i;
            break;
        }
        row[i] = sqrt(row[i]);
        for (int64_t j = i + 1; j < n; j++)
            row[j] /= row[i];
        for (int64_t j = i + 1; j < n; j++)
            k->take(u + j * n + j, row + j, row[j], n - j);
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i; j < n; j++)
            a[j * ld + i] = u[i * n + j];
    return bad;
}

/* inverse (n, n) of a lower triangular block. */
static void invert_block(const struct dense_kernels *k, const double *l, int64_t ld, int64_t n,
                         double *inverse)
{
    memset(inverse, 0, (size_t)(n * n) * sizeof *inverse);
    for (int64_t i = 0; i < n; i++) {
        const double *row = l + i * ld;
        double *out = inverse + i * n;
        for (int64_t t = 0; t < i; t++)
            k->take(out, inverse + t * n, row[t], t + 1);
        for (int64_t j = 0; j < i; j++)
            out[j] /= row[i];
        out[i] = 1 / row[i];
    }
}

/*
 * Columns that are factored at a time: what is below them is multiplied by an inverse as a whole,
 * which narrow panels waste less of, while wide ones touch the rest of a large matrix less often.
 */
enum { PANEL = 256, PANEL_SMALL = 128, LARGE = 6144 };

static int64_t panel_of(int64_t n)
{
    return n < LARGE ? PANEL_SMALL : PANEL;
}

int64_t dense_cholesky(struct aq_pool *pool, double *a, int64_t n)
{
    const struct dense_kernels kernels = best_kernels();
    double *inverse = xmalloc((size_t)PANEL * PANEL * sizeof *inverse);
    double *below = xmalloc((size_t)n * PANEL * sizeof *below);
    int64_t bad = -1;
    for (int64_t j = 0, panel_cols = panel_of(n); j < n && bad < 0; j += panel_cols) {
        int64_t width = aq_least(panel_cols, n - j), rest = n - j - width;
        double *diagonal = a + j * n + j, *panel = a + (j + width) * n + j;
        bad = factor_block(&kernels, diagonal, n, width, inverse);
        if (bad >= 0) {
            bad += j;
            break;
        }
        invert_block(&kernels, diagonal, n, width, inverse);
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
    const struct dense_kernels kernels = best_kernels();
    double *inverse = xmalloc((size_t)PANEL * PANEL * sizeof *inverse);
    double *sums = xmalloc((size_t)PANEL * (size_t)n * sizeof *sums);
    for (int64_t i = 0, panel_rows = panel_of(n); i < n; i += panel_rows) {
        int64_t height = aq_least(panel_rows, n - i);
        double *row = l + i * n;
        invert_block(&kernels, row + i, n, height, inverse);
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
