#include "backend/cpu/matrix.h"

#include <string.h>

enum { STRIP = 16 };

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

void matrix_pack(enum matrix_level level, enum matrix_kind kind, const void *codes, int64_t cols,
                 int64_t ld, void *packed)
{
#if defined(__x86_64__)
    /* VNNI multiplies unsigned by signed: the weights carry an offset of 128. */
    uint8_t flip = level == MATRIX_AVX512 && kind == MATRIX_INT8 ? 0x80 : 0;
    int64_t bytes = ld * matrix_code_size(kind);
    for (int64_t n = 0; n < cols; n += STRIP)
        matrix_pack_strip((const char *)codes + n * bytes, bytes, flip, (char *)packed + n * bytes);
#else
    (void)level, (void)kind, (void)codes, (void)cols, (void)ld, (void)packed;
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

static double code_at(const struct matrix_product *p, const void *codes, int64_t at)
{
    if (p->kind == MATRIX_INT8)
        return ((const int8_t *)codes)[at];
    uint32_t bits = (uint32_t)((const uint16_t *)codes)[at] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

void matrix_multiply_plain(const struct matrix_product *p)
{
    for (int64_t r = 0; r < p->rows; r++) {
        for (int64_t n = 0; n < p->cols; n++) {
            double all = 0;
            for (int64_t k0 = 0, b = 0; k0 < p->ld; k0 += p->block, b++) {
                int64_t end = k0 + p->block < p->ld ? k0 + p->block : p->ld;
                double sum = 0;
                for (int64_t k = k0; k < end; k++)
                    sum += code_at(p, p->a, r * p->ld + k) * code_at(p, p->w, n * p->ld + k);
                all += sum * p->col_scale[b * p->cols + n];
            }
            p->c[r * p->cols + n] = (float)(all * p->row_scale[r]);
        }
    }
}
