#include "backend/cpu/matrix.h"

#include <string.h>

enum matrix_level matrix_best(enum matrix_kind kind, enum matrix_level most)
{
#if defined(__x86_64__)
    if (most >= MATRIX_AMX && matrix_amx_permitted())
        return MATRIX_AMX;
    bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512vl");
    if (most >= MATRIX_AVX512 && wide &&
        (kind == MATRIX_INT8 ? __builtin_cpu_supports("avx512vnni")
                             : __builtin_cpu_supports("avx512bf16")))
        return MATRIX_AVX512;
#endif
    (void)kind;
    (void)most;
    return MATRIX_NONE;
}

const char *matrix_suffix(enum matrix_kind kind, enum matrix_level level)
{
    static const char *const text[2][3] = {{"", "+int8-avx512", "+int8-amx"},
                                           {"", "+bf16-avx512", "+bf16-amx"}};
    return text[kind][level];
}

void matrix_place_row(enum matrix_kind kind, const void *codes, int64_t depth, int terms, int term,
                      int64_t row, void *packed)
{
    int64_t bytes = depth * matrix_code_size(kind);
    int64_t stride = (int64_t)terms * MATRIX_STRIP * MATRIX_LINE;
    int64_t lines = (bytes + MATRIX_LINE - 1) / MATRIX_LINE;
    char *to = (char *)packed + row / MATRIX_STRIP * lines * stride +
               (term * MATRIX_STRIP + row % MATRIX_STRIP) * MATRIX_LINE;
    for (int64_t k = 0; k < bytes; k += MATRIX_LINE, to += stride) {
        int64_t n = !codes ? 0 : bytes - k < MATRIX_LINE ? bytes - k : MATRIX_LINE;
        if (n > 0)
            memcpy(to, (const char *)codes + k, (size_t)n);
        memset(to + n, 0, (size_t)(MATRIX_LINE - n));
    }
}

void matrix_place_strip(enum matrix_level level, enum matrix_kind kind, const void *codes,
                        int64_t rows, int64_t depth, int terms, int term, void *strip)
{
#if defined(__x86_64__)
    /* VNNI multiplies unsigned by signed: the weights carry an offset of 128. */
    uint8_t flip = level == MATRIX_AVX512 && kind == MATRIX_INT8 ? 0x80 : 0;
    int64_t part = (int64_t)MATRIX_STRIP * MATRIX_LINE;
    matrix_transpose_strip(codes, rows, depth * matrix_code_size(kind), flip, terms * part,
                           (char *)strip + term * part);
#else
    (void)level, (void)kind, (void)codes, (void)rows, (void)depth, (void)terms, (void)term;
    (void)strip;
#endif
}

void matrix_multiply(const struct matrix_product *p)
{
#if defined(__x86_64__)
    if (p->level == MATRIX_AMX)
        matrix_multiply_amx(p);
    else
        matrix_multiply_avx512(p);
#else
    (void)p;
#endif
}
