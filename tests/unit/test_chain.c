/* Every instruction set's tile of results is the chains of fused multiply-adds that chain.h
 * defines. */
#include "tap.h"

#include "backend/cpu/chain.h"
#include "base/mem.h"

#include <math.h>
#include <string.h>

enum { K = 41, ROOM = CHAIN_COLS + 5, AHEAD = K + 3 };

static void fill(float *x, int n, uint32_t seed)
{
    for (int i = 0; i < n; i++)
        x[i] = (float)(int32_t)(seed = seed * 1664525 + 1013904223) * 0x1p-31F;
}

static void check(const char *name, chain_fn *tile, int half, int first)
{
    float a[CHAIN_ROWS * AHEAD], b[K * CHAIN_COLS], c[CHAIN_ROWS * ROOM],
        expected[CHAIN_ROWS * ROOM];
    fill(a, CHAIN_ROWS * AHEAD, 1);
    fill(b, K * CHAIN_COLS, 2);
    fill(c, CHAIN_ROWS * ROOM, 3);
    memcpy(expected, c, sizeof c);
    for (int i = 0; i < CHAIN_ROWS; i++)
        for (int j = 0; j < (half ? CHAIN_COLS / 2 : CHAIN_COLS); j++) {
            float sum = first ? 0 : c[i * ROOM + j];
            for (int k = 0; k < K; k++)
                sum = fmaf(a[i * AHEAD + k], b[k * CHAIN_COLS + j], sum);
            expected[i * ROOM + j] = sum;
        }
    tile(K, a, AHEAD, b, c, ROOM, half, first);
    tap_ok(same_bits(c, expected, sizeof c), "%s, %s tile, %s", name, half ? "half a" : "whole",
           first ? "from zero" : "going on");
}

int main(void)
{
    static const char *const names[] = {"AVX-512", "AVX2"};
    chain_fn *const tiles[] = {chain_avx512(), chain_avx2()};
    for (size_t i = 0; i < AQ_COUNT(tiles); i++) {
        if (!tiles[i])
            tap_skip(names[i], "not on this machine");
        for (int how = 0; how < 4 && tiles[i]; how++)
            check(names[i], tiles[i], how / 2, how % 2);
    }
    return tap_done();
}
