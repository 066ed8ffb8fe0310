/* Rows through the steps of a plan. */
#include "quant/plan.h"

#include "base/mem.h"

#include <assert.h>
#include <float.h>
#include <stdbool.h>
#include <stdlib.h>

enum { CHUNK = 64 }; /* blocks whose scales are made together */

/* ---- scales from the data of a block ---- */

/* NVFP4 with a calibrated amax for each block (a weight's is its own): e4m3 under g / 6. */
static void nvfp4_static_second(float g, float *mul, float *back)
{
    struct plan_step e4m3 = {.op = KERNEL_FLOAT, .format = NUM_E4M3};
    plan_scales(&e4m3, g / 6, mul, back);
}

static float nvfp4_static_scale(float m, float g)
{
    float mul, back;
    nvfp4_static_second(g, &mul, &back);
    return num_round(m / 6 * mul, NUM_E4M3) * back;
}

/* The scale of the tensor, under which every block has one in e4m3. */
float plan_nvfp4_second(float g)
{
    float gs = g / 2688; /* 6 * 448 */
    return gs > 0 ? gs : 1e-12F;
}

/* MX: the exponent of the power of two that brings the block's largest within the format. */
static int mx_exponent(const struct plan_step *s, float m)
{
    if (m == 0)
        return 0;
    float max = s->op == KERNEL_INT ? s->hi : s->format.max;
    return num_ceil_log2((m < FLT_MAX ? m : FLT_MAX) / max);
}

/*
 * Blocks of an activation, as engines make them. int8: as everywhere. e4m3: ranges below 1e-10
 * count as that, so that a block of zeros has a scale, and all others have their own.
 */
static void act_block_scales(const struct plan_step *s, float m, float *mul, float *back)
{
    const float least = 1e-10F;
    if (s->op == KERNEL_INT) {
        plan_scales(s, m, mul, back);
        return;
    }
    float recip = 1 / (m > least ? m : least);
    *mul = recip * s->format.max;
    *back = 1 / *mul;
}

/* Are a step's scales computed from the row itself, block by block? */
static bool scales_in_blocks(const struct quant_step *t)
{
    return t->scope == QUANT_NVFP4 || t->scope == QUANT_MX ||
           (t->scope == QUANT_BLOCK && t->dynamic);
}

/*
 * Scales of the blocks with the maxima m; g: the second level of NVFP4. Returns what a kernel_run
 * is to have as mul.
 */
static const float *block_scales(const struct quant_plan *p, const struct plan_step *s, float g,
                                 const float *m, size_t blocks, float *mul, float *back)
{
    int is_static = p->is_weight && !s->step.dynamic;
    if (s->step.scope == QUANT_NVFP4 && !is_static) {
        kernels_active()->nvfp4_scales(back, mul, m, blocks, plan_nvfp4_second(g));
        return g < 0x1p90F ? mul : NULL; /* none is below 1e-5 */
    }
    for (size_t i = 0; i < blocks; i++) {
        if (s->step.scope == QUANT_NVFP4) {
            back[i] = nvfp4_static_scale(m[i], g);
        } else if (s->step.scope == QUANT_BLOCK) {
            act_block_scales(s, m[i], &mul[i], &back[i]);
        } else {
            int e = mx_exponent(s, m[i]);
            mul[i] = num_from_e8m0((uint8_t)(127 - e));
            back[i] = s->op == KERNEL_INT ? mul[i] : num_from_e8m0((uint8_t)(127 + e));
        }
    }
    return s->op == KERNEL_RATIO ? NULL : mul;
}

/* ---- one step over one row ---- */

static void run_kernel(const struct kernel_run *run, struct quant_stats *stats)
{
    const struct kernels *k = kernels_active();
    if (stats)
        k->count(run, stats);
    k->quantize(run);
}

/* A row whose range is not finite has no scale: all of it is NaN. */
static void fill_nan(const struct kernel_run *run, struct quant_stats *stats)
{
    static const float none = 0;
    static const float f32 = NAN;
    static const uint16_t bf16 = 0x7fc0;
    struct kernel_run r = *run;
    r.op = KERNEL_FLOAT;
    r.mul = &none; /* nothing is clipped */
    r.block = r.n;
    if (stats)
        kernels_active()->count(&r, stats);
    size_t size = kernel_out_size(r.out);
    if (size == 1) {
        memset(r.to, 0, r.n);
        return;
    }
    for (size_t i = 0; i < r.n; i++)
        memcpy((char *)r.to + i * size, size == 2 ? (const void *)&bf16 : &f32, size);
}

/* Blocks whose scales come from their data, a chunk of them at a time. */
static void quantize_blocks(const struct quant_plan *p, const struct plan_step *s, float g,
                            const struct kernel_run *row, float *scales, float per_code,
                            struct quant_stats *stats)
{
    float m[CHUNK], mul[CHUNK], back[CHUNK];
    size_t span = CHUNK * row->block;
    for (size_t at = 0; at < row->n; at += span) {
        struct kernel_run run = *row;
        run.n = row->n - at < span ? row->n - at : span;
        run.from = (const char *)row->from + at * num_bytes(row->in);
        run.to = (char *)row->to + at * kernel_out_size(row->out);
        run.back = back;
        size_t blocks = (run.n + run.block - 1) / run.block;
        kernels_active()->absmax_blocks(m, run.from, run.in, run.n, run.block);
        run.mul = block_scales(p, s, g, m, blocks, mul, back);
        run_kernel(&run, stats);
        for (size_t i = 0; scales && i < blocks; i++)
            *scales++ = back[i] * per_code;
    }
}

static void quantize_row(const struct quant_plan *p, const struct plan_step *s,
                         const struct plan_row *row)
{
    struct kernel_run run = {
        .from = row->from,
        .to = row->to,
        .in = row->in,
        .out = row->out,
        .n = (size_t)p->cols,
        .block = (size_t)s->block,
        .op = s->op,
        .lo = s->lo,
        .hi = s->hi,
        .format = s->format,
        .unit = s->unit,
    };
    float per_code = row->out == KERNEL_CODE_INT8 ? 1 / s->unit : 1;
    float amax = s->step.scope == QUANT_TOKEN ? quant_absmax(row->from, row->in, run.n)
                 : row->ranged                ? *row->ranged
                                              : s->amax;
    if (!isfinite(amax)) {
        for (int64_t i = 0; row->scales && i < s->grid_cols; i++)
            row->scales[i] = NAN;
        fill_nan(&run, row->stats);
        return;
    }
    if (!s->mul && scales_in_blocks(&s->step)) {
        quantize_blocks(p, s, amax, &run, row->scales, per_code, row->stats);
        return;
    }
    float mul, back;
    if (s->mul) {
        const float *grid = s->back + row->r / s->rows_each * s->grid_cols;
        run.mul = s->op == KERNEL_RATIO ? NULL : s->mul + row->r / s->rows_each * s->grid_cols;
        run.back = grid;
        for (int64_t i = 0; row->scales && i < s->grid_cols; i++)
            row->scales[i] = grid[i] * per_code;
    } else {
        plan_scales(s, amax, &mul, &back);
        run.mul = &mul;
        run.back = &back;
        if (row->scales)
            *row->scales = back * per_code;
    }
    run_kernel(&run, row->stats);
}

void plan_apply_row(const struct quant_plan *p, int steps, const struct plan_row *row)
{
    struct plan_row pr = *row;
    for (int k = 0; k < steps; k++) {
        int last = k == steps - 1;
        pr.to = last ? row->to : row->scratch;
        pr.out = last ? row->out : p->rounding == QUANT_TO_BF16 ? KERNEL_F32_VIA_BF16 : KERNEL_F32;
        pr.scales = last ? row->scales : NULL;
        pr.stats = last ? row->stats : NULL;
        quantize_row(p, &p->step[k], &pr);
        pr.from = row->scratch;
        pr.in = NUM_F32;
    }
}

/* ---- calls ---- */

static void copy_rows(const struct kernel_run *run, struct quant_stats *stats)
{
    static const float none = 0;
    struct kernel_run r = *run;
    r.op = KERNEL_FLOAT;
    r.mul = &none;
    r.format = NUM_E4M3;
    r.block = r.n;
    if (stats && r.n)
        kernels_active()->count(&r, stats);
    r.op = KERNEL_COPY;
    kernels_active()->quantize(&r);
}

/* Rows without a treatment, as they come. */
static void copy_matrix(const struct quant_matrix *x, int64_t r0, int64_t r1, char *to,
                        enum kernel_out out, struct quant_stats *stats)
{
    int64_t upper = x->lower ? x->rows / 2 : x->rows;
    for (int64_t end; r0 < r1; r0 = end) {
        end = r0 < upper && upper < r1 ? upper : r1;
        struct kernel_run run = {.from = quant_matrix_row(x, r0),
                                 .to = to,
                                 .in = x->dtype,
                                 .out = out,
                                 .n = (size_t)((end - r0) * x->cols)};
        to += run.n * kernel_out_size(out);
        copy_rows(&run, stats);
    }
}

/* The amax over the rows of this call, where the treatment asks for it. */
static const float *call_range(const struct quant_plan *p, const struct quant_matrix *x, int64_t r0,
                               int64_t r1, float *amax)
{
    const struct quant_step *t = &p->step[0].step;
    int ranged =
        !p->is_weight && t->dynamic && (t->scope == QUANT_TENSOR || t->scope == QUANT_NVFP4);
    if (!ranged)
        return NULL;
    const char *from = (const char *)x->data + (size_t)(r0 * x->cols) * num_bytes(x->dtype);
    *amax = quant_absmax(from, x->dtype, (size_t)((r1 - r0) * x->cols));
    return amax;
}

static void apply_rows(const struct quant_plan *p, const struct quant_matrix *x, int64_t r0,
                       int64_t r1, void *to, enum kernel_out out, float *scales,
                       struct quant_stats *stats)
{
    assert(x->cols == p->cols && 0 <= r0 && r0 <= r1 && r1 <= x->rows);
    assert(!p->is_weight || x->rows == p->rows);
    size_t out_row = (size_t)p->cols * kernel_out_size(out);
    if (p->steps == 0) {
        assert(x->dtype != NUM_F16);
        copy_matrix(x, r0, r1, to, out, stats);
        return;
    }
    float amax;
    float *wide = plan_row_room(x);
    struct plan_row row = {.out = out, .scales = scales, .stats = stats};
    row.ranged = call_range(p, x, r0, r1, &amax);
    if (p->steps > 1)
        row.scratch = xmalloc((size_t)p->cols * sizeof *row.scratch);
    for (row.r = r0; row.r < r1; row.r++) {
        row.from = plan_matrix_row(x, row.r, wide, &row.in);
        row.to = (char *)to + (size_t)(row.r - r0) * out_row;
        plan_apply_row(p, p->steps, &row);
        if (row.scales)
            row.scales += p->step[p->steps - 1].grid_cols;
    }
    free(row.scratch);
    free(wide);
}

void quant_apply(const struct quant_plan *p, const struct quant_matrix *x, int64_t r0, int64_t r1,
                 void *to, enum num_type to_dtype, struct quant_stats *stats)
{
    assert(to_dtype == NUM_F32 || p->rounding == QUANT_TO_BF16);
    enum kernel_out out = to_dtype == NUM_BF16           ? KERNEL_BF16
                          : p->rounding == QUANT_TO_BF16 ? KERNEL_F32_VIA_BF16
                                                         : KERNEL_F32;
    apply_rows(p, x, r0, r1, to, out, NULL, stats);
}

int quant_code_form(const struct quant_plan *p, struct quant_code_form *form, struct aq_err *err)
{
    if (p->steps == 0)
        return aq_err_set(err, AQ_EINPUT, "treatment 'none' has no codes");
    if (p->rounding != QUANT_UNROUNDED)
        return aq_err_set(err, AQ_EINPUT, "values rounded to bf16 are no codes with scales");
    const struct plan_step *s = &p->step[p->steps - 1];
    *form = (struct quant_code_form){
        .k_block = s->block,
        .scale_cols = s->grid_cols,
        .divide = s->op == KERNEL_INT,
        .int8 = s->unit > 0,
    };
    return 0;
}

void quant_apply_codes(const struct quant_plan *p, const struct quant_matrix *x, int64_t r0,
                       int64_t r1, void *codes, enum quant_code code, float *scales,
                       struct quant_stats *stats)
{
    assert(p->steps && p->rounding == QUANT_UNROUNDED);
    assert(code == QUANT_CODE_BF16 || p->step[p->steps - 1].unit > 0);
    apply_rows(p, x, r0, r1, codes, code == QUANT_INT8 ? KERNEL_CODE_INT8 : KERNEL_CODE_BF16,
               scales, stats);
}

float quant_plan_range(const struct quant_plan *p)
{
    assert(p->steps == 1);
    return p->step[0].amax;
}

float quant_bf16_unit(const struct quant_plan *p)
{
    if (p->steps == 0)
        return 0;
    const struct plan_step *s = &p->step[p->steps - 1];
    if (p->rounding == QUANT_TO_BF16 || s->step.scope == QUANT_MX)
        return 1;
    /* an activation far from its calibrated range can have a block scale of 1 */
    if (s->step.scope != QUANT_NVFP4 || !p->is_weight || s->mul)
        return 0;
    float mul, unit = plan_nvfp4_second(s->amax);
    if (!s->step.dynamic)
        nvfp4_static_second(s->amax, &mul, &unit);
    else if (s->amax > 0x1p16F)
        return 0; /* blocks far below it can have the scale 1 and values other than 0 */
    return isnormal(unit) && isnormal(1 / unit) ? unit : 0;
}

/* ---- ranges ---- */

float quant_absmax(const void *x, enum num_type dtype, size_t n)
{
    uint32_t m = kernels_active()->absmax(x, dtype, n);
    return m > 0x7f800000 ? NAN : num_float(m);
}

void quant_absmax_cols(float *amax, const void *x, enum num_type dtype, size_t n)
{
    kernels_active()->absmax_cols(amax, x, dtype, n);
}
