/* VNNI and BF16 products: 8 rows by 2 strips of 16 columns in registers. */
#include "backend/cpu/matrix.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

enum { ROWS = 8, STRIPS = 2, STRIP = 16, QUAD = 4 };

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
void matrix_pack_strip(const void *codes, int64_t ld_bytes, uint8_t flip, void *packed)
{
    const char *from = codes;
    char *to = packed;
    __m512i offset = _mm512_set1_epi8((char)flip);
    for (int64_t k = 0; k < ld_bytes; k += MATRIX_LINE) {
        __m512i row[STRIP];
        for (int n = 0; n < STRIP; n++)
            row[n] = _mm512_loadu_si512(from + n * ld_bytes + k);
        transpose(row);
        for (int q = 0; q < STRIP; q++)
            _mm512_storeu_si512(to + k * STRIP + (int64_t)q * MATRIX_LINE,
                                _mm512_xor_si512(row[q], offset));
    }
}

/* 8 rows by 32 columns of one block. */
struct block {
    const char *a, *w;       /* at the block's first code; w: the first of two strips */
    int64_t ld_bytes, strip; /* bytes between rows of a, between strips */
    int64_t quads;           /* 4-byte steps along K */
    const int32_t *sums;     /* of the rows of a */
    const float *row_scale, *col_scale;
    float *c;
    int64_t ldc;
    bool first;
};

TARGET("") INLINE void store(const struct block *b, int r, int n, __m512 sum)
{
    float *c = b->c + r * b->ldc + (int64_t)n * STRIP;
    __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(b->col_scale + (int64_t)n * STRIP),
                                 _mm512_set1_ps(b->row_scale[r]));
    __m512 y = _mm512_mul_ps(sum, scale);
    _mm512_storeu_ps(c, b->first ? y : _mm512_add_ps(y, _mm512_loadu_ps(c)));
}

TARGET("") INLINE __m512i quad(const struct block *b, int r, int64_t q)
{
    int32_t bits;
    memcpy(&bits, b->a + r * b->ld_bytes + q * QUAD, sizeof bits);
    return _mm512_set1_epi32(bits);
}

TARGET(",avx512vnni") static void block_int8(const struct block *b)
{
    __m512i sum[ROWS][STRIPS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
        sum[r][0] = sum[r][1] = _mm512_set1_epi32(-128 * b->sums[r]);
    for (int64_t q = 0; q < b->quads; q++) {
        __m512i w0 = _mm512_loadu_si512(b->w + q * MATRIX_LINE);
        __m512i w1 = _mm512_loadu_si512(b->w + b->strip + q * MATRIX_LINE);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            __m512i x = quad(b, r, q);
            sum[r][0] = _mm512_dpbusd_epi32(sum[r][0], w0, x);
            sum[r][1] = _mm512_dpbusd_epi32(sum[r][1], w1, x);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
        store(b, r, 0, _mm512_cvtepi32_ps(sum[r][0]));
        store(b, r, 1, _mm512_cvtepi32_ps(sum[r][1]));
    }
}

TARGET(",avx512bf16") static void block_bf16(const struct block *b)
{
    __m512 sum[ROWS][STRIPS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
        sum[r][0] = sum[r][1] = _mm512_setzero_ps();
    for (int64_t q = 0; q < b->quads; q++) {
        __m512i w0 = _mm512_loadu_si512(b->w + q * MATRIX_LINE);
        __m512i w1 = _mm512_loadu_si512(b->w + b->strip + q * MATRIX_LINE);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            __m512i x = quad(b, r, q);
            sum[r][0] = _mm512_dpbf16_ps(sum[r][0], (__m512bh)w0, (__m512bh)x);
            sum[r][1] = _mm512_dpbf16_ps(sum[r][1], (__m512bh)w1, (__m512bh)x);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
        store(b, r, 0, sum[r][0]);
        store(b, r, 1, sum[r][1]);
    }
}

/* Sum of n bytes, a multiple of a line. */
TARGET(",avx512vnni") static int32_t sum_bytes(const char *x, int64_t n)
{
    __m512i sum = _mm512_setzero_si512(), ones = _mm512_set1_epi8(1);
    for (int64_t k = 0; k < n; k += MATRIX_LINE)
        sum = _mm512_dpbusd_epi32(sum, ones, _mm512_loadu_si512(x + k));
    return _mm512_reduce_add_epi32(sum);
}

void matrix_multiply_avx512(const struct matrix_product *p)
{
    int64_t size = matrix_code_size(p->kind), ld_bytes = p->ld * size;
    int64_t step = p->block * size;
    for (int64_t k = 0, at = 0; k < ld_bytes; k += step, at += p->cols) {
        int64_t bytes = k + step < ld_bytes ? step : ld_bytes - k;
        if (p->kind == MATRIX_INT8)
            for (int64_t r = 0; r < p->rows; r++)
                p->sums[r] = sum_bytes((const char *)p->a + r * ld_bytes + k, bytes);
        for (int64_t n = 0; n < p->cols; n += (int64_t)STRIPS * STRIP) {
            for (int64_t r = 0; r < p->rows; r += ROWS) {
                struct block b = {.a = (const char *)p->a + r * ld_bytes + k,
                                  .w = (const char *)p->w + n * ld_bytes + k * STRIP,
                                  .ld_bytes = ld_bytes,
                                  .strip = ld_bytes * STRIP,
                                  .quads = bytes / QUAD,
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
