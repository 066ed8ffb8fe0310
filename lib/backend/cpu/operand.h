#ifndef AQ_BACKEND_CPU_OPERAND_H
#define AQ_BACKEND_CPU_OPERAND_H

#include "backend/cpu/cpu.h"

struct backend_operand {
    int is_weight;
    int64_t rows, cols;
    const struct quant_spec *spec; /* NULL: unquantized */
    const struct backend_weight *w;
    const float *x;
};

#endif
