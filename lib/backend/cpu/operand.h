/*
 * A quantized operand on the CPU. Blocks of a weight's rows are quantized in scratch just before
 * the product that reads them, and kept, if packed, for the next. An activation takes the form
 * that its product asks for: fp32 values, or packed codes with one scale a row.
 *
 * Codes of a bf16 product are the treatment's own, or, where its values are multiples of one number
 * (`unit`) that are exact in bf16, those multiples: so NVFP4 needs no sums of short blocks, and a
 * unquantized bf16 weight can be multiplied in place. All other values (those with scales along K,
 * an unquantized activation) are split into three bf16 terms each, which add up to the fp32 value
 * exactly, where the unit is fast enough.
 */
#ifndef AQ_BACKEND_CPU_OPERAND_H
#define AQ_BACKEND_CPU_OPERAND_H

#include "backend/cpu/cpu.h"
#include "backend/cpu/matrix.h"
#include "quant/quant.h"

/* The forms of an activation, in one block of memory. */
struct act_forms {
    char *room;
    size_t bytes;
    float *values;    /* (rows, cols) */
    float *row_scale; /* [padded rows]: multiplies the codes */
    void *packed;     /* codes or terms */
    bool has_values, has_packed;
    enum matrix_kind kind; /* of what is packed */
    int terms;
};

/* How a pair of operands is multiplied: in fp32, or as codes (int8 or bf16) by matrix instructions.
 */
struct product_form {
    enum matrix_level level; /* MATRIX_NONE: fp32 */
    enum matrix_kind kind;
    int64_t block; /* codes of the weight that share a scale */
    int x_terms, w_terms;
};

/*
 * A weight's rows packed, made once for all products that the operand takes part in. Those in fp32
 * are not kept: they are made as quickly as they are read from memory.
 */
struct kept_rows {
    struct cpu_buffer room;
    struct product_form form;
    int64_t units;
    size_t stride; /* bytes from unit to unit */
    bool *made;    /* [units]; NULL: none */
    bool in_use;   /* by the product that runs now */
};

/* Rows are kept as long as they take no more than this for each element of the weight. */
enum { CPU_WEIGHT_SIZE = 5 };

struct backend_operand {
    int64_t rows, cols;     /* room */
    struct quant_spec spec; /* no steps: unquantized */
    struct quant_plan *plan;
    struct quant_matrix source;
    bool has_codes; /* the plan has a code form */
    struct quant_code_form form;
    bool unchanged;                 /* the plan leaves every value of the weight as it is */
    float unit;                     /* its values are bf16 numbers times this; 0: they are not */
    const struct backend_weight *w; /* of a weight */
    uint32_t version;               /* that of w */
    float *scaled;                  /* (rows, cols): the source times the range's factor */
    const struct backend_tile *t;   /* of an activation */
    struct act_forms *forms;
    struct kept_rows *kept; /* of a weight */
};

/* Are the codes multiples of the unit, rather than the treatment's own? */
bool operand_by_unit(const struct backend_operand *op, enum matrix_kind kind);
/* n values as multiples of the unit, or split into terms: n first terms, then n second ones, ...
 */
void operand_to_bf16(const struct backend_operand *op, int terms, const float *values,
                     uint16_t *codes, int64_t n);
/* What codes with this scale are multiplied by. */
static inline float operand_multiplier(const struct backend_operand *op, float scale)
{
    return op->form.divide ? 1 / scale : scale;
}

struct product_form operand_product_form(const struct cpu_backend *c,
                                         const struct backend_operand *x,
                                         const struct backend_operand *w);

/* Makes the form that the product reads, if it is not there yet; not from within a unit. False
 * without memory. */
bool operand_prepare(struct cpu_backend *c, const struct backend_operand *x,
                     const struct product_form *form);
/* fp32 values of a prepared activation. */
const float *operand_values(const struct backend_operand *x);

/* A unit of a product: a block of the weight's rows. */
struct weight_unit {
    int64_t index, row, rows;
};

/*
 * Its rows in the form of a product: in fp32, or packed, padded to a group, with their scales as
 * multipliers in blocks x padded rows.
 */
struct weight_rows {
    const float *values;
    const void *packed;
    const float *scales;
};

/* Bytes of scratch for a unit of `rows` rows. */
size_t operand_weight_room(const struct backend_operand *w, const struct product_form *form,
                           int64_t rows);
/* Before a product that cuts the weight into units of `rows` rows; not from within one. */
void operand_keep(struct cpu_backend *c, const struct backend_operand *w,
                  const struct product_form *form, int64_t rows, int64_t units);
struct weight_rows operand_weight_rows(const struct backend_operand *w,
                                       const struct product_form *form,
                                       const struct weight_unit *unit, void *scratch);
/* Do products of these forms read the same rows of a weight? */
bool operand_same_rows(const struct product_form *a, const struct product_form *b);

#endif
