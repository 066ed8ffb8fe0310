/* Blocks of a weight's rows, quantized for the products that read them. */
#include "backend/cpu/operand.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

/* Rows in fp32; in room unless the map itself serves. */
static const float *rows_in_fp32(const struct backend_operand *w, int64_t row, int64_t rows,
                                 float *room)
{
    if (!w->plan)
        return cpu_weight_rows(w->w, row, rows, room);
    quant_apply(w->plan, &w->source, row, row + rows, room, NUM_F32, NULL);
    return room;
}

static size_t scale_blocks(const struct backend_operand *w)
{
    return w->has_codes ? (size_t)w->form.scale_cols : 1;
}

static size_t packed_bytes(const struct backend_operand *w, const struct product_form *form,
                           int64_t rows)
{
    return (size_t)matrix_packed_bytes(form->kind, rows, w->source.cols, form->w_terms);
}

/* A unit's rows as products read them: fp32 values, or packed codes followed by their scales. */
static size_t unit_bytes(const struct backend_operand *w, const struct product_form *form,
                         int64_t rows)
{
    if (form->level == MATRIX_NONE)
        return cpu_aligned((size_t)(rows * w->source.cols) * sizeof(float));
    return cpu_aligned(packed_bytes(w, form, rows) +
                       (size_t)matrix_round(rows) * scale_blocks(w) * sizeof(float));
}

/* Intermediate forms of a strip of rows: values, scales as the treatment has them, codes. */
struct strip_room {
    float *values, *raw;
    uint16_t *codes;
};

static size_t strip_elements(const struct backend_operand *w)
{
    return (size_t)MATRIX_STRIP * (size_t)w->source.cols;
}

static struct strip_room strip_room(const struct backend_operand *w, void *scratch)
{
    struct strip_room r = {.values = scratch};
    r.raw = r.values + strip_elements(w);
    r.codes = (void *)(r.raw + MATRIX_STRIP * scale_blocks(w));
    return r;
}

size_t operand_weight_room(const struct backend_operand *w, const struct product_form *form,
                           int64_t rows)
{
    size_t unit = unit_bytes(w, form, rows), strip = strip_elements(w);
    if (form->level == MATRIX_NONE)
        return unit;
    return unit + (strip + MATRIX_STRIP * scale_blocks(w)) * sizeof(float) +
           strip * (size_t)form->w_terms * sizeof(uint16_t);
}

/* A strip of rows, as multiples of the weight's unit or as terms. */
static void strip_from_values(const struct backend_operand *w, const struct product_form *form,
                              int64_t row, int64_t rows, const struct strip_room *room, char *strip)
{
    int64_t cols = w->source.cols, n = rows * cols;
    const char *codes = (const char *)room->codes;
    if (w->plan || form->w_terms > 1)
        operand_to_bf16(w, form->w_terms, rows_in_fp32(w, row, rows, room->values), room->codes, n);
    else if (quant_matrix_gapless(&w->source, row, row + rows))
        codes = quant_matrix_row(&w->source, row);
    else
        for (int64_t r = 0; r < rows; r++)
            memcpy(room->codes + r * cols, quant_matrix_row(&w->source, row + r), (size_t)cols * 2);
    for (int i = 0; i < form->w_terms; i++)
        matrix_place_strip(form->level, MATRIX_BF16, codes + i * n * 2, rows, cols, form->w_terms,
                           i, strip);
}

static void strip_from_codes(const struct backend_operand *w, const struct product_form *form,
                             int64_t row, int64_t rows, const struct strip_room *room, char *strip)
{
    quant_apply_codes(w->plan, &w->source, row, row + rows, room->codes,
                      form->kind == MATRIX_INT8 ? QUANT_INT8 : QUANT_CODE_BF16, room->raw, NULL);
    matrix_place_strip(form->level, form->kind, room->codes, rows, w->source.cols, 1, 0, strip);
}

static void pack_unit(const struct backend_operand *w, const struct product_form *form,
                      const struct weight_unit *unit, char *packed, float *scales,
                      const struct strip_room *room)
{
    bool from_values = form->w_terms > 1 || operand_by_unit(w, form->kind);
    int64_t padded = matrix_round(unit->rows), blocks = from_values ? 1 : w->form.scale_cols;
    size_t strip = packed_bytes(w, form, unit->rows) / (size_t)(padded / MATRIX_STRIP);
    memset(scales, 0, (size_t)(padded * blocks) * sizeof *scales);
    for (int64_t s = 0; s < padded; s += MATRIX_STRIP, packed += strip) {
        int64_t n = unit->rows - s < MATRIX_STRIP ? unit->rows - s : MATRIX_STRIP;
        if (n <= 0) {
            memset(packed, 0, strip);
            continue;
        }
        if (from_values)
            strip_from_values(w, form, unit->row + s, n, room, packed);
        else
            strip_from_codes(w, form, unit->row + s, n, room, packed);
        for (int64_t r = 0; r < n * blocks; r++)
            scales[r % blocks * padded + s + r / blocks] =
                form->w_terms > 1 ? 1
                : from_values     ? w->unit
                                  : operand_multiplier(w, room->raw[r]);
    }
}

bool operand_same_rows(const struct product_form *a, const struct product_form *b)
{
    return a->level == b->level && a->kind == b->kind && a->block == b->block &&
           a->w_terms == b->w_terms;
}

void operand_keep(struct cpu_backend *c, const struct backend_operand *w,
                  const struct product_form *form, int64_t rows, int64_t units)
{
    struct kept_rows *k = w->kept;
    size_t stride = unit_bytes(w, form, rows), need = (size_t)units * stride;
    struct aq_err no_memory; /* then they are not kept */
    k->in_use = w->plan && form->level != MATRIX_NONE &&
                need <= CPU_WEIGHT_SIZE * (size_t)(w->source.rows * w->source.cols) &&
                cpu_buffer_room(c, &k->room, need, &no_memory);
    if (!k->in_use || (k->made && k->units == units && operand_same_rows(&k->form, form)))
        return;
    k->form = *form;
    k->units = units;
    k->stride = stride;
    free(k->made);
    k->made = xcalloc((size_t)units, sizeof *k->made);
}

struct weight_rows operand_weight_rows(const struct backend_operand *w,
                                       const struct product_form *form,
                                       const struct weight_unit *unit, void *scratch)
{
    struct kept_rows *k = w->kept;
    if (form->level == MATRIX_NONE)
        return (struct weight_rows){.values = rows_in_fp32(w, unit->row, unit->rows, scratch)};
    bool keep = k->in_use && operand_same_rows(&k->form, form);
    bool made = keep && k->made[unit->index];
    char *at = scratch, *rest = scratch;
    if (keep) {
        at = k->room.data + (size_t)unit->index * k->stride;
        k->made[unit->index] = true;
    } else {
        rest += unit_bytes(w, form, unit->rows);
    }
    float *scales = (void *)(at + packed_bytes(w, form, unit->rows));
    const struct strip_room room = strip_room(w, rest);
    if (!made)
        pack_unit(w, form, unit, at, scales, &room);
    return (struct weight_rows){.packed = at, .scales = scales};
}
