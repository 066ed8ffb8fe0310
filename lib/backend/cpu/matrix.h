/*
 * Products of quantization codes on the machine's integer and bf16 units. Codes are exact in int8
 * or bf16, int8 sums are exact in int32, and the scales of rows, columns and blocks along K are
 * applied to the fp32 sums, so such a product differs from the fp32 one in rounding alone.
 *
 * AVX-512 (VNNI, BF16) and AMX, found at run time; AMX also needs the kernel's permission, which is
 * asked for once. Both read the same layout.
 */
#ifndef AQ_BACKEND_CPU_MATRIX_H
#define AQ_BACKEND_CPU_MATRIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum matrix_kind { MATRIX_INT8, MATRIX_BF16 };

enum matrix_level { MATRIX_NONE, MATRIX_AVX512, MATRIX_AMX };

enum {
    MATRIX_GROUP = 32, /* rows and columns come in such groups, zero-padded */
    MATRIX_LINE = 64,  /* bytes; codes of a row are padded with zeros to a multiple */
};

/* The best for a kind of product that this machine and kernel allow, up to `most`. */
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
    return (depth + line - 1) / line * line;
}
static inline int64_t matrix_round(int64_t n)
{
    return (n + MATRIX_GROUP - 1) / MATRIX_GROUP * MATRIX_GROUP;
}

/*
 * Weights are packed for the product: strips of 16 columns of the result, in each 4 bytes of K of
 * every column, side by side. codes: (cols, ld), cols a multiple of MATRIX_GROUP; packed takes as
 * many bytes.
 */
void matrix_pack(enum matrix_level level, enum matrix_kind kind, const void *codes, int64_t cols,
                 int64_t ld, void *packed);

/*
 * c[r][n] = row_scale[r] * sum over blocks b of
 *           col_scale[b][n] * (sum over k in block b of a[r][k] * w[n][k])
 */
struct matrix_product {
    enum matrix_level level;
    enum matrix_kind kind;
    int64_t rows, cols; /* multiples of MATRIX_GROUP */
    int64_t ld;         /* codes in a row of a and of w */
    int64_t block;      /* codes whose sum has one scale; ld for all, else a multiple of a line */
    const void *a;      /* codes (rows, ld) */
    const void *w;      /* packed; plain: codes (cols, ld) */
    const float *row_scale, *col_scale;
    int32_t *sums; /* room for one number a row */
    float *c;      /* (rows, cols) */
};

void matrix_multiply(const struct matrix_product *p);
/* In plain C, from unpacked weights: what tests compare with. */
void matrix_multiply_plain(const struct matrix_product *p);

/* The levels' own files. */
void matrix_pack_strip(const void *codes, int64_t ld_bytes, uint8_t flip, void *packed);
void matrix_multiply_avx512(const struct matrix_product *p);
void matrix_multiply_amx(const struct matrix_product *p);
bool matrix_amx_permitted(void);

#endif
