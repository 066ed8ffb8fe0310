#include "backend/cpu/operand.h"

#include "backend/cpu/simd.h"
#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- room ---- */

static struct act_forms *forms_new(struct backend *b, int64_t rows, int64_t cols,
                                   struct aq_err *err)
{
    struct act_forms *f = xcalloc(1, sizeof *f);
    size_t values = (size_t)(rows * cols + matrix_round(rows)) * sizeof(float);
    size_t lead = cpu_aligned(values);
    int terms = cpu_has_terms(cpu_of(b)) ? MATRIX_TERMS : 1;
    f->bytes = lead + (size_t)matrix_packed_bytes(MATRIX_BF16, rows, cols, terms);
    f->room = b->ops->alloc(b, f->bytes, "a quantized activation", err);
    if (!f->room) {
        free(f);
        return NULL;
    }
    f->values = (void *)f->room;
    f->row_scale = f->values + rows * cols;
    f->packed = f->room + lead;
    return f;
}

struct backend_operand *cpu_operand_new(struct backend *b, int64_t rows, int64_t cols,
                                        int is_weight, struct aq_err *err)
{
    struct backend_operand *op = xcalloc(1, sizeof *op);
    op->rows = rows;
    op->cols = cols;
    if (is_weight) {
        op->kept = xcalloc(1, sizeof *op->kept);
        return op;
    }
    op->forms = forms_new(b, rows, cols, err);
    if (!op->forms) {
        free(op);
        return NULL;
    }
    return op;
}

static size_t scaled_bytes(const struct backend_operand *op)
{
    return (size_t)(op->rows * op->cols) * sizeof(float);
}

void cpu_operand_free(struct backend *b, struct backend_operand *op)
{
    if (!op)
        return;
    quant_plan_free(op->plan);
    if (op->scaled)
        b->ops->free(b, op->scaled, scaled_bytes(op));
    if (op->forms)
        b->ops->free(b, op->forms->room, op->forms->bytes);
    if (op->kept) {
        b->ops->free(b, op->kept->room.data, op->kept->room.size);
        free(op->kept->made);
    }
    free(op->kept);
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
    op->unchanged = false;
    op->unit = 0;
    if (op->kept) {
        free(op->kept->made);
        op->kept->made = NULL;
    }
}

static void note_code_forms(struct backend_operand *op)
{
    struct aq_err no_codes;
    op->has_codes = quant_code_form(op->plan, &op->form, &no_codes) == 0;
    op->unit = quant_bf16_unit(op->plan);
}

/* Is every value its own code? Nearly always the first row says that it is not. */
static bool leaves_all(const struct backend_operand *op)
{
    size_t cols = (size_t)op->source.cols;
    float *row = xmalloc(2 * cols * sizeof *row), *quantized = row + cols;
    bool same = true;
    for (int64_t r = 0; same && r < op->source.rows; r++) {
        cpu_weight_panel(op->w, r, 1, 0, op->source.cols, row);
        quant_apply(op->plan, &op->source, r, r + 1, quantized, NUM_F32, NULL);
        for (size_t i = 0; same && i < cols; i++)
            same = row[i] == quantized[i];
    }
    free(row);
    return same;
}

void cpu_quantize_weight(struct backend *b, struct backend_operand *op,
                         const struct backend_weight *w, const struct quant_spec *spec)
{
    struct cpu_backend *c = cpu_of(b);
    if (op->w == w && op->version == w->version && op->source.data == w->dev &&
        quant_same(&op->spec, spec))
        return;
    assert(!quant_has_method(spec)); /* those are computed before, by score/made.h */
    drop_plan(op);
    op->w = w;
    op->version = w->version;
    op->spec = *spec;
    op->source = cpu_weight_matrix(w);
    if (spec->steps == 0)
        op->unit = w->dtype == NUM_BF16 ? 1 : 0;
    if (spec->steps == 0 || !cpu_begin(c, 0, 0))
        return;
    if (quant_plan_weight(&op->plan, spec, &op->source, rounding_of(c), &c->failed) < 0) {
        op->w = NULL;
        return;
    }
    note_code_forms(op);
    op->unchanged = cpu_has_terms(c) && leaves_all(op);
}

struct scale_job {
    const struct backend_operand *op;
    const float *x, *factor;
    int64_t cols;
};

static void scale_unit(void *arg, int64_t unit, int worker)
{
    const struct scale_job *j = arg;
    (void)worker;
    for (int64_t r = j->op->t->first[unit]; r < j->op->t->first[unit + 1]; r++)
        for (int64_t c = 0; c < j->cols; c++)
            j->op->scaled[r * j->cols + c] = j->x[r * j->cols + c] * j->factor[c];
}

/* x with its columns multiplied; x itself without memory, which is a failure. */
static const void *scaled_input(struct cpu_backend *c, struct backend_operand *op, const void *x,
                                int64_t cols, const float *factor)
{
    struct scale_job j = {op, x, factor, cols};
    int64_t used = op->t->first[op->t->samples];
    if (!op->scaled)
        op->scaled =
            c->base.ops->alloc(&c->base, scaled_bytes(op), "a scaled activation", &c->failed);
    if (!op->scaled)
        return x;
    aq_pool_run(c->pool, op->t->samples, scale_unit, &j);
    memset(op->scaled + used * cols, 0, (size_t)((op->t->rows - used) * cols) * sizeof(float));
    return op->scaled;
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
    if (from == to)
        return;
    quant_apply(op->plan, &op->source, from, to, op->forms->values + from * op->source.cols,
                NUM_F32, &stats);
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
    if (range && range->factor)
        x = scaled_input(c, op, x, cols, range->factor);
    op->source = (struct quant_matrix){x, NUM_F32, t->rows, cols, "activation"};
    op->forms->has_values = false;
    op->forms->has_packed = false;
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

bool operand_by_unit(const struct backend_operand *op, enum matrix_kind kind)
{
    return kind == MATRIX_BF16 && op->unit > 0;
}

/* Codes that share a scale, in a product of this kind; 0: it cannot be made. */
static int64_t scale_block(const struct backend_operand *op, enum matrix_kind kind)
{
    if (operand_by_unit(op, kind))
        return matrix_ld(kind, op->source.cols);
    if (!op->has_codes || (kind == MATRIX_INT8 && !op->form.int8))
        return 0;
    if (op->form.scale_cols == 1)
        return matrix_ld(kind, op->source.cols);
    return op->form.k_block * matrix_code_size(kind) % MATRIX_LINE == 0 ? op->form.k_block : 0;
}

static bool one_scale(const struct backend_operand *op, enum matrix_kind kind)
{
    return scale_block(op, kind) == matrix_ld(kind, op->source.cols);
}

struct product_form operand_product_form(const struct cpu_backend *c,
                                         const struct backend_operand *x,
                                         const struct backend_operand *w)
{
    const struct product_form in_fp32 = {MATRIX_NONE, MATRIX_INT8, 0, 1, 1};
    if (!x->plan && !w->plan) /* must be the reference, to the bit */
        return in_fp32;
    for (int k = MATRIX_INT8; k <= MATRIX_BF16; k++) {
        enum matrix_kind kind = (enum matrix_kind)k;
        int64_t block = scale_block(w, kind);
        if (c->levels[kind] != MATRIX_NONE && block > 0 && one_scale(x, kind))
            return (struct product_form){c->levels[kind], kind, block, 1, 1};
    }
    /* terms round otherwise than the reference: what changes no value must show no error */
    if (!cpu_has_terms(c) || (!x->plan && w->unchanged))
        return in_fp32;
    int64_t block = scale_block(w, MATRIX_BF16), all = matrix_ld(MATRIX_BF16, w->source.cols);
    return (struct product_form){MATRIX_AMX, MATRIX_BF16, block ? block : all,
                                 one_scale(x, MATRIX_BF16) ? 1 : MATRIX_TERMS,
                                 block ? 1 : MATRIX_TERMS};
}

/* ---- activations, a sample at a time ---- */

struct act_job {
    struct cpu_backend *c;
    const struct backend_operand *op;
    const struct product_form *form;
};

static void values_unit(void *arg, int64_t unit, int worker)
{
    const struct act_job *j = arg;
    const struct backend_operand *op = j->op;
    int64_t from = op->t->first[unit], to = op->t->first[unit + 1];
    (void)worker;
    if (from < to)
        quant_apply(op->plan, &op->source, from, to, op->forms->values + from * op->source.cols,
                    NUM_F32, NULL);
}

static void prepare_values(struct cpu_backend *c, const struct backend_operand *x)
{
    struct act_forms *f = x->forms;
    struct act_job j = {.op = x};
    int64_t used = x->t->first[x->t->samples], cols = x->source.cols;
    if (f->has_values || !x->plan)
        return;
    aq_pool_run(c->pool, x->t->samples, values_unit, &j);
    memset(f->values + used * cols, 0, (size_t)((x->t->rows - used) * cols) * sizeof(float));
    f->has_values = true;
}

const float *operand_values(const struct backend_operand *x)
{
    return x->plan ? x->forms->values : x->source.data;
}

/* A sample's own codes; they lie in the place of the values until they are packed. */
static void codes_unit(void *arg, int64_t unit, int worker)
{
    const struct act_job *j = arg;
    const struct backend_operand *op = j->op;
    struct act_forms *f = op->forms;
    enum matrix_kind kind = j->form->kind;
    int64_t from = op->t->first[unit], to = op->t->first[unit + 1], cols = op->source.cols;
    char *codes = (char *)(f->values + from * cols);
    (void)worker;
    if (from == to)
        return;
    quant_apply_codes(op->plan, &op->source, from, to, codes,
                      kind == MATRIX_INT8 ? QUANT_INT8 : QUANT_CODE_BF16, f->row_scale + from,
                      NULL);
    for (int64_t r = from; r < to; r++, codes += cols * matrix_code_size(kind)) {
        matrix_place_row(kind, codes, cols, 1, 0, r, f->packed);
        f->row_scale[r] = operand_multiplier(op, f->row_scale[r]);
    }
}

void operand_to_bf16(const struct backend_operand *op, int terms, const float *values,
                     uint16_t *codes, int64_t n)
{
    if (terms == 1)
        simd()->narrow_bf16(codes, values, 1 / op->unit, n);
    else
        simd()->split_bf16(codes, codes + n, codes + 2 * n, values, n);
}

/* A sample of an activation whose values are there already. */
static void values_to_bf16_unit(void *arg, int64_t unit, int worker)
{
    const struct act_job *j = arg;
    const struct backend_operand *op = j->op;
    int64_t cols = op->source.cols;
    int terms = j->form->x_terms;
    uint16_t *codes = cpu_scratch(j->c, worker);
    for (int64_t r = op->t->first[unit]; r < op->t->first[unit + 1]; r++) {
        operand_to_bf16(op, terms, operand_values(op) + r * cols, codes, cols);
        for (int i = 0; i < terms; i++)
            matrix_place_row(MATRIX_BF16, codes + i * cols, cols, terms, i, r, op->forms->packed);
        op->forms->row_scale[r] = terms == 1 ? op->unit : 1;
    }
}

bool operand_prepare(struct cpu_backend *c, const struct backend_operand *x,
                     const struct product_form *form)
{
    struct act_forms *f = x->forms;
    struct act_job j = {c, x, form};
    bool from_values = form->x_terms > 1 || operand_by_unit(x, form->kind);
    int64_t cols = x->source.cols;
    if (form->level == MATRIX_NONE || from_values)
        prepare_values(c, x);
    if (form->level == MATRIX_NONE ||
        (f->has_packed && f->kind == form->kind && f->terms == form->x_terms))
        return true;
    if (!cpu_begin(c, (size_t)(form->x_terms * cols) * sizeof(uint16_t), 0))
        return false;
    aq_pool_run(c->pool, x->t->samples, from_values ? values_to_bf16_unit : codes_unit, &j);
    for (int64_t r = x->t->first[x->t->samples]; r < matrix_round(x->t->rows); r++) {
        for (int i = 0; i < form->x_terms; i++)
            matrix_place_row(form->kind, NULL, cols, form->x_terms, i, r, f->packed);
        f->row_scale[r] = 0;
    }
    f->has_values &= from_values;
    f->has_packed = true;
    f->kind = form->kind;
    f->terms = form->x_terms;
    return true;
}
