/* Products with weights as they are stored. A unit makes a block of output columns. */
#include "backend/cpu/blas.h"
#include "backend/cpu/cpu.h"
#include "backend/cpu/simd.h"
#include "base/mem.h"

#include <string.h>

enum {
    UNIT_MIN = 32, /* a multiple of this many columns */
    UNIT_MAX = 512,
    PANEL_FLOATS = 2 << 20, /* a block of weights in fp32 should stay in the caches */
    /* A multiple of UNITS units, for 2, 4 or 8 threads; of fewer if they would be narrower than
       this, since the BLAS packs the whole input again for each of them. */
    UNITS = 8,
    UNIT_WIDE = 64,
};

int64_t cpu_unit_cols(int64_t cols, int64_t depth)
{
    int64_t most = PANEL_FLOATS / depth / UNIT_MIN * UNIT_MIN;
    most = most < 128 ? 128 : most > UNIT_MAX ? UNIT_MAX : most;
    int64_t even = UNITS;
    while (even > 2 && cols < even * UNIT_WIDE)
        even /= 2;
    int64_t units = aq_round_up(aq_div_up(cols, most), even);
    int64_t width = aq_round_up(aq_div_up(cols, units), UNIT_MIN);
    return width < cols ? width : cols;
}

struct quant_matrix cpu_weight_matrix(const struct backend_weight *w)
{
    return (struct quant_matrix){w->dev, w->dtype, w->rows, w->cols, w->name, w->lower};
}

void cpu_weight_panel(const struct backend_weight *w, int64_t row, int64_t rows, int64_t col,
                      int64_t cols, float *dst)
{
    const struct quant_matrix from = cpu_weight_matrix(w);
    for (int64_t r = row; r < row + rows; r++, dst += cols) {
        const char *at = quant_matrix_row(&from, r) + (size_t)col * num_bytes(w->dtype);
        if (w->dtype == NUM_BF16)
            simd()->widen_bf16(dst, at, cols);
        else if (w->dtype == NUM_F16)
            simd()->widen_f16(dst, at, cols);
        else
            memcpy(dst, at, (size_t)cols * sizeof *dst);
    }
}

const float *cpu_weight_rows(const struct backend_weight *w, int64_t row, int64_t rows, float *room)
{
    const struct quant_matrix from = cpu_weight_matrix(w);
    const char *first = quant_matrix_row(&from, row);
    if (w->dtype == NUM_F32 && quant_matrix_gapless(&from, row, row + rows) &&
        (uintptr_t)first % sizeof(float) == 0)
        return (const void *)first;
    cpu_weight_panel(w, row, rows, 0, w->cols, room);
    return room;
}

struct product {
    struct cpu_backend *c;
    int64_t rows, width; /* of the tile, of a unit */
    int64_t chunk;       /* rows of one product */
    float *out;
    const float *in;
    const struct backend_weight *w;
    float beta;
};

static void forward_unit(void *arg, int64_t unit, int worker)
{
    const struct product *p = arg;
    int64_t at = unit * p->width, depth = p->w->cols;
    int64_t cols = p->w->rows - at < p->width ? p->w->rows - at : p->width;
    const float *panel = cpu_weight_rows(p->w, at, cols, cpu_scratch(p->c, worker));
    for (int64_t r = 0; r < p->rows; r += p->chunk)
        blas_gemm(BLAS_N, BLAS_T, p->chunk, cols, depth, p->in + r * depth, depth, panel, depth, 0,
                  p->out + r * p->w->rows + at, p->w->rows);
}

void cpu_linear_forward(struct backend *b, const struct backend_tile *t, void *y, const void *x,
                        const struct backend_weight *w)
{
    struct cpu_backend *c = cpu_of(b);
    struct product p = {c, t->rows, cpu_unit_cols(w->rows, w->cols), t->chunk, y, x, w, 0};
    if (cpu_begin(c, (size_t)(p.width * w->cols) * sizeof(float), 0))
        aq_pool_run(c->pool, cpu_units(w->rows, w->cols), forward_unit, &p);
}

static void backward_unit(void *arg, int64_t unit, int worker)
{
    const struct product *p = arg;
    int64_t at = unit * p->width, depth = p->w->rows;
    int64_t cols = p->w->cols - at < p->width ? p->w->cols - at : p->width;
    float *panel = cpu_scratch(p->c, worker);
    cpu_weight_panel(p->w, 0, depth, at, cols, panel);
    for (int64_t r = 0; r < p->rows; r += p->chunk)
        blas_gemm(BLAS_N, BLAS_N, p->chunk, cols, depth, p->in + r * depth, depth, panel, cols,
                  p->beta, p->out + r * p->w->cols + at, p->w->cols);
}

void cpu_linear_backward(struct backend *b, const struct backend_tile *t, void *dx, const void *dy,
                         const struct backend_weight *w, int accumulate)
{
    struct cpu_backend *c = cpu_of(b);
    struct product p = {c,  t->rows, cpu_unit_cols(w->cols, w->rows), t->chunk, dx,
                        dy, w,       accumulate ? 1.0F : 0.0F};
    if (cpu_begin(c, (size_t)(p.width * w->rows) * sizeof(float), 0))
        aq_pool_run(c->pool, cpu_units(w->cols, w->rows), backward_unit, &p);
}
