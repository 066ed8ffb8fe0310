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
    int a_terms, w_terms;             /* more than one: AMX and bf16 alone */
};

static const struct matrix_case matrix_cases[] = {
    {32, 32, 64, 0, 1, 1},     {32, 64, 37, 0, 1, 1},      {64, 96, 300, 64, 1, 1},
    {512, 32, 129, 128, 1, 1}, {96, 160, 1000, 0, 1, 1},   {64, 32, 1024, 128, 1, 1},
    {32, 32, 1, 0, 1, 1},      {32, 64, 5000, 1024, 1, 1}, {64, 64, 300, 0, 3, 1},
    {32, 64, 1000, 128, 3, 1}, {64, 32, 300, 0, 1, 3},     {32, 96, 700, 0, 3, 3},
};

static uint32_t matrix_random(void)
{
    static uint64_t seed = 7;
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33);
}

/* An operand as numbers, and packed. */
struct matrix_operand {
    int64_t rows, depth;
    double *values;
    char *packed;
};

/* The high half of a fp32 number is a bf16 number. */
static float matrix_high(float x, void *half)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits &= 0xffff0000;
    memcpy(&x, &bits, sizeof x);
    memcpy(half, (char *)&x + 2, 2);
    return x;
}

/* Row by row: whole numbers, small numbers that bf16 holds exactly, or any, in three terms. */
static void matrix_draw_row(enum matrix_kind kind, int terms, double *values, char *codes,
                            int64_t depth)
{
    for (int64_t k = 0; k < depth; k++) {
        int value = (int)(matrix_random() % 256) - 128;
        float x = (float)value / 64;
        values[k] = kind == MATRIX_INT8 ? value : x;
        if (kind == MATRIX_INT8)
            codes[k] = (char)value;
        else if (terms == 1)
            (void)matrix_high(x, codes + k * 2);
        if (terms == 1)
            continue;
        x = (float)(matrix_random() % 16777216) / 16777216 - 0.5F;
        values[k] = x;
        for (int i = 0; i < terms; i++)
            x -= matrix_high(x, codes + (i * depth + k) * 2);
    }
}

static struct matrix_operand matrix_operand(enum matrix_level level, enum matrix_kind kind,
                                            int is_weight, int64_t rows, int64_t depth, int terms)
{
    struct matrix_operand op = {rows, depth, NULL, NULL};
    int64_t packed = matrix_packed_bytes(kind, rows, depth, terms);
    int64_t row = depth * matrix_code_size(kind);
    char *codes = xcalloc((size_t)(MATRIX_STRIP * terms), (size_t)row);
    char *strip = xcalloc(MATRIX_STRIP, (size_t)row);
    op.values = xcalloc((size_t)(rows * depth), sizeof *op.values);
    op.packed = xcalloc(1, (size_t)packed);
    for (int64_t r = 0; r < rows; r++) {
        char *own = codes + r % MATRIX_STRIP * terms * row;
        matrix_draw_row(kind, terms, op.values + r * depth, own, depth);
        for (int i = 0; i < terms && !is_weight; i++)
            matrix_place_row(kind, own + i * row, depth, terms, i, r, op.packed);
        if (!is_weight || (r + 1) % MATRIX_STRIP != 0)
            continue;
        for (int i = 0; i < terms; i++) {
            for (int64_t k = 0; k < MATRIX_STRIP; k++)
                memcpy(strip + k * row, codes + (k * terms + i) * row, (size_t)row);
            matrix_place_strip(level, kind, strip, MATRIX_STRIP, depth, terms, i,
                               op.packed + r / MATRIX_STRIP * (packed / rows) * MATRIX_STRIP);
        }
    }
    free(codes);
    free(strip);
    return op;
}

static void matrix_operand_free(struct matrix_operand *op)
{
    free(op->values);
    free(op->packed);
}

static float *matrix_scales(int64_t n)
{
    float *s = xmalloc((size_t)n * sizeof *s);
    for (int64_t i = 0; i < n; i++)
        s[i] = 0.5F + (float)(matrix_random() % 1000) / 1000;
    return s;
}

/* One number of the result, in double. */
static double matrix_expected(const struct matrix_product *p, const struct matrix_operand *a,
                              const struct matrix_operand *w, int64_t r, int64_t n)
{
    double all = 0;
    for (int64_t k0 = 0, b = 0; k0 < a->depth; k0 += p->block, b++) {
        int64_t end = k0 + p->block < a->depth ? k0 + p->block : a->depth;
        double sum = 0;
        for (int64_t k = k0; k < end; k++)
            sum += a->values[r * a->depth + k] * w->values[n * a->depth + k];
        all += sum * p->col_scale[b * p->cols + n];
    }
    return all * p->row_scale[r];
}

/* Relative Frobenius distance of a level's product from sums in double. */
static double matrix_distance(enum matrix_level level, enum matrix_kind kind,
                              const struct matrix_case *c)
{
    int64_t ld = matrix_ld(kind, c->depth), block = c->block ? c->block : ld;
    int64_t blocks = (ld + block - 1) / block;
    struct matrix_operand a = matrix_operand(level, kind, 0, c->rows, c->depth, c->a_terms);
    struct matrix_operand w = matrix_operand(level, kind, 1, c->cols, c->depth, c->w_terms);
    float *row = matrix_scales(c->rows), *col = matrix_scales(blocks * c->cols);
    float *y = xcalloc((size_t)(c->rows * c->cols), sizeof *y);
    int32_t *sums = xcalloc((size_t)c->rows, sizeof *sums);
    struct matrix_product p = {level,      kind,     c->rows,  c->cols, ld,  block, c->a_terms,
                               c->w_terms, a.packed, w.packed, row,     col, sums,  y};
    matrix_multiply(&p);
    double diff = 0, norm = 0;
    for (int64_t r = 0; r < c->rows; r++) {
        for (int64_t n = 0; n < c->cols; n++) {
            double expected = matrix_expected(&p, &a, &w, r, n);
            double d = (double)y[r * c->cols + n] - expected;
            diff += d * d;
            norm += expected * expected;
        }
    }
    matrix_operand_free(&a);
    matrix_operand_free(&w);
    free(row);
    free(col);
    free(y);
    free(sums);
    return sqrt(diff / norm);
}

static int matrix_has_terms(const struct matrix_case *c)
{
    return c->a_terms > 1 || c->w_terms > 1;
}

#endif
