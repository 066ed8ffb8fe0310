/*
 * Products of quantization codes on the machine's integer and bf16 units. Codes are exact in int8
 * or bf16, int8 sums are exact in int32, and the scales of rows, columns and blocks along K are
 * applied to the fp32 sums, so such a product differs from the fp32 one in rounding alone.
 *
 * An fp32 value that is not a quantizer code is split into three bf16 terms that add up to it
 * exactly: its product with codes takes three passes over K, with another such value six (the
 * products that are left out are below the last bit of fp32). AMX alone is fast enough for that.
 *
 * AVX-512 (VNNI, BF16) and AMX, found at run time; AMX also needs the kernel's permission, which is
 * asked for once. Both read the same layout.
 */
#ifndef AQ_BACKEND_CPU_MATRIX_H
#define AQ_BACKEND_CPU_MATRIX_H

#include "base/mem.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum matrix_kind { MATRIX_INT8, MATRIX_BF16 };

enum matrix_level { MATRIX_NONE, MATRIX_AVX512, MATRIX_AMX };

enum {
    MATRIX_GROUP = 32, /* rows and columns come in such groups, zero-padded */
    MATRIX_STRIP = 16, /* of these rows or columns are packed together */
    MATRIX_LINE = 64,  /* bytes; codes of a row are padded with zeros to a multiple */
    MATRIX_TERMS = 3,  /* bf16 numbers that make up a fp32 number */
};

/* The fastest level, up to `most`, that this machine and its kernel allow for a kind of product. */
enum matrix_level matrix_best(enum matrix_kind kind, enum matrix_level most);
/* "+int8-avx512", or "" for MATRIX_NONE. */
const char *matrix_suffix(enum matrix_kind kind, enum matrix_level level);

static inline int64_t matrix_code_size(enum matrix_kind kind)
{
    return kind == MATRIX_INT8 ? 1 : 2;
}
/* Codes in a row of an operand, padding included. */
static inline int64_t matrix_ld(enum matrix_kind kind, int64_t depth)
{
    int64_t line = MATRIX_LINE / matrix_code_size(kind);
    return aq_round_up(depth, line);
}
static inline int64_t matrix_round(int64_t n)
{
    return aq_round_up(n, MATRIX_GROUP);
}
/* Bytes of a packed operand. terms: 1 for codes, or MATRIX_TERMS (bf16). */
static inline int64_t matrix_packed_bytes(enum matrix_kind kind, int64_t rows, int64_t depth,
                                          int terms)
{
    return matrix_round(rows) * matrix_ld(kind, depth) * matrix_code_size(kind) * terms;
}

/*
 * Packed operands are strips of 16 rows; a strip is its lines of K, each with its terms one after
 * another, each 16 x 64 bytes. Of the left operand these are the lines of the 16 rows as they
 * are; of the right one (the weights, whose rows are columns of the result) 4 bytes of K of each
 * row, side by side, then the next 4. Rows that are not a multiple of a line, and strips of fewer
 * rows, are filled up with zeros.
 */

/* One row of the left operand, one term of it. codes: `depth`; NULL: zeros. */
void matrix_place_row(enum matrix_kind kind, const void *codes, int64_t depth, int terms, int term,
                      int64_t row, void *packed);
/* One strip of the right operand, one term of it. codes: (rows, depth), at most 16 rows. */
void matrix_place_strip(enum matrix_level level, enum matrix_kind kind, const void *codes,
                        int64_t rows, int64_t depth, int terms, int term, void *strip);

/*
 * c[r][n] = row_scale[r] * sum over blocks b of
 *           col_scale[b][n] * (sum over k in block b of a[r][k] * w[n][k])
 */
struct matrix_product {
    enum matrix_level level;
    enum matrix_kind kind;
    int64_t rows, cols;   /* multiples of MATRIX_GROUP */
    int64_t ld;           /* codes in a row of a and of w */
    int64_t block;        /* codes whose sum has one scale; ld for all, else a multiple of a line */
    int a_terms, w_terms; /* AVX-512: 1 */
    const void *a, *w;    /* packed */
    const float *row_scale, *col_scale;
    int32_t *sums; /* room for one number a row */
    float *c;      /* (rows, cols) */
};

void matrix_multiply(const struct matrix_product *p);

/* The levels' own files. flip: xored into every byte. */
void matrix_transpose_strip(const void *codes, int64_t rows, int64_t bytes, uint8_t flip,
                            int64_t stride, void *packed);
void matrix_multiply_avx512(const struct matrix_product *p);
void matrix_multiply_amx(const struct matrix_product *p);
bool matrix_amx_permitted(void);

#endif
