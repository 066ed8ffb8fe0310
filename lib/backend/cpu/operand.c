#include "backend/cpu/operand.h"

#include "backend/cpu/simd.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

/* ---- room ---- */

static int64_t padded_bytes(enum matrix_kind kind, int64_t rows, int64_t cols)
{
    return matrix_round(rows) * matrix_ld(kind, cols) * matrix_code_size(kind);
}

static struct act_forms *forms_new(struct backend *b, int64_t rows, int64_t cols,
                                   struct aq_err *err)
{
    struct act_forms *f = xcalloc(1, sizeof *f);
    size_t values = (size_t)(rows * cols + matrix_round(rows)) * sizeof(float);
    size_t lead = (values + CPU_ALIGN - 1) / CPU_ALIGN * CPU_ALIGN;
    size_t int8 = (size_t)padded_bytes(MATRIX_INT8, rows, cols);
    f->bytes = lead + int8 + (size_t)padded_bytes(MATRIX_BF16, rows, cols);
    f->room = b->ops->alloc(b, f->bytes, "a quantized activation", err);
    if (!f->room) {
        free(f);
        return NULL;
    }
    f->values = (void *)f->room;
    f->row_scale = f->values + rows * cols;
    f->codes[MATRIX_INT8] = f->room + lead;
    f->codes[MATRIX_BF16] = f->room + lead + int8;
    return f;
}

struct backend_operand *cpu_operand_new(struct backend *b, int64_t rows, int64_t cols,
                                        int is_weight, struct aq_err *err)
{
    struct backend_operand *op = xcalloc(1, sizeof *op);
    op->rows = rows;
    op->cols = cols;
    if (is_weight)
        return op;
    op->forms = forms_new(b, rows, cols, err);
    if (!op->forms) {
        free(op);
        return NULL;
    }
    return op;
}

void cpu_operand_free(struct backend *b, struct backend_operand *op)
{
    if (!op)
        return;
    quant_plan_free(op->plan);
    if (op->forms)
        b->ops->free(b, op->forms->room, op->forms->bytes);
    free(op->forms);
    free(op);
}

/* ---- plans ---- */

static enum quant_rounding rounding_of(const struct cpu_backend *c)
{
    return c->config.operand_rounding && c->config.bf16 ? QUANT_TO_BF16 : QUANT_UNROUNDED;
}

static void drop_plan(struct backend_operand *op)
{
    quant_plan_free(op->plan);
    op->plan = NULL;
    op->has_codes = false;
    op->unit = 0;
}

static void note_code_forms(struct backend_operand *op)
{
    struct aq_err no_codes;
    op->has_codes = quant_code_form(op->plan, &op->form, &no_codes) == 0;
    op->unit = quant_bf16_unit(op->plan);
}

void cpu_quantize_weight(struct backend *b, struct backend_operand *op,
                         const struct backend_weight *w, const struct quant_spec *spec)
{
    struct cpu_backend *c = cpu_of(b);
    if (op->w == w && op->source.data == w->dev && memcmp(&op->spec, spec, sizeof *spec) == 0)
        return;
    drop_plan(op);
    op->w = w;
    op->spec = *spec;
    op->source = (struct quant_matrix){w->dev, w->dtype == BACKEND_BF16 ? QUANT_BF16 : QUANT_F32,
                                       w->rows, w->cols, w->name};
    if (spec->steps == 0)
        op->unit = w->dtype == BACKEND_BF16 ? 1 : 0;
    if (spec->steps == 0 || !cpu_begin(c, 0, 0))
        return;
    if (quant_plan_weight(&op->plan, spec, &op->source, rounding_of(c), &c->failed) < 0) {
        op->w = NULL;
        return;
    }
    note_code_forms(op);
}

struct clip_job {
    const struct backend_operand *op;
    double *clipped;
};

/* Only the counts are wanted; the values go to the place that the next product fills anyway. */
static void clip_unit(void *arg, int64_t unit, int worker)
{
    const struct clip_job *j = arg;
    const struct backend_operand *op = j->op;
    int64_t from = op->t->first[unit], to = op->t->first[unit + 1];
    struct quant_stats stats = {0};
    (void)worker;
    quant_apply(op->plan, &op->source, from, to, op->forms->values + from * op->source.cols,
                QUANT_F32, &stats);
    j->clipped[unit] += (double)stats.clipped;
}

void cpu_quantize_act(struct backend *b, struct backend_operand *op, const struct backend_tile *t,
                      const void *x, int64_t cols, const struct quant_spec *spec,
                      const struct quant_range *range, double *clipped)
{
    struct cpu_backend *c = cpu_of(b);
    drop_plan(op);
    op->spec = *spec;
    op->t = t;
    op->source = (struct quant_matrix){x, QUANT_F32, t->rows, cols, "activation"};
    op->forms->has_values = false;
    memset(op->forms->has_codes, 0, sizeof op->forms->has_codes);
    if (spec->steps == 0 || !cpu_begin(c, 0, 0) ||
        quant_plan_act(&op->plan, spec, cols, range, rounding_of(c), &c->failed) < 0)
        return;
    note_code_forms(op);
    if (clipped) {
        struct clip_job j = {op, clipped};
        aq_pool_run(c->pool, t->samples, clip_unit, &j);
    }
}

/* ---- which product ---- */

/* Are the codes multiples of the unit, rather than the treatment's own? */
static bool by_unit(const struct backend_operand *op, enum matrix_kind kind)
{
    return kind == MATRIX_BF16 && op->unit > 0;
}

/* Codes that share a scale, in a product of this kind; 0: it cannot be made. */
static int64_t scale_block(const struct backend_operand *op, enum matrix_kind kind)
{
    if (by_unit(op, kind))
        return matrix_ld(kind, op->source.cols);
    if (!op->has_codes || (kind == MATRIX_INT8 && !op->form.int8))
        return 0;
    if (op->form.scale_cols == 1)
        return matrix_ld(kind, op->source.cols);
    return op->form.k_block * matrix_code_size(kind) % MATRIX_LINE == 0 ? op->form.k_block : 0;
}

struct product_form operand_product_form(const struct cpu_backend *c,
                                         const struct backend_operand *x,
                                         const struct backend_operand *w)
{
    for (int kind = MATRIX_INT8; kind <= MATRIX_BF16; kind++) {
        struct product_form f = {c->levels[kind], (enum matrix_kind)kind, 0};
        f.block = scale_block(w, f.kind);
        /* Sums that leave the tiles after every block cost more than AMX saves, and on such
         * processors bf16 on AVX-512 is slower than fp32: docs/performance.md. */
        if (f.level == MATRIX_AMX && f.block < matrix_ld(f.kind, w->source.cols))
            f.level = f.kind == MATRIX_INT8 ? matrix_best(f.kind, MATRIX_AVX512) : MATRIX_NONE;
        if (f.level != MATRIX_NONE && f.block > 0 &&
            scale_block(x, f.kind) == matrix_ld(f.kind, x->source.cols))
            return f;
    }
    return (struct product_form){MATRIX_NONE, MATRIX_INT8, 0};
}

/* ---- activations, a sample at a time ---- */

struct act_job {
    const struct backend_operand *op;
    enum matrix_kind kind;
};

static void values_unit(void *arg, int64_t unit, int worker)
{
    const struct act_job *j = arg;
    const struct backend_operand *op = j->op;
    int64_t from = op->t->first[unit], to = op->t->first[unit + 1];
    (void)worker;
    quant_apply(op->plan, &op->source, from, to, op->forms->values + from * op->source.cols,
                QUANT_F32, NULL);
}

/* n values as multiples of the operand's unit. */
static void narrow(const struct backend_operand *op, const float *values, uint16_t *codes,
                   int64_t n)
{
    simd()->narrow_bf16(codes, values, 1 / op->unit, n);
}

/* A sample of an activation whose values are there already. */
static void units_unit(void *arg, int64_t unit, int worker)
{
    const struct act_job *j = arg;
    const struct backend_operand *op = j->op;
    int64_t cols = op->source.cols, ld = matrix_ld(MATRIX_BF16, cols);
    (void)worker;
    for (int64_t r = op->t->first[unit]; r < op->t->first[unit + 1]; r++) {
        uint16_t *codes = (uint16_t *)op->forms->codes[MATRIX_BF16] + r * ld;
        narrow(op, op->forms->values + r * cols, codes, cols);
        memset(codes + cols, 0, (size_t)(ld - cols) * sizeof *codes);
        op->forms->row_scale[r] = op->unit;
    }
}

/* Rows that lie without gaps get their padding, from the last to the first. */
static void spread_rows(char *at, int64_t rows, int64_t bytes, int64_t ld_bytes)
{
    if (bytes == ld_bytes)
        return;
    for (int64_t r = rows - 1; r >= 0; r--) {
        memmove(at + r * ld_bytes, at + r * bytes, (size_t)bytes);
        memset(at + r * ld_bytes + bytes, 0, (size_t)(ld_bytes - bytes));
    }
}

static float multiplier(const struct quant_code_form *form, float scale)
{
    return form->divide ? 1 / scale : scale;
}

static void codes_unit(void *arg, int64_t unit, int worker)
{
    const struct act_job *j = arg;
    const struct backend_operand *op = j->op;
    int64_t from = op->t->first[unit], to = op->t->first[unit + 1], cols = op->source.cols;
    int64_t size = matrix_code_size(j->kind), ld = matrix_ld(j->kind, cols);
    char *codes = (char *)op->forms->codes[j->kind] + from * ld * size;
    float *scale = op->forms->row_scale + from;
    (void)worker;
    quant_apply_codes(op->plan, &op->source, from, to, codes,
                      j->kind == MATRIX_INT8 ? QUANT_INT8 : QUANT_CODE_BF16, scale, NULL);
    spread_rows(codes, to - from, cols * size, ld * size);
    for (int64_t r = 0; r < to - from; r++)
        scale[r] = multiplier(&op->form, scale[r]);
}

static void prepare_values(struct cpu_backend *c, const struct backend_operand *x)
{
    struct act_forms *f = x->forms;
    struct act_job j = {.op = x};
    int64_t used = x->t->first[x->t->samples], cols = x->source.cols;
    if (f->has_values)
        return;
    aq_pool_run(c->pool, x->t->samples, values_unit, &j);
    memset(f->values + used * cols, 0, (size_t)((x->t->rows - used) * cols) * sizeof(float));
    f->has_values = true;
}

void operand_prepare(struct cpu_backend *c, const struct backend_operand *x,
                     const struct product_form *form)
{
    struct act_forms *f = x->forms;
    struct act_job j = {.op = x, .kind = form->kind};
    if (!x->plan)
        return;
    bool units = by_unit(x, form->kind);
    if (form->level == MATRIX_NONE || units)
        prepare_values(c, x);
    if (form->level == MATRIX_NONE || f->has_codes[form->kind])
        return;
    int64_t used = x->t->first[x->t->samples], padded = matrix_round(x->t->rows);
    int64_t ld_bytes = matrix_ld(form->kind, x->source.cols) * matrix_code_size(form->kind);
    aq_pool_run(c->pool, x->t->samples, units ? units_unit : codes_unit, &j);
    memset((char *)f->codes[form->kind] + used * ld_bytes, 0, (size_t)((padded - used) * ld_bytes));
    memset(f->row_scale + used, 0, (size_t)(padded - used) * sizeof(float));
    f->has_codes[form->kind] = true;
}

const float *operand_values(const struct backend_operand *x)
{
    return x->plan ? x->forms->values : x->source.data;
}

/* ---- blocks of a weight's rows ---- */

const float *operand_rows(const struct backend_operand *w, int64_t row, int64_t rows, float *room)
{
    if (!w->plan)
        return cpu_weight_rows(w->w, row, rows, room);
    quant_apply(w->plan, &w->source, row, row + rows, room, QUANT_F32, NULL);
    return room;
}

size_t operand_packed_room(const struct backend_operand *w, const struct product_form *form,
                           int64_t rows)
{
    size_t codes = 2 * (size_t)padded_bytes(form->kind, rows, w->source.cols);
    size_t padded = (size_t)matrix_round(rows);
    if (by_unit(w, form->kind)) /* with a scale for every row, and a row of values */
        return codes + (padded + (size_t)w->source.cols) * sizeof(float);
    return codes + 2 * padded * (size_t)w->form.scale_cols * sizeof(float);
}

/* Rows of a weight as multiples of its unit, ld apart. row_room: a row of values. */
static void unit_rows(const struct backend_operand *w, int64_t row, int64_t rows, uint16_t *codes,
                      float *row_room)
{
    int64_t cols = w->source.cols, ld = matrix_ld(MATRIX_BF16, cols);
    for (int64_t r = row; r < row + rows; r++, codes += ld) {
        if (w->plan) {
            quant_apply(w->plan, &w->source, r, r + 1, row_room, QUANT_F32, NULL);
            narrow(w, row_room, codes, cols);
        } else {
            memcpy(codes, (const char *)w->source.data + r * cols * 2, (size_t)cols * 2);
        }
        memset(codes + cols, 0, (size_t)(ld - cols) * sizeof *codes);
    }
}

/* The treatment's own codes, ld apart, and scales as multipliers in blocks x padded rows. */
static void code_rows(const struct backend_operand *w, enum matrix_kind kind, int64_t row,
                      int64_t rows, char *codes, float *scales)
{
    int64_t size = matrix_code_size(kind), cols = w->source.cols, ld = matrix_ld(kind, cols);
    int64_t padded = matrix_round(rows), blocks = w->form.scale_cols;
    float *raw = scales + padded * blocks;
    quant_apply_codes(w->plan, &w->source, row, row + rows, codes,
                      kind == MATRIX_INT8 ? QUANT_INT8 : QUANT_CODE_BF16, raw, NULL);
    spread_rows(codes, rows, cols * size, ld * size);
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t r = 0; r < padded; r++)
            scales[b * padded + r] = r < rows ? multiplier(&w->form, raw[r * blocks + b]) : 0;
}

struct packed_rows operand_packed_rows(const struct backend_operand *w,
                                       const struct product_form *form, int64_t row, int64_t rows,
                                       void *room)
{
    int64_t size = matrix_code_size(form->kind), ld = matrix_ld(form->kind, w->source.cols);
    int64_t padded = matrix_round(rows);
    char *packed = room, *codes = packed + padded * ld * size;
    float *scales = (void *)(codes + padded * ld * size);
    if (by_unit(w, form->kind)) {
        unit_rows(w, row, rows, (void *)codes, scales + padded);
        for (int64_t r = 0; r < padded; r++)
            scales[r] = r < rows ? w->unit : 0;
    } else {
        code_rows(w, form->kind, row, rows, codes, scales);
    }
    memset(codes + rows * ld * size, 0, (size_t)((padded - rows) * ld * size));
    matrix_pack(form->level, form->kind, codes, padded, ld, packed);
    return (struct packed_rows){packed, scales};
}
