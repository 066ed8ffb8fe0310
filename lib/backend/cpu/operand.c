#include "backend/cpu/operand.h"

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
}

static void note_code_form(struct backend_operand *op)
{
    struct aq_err no_codes;
    op->has_codes = quant_code_form(op->plan, &op->form, &no_codes) == 0;
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
    if (spec->steps == 0 || !cpu_begin(c, 0, 0))
        return;
    if (quant_plan_weight(&op->plan, spec, &op->source, rounding_of(c), &c->failed) < 0) {
        op->w = NULL;
        return;
    }
    note_code_form(op);
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
    note_code_form(op);
    if (clipped) {
        struct clip_job j = {op, clipped};
        aq_pool_run(c->pool, t->samples, clip_unit, &j);
    }
}

/* ---- which product ---- */

static bool codes_fit(const struct backend_operand *op, enum matrix_kind kind)
{
    return kind == MATRIX_BF16 || op->form.int8;
}

struct product_form operand_product_form(const struct cpu_backend *c,
                                         const struct backend_operand *x,
                                         const struct backend_operand *w)
{
    static const struct product_form plain = {MATRIX_NONE, MATRIX_INT8, 0};
    if (!x->plan || !w->plan || !x->has_codes || !w->has_codes || x->form.scale_cols != 1)
        return plain;
    for (int kind = MATRIX_INT8; kind <= MATRIX_BF16; kind++) {
        struct product_form f = {c->levels[kind], (enum matrix_kind)kind, 0};
        int64_t size = matrix_code_size(f.kind);
        if (f.level == MATRIX_NONE || !codes_fit(x, f.kind) || !codes_fit(w, f.kind))
            continue;
        if (w->form.scale_cols == 1)
            f.block = matrix_ld(f.kind, w->source.cols);
        else if (w->form.k_block * size % MATRIX_LINE == 0)
            f.block = w->form.k_block;
        else
            continue;
        return f;
    }
    return plain;
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

void operand_prepare(struct cpu_backend *c, const struct backend_operand *x,
                     const struct product_form *form)
{
    struct act_forms *f = x->forms;
    struct act_job j = {.op = x, .kind = form->kind};
    int64_t used = x->t->first[x->t->samples], cols = x->source.cols;
    if (!x->plan)
        return;
    if (form->level == MATRIX_NONE) {
        if (f->has_values)
            return;
        aq_pool_run(c->pool, x->t->samples, values_unit, &j);
        memset(f->values + used * cols, 0, (size_t)((x->t->rows - used) * cols) * sizeof(float));
        f->has_values = true;
        return;
    }
    if (f->has_codes[form->kind])
        return;
    int64_t ld_bytes = matrix_ld(form->kind, cols) * matrix_code_size(form->kind);
    int64_t padded = matrix_round(x->t->rows);
    aq_pool_run(c->pool, x->t->samples, codes_unit, &j);
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
    size_t codes = (size_t)padded_bytes(form->kind, rows, w->source.cols);
    return 2 * codes + 2 * (size_t)(matrix_round(rows) * w->form.scale_cols) * sizeof(float);
}

struct packed_rows operand_packed_rows(const struct backend_operand *w,
                                       const struct product_form *form, int64_t row, int64_t rows,
                                       void *room)
{
    int64_t size = matrix_code_size(form->kind), cols = w->source.cols;
    int64_t ld = matrix_ld(form->kind, cols), padded = matrix_round(rows);
    int64_t blocks = w->form.scale_cols;
    char *packed = room, *codes = packed + padded * ld * size;
    float *scales = (void *)(codes + padded * ld * size), *raw = scales + padded * blocks;
    quant_apply_codes(w->plan, &w->source, row, row + rows, codes,
                      form->kind == MATRIX_INT8 ? QUANT_INT8 : QUANT_CODE_BF16, raw, NULL);
    spread_rows(codes, rows, cols * size, ld * size);
    memset(codes + rows * ld * size, 0, (size_t)((padded - rows) * ld * size));
    for (int64_t b = 0; b < blocks; b++)
        for (int64_t r = 0; r < padded; r++)
            scales[b * padded + r] = r < rows ? multiplier(&w->form, raw[r * blocks + b]) : 0;
    matrix_pack(form->level, form->kind, codes, padded, ld, packed);
    return (struct packed_rows){packed, scales};
}
