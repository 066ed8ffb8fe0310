/*
 * AMX products: 2 x 2 tiles of 16 x 16 sums, fed 64 bytes of K at a time. The packed layout of the
 * weights is a tile's own: 16 rows of 64 bytes, one behind the other.
 */
#include "backend/cpu/matrix.h"

#if defined(__x86_64__)

#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef MATRIX_AMX_EMULATED /* a test brings the tile instructions in plain C */
#define TARGET
#else
#include <immintrin.h>
#define TARGET __attribute__((target("amx-tile,amx-int8,amx-bf16,avx512f")))
#endif

enum { TILE = 16, TILES_USED = 8 };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool permitted;

/* The CPU must have it, and Linux must agree to save the large register state. */
static void ask(void)
{
#ifdef MATRIX_AMX_EMULATED
    permitted = true;
#else
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    enum { LEAF = 7, BF16_BIT = 1 << 22, TILE_BIT = 1 << 24, INT8_BIT = 1 << 25 };
    const unsigned need = BF16_BIT | TILE_BIT | INT8_BIT;
    unsigned a = 0, b = 0, c = 0, d = 0;
    __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(0), "c"(0));
    if (a < LEAF)
        return;
    __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(LEAF), "c"(0));
    permitted = (d & need) == need && __builtin_cpu_supports("avx512f") &&
                syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#endif
}

bool matrix_amx_permitted(void)
{
    (void)pthread_once(&once, ask);
    return permitted;
}

/* As the instruction reads it. */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
};

TARGET static void configure(void)
{
    struct tile_config config = {.palette = 1};
    for (int i = 0; i < TILES_USED; i++) {
        config.bytes[i] = MATRIX_LINE;
        config.rows[i] = TILE;
    }
    _tile_loadconfig(&config);
}

/*
 * 32 x 32 sums over `lines` lines of K: sums of a's rows against two strips of w. The kind is a
 * constant to each caller.
 */
TARGET static inline __attribute__((always_inline)) void
multiply_lines(enum matrix_kind kind, const char *a, int64_t ld_bytes, const char *w, int64_t strip,
               int64_t lines, void *out)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < lines; k++) {
        const char *wk = w + k * MATRIX_LINE * TILE;
        _tile_loadd(4, a + k * MATRIX_LINE, ld_bytes);
        _tile_loadd(5, a + TILE * ld_bytes + k * MATRIX_LINE, ld_bytes);
        _tile_loadd(6, wk, MATRIX_LINE);
        _tile_loadd(7, wk + strip, MATRIX_LINE);
        if (kind == MATRIX_INT8) {
            _tile_dpbssd(0, 4, 6);
            _tile_dpbssd(1, 4, 7);
            _tile_dpbssd(2, 5, 6);
            _tile_dpbssd(3, 5, 7);
        } else {
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    char *to = out;
    _tile_stored(0, to, 2 * MATRIX_LINE);
    _tile_stored(1, to + MATRIX_LINE, 2 * MATRIX_LINE);
    _tile_stored(2, to + 2 * TILE * MATRIX_LINE, 2 * MATRIX_LINE);
    _tile_stored(3, to + (2 * TILE + 1) * MATRIX_LINE, 2 * MATRIX_LINE);
}

TARGET static void scale_sums(const struct matrix_product *p, int64_t r, int64_t n,
                              const float *col_scale, bool first, const void *sums)
{
    for (int64_t i = 0; i < MATRIX_GROUP; i++) {
        const char *row = (const char *)sums + i * 2 * MATRIX_LINE;
        float *c = p->c + (r + i) * p->cols + n, scale = p->row_scale[r + i];
        for (int64_t j = 0; j < MATRIX_GROUP; j++) {
            int32_t whole;
            float sum;
            memcpy(&whole, row + j * 4, sizeof whole);
            memcpy(&sum, row + j * 4, sizeof sum);
            if (p->kind == MATRIX_INT8)
                sum = (float)whole;
            sum *= col_scale[n + j] * scale;
            c[j] = first ? sum : c[j] + sum;
        }
    }
}

TARGET void matrix_multiply_amx(const struct matrix_product *p)
{
    _Alignas(MATRIX_LINE) char sums[MATRIX_GROUP * 2 * MATRIX_LINE];
    int64_t size = matrix_code_size(p->kind), ld_bytes = p->ld * size;
    int64_t step = p->block * size, strip = ld_bytes * TILE;
    configure();
    for (int64_t k = 0, at = 0; k < ld_bytes; k += step, at += p->cols) {
        int64_t bytes = k + step < ld_bytes ? step : ld_bytes - k;
        for (int64_t n = 0; n < p->cols; n += MATRIX_GROUP) {
            for (int64_t r = 0; r < p->rows; r += MATRIX_GROUP) {
                const char *a = (const char *)p->a + r * ld_bytes + k;
                const char *w = (const char *)p->w + n * ld_bytes + k * TILE;
                if (p->kind == MATRIX_INT8)
                    multiply_lines(MATRIX_INT8, a, ld_bytes, w, strip, bytes / MATRIX_LINE, sums);
                else
                    multiply_lines(MATRIX_BF16, a, ld_bytes, w, strip, bytes / MATRIX_LINE, sums);
                scale_sums(p, r, n, p->col_scale + at, k == 0, sums);
            }
        }
    }
    _tile_release();
}

#endif
