/*
 * The AMX products on any machine: the tile instructions are done here in plain C, after Intel's
 * description of them, and the file under test is compiled against these.
 */
#include "tap.h"

#include "matrix_cases.h"

#if defined(__x86_64__)

enum { TILES = 8, TILE_ROWS = 16, ROW_BYTES = 64 };

static _Thread_local unsigned char tiles[TILES][TILE_ROWS][ROW_BYTES];
static _Thread_local int configured;

static void emulated_loadconfig(const void *config)
{
    const unsigned char *c = config;
    configured = c[0] == 1;
    for (int t = 0; t < TILES; t++)
        configured &= c[16 + 2 * t] == ROW_BYTES && c[17 + 2 * t] == 0 && c[48 + t] == TILE_ROWS;
}

static void emulated_loadd(int t, const void *from, int64_t stride)
{
    for (int r = 0; r < TILE_ROWS; r++)
        memcpy(tiles[t][r], (const char *)from + r * stride, ROW_BYTES);
}

static void emulated_stored(int t, void *to, int64_t stride)
{
    for (int r = 0; r < TILE_ROWS; r++)
        memcpy((char *)to + r * stride, tiles[t][r], ROW_BYTES);
}

static float widen(const unsigned char *half)
{
    unsigned char full[4] = {0, 0, half[0], half[1]};
    float value;
    memcpy(&value, full, sizeof value);
    return value;
}

/* c[m][n] += sum over k of a[m][k] . b[k][n], each k a group of 4 bytes */
static void emulated_int8(int c, int a, int b)
{
    for (int m = 0; m < TILE_ROWS; m++) {
        for (int n = 0; n < ROW_BYTES / 4; n++) {
            int32_t sum;
            memcpy(&sum, &tiles[c][m][4 * n], sizeof sum);
            for (int i = 0; i < ROW_BYTES; i++)
                sum += (int8_t)tiles[a][m][i] * (int8_t)tiles[b][i / 4][4 * n + i % 4];
            memcpy(&tiles[c][m][4 * n], &sum, sizeof sum);
        }
    }
}

/* The instruction sums even and odd numbers from zero on, then adds both to c. */
static void emulated_bf16(int c, int a, int b)
{
    for (int m = 0; m < TILE_ROWS; m++) {
        for (int n = 0; n < ROW_BYTES / 4; n++) {
            float sum, half[2] = {0};
            memcpy(&sum, &tiles[c][m][4 * n], sizeof sum);
            for (int i = 0; i < ROW_BYTES / 2; i++)
                half[i % 2] = fmaf(widen(&tiles[a][m][2 * i]),
                                   widen(&tiles[b][i / 2][4 * n + 2 * (i % 2)]), half[i % 2]);
            sum += half[0] + half[1];
            memcpy(&tiles[c][m][4 * n], &sum, sizeof sum);
        }
    }
}

#define MATRIX_AMX_EMULATED
#define _tile_loadconfig(config) emulated_loadconfig(config)
#define _tile_release() ((void)(configured = 0))
#define _tile_zero(t) memset(tiles[t], 0, sizeof tiles[t])
#define _tile_loadd(t, from, stride) emulated_loadd(t, from, stride)
#define _tile_stored(t, to, stride) emulated_stored(t, to, stride)
#define _tile_dpbssd(c, a, b) emulated_int8(c, a, b)
#define _tile_dpbf16ps(c, a, b) emulated_bf16(c, a, b)
#include "backend/cpu/matrix_amx.c" /* NOLINT(bugprone-suspicious-include) */

#include "score_cases.h"

int main(void)
{
    static const char *const kinds[] = {"int8", "bf16"};
    if (!__builtin_cpu_supports("avx512bw")) { /* packing uses it, as every AMX machine can */
        tap_skip("AMX emulated", "no AVX-512 to pack with");
        return tap_done();
    }
    for (int kind = 0; kind < 2; kind++) {
        for (size_t i = 0; i < AQ_COUNT(matrix_cases); i++) {
            const struct matrix_case *c = &matrix_cases[i];
            if (matrix_has_terms(c) && kind != MATRIX_BF16)
                continue;
            double far = matrix_distance(MATRIX_AMX, (enum matrix_kind)kind, c);
            tap_ok(far < 1e-6, "AMX emulated, %s, %dx%dx%d block %d, terms %d and %d (%.1e)",
                   kinds[kind], (int)c->rows, (int)c->cols, (int)c->depth, (int)c->block,
                   c->a_terms, c->w_terms, far);
        }
    }
    make_data();
    test_values(QUANT_UNROUNDED);
    test_values(QUANT_TO_BF16);
    return tap_done();
}

#else

int main(void)
{
    tap_skip("AMX emulated", "not an x86-64 machine");
    return tap_done();
}

#endif
