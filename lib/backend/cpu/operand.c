/* Quantized operands. */
#include "backend/cpu/operand.h"

#include "base/mem.h"

#include <stdlib.h>

struct backend_operand *cpu_operand_new(struct backend *b, int64_t rows, int64_t cols,
                                        int is_weight, struct aq_err *err)
{
    (void)b;
    (void)err;
    struct backend_operand *op = xcalloc(1, sizeof *op);
    op->rows = rows;
    op->cols = cols;
    op->is_weight = is_weight;
    return op;
}

void cpu_operand_free(struct backend *b, struct backend_operand *op)
{
    (void)b;
    free(op);
}

void cpu_quantize_weight(struct backend *b, struct backend_operand *op,
                         const struct backend_weight *w, const struct quant_spec *spec)
{
    (void)b;
    op->w = w;
    op->spec = spec;
}

void cpu_quantize_act(struct backend *b, struct backend_operand *op, const struct backend_tile *t,
                      const void *x, int64_t cols, const struct quant_spec *spec, const float *amax)
{
    (void)b;
    (void)t;
    (void)amax;
    op->x = x;
    op->cols = cols;
    op->spec = spec;
}
