#include "backend/cpu/chain.h"

#include <stddef.h>

#if defined(__x86_64__)
#include <immintrin.h>

/* Rows are reached from every third one, so that few registers hold addresses. */
#define ROW(a, i) ((a)[(i) / 3] + (i) % 3 * lda)

/* 12 x 32 in 24 registers of 16, or 12 x 16 in 12. */
__attribute__((target("avx512f"))) static inline __attribute__((always_inline)) void
rows_avx512(int64_t k, const float *from, int64_t lda, const float *b, float *c, int64_t ldc,
            int wide, int first)
{
    __m512 sum[CHAIN_ROWS][2];
    const float *a[] = {from, from + 3 * lda, from + 6 * lda, from + 9 * lda};
#pragma GCC unroll 12
    for (int i = 0; i < CHAIN_ROWS; i++)
        for (int j = 0; j < wide; j++)
            sum[i][j] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(c + i * ldc + 16 * j);
    for (; k > 0; k--, b += CHAIN_COLS) {
        __m512 b0 = _mm512_loadu_ps(b), b1 = wide > 1 ? _mm512_loadu_ps(b + 16) : b0;
#pragma GCC unroll 12
        for (int i = 0; i < CHAIN_ROWS; i++) {
            __m512 x = _mm512_set1_ps(*ROW(a, i));
            sum[i][0] = _mm512_fmadd_ps(x, b0, sum[i][0]);
            if (wide > 1)
                sum[i][1] = _mm512_fmadd_ps(x, b1, sum[i][1]);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            a[i]++;
    }
#pragma GCC unroll 12
    for (int i = 0; i < CHAIN_ROWS; i++)
        for (int j = 0; j < wide; j++)
            _mm512_storeu_ps(c + i * ldc + 16 * j, sum[i][j]);
}

__attribute__((target("avx512f"))) static void tile_avx512(int64_t k, const float *a, int64_t lda,
                                                           const float *b, float *c, int64_t ldc,
                                                           int half, int first)
{
    if (half)
        rows_avx512(k, a, lda, b, c, ldc, 1, first);
    else
        rows_avx512(k, a, lda, b, c, ldc, 2, first);
}

/* 6 x 16 in 12 registers of 8, four times or twice. */
__attribute__((target("avx2,fma"))) static void tile_avx2(int64_t k, const float *from, int64_t lda,
                                                          const float *b, float *c, int64_t ldc,
                                                          int half, int first)
{
    enum { ROWS = 6, COLS = 16 };
    for (int row = 0; row < CHAIN_ROWS; row += ROWS)
        for (int col = 0; col < (half ? COLS : CHAIN_COLS); col += COLS) {
            __m256 sum[ROWS][2];
            const float *a[] = {from + row * lda, from + (row + 3) * lda}, *bt = b + col;
            float *to = c + row * ldc + col;
#pragma GCC unroll 6
            for (int i = 0; i < ROWS; i++)
                for (int j = 0; j < 2; j++)
                    sum[i][j] = first ? _mm256_setzero_ps() : _mm256_loadu_ps(to + i * ldc + 8 * j);
            for (int64_t t = 0; t < k; t++, bt += CHAIN_COLS) {
                __m256 b0 = _mm256_loadu_ps(bt), b1 = _mm256_loadu_ps(bt + 8);
#pragma GCC unroll 6
                for (int i = 0; i < ROWS; i++) {
                    __m256 x = _mm256_broadcast_ss(ROW(a, i));
                    sum[i][0] = _mm256_fmadd_ps(x, b0, sum[i][0]);
                    sum[i][1] = _mm256_fmadd_ps(x, b1, sum[i][1]);
                }
                a[0]++;
                a[1]++;
            }
#pragma GCC unroll 6
            for (int i = 0; i < ROWS; i++)
                for (int j = 0; j < 2; j++)
                    _mm256_storeu_ps(to + i * ldc + 8 * j, sum[i][j]);
        }
}
#endif

chain_fn *chain_avx512(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f"))
        return tile_avx512;
#endif
    return NULL;
}

chain_fn *chain_avx2(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return tile_avx2;
#endif
    return NULL;
}

chain_fn *chain_kernel(void)
{
    return chain_avx512() ? chain_avx512() : chain_avx2();
}

const char *chain_suffix(void)
{
#if defined(__x86_64__)
    if (!chain_kernel())
        return "+blas-experts";
#endif
    return "";
}
