/*
 * Products of a part's rows with its expert's matrices, by chain.h where the machine has it. An
 * expert gets some hundred rows of a tile, so that its matrix is read from the map, widened and
 * multiplied a block at a time, once for all of them.
 */
#include "backend/cpu/chain.h"
#include "backend/cpu/operand.h"
#include "backend/cpu/simd.h"

#include <string.h>

enum {
    OUTPUTS = 4 * CHAIN_ROWS, /* of a unit forward */
    COLUMNS = 8 * CHAIN_COLS, /* of a unit backward, at most */
};

struct rows_product {
    struct cpu_backend *c;
    chain_fn *tile;
    const struct backend_weight *w;
    const struct backend_operand *quantized; /* of w; NULL: w as it is */
    int64_t rows, used;                      /* of the part; of them those that hold a token */
    int64_t out, depth;                      /* of the product */
    const float *x;                          /* (rows, depth) */
    float *y;                                /* (rows, out) */
    int64_t width;                           /* columns of a unit backward */
    float *strips; /* x forward: CHAIN_COLS rows, a step of K after the other, then the next rows */
};

static int64_t padded(int64_t rows)
{
    return aq_round_up(rows, CHAIN_COLS);
}

/* ---- forward: a tile has rows of w and rows of x ---- */

/* A block of K of a strip of x's rows; zeros beyond the last. */
static void pack_unit(void *arg, int64_t unit, int worker)
{
    const struct rows_product *p = arg;
    int64_t blocks = aq_div_up(p->depth, CHAIN_K), strip = unit / blocks * CHAIN_COLS;
    int64_t k0 = unit % blocks * CHAIN_K, k = aq_least(CHAIN_K, p->depth - k0);
    int64_t rows = aq_least(CHAIN_COLS, p->used - strip);
    float *to = p->strips + strip * p->depth + k0 * CHAIN_COLS;
    (void)worker;
    if (rows < CHAIN_COLS)
        memset(to, 0, (size_t)(k * CHAIN_COLS) * sizeof *to);
    enum { STEP = 8 };
    for (int64_t i0 = 0; i0 < rows; i0 += STEP)
        for (int64_t t0 = 0; t0 < k; t0 += STEP)
            for (int64_t t = t0; t < aq_least(t0 + STEP, k); t++)
                for (int64_t i = i0; i < aq_least(i0 + STEP, rows); i++)
                    to[t * CHAIN_COLS + i] = p->x[(strip + i) * p->depth + k0 + t];
}

/* From one row of w in fp32 to the next: apart by other than a power of two, since a tile reads
   its rows side by side. */
static int64_t row_step(const struct rows_product *p)
{
    return p->depth + 16;
}

static void make_rows(const struct rows_product *p, int64_t row, int64_t rows, float *to)
{
    for (int64_t r = row; r < row + rows; r++, to += row_step(p))
        if (p->quantized)
            quant_apply(p->quantized->plan, &p->quantized->source, r, r + 1, to, NUM_F32, NULL);
        else
            cpu_weight_panel(p->w, r, 1, 0, p->depth, to);
}

/* z (OUTPUTS, padded rows) is the result, a weight's row after the other. */
static void forward_unit(void *arg, int64_t unit, int worker)
{
    const struct rows_product *p = arg;
    int64_t at = unit * OUTPUTS, n = aq_least(OUTPUTS, p->out - at), wide = padded(p->used);
    float *z = cpu_scratch(p->c, worker), *w = z + OUTPUTS * wide;
    make_rows(p, at, n, w);
    for (int64_t k0 = 0; k0 < p->depth; k0 += CHAIN_K)
        for (int64_t s = 0; s < p->used; s += CHAIN_COLS)
            for (int64_t i = 0; i < n; i += CHAIN_ROWS)
                p->tile(aq_least(CHAIN_K, p->depth - k0), w + i * row_step(p) + k0, row_step(p),
                        p->strips + s * p->depth + k0 * CHAIN_COLS, z + i * wide + s, wide,
                        p->used - s <= CHAIN_COLS / 2, k0 == 0);
    for (int64_t r = 0; r < p->used; r++)
        for (int64_t i = 0; i < n; i++)
            p->y[r * p->out + at + i] = z[i * wide + r];
    for (int64_t r = p->used; r < p->rows; r++)
        memset(p->y + r * p->out + at, 0, (size_t)n * sizeof *p->y);
}

static void forward(struct rows_product *p)
{
    size_t strips = (size_t)(padded(p->used) * p->depth) * sizeof(float);
    size_t each = (size_t)(OUTPUTS * (padded(p->used) + row_step(p))) * sizeof(float);
    if (!cpu_begin(p->c, each, strips))
        return;
    p->strips = (void *)p->c->shared.data;
    aq_pool_run(p->c->pool, padded(p->used) / CHAIN_COLS * aq_div_up(p->depth, CHAIN_K), pack_unit,
                p);
    aq_pool_run(p->c->pool, aq_div_up(p->out, OUTPUTS), forward_unit, p);
}

/* ---- backward: a tile has rows of x and columns of w ---- */

/* Rows k0 to k0 + k of w in strips of CHAIN_COLS columns from `at` on; zeros beyond the last. */
static void pack_columns(const struct rows_product *p, int64_t at, int64_t cols, int64_t k0,
                         int64_t k, float *strips, float *row)
{
    memset(row, 0, COLUMNS * sizeof *row);
    for (int64_t t = 0; t < k; t++) {
        cpu_weight_panel(p->w, k0 + t, 1, at, cols, row);
        for (int64_t s = 0; s < cols; s += CHAIN_COLS)
            memcpy(strips + s * CHAIN_K + t * CHAIN_COLS, row + s, CHAIN_COLS * sizeof *row);
    }
}

/* A tile at the edge: rows of x and columns of w are there. */
static void edge_tile(const struct rows_product *p, int64_t k0, int64_t k, int64_t row,
                      int64_t rows, const float *strip, float *y, int64_t cols)
{
    float a[CHAIN_ROWS * CHAIN_K] = {0}, c[CHAIN_ROWS * CHAIN_COLS] = {0};
    for (int64_t i = 0; i < rows; i++) {
        memcpy(a + i * CHAIN_K, p->x + (row + i) * p->depth + k0, (size_t)k * sizeof *a);
        if (k0 > 0)
            memcpy(c + i * CHAIN_COLS, y + i * p->out, (size_t)cols * sizeof *c);
    }
    p->tile(k, a, CHAIN_K, strip, c, CHAIN_COLS, 0, 0);
    for (int64_t i = 0; i < rows; i++)
        memcpy(y + i * p->out, c + i * CHAIN_COLS, (size_t)cols * sizeof *c);
}

static void backward_unit(void *arg, int64_t unit, int worker)
{
    const struct rows_product *p = arg;
    int64_t at = unit * p->width, n = aq_least(p->width, p->out - at);
    float *strips = cpu_scratch(p->c, worker), *row = strips + COLUMNS * CHAIN_K;
    for (int64_t k0 = 0; k0 < p->depth; k0 += CHAIN_K) {
        int64_t k = aq_least(CHAIN_K, p->depth - k0);
        pack_columns(p, at, n, k0, k, strips, row);
        for (int64_t s = 0; s < n; s += CHAIN_COLS)
            for (int64_t r = 0; r < p->used; r += CHAIN_ROWS) {
                int64_t rows = aq_least(CHAIN_ROWS, p->used - r),
                        cols = aq_least(CHAIN_COLS, n - s);
                float *y = p->y + r * p->out + at + s;
                if (rows == CHAIN_ROWS && cols == CHAIN_COLS)
                    p->tile(k, p->x + r * p->depth + k0, p->depth, strips + s * CHAIN_K, y, p->out,
                            0, k0 == 0);
                else
                    edge_tile(p, k0, k, r, rows, strips + s * CHAIN_K, y, cols);
            }
    }
    for (int64_t r = p->used; r < p->rows; r++)
        memset(p->y + r * p->out + at, 0, (size_t)n * sizeof *p->y);
}

/* As many units for each thread: no result depends on how columns are shared. */
static void backward(struct rows_product *p)
{
    int64_t threads = p->c->base.threads;
    int64_t units = threads * aq_div_up(p->out, threads * COLUMNS);
    p->width = aq_round_up(aq_div_up(p->out, units), CHAIN_COLS);
    if (cpu_begin(p->c, (size_t)(COLUMNS * (CHAIN_K + 1)) * sizeof(float), 0))
        aq_pool_run(p->c->pool, aq_div_up(p->out, p->width), backward_unit, p);
}

/* ---- the ops: a part has one expert ---- */

static struct rows_product product_of(struct backend *b, const struct backend_tile *part, void *y,
                                      const void *x, const struct backend_weight *w)
{
    return (struct rows_product){.c = cpu_of(b),
                                 .tile = chain_kernel(),
                                 .w = w,
                                 .rows = part->rows,
                                 .used = part->first[part->samples],
                                 .out = w->rows,
                                 .depth = w->cols,
                                 .x = x,
                                 .y = y};
}

void cpu_experts_forward(struct backend *b, const struct backend_tile *part, void *y, const void *x,
                         const struct backend_weight *const *w)
{
    struct rows_product p = product_of(b, part, y, x, w[0]);
    if (p.tile)
        forward(&p);
    else
        cpu_linear_forward(b, part, y, x, w[0]);
}

void cpu_experts_backward(struct backend *b, const struct backend_tile *part, void *dx,
                          const void *dy, const struct backend_weight *const *w)
{
    struct rows_product p = product_of(b, part, dx, dy, w[0]);
    p.out = w[0]->cols;
    p.depth = w[0]->rows;
    if (p.tile)
        backward(&p);
    else
        cpu_linear_backward(b, part, dx, dy, w[0], 0);
}

void cpu_experts_quantized(struct backend *b, const struct backend_tile *part, void *y,
                           const struct backend_operand *x, const struct backend_operand *const *w)
{
    struct cpu_backend *c = cpu_of(b);
    if (c->failed.code || !w[0]->w)
        return;
    struct rows_product p = product_of(b, part, y, NULL, w[0]->w);
    struct product_form form = operand_product_form(c, x, w[0]);
    if (!p.tile || form.level != MATRIX_NONE) {
        cpu_linear_quantized(b, part, y, x, w[0]);
        return;
    }
    if (!operand_prepare(c, x, &form))
        return;
    p.x = operand_values(x);
    p.quantized = w[0]->plan ? w[0] : NULL;
    forward(&p);
}
