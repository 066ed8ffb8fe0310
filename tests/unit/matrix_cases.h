/* Random products for the tests of the matrix units. */
#ifndef AQ_TEST_MATRIX_CASES_H
#define AQ_TEST_MATRIX_CASES_H

#include "backend/cpu/matrix.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct matrix_case {
    int64_t rows, cols, depth, block; /* block 0: one for all */
};

static const struct matrix_case matrix_cases[] = {
    {32, 32, 64, 0},    {32, 64, 37, 0},     {64, 96, 300, 64}, {512, 32, 129, 128},
    {96, 160, 1000, 0}, {64, 32, 1024, 128}, {32, 32, 1, 0},
};

static uint32_t matrix_random(void)
{
    static uint64_t seed = 7;
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33);
}

/* Codes of int8, or small numbers that bf16 holds exactly; zeros behind `depth`. */
static void *matrix_codes(enum matrix_kind kind, int64_t rows, int64_t depth)
{
    int64_t ld = matrix_ld(kind, depth);
    char *codes = xcalloc((size_t)(rows * ld), (size_t)matrix_code_size(kind));
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t k = 0; k < depth; k++) {
            int value = (int)(matrix_random() % 256) - 128;
            if (kind == MATRIX_INT8) {
                codes[r * ld + k] = (char)value;
                continue;
            }
            float x = (float)value / 64;
            memcpy(codes + (r * ld + k) * 2, (char *)&x + 2, 2);
        }
    }
    return codes;
}

static float *matrix_scales(int64_t n)
{
    float *s = xmalloc((size_t)n * sizeof *s);
    for (int64_t i = 0; i < n; i++)
        s[i] = 0.5F + (float)(matrix_random() % 1000) / 1000;
    return s;
}

/* Relative Frobenius distance of a level's product from the plain one. */
static double matrix_distance(enum matrix_level level, enum matrix_kind kind,
                              const struct matrix_case *c)
{
    int64_t ld = matrix_ld(kind, c->depth), block = c->block ? c->block : ld;
    int64_t blocks = (ld + block - 1) / block;
    size_t out = (size_t)(c->rows * c->cols);
    void *a = matrix_codes(kind, c->rows, c->depth), *w = matrix_codes(kind, c->cols, c->depth);
    char *packed = xcalloc((size_t)(c->cols * ld), (size_t)matrix_code_size(kind));
    float *row = matrix_scales(c->rows), *col = matrix_scales(blocks * c->cols);
    float *y = xcalloc(out, sizeof *y), *expected = xcalloc(out, sizeof *expected);
    int32_t *sums = xcalloc((size_t)c->rows, sizeof *sums);
    struct matrix_product p = {level, kind, c->rows, c->cols, ld,   block,
                               a,     w,    row,     col,     sums, expected};
    matrix_multiply_plain(&p);
    matrix_pack(level, kind, w, c->cols, ld, packed);
    p.w = packed;
    p.c = y;
    matrix_multiply(&p);
    double diff = 0, norm = 0;
    for (size_t i = 0; i < out; i++) {
        diff += ((double)y[i] - expected[i]) * ((double)y[i] - expected[i]);
        norm += (double)expected[i] * expected[i];
    }
    free(a);
    free(w);
    free(packed);
    free(row);
    free(col);
    free(y);
    free(expected);
    free(sums);
    return sqrt(diff / norm);
}

#endif
