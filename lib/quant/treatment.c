#include "quant/treatment.h"
#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* The numbers of the rules are those of docs/formats.md. */

enum { UNQUANTIZED_BITS = 16 };

static bool is_float(const struct number_format *f, int exponent, int mantissa)
{
    return f->is_float && f->exponent == exponent && f->mantissa == mantissa;
}

static AQ_PRINTF(2, 3) bool refuse(struct treatment *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(t->reason, sizeof t->reason, fmt, ap);
    va_end(ap);
    t->text[0] = '\0';
    t->runs = false;
    return false;
}

/* NULL: unquantized. */
static bool accept(struct treatment *t, double storage_bits, const struct quant_step *step)
{
    t->spec = (struct quant_spec){0};
    if (step)
        t->spec.step[t->spec.steps++] = *step;
    t->storage_bits = storage_bits;
    t->runs = true;
    return true;
}

/* A step of this number: its ranges still to be said. */
static struct quant_step step_of(const struct number_format *f)
{
    static const struct {
        int exponent, mantissa;
        enum quant_number number;
    } floats[] = {{4, 3, QUANT_E4M3},
                  {5, 2, QUANT_E5M2},
                  {2, 1, QUANT_E2M1},
                  {3, 2, QUANT_E3M2},
                  {2, 3, QUANT_E2M3}};
    struct quant_step s = {.number = QUANT_INT, .bits = f->bits, .block_rows = 1, .block_cols = 1};
    for (size_t i = 0; i < AQ_COUNT(floats); i++)
        if (is_float(f, floats[i].exponent, floats[i].mantissa)) {
            s.number = floats[i].number;
            s.bits = 1 + f->exponent + f->mantissa;
        }
    return s;
}

/* "int4", "e4m3". */
struct number_name {
    char text[24];
};

static struct number_name name_of(const struct number_format *f)
{
    struct number_name n;
    if (f->is_float)
        (void)snprintf(n.text, sizeof n.text, "e%dm%d", f->exponent, f->mantissa);
    else
        (void)snprintf(n.text, sizeof n.text, "int%d", f->bits);
    return n;
}

/* ---- rules that concern one quantizer whatever it is for ---- */

static bool number_exists(const struct number_format *f)
{
    static const int floats[][2] = {{4, 3}, {5, 2}, {2, 1}, {3, 2}, {2, 3}};
    for (size_t i = 0; i < AQ_COUNT(floats); i++)
        if (is_float(f, floats[i][0], floats[i][1]))
            return true;
    return !f->is_float && f->bits >= 2 && f->bits <= 8;
}

static bool check_number(const struct quantizer *q, struct treatment *t)
{
    const struct number_format *f = &q->number;
    if (number_exists(f))
        return true;
    if (f->is_float)
        return refuse(
            t,
            "num_bits [%d, %d] is not a float format that can be computed: [4, 3], [5, 2], "
            "[2, 1], [3, 2] and [2, 3] are (rule 20)",
            f->exponent, f->mantissa);
    return refuse(t, "num_bits %d is outside 2..8 (rule 20)", f->bits);
}

static bool check_attributes(const struct quantizer *q, struct treatment *t)
{
    if (q->bare)
        return refuse(t, "an entry without attributes is refused by ModelOpt (rule 21)");
    if (q->odd && !(q->odd_for_integers && q->number.is_float))
        return refuse(t, "attribute %s is not computed with this value (rule 22)", q->odd);
    if (q->has_axis && q->has_blocks)
        return refuse(t, "axis and block_sizes are both set, which ModelOpt refuses (rule 1)");
    if (q->has_blocks && q->dynamic_blocks && q->blocks != 1)
        return refuse(t, "dynamic blocks need exactly one dimension, %d are given (rule 2)",
                      q->blocks);
    if (q->has_blocks && q->blocks == 0)
        return refuse(t, "block_sizes names no dimension (rule 2)");
    if (q->number.is_float && !is_float(&q->number, 4, 3) && !(q->has_blocks && q->dynamic_blocks))
        return refuse(t,
                      "%s needs block_sizes with type dynamic; ModelOpt 0.40 refuses it "
                      "without (rule 3)",
                      name_of(&q->number).text);
    return true;
}

/* ---- dimensions ---- */

/* ModelOpt counts from either end; rank 2 for a weight (out, in), 3 for an input (batch, token,
 * in). */
static int rank_of(enum treatment_of of)
{
    return of == TREATMENT_WEIGHT ? 2 : 3;
}

/* From the front; false if there is no such dimension. */
static bool find_dim(int dim, int rank, int *out)
{
    *out = dim < 0 ? dim + rank : dim;
    return *out >= 0 && *out < rank;
}

/* Lengths by dimension from the front: 0 whole, 1 where nothing is said. */
static bool block_lengths(const struct quantizer *q, int rank, int length[3], struct treatment *t)
{
    bool named[3] = {false, false, false};
    for (int i = 0; i < 3; i++)
        length[i] = 1;
    for (int i = 0; i < q->blocks; i++) {
        int d;
        if (!find_dim(q->block[i].dim, rank, &d))
            return refuse(t, "block_sizes names dimension %d of a tensor of rank %d (rule 23)",
                          q->block[i].dim, rank);
        if (named[d])
            return refuse(t, "block_sizes names dimension %d twice (rule 23)", d - rank);
        named[d] = true;
        length[d] = q->block[i].length;
    }
    return true;
}

/* ---- blocks with a scale made from the data ---- */

/*
 * ModelOpt calibrates the second level of an activation over the data set whatever "type" says, and
 * makes only the scales of the blocks from what it sees: to the quantizer that is a static range.
 */
static bool nvfp4(const struct quantizer *q, int length, enum treatment_of of,
                  const struct treatment_rules *rules, struct treatment *t)
{
    if (!is_float(&q->number, 2, 1))
        return refuse(t, "scale_bits [4, 3] goes with num_bits [2, 1] only (rule 10)");
    struct quant_step s = step_of(&q->number);
    s.scope = QUANT_NVFP4;
    s.block_cols = rules->fp4_always_16 ? 16 : length;
    s.dynamic = of == TREATMENT_WEIGHT;
    return accept(t, q->number.bits + 8.0 / s.block_cols, &s);
}

static bool mx(const struct quantizer *q, int length, struct treatment *t)
{
    if (!q->number.is_float && q->number.bits != 8)
        return refuse(t, "dynamic blocks of integers need num_bits 8, not %d (rule 10)",
                      q->number.bits);
    if (length != 8 && length != 16 && length != 32)
        return refuse(t, "MX blocks are 8, 16 or 32 long, not %d (rule 6)", length);
    struct quant_step s = step_of(&q->number);
    s.scope = QUANT_MX;
    s.block_cols = length;
    s.dynamic = 1;
    return accept(t, q->number.bits + 8.0 / length, &s);
}

static bool dynamic_blocks(const struct quantizer *q, enum treatment_of of,
                           const struct treatment_rules *rules, struct treatment *t)
{
    int d, rank = rank_of(of), length = q->block[0].length;
    if (!find_dim(q->block[0].dim, rank, &d) || d != rank - 1)
        return refuse(t, "dynamic blocks lie along the last dimension, not %d (rule 2)",
                      q->block[0].dim);
    if (!q->has_scale)
        return refuse(t, "dynamic blocks need scale_bits (rule 9)");
    if (is_float(&q->scale, 8, 0))
        return mx(q, length, t);
    if (!is_float(&q->scale, 4, 3))
        return refuse(t, "scale_bits of dynamic blocks is [4, 3] or [8, 0] (rule 9)");
    return nvfp4(q, length, of, rules, t);
}

/* ---- static blocks ---- */

/*
 * Blocks of an activation with ranges from the data, per token: e4m3 alone, as engines compute it.
 * ModelOpt has the attributes and fails at the second input shape.
 */
static bool act_blocks(const struct quantizer *q, struct treatment *t)
{
    int length[3];
    if (!q->dynamic)
        return refuse(t, "static blocks of activations are tied to one input shape, and ModelOpt "
                         "fails at the first other one (rule 11)");
    if (!block_lengths(q, 3, length, t))
        return false;
    if (!is_float(&q->number, 4, 3) || length[0] != 1 || length[1] != 1 || length[2] < 2)
        return refuse(t, "dynamic blocks of activations without scale_bits are those of e4m3 along "
                         "the last dimension (rule 11)");
    struct quant_step s = step_of(&q->number);
    s.scope = QUANT_BLOCK;
    s.block_cols = length[2];
    s.dynamic = 1;
    return accept(t, q->number.bits + 16.0 / length[2], &s);
}

static bool static_blocks(const struct quantizer *q, enum treatment_of of, struct treatment *t)
{
    int length[3];
    if (of == TREATMENT_INPUT)
        return act_blocks(q, t);
    if (!block_lengths(q, 2, length, t))
        return false;
    /* A dimension of null length is not blocked where another one is: each index by itself. */
    int rows = length[0] ? length[0] : 1, columns = length[1] ? length[1] : 1;
    double bits = q->number.bits + 16.0 / rows / columns;
    struct quant_step s = step_of(&q->number);
    s.scope = QUANT_BLOCK;
    s.block_rows = rows;
    s.block_cols = columns;
    return accept(t, bits, &s);
}

/* ---- ranges that some dimensions keep for themselves ---- */

/* kept: see kept_dims. ModelOpt takes "every dimension keeps its own" for one range after all. */
static bool weight_scope(const struct quantizer *q, const bool kept[3], struct treatment *t)
{
    struct quant_step s = step_of(&q->number);
    s.scope = kept[0] == kept[1] ? QUANT_TENSOR : kept[0] ? QUANT_AXIS0 : QUANT_AXIS1;
    return accept(t, q->number.bits, &s);
}

static bool input_scope(const struct quantizer *q, const bool kept[3],
                        const struct treatment_rules *rules, struct treatment *t)
{
    struct quant_step s = step_of(&q->number);
    bool dynamic = q->dynamic || !rules->calibrated;
    s.dynamic = dynamic;
    if (kept[0] == kept[1] && kept[1] == kept[2]) {
        s.scope = QUANT_TENSOR;
        return accept(t, q->number.bits, &s);
    }
    if (kept[0] && kept[1] && !kept[2]) {
        if (!dynamic)
            return refuse(t, "a calibrated range for each token is tied to one input shape; per "
                             "token goes with type dynamic (rule 11)");
        s.scope = QUANT_TOKEN;
        return accept(t, q->number.bits, &s);
    }
    if (!kept[0] && !kept[1]) {
        if (dynamic)
            return refuse(t, "ranges for each input feature are calibrated ones: type static with "
                             "a calibration pass (rule 24)");
        s.scope = QUANT_HIDDEN;
        return accept(t, q->number.bits, &s);
    }
    return refuse(t, "these ranges of activations depend on how a batch is laid out; per tensor, "
                     "per token and axis -1 do not (rule 24)");
}

/* kept[d]: dimension d, from the front, has ranges of its own. */
static bool kept_dims(const struct quantizer *q, int rank, bool kept[3], struct treatment *t)
{
    for (int d = 0; d < 3; d++)
        kept[d] = false;
    if (q->has_blocks) { /* all lengths are null: all other dimensions are kept */
        int length[3];
        if (!block_lengths(q, rank, length, t))
            return false;
        for (int d = 0; d < rank; d++)
            kept[d] = length[d] != 0;
    }
    if (q->has_axis && q->axes == 0)
        return refuse(t, "axis is an empty list (rule 23)");
    for (int i = 0; i < q->axes; i++) {
        int d;
        if (!find_dim(q->axis[i], rank, &d))
            return refuse(t, "axis %d of a tensor of rank %d (rule 23)", q->axis[i], rank);
        kept[d] = true;
    }
    return true;
}

static bool has_lengths(const struct quantizer *q)
{
    for (int i = 0; i < q->blocks; i++)
        if (q->block[i].length)
            return true;
    return false;
}

/* NVFP4 with block scales that are kept, which is what a search of them needs. */
static bool is_stored_nvfp4(const struct quantizer *q)
{
    return is_float(&q->number, 2, 1) && q->has_blocks && !q->dynamic_blocks && q->blocks == 1 &&
           (q->block[0].dim == -1 || q->block[0].dim == 1) && q->block[0].length > 0 &&
           q->has_scale && is_float(&q->scale, 4, 3) && !q->has_axis;
}

static bool one_step(const struct quantizer *q, enum treatment_of of,
                     const struct treatment_rules *rules, struct treatment *t)
{
    bool kept[3];
    if (q->rotate)
        return refuse(t, "attribute rotate is not computed with this value (rule 22)");
    if (!q->enable)
        return accept(t, UNQUANTIZED_BITS, NULL);
    if (of == TREATMENT_WEIGHT && rules->stored_scales && is_stored_nvfp4(q))
        return nvfp4(q, q->block[0].length, of, rules, t);
    if (!check_attributes(q, t) || !check_number(q, t))
        return false;
    if (has_lengths(q))
        return q->dynamic_blocks ? dynamic_blocks(q, of, rules, t) : static_blocks(q, of, t);
    if (q->number.is_float && !is_float(&q->number, 4, 3))
        return refuse(t, "%s per token has no kernel in ModelOpt (rule 8)",
                      name_of(&q->number).text);
    if (!kept_dims(q, rank_of(of), kept, t))
        return false;
    return of == TREATMENT_WEIGHT ? weight_scope(q, kept, t) : input_scope(q, kept, rules, t);
}

void treatment_find(const struct quantizer *steps, size_t count, enum treatment_of of,
                    const struct treatment_rules *rules, struct treatment *out)
{
    *out = (struct treatment){.runs = true, .storage_bits = UNQUANTIZED_BITS};
    for (size_t i = 0; i < count; i++) {
        struct treatment t = {0};
        if (!one_step(&steps[i], of, rules, &t)) {
            *out = t;
            return;
        }
        if (!t.spec.steps)
            continue;
        if (t.storage_bits < out->storage_bits || !out->spec.steps)
            out->storage_bits = t.storage_bits;
        out->spec.step[out->spec.steps++] = t.spec.step[0];
    }
    out->spec.group = rules->shared_scale && of == TREATMENT_WEIGHT && out->spec.steps == 1 &&
                      out->spec.step[0].scope == QUANT_NVFP4;
    quant_print(&out->spec, out->text);
    if (out->spec.steps > 1 && of == TREATMENT_INPUT)
        (void)refuse(out, "a sequence of quantizers on activations is not computed (rule 22)");
}

/* ---- ModelOpt's price ---- */

static bool is_nvfp4_16(const struct quantizer *q)
{
    return is_float(&q->number, 2, 1) && q->dynamic_blocks && q->blocks == 1 &&
           q->block[0].dim == -1 && q->block[0].length == 16 && q->has_scale &&
           is_float(&q->scale, 4, 3);
}

static double least_bits(const struct quantizer *steps, size_t count, double nvfp4_16)
{
    double least = UNQUANTIZED_BITS;
    for (size_t i = 0; i < count; i++) {
        if (!steps[i].enable)
            continue;
        double bits = is_nvfp4_16(&steps[i]) ? nvfp4_16 : steps[i].number.bits;
        if (bits < least)
            least = bits;
    }
    return least;
}

double treatment_modelopt40_bits(const struct quantizer *steps, size_t count)
{
    return least_bits(steps, count, 4.0);
}

double treatment_modelopt47_bits(const struct quantizer *steps, size_t count)
{
    return least_bits(steps, count, 4.5);
}
