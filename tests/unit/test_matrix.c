/* Every matrix level that this machine has, against plain C. */
#include "tap.h"

#include "matrix_cases.h"

int main(void)
{
    static const char *const kinds[] = {"int8", "bf16"};
    for (int kind = 0; kind < 2; kind++) {
        enum matrix_level best = matrix_best((enum matrix_kind)kind, MATRIX_AMX);
        if (best == MATRIX_NONE)
            tap_skip(kinds[kind], "no such unit on this machine");
        for (int level = MATRIX_AVX512; level <= (int)best; level++) {
            for (size_t i = 0; i < AQ_COUNT(matrix_cases); i++) {
                const struct matrix_case *c = &matrix_cases[i];
                if (matrix_has_terms(c) && (level != MATRIX_AMX || kind != MATRIX_BF16))
                    continue;
                double far = matrix_distance((enum matrix_level)level, (enum matrix_kind)kind, c);
                tap_ok(far < 1e-6, "%s, %dx%dx%d block %d, terms %d and %d (%.1e)",
                       matrix_suffix((enum matrix_kind)kind, (enum matrix_level)level) + 1,
                       (int)c->rows, (int)c->cols, (int)c->depth, (int)c->block, c->a_terms,
                       c->w_terms, far);
            }
        }
    }
    return tap_done();
}
