/*
 * AMX products: 2 x 2 tiles of 16 x 16 sums, fed 64 bytes of K at a time. The packed layout is a
 * tile's own: 16 rows of 64 bytes, one after another. K is cut into chunks, so that what all
 * rows need of the left operand stays in the second cache, and 32 columns of the right one in the
 * first.
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

#define INLINE TARGET static inline __attribute__((always_inline))

enum {
    TILE = MATRIX_STRIP,
    TILE_BYTES = TILE * MATRIX_LINE,
    TILES_USED = 8,
    CHUNK = 16, /* lines of K, terms included */
};

typedef float f32v __attribute__((vector_size(MATRIX_LINE)));
typedef int32_t i32v __attribute__((vector_size(MATRIX_LINE)));

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

/* Where 32 rows or columns lie: the first strip at a line of K, and what is between the two. */
struct strips {
    const char *at;
    int64_t strip;
};

#define LOAD_STRIPS(first, second, strips, offset)                                                 \
    do {                                                                                           \
        _tile_loadd(first, (strips).at + (offset), MATRIX_LINE);                                   \
        _tile_loadd(second, (strips).at + (offset) + (strips).strip, MATRIX_LINE);                 \
    } while (0)

INLINE void multiply_tiles(enum matrix_kind kind)
{
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

/*
 * Adds 32 x 32 sums over `lines` lines of K to tiles 0 to 3. The kind and the numbers of terms are
 * constants to each caller. Of terms x terms those are left out that lie below fp32.
 */
INLINE void multiply_lines(enum matrix_kind kind, int a_terms, int w_terms, struct strips a,
                           struct strips w, int64_t lines)
{
    for (int64_t k = 0; k < lines; k++) {
        if (w_terms == 1)
            LOAD_STRIPS(6, 7, w, k * TILE_BYTES);
        for (int i = 0; i < a_terms; i++) {
            LOAD_STRIPS(4, 5, a, (k * a_terms + i) * TILE_BYTES);
            for (int j = 0; j < w_terms && i + j < MATRIX_TERMS; j++) {
                if (w_terms > 1)
                    LOAD_STRIPS(6, 7, w, (k * w_terms + j) * TILE_BYTES);
                multiply_tiles(kind);
            }
        }
    }
}

TARGET static void multiply(const struct matrix_product *p, struct strips a, struct strips w,
                            int64_t lines)
{
    if (p->kind == MATRIX_INT8)
        multiply_lines(MATRIX_INT8, 1, 1, a, w, lines);
    else if (p->a_terms == 1 && p->w_terms == 1)
        multiply_lines(MATRIX_BF16, 1, 1, a, w, lines);
    else if (p->w_terms == 1)
        multiply_lines(MATRIX_BF16, MATRIX_TERMS, 1, a, w, lines);
    else if (p->a_terms == 1)
        multiply_lines(MATRIX_BF16, 1, MATRIX_TERMS, a, w, lines);
    else
        multiply_lines(MATRIX_BF16, MATRIX_TERMS, MATRIX_TERMS, a, w, lines);
}

INLINE void zero_sums(void)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* ld: bytes from row to row. */
INLINE void load_sums(const void *from, int64_t ld)
{
    const char *at = from;
    _tile_loadd(0, at, ld);
    _tile_loadd(1, at + MATRIX_LINE, ld);
    _tile_loadd(2, at + TILE * ld, ld);
    _tile_loadd(3, at + TILE * ld + MATRIX_LINE, ld);
}

INLINE void store_sums(void *to, int64_t ld)
{
    char *at = to;
    _tile_stored(0, at, ld);
    _tile_stored(1, at + MATRIX_LINE, ld);
    _tile_stored(2, at + TILE * ld, ld);
    _tile_stored(3, at + TILE * ld + MATRIX_LINE, ld);
}

/* A line of sums, whole numbers or not, times its scales; added to c unless it is the first. */
INLINE void scale_line(enum matrix_kind kind, float *c, const void *sums, const f32v *scale,
                       bool first)
{
    f32v sum, old;
    i32v whole;
    memcpy(&whole, sums, sizeof whole);
    memcpy(&sum, sums, sizeof sum);
    if (kind == MATRIX_INT8)
        sum = __builtin_convertvector(whole, f32v);
    sum *= *scale;
    if (!first) {
        memcpy(&old, c, sizeof old);
        sum += old;
    }
    memcpy(c, &sum, sizeof sum);
}

INLINE void scale_sums_of(enum matrix_kind kind, float *c, int64_t ldc, const void *sums,
                          int64_t ld, const float *row_scale, const float *col_scale, bool first)
{
    const char *from = sums;
    f32v left, right;
    memcpy(&left, col_scale, sizeof left);
    memcpy(&right, col_scale + TILE, sizeof right);
    for (int64_t i = 0; i < MATRIX_GROUP; i++, c += ldc, from += ld) {
        f32v one = left * row_scale[i], two = right * row_scale[i];
        scale_line(kind, c, from, &one, first);
        scale_line(kind, c + TILE, from + MATRIX_LINE, &two, first);
    }
}

/* sums: 32 x 32, ld bytes from row to row; may be c itself. */
TARGET static void scale_sums(const struct matrix_product *p, int64_t r, int64_t n,
                              const float *col_scale, bool first, const void *sums, int64_t ld)
{
    float *c = p->c + r * p->cols + n;
    const float *rows = p->row_scale + r, *cols = col_scale + n;
    if (p->kind == MATRIX_INT8)
        scale_sums_of(MATRIX_INT8, c, p->cols, sums, ld, rows, cols, first);
    else
        scale_sums_of(MATRIX_BF16, c, p->cols, sums, ld, rows, cols, first);
}

/* An operand's 32 rows or columns from `row` on, at a line of K. */
static struct strips strips_at(const struct matrix_product *p, const void *packed, int terms,
                               int64_t row, int64_t line)
{
    int64_t lines = p->ld * matrix_code_size(p->kind) / MATRIX_LINE;
    int64_t strip = lines * terms * TILE_BYTES;
    return (struct strips){(const char *)packed + row / TILE * strip + line * terms * TILE_BYTES,
                           strip};
}

/* One chunk of K, of a product with one scale for all: the sums stay in c until the last. */
TARGET static void add_chunk(const struct matrix_product *p, int64_t r, int64_t n, int64_t line,
                             int64_t count, bool last)
{
    float *c = p->c + r * p->cols + n;
    int64_t ld = p->cols * (int64_t)sizeof *c;
    if (line == 0)
        zero_sums();
    else
        load_sums(c, ld);
    multiply(p, strips_at(p, p->a, p->a_terms, r, line), strips_at(p, p->w, p->w_terms, n, line),
             count);
    store_sums(c, ld);
    if (last)
        scale_sums(p, r, n, p->col_scale, true, c, ld);
}

/*
 * One chunk of K, of a product with a scale for each block: whole blocks. The sums of a block are
 * scaled after the next one is under way: a load has to wait long for a tile's store.
 */
TARGET static void add_blocks(const struct matrix_product *p, int64_t r, int64_t n, int64_t line,
                              int64_t count, int64_t block)
{
    enum { LD = 2 * MATRIX_LINE };
    _Alignas(MATRIX_LINE) char sums[2][MATRIX_GROUP * LD];
    int64_t first = line / block, blocks = (count + block - 1) / block;
    for (int64_t i = 0; i <= blocks; i++) {
        int64_t k = i * block, some = count - k < block ? count - k : block;
        if (i < blocks) {
            zero_sums();
            multiply(p, strips_at(p, p->a, p->a_terms, r, line + k),
                     strips_at(p, p->w, p->w_terms, n, line + k), some);
            store_sums(sums[i % 2], LD);
        }
        if (i > 0)
            scale_sums(p, r, n, p->col_scale + (first + i - 1) * p->cols, first + i == 1,
                       sums[(i - 1) % 2], LD);
    }
}

TARGET void matrix_multiply_amx(const struct matrix_product *p)
{
    int64_t size = matrix_code_size(p->kind), lines = p->ld * size / MATRIX_LINE;
    int64_t block = p->block * size / MATRIX_LINE;
    int64_t down = p->rows / MATRIX_GROUP, across = p->cols / MATRIX_GROUP, groups = down * across;
    /* the operand with more terms stays in the first cache, and the other passes by */
    bool rows_stay = p->a_terms > p->w_terms;
    int64_t chunk = CHUNK / (rows_stay ? p->a_terms : p->w_terms);
    if (block < lines)
        chunk = block < chunk ? chunk / block * block : block;
    configure();
    for (int64_t k = 0; k < lines; k += chunk) {
        int64_t count = lines - k < chunk ? lines - k : chunk;
        for (int64_t i = 0; i < groups; i++) {
            int64_t r = (rows_stay ? i / across : i % down) * MATRIX_GROUP;
            int64_t n = (rows_stay ? i % across : i / down) * MATRIX_GROUP;
            if (block < lines)
                add_blocks(p, r, n, k, count, block);
            else
                add_chunk(p, r, n, k, count, k + count == lines);
        }
    }
    _tile_release();
}

#endif
