/* VNNI and BF16 products: 8 rows by 2 strips of 16 columns in registers. */
#include "backend/cpu/matrix.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

enum { ROWS = 8, STRIPS = 2, STRIP = MATRIX_STRIP, QUAD = 4, QUADS = MATRIX_LINE / QUAD };

#define TARGET(isa) __attribute__((target("avx512f,avx512bw,avx512vl" isa)))
#define INLINE static inline __attribute__((always_inline))

/* 16 x 16 numbers of 4 bytes, transposed: out[k] holds number k of every row. */
TARGET("") INLINE void transpose(__m512i row[STRIP])
{
    __m512i t[STRIP];
    for (int i = 0; i < STRIP; i += 2) {
        t[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
    }
    for (int i = 0; i < STRIP; i += 4) {
        for (int j = 0; j < 2; j++) {
            row[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + 2 + j]);
            row[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + 2 + j]);
        }
    }
    /* row[4g + j], 128-bit lane l: number 4l + j of rows 4g to 4g + 3 */
    for (int j = 0; j < 4; j++) {
        t[j] = _mm512_shuffle_i32x4(row[j], row[4 + j], 0x88);
        t[4 + j] = _mm512_shuffle_i32x4(row[j], row[4 + j], 0xdd);
        t[8 + j] = _mm512_shuffle_i32x4(row[8 + j], row[12 + j], 0x88);
        t[12 + j] = _mm512_shuffle_i32x4(row[8 + j], row[12 + j], 0xdd);
    }
    for (int j = 0; j < 4; j++) {
        row[j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0x88);
        row[4 + j] = _mm512_shuffle_i32x4(t[4 + j], t[12 + j], 0x88);
        row[8 + j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0xdd);
        row[12 + j] = _mm512_shuffle_i32x4(t[4 + j], t[12 + j], 0xdd);
    }
}

TARGET("")
void matrix_transpose_strip(const void *codes, int64_t rows, int64_t bytes, uint8_t flip,
                            int64_t stride, void *packed)
{
    const char *from = codes;
    char *to = packed;
    __m512i offset = _mm512_set1_epi8((char)flip);
    for (int64_t k = 0; k < bytes; k += MATRIX_LINE, to += stride) {
        __mmask64 mask =
            bytes - k < MATRIX_LINE ? ~(__mmask64)0 >> (MATRIX_LINE - (bytes - k)) : ~(__mmask64)0;
        __m512i row[STRIP];
        for (int n = 0; n < STRIP; n++)
            row[n] = n < rows ? _mm512_maskz_loadu_epi8(mask, from + n * bytes + k)
                              : _mm512_setzero_si512();
        transpose(row);
        for (int q = 0; q < STRIP; q++)
            _mm512_storeu_si512(to + (int64_t)q * MATRIX_LINE, _mm512_xor_si512(row[q], offset));
    }
}

/* 8 rows by 32 columns of one block. */
struct block_tile {
    const char *a, *w;   /* at the block's first code; w: the first of two strips */
    int64_t strip;       /* bytes between strips */
    int64_t lines;       /* along K */
    const int32_t *sums; /* of the rows of a */
    const float *row_scale, *col_scale;
    float *c;
    int64_t ldc;
    bool first;
};

TARGET("") INLINE void store(const struct block_tile *b, int r, int n, __m512 sum)
{
    float *c = b->c + r * b->ldc + (int64_t)n * STRIP;
    __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(b->col_scale + (int64_t)n * STRIP),
                                 _mm512_set1_ps(b->row_scale[r]));
    __m512 y = _mm512_mul_ps(sum, scale);
    _mm512_storeu_ps(c, b->first ? y : _mm512_add_ps(y, _mm512_loadu_ps(c)));
}

/* Number q of row r of a line of a. */
TARGET("") INLINE __m512i quad(const char *a, int r, int q)
{
    int32_t bits;
    memcpy(&bits, a + (ptrdiff_t)r * MATRIX_LINE + (ptrdiff_t)q * QUAD, sizeof bits);
    return _mm512_set1_epi32(bits);
}

TARGET(",avx512vnni") static void block_int8(const struct block_tile *b)
{
    __m512i sum[ROWS][STRIPS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
        sum[r][0] = sum[r][1] = _mm512_set1_epi32(-128 * b->sums[r]);
    for (int64_t k = 0; k < b->lines; k++) {
        const char *a = b->a + k * STRIP * MATRIX_LINE, *w = b->w + k * STRIP * MATRIX_LINE;
        for (int q = 0; q < QUADS; q++) {
            __m512i w0 = _mm512_loadu_si512(w + (ptrdiff_t)q * MATRIX_LINE);
            __m512i w1 = _mm512_loadu_si512(w + b->strip + (ptrdiff_t)q * MATRIX_LINE);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) {
                __m512i x = quad(a, r, q);
                sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], w0, x);
                sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], w1, x);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
        store(b, r, 0, _mm512_cvtepi32_ps(sum[r][0]));
        store(b, r, 1, _mm512_cvtepi32_ps(sum[r][1]));
    }
}

TARGET(",avx512bf16") static void block_bf16(const struct block_tile *b)
{
    __m512 sum[ROWS][STRIPS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
        sum[r][0] = sum[r][1] = _mm512_setzero_ps();
    for (int64_t k = 0; k < b->lines; k++) {
        const char *a = b->a + k * STRIP * MATRIX_LINE, *w = b->w + k * STRIP * MATRIX_LINE;
        for (int q = 0; q < QUADS; q++) {
            __m512i w0 = _mm512_loadu_si512(w + (ptrdiff_t)q * MATRIX_LINE);
            __m512i w1 = _mm512_loadu_si512(w + b->strip + (ptrdiff_t)q * MATRIX_LINE);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) {
                __m512i x = quad(a, r, q);
                sum[r][0] = _mm512_dpbf16_ps(sum[r][0], (__m512bh)w0, (__m512bh)x);
                sum[r][1] = _mm512_dpbf16_ps(sum[r][1], (__m512bh)w1, (__m512bh)x);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
        store(b, r, 0, sum[r][0]);
        store(b, r, 1, sum[r][1]);
    }
}

/* Sum of the bytes of a row over lines of K. */
TARGET(",avx512vnni") static int32_t sum_bytes(const char *a, int64_t lines)
{
    __m512i sum = _mm512_setzero_si512(), ones = _mm512_set1_epi8(1);
    for (int64_t k = 0; k < lines; k++)
        sum = _mm512_dpbusd_epi32(sum, ones, _mm512_loadu_si512(a + k * STRIP * MATRIX_LINE));
    return _mm512_reduce_add_epi32(sum);
}

/* Row r of a, at a line of K. */
static const char *row_at(const struct matrix_product *p, int64_t r, int64_t line)
{
    int64_t lines = p->ld * matrix_code_size(p->kind) / MATRIX_LINE;
    int64_t strips = r / STRIP * lines + line;
    return (const char *)p->a + (strips * STRIP + r % STRIP) * MATRIX_LINE;
}

void matrix_multiply_avx512(const struct matrix_product *p)
{
    int64_t size = matrix_code_size(p->kind), lines = p->ld * size / MATRIX_LINE;
    int64_t step = p->block * size / MATRIX_LINE, strip = lines * STRIP * MATRIX_LINE;
    for (int64_t k = 0, at = 0; k < lines; k += step, at += p->cols) {
        int64_t count = k + step < lines ? step : lines - k;
        if (p->kind == MATRIX_INT8)
            for (int64_t r = 0; r < p->rows; r++)
                p->sums[r] = sum_bytes(row_at(p, r, k), count);
        for (int64_t n = 0; n < p->cols; n += (int64_t)STRIPS * STRIP) {
            for (int64_t r = 0; r < p->rows; r += ROWS) {
                struct block_tile b = {.a = row_at(p, r, k),
                                       .w = (const char *)p->w + n / STRIP * strip +
                                            k * STRIP * MATRIX_LINE,
                                       .strip = strip,
                                       .lines = count,
                                       .sums = p->sums + r,
                                       .row_scale = p->row_scale + r,
                                       .col_scale = p->col_scale + at + n,
                                       .c = p->c + r * p->cols + n,
                                       .ldc = p->cols,
                                       .first = k == 0};
                if (p->kind == MATRIX_INT8)
                    block_int8(&b);
                else
                    block_bf16(&b);
            }
        }
    }
}

#endif
