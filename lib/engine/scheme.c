#include "engine/scheme.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *const layout_names[LAYOUTS + 1] = {"compressed-tensors", "modelopt", "gguf", NULL};

bool layout_parse(const char *name, enum scheme_layout *out)
{
    for (int i = 0; i < LAYOUTS; i++)
        if (strcmp(name, layout_names[i]) == 0) {
            *out = (enum scheme_layout)i;
            return true;
        }
    return false;
}

/* ---- one treatment ---- */

/* The weight side of a scheme, as far as all layouts agree on it. */
enum weight_form {
    WEIGHT_ROWS,  /* int or e4m3, a scale per row */
    WEIGHT_ONE,   /* the same with one range for the tensor */
    WEIGHT_GROUP, /* int, a scale per group of inputs */
    WEIGHT_TILE,  /* e4m3, a scale per 128 x 128 */
    WEIGHT_NVFP4,
    WEIGHT_MX,
    WEIGHT_OTHER,
};

static enum weight_form weight_form(const struct quant_step *s)
{
    bool is_int = s->number == QUANT_INT;
    switch (s->scope) {
    case QUANT_TENSOR:
        return WEIGHT_ONE;
    case QUANT_AXIS0:
        return WEIGHT_ROWS;
    case QUANT_BLOCK:
        if (is_int && s->block_rows == 1)
            return WEIGHT_GROUP;
        if (s->number == QUANT_E4M3 && s->block_rows == 128 && s->block_cols == 128)
            return WEIGHT_TILE;
        return WEIGHT_OTHER;
    case QUANT_NVFP4:
        return s->block_cols == 16 && s->dynamic ? WEIGHT_NVFP4 : WEIGHT_OTHER;
    case QUANT_MX:
        return s->block_cols == 32 && (s->number == QUANT_E2M1 || s->number == QUANT_E4M3)
                   ? WEIGHT_MX
                   : WEIGHT_OTHER;
    case QUANT_AXIS1:
    case QUANT_HIDDEN:
    case QUANT_TOKEN:
        break;
    }
    return WEIGHT_OTHER;
}

static bool act_form(const struct quant_spec *a, enum scheme_act *out)
{
    if (a->steps == 0) {
        *out = ACT_NONE;
        return true;
    }
    const struct quant_step *s = &a->step[0];
    bool int8 = s->number == QUANT_INT && s->bits == 8,
         int4 = s->number == QUANT_INT && s->bits == 4;
    bool e4m3 = s->number == QUANT_E4M3;
    if (a->steps > 1)
        return false;
    if (s->scope == QUANT_TENSOR && !s->dynamic && (int8 || e4m3))
        *out = int8 ? ACT_INT8_TENSOR : ACT_FP8_TENSOR;
    else if (s->scope == QUANT_TOKEN && (int8 || int4 || e4m3))
        *out = int8 ? ACT_INT8_TOKEN : int4 ? ACT_INT4_TOKEN : ACT_FP8_TOKEN;
    else if (s->scope == QUANT_BLOCK && s->dynamic && e4m3 && s->block_cols == 128 &&
             s->block_rows == 1)
        *out = ACT_FP8_BLOCK;
    else if (s->scope == QUANT_NVFP4 && !s->dynamic && s->block_cols == 16)
        *out = ACT_NVFP4;
    else if (s->scope == QUANT_MX && s->block_cols == 32 && (e4m3 || s->number == QUANT_E2M1))
        *out = e4m3 ? ACT_MXFP8 : ACT_MXFP4;
    else
        return false;
    return true;
}

bool scheme_is_calibrated(const struct scheme *s)
{
    return s->act == ACT_INT8_TENSOR || s->act == ACT_FP8_TENSOR || s->act == ACT_NVFP4;
}

/* ---- answers ---- */

static bool refuse(char reason[SCHEME_REASON], const char *fmt, ...) AQ_PRINTF(2, 3);

static bool refuse(char reason[SCHEME_REASON], const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(reason, SCHEME_REASON, fmt, ap);
    va_end(ap);
    return false;
}

static bool take(struct scheme *s, enum scheme_codes codes, double bits, const char *fmt, ...)
    AQ_PRINTF(4, 5);

static bool take(struct scheme *s, enum scheme_codes codes, double bits, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(s->name, sizeof s->name, fmt, ap);
    va_end(ap);
    s->codes = codes;
    s->storage_bits = bits;
    return true;
}

/* Scales of packed integers are 16 bits each; those of whole rows are not counted. */
static double packed_bits(const struct scheme *s)
{
    return s->bits + (s->group ? 16.0 / s->group : 0);
}

/* ---- compressed-tensors ---- */

static bool ct_int(enum weight_form f, struct scheme *s, char *reason)
{
    bool by_row = f != WEIGHT_GROUP;
    switch (s->act) {
    case ACT_NONE:
        return take(s, CODES_PACKED, packed_bits(s), "w%da16", s->bits);
    case ACT_INT8_TOKEN:
        if (s->bits == 8 && by_row)
            return take(s, CODES_INT8, 8, "int8_dyn");
        return take(s, CODES_PACKED, packed_bits(s), "w%da8", s->bits);
    case ACT_INT8_TENSOR:
        if (s->bits == 8 && by_row)
            return take(s, CODES_INT8, 8, "int8_static");
        return refuse(reason, "static int8 activations go with int8 weights per channel only");
    case ACT_INT4_TOKEN:
        return take(s, CODES_PACKED, packed_bits(s), "w%da4", s->bits);
    case ACT_FP8_TOKEN:
        if (s->bits == 4 && s->group == 128)
            return take(s, CODES_PACKED, packed_bits(s), "w4afp8");
        if (s->bits == 8 && by_row)
            return take(s, CODES_INT8, 8, "int8_fp8dyn");
        return refuse(reason, "e4m3 activations go with int4 weights in blocks of 128 only");
    case ACT_FP8_TENSOR:
        if (s->bits == 8 && by_row)
            return take(s, CODES_INT8, 8, "int8_fp8static");
        break;
    default:
        break;
    }
    return refuse(reason, "no scheme has int%d weights with these activations", s->bits);
}

static bool ct_e4m3(enum weight_form f, struct scheme *s, char *reason)
{
    if (f == WEIGHT_TILE) {
        if (s->act == ACT_FP8_BLOCK)
            return take(s, CODES_FP8_BLOCK, 8, "fp8_block");
        return refuse(reason, "e4m3 tiles go with e4m3 activations per token and 128 inputs only");
    }
    switch (s->act) {
    case ACT_NONE:
        return take(s, CODES_FP8, 8, "fp8_wo");
    case ACT_FP8_TOKEN:
        return take(s, CODES_FP8, 8, "fp8_dyn");
    case ACT_FP8_TENSOR:
        return take(s, CODES_FP8, 8, "fp8_static");
    case ACT_INT8_TOKEN:
        return take(s, CODES_FP8, 8, "fp8_int8dyn");
    case ACT_INT8_TENSOR:
        return take(s, CODES_FP8, 8, "fp8_int8static");
    default:
        return refuse(reason, "no scheme has e4m3 weights with these activations");
    }
}

static bool ct_fp4(enum weight_form f, struct scheme *s, char *reason)
{
    if (f == WEIGHT_NVFP4 && (s->act == ACT_NONE || s->act == ACT_NVFP4))
        return take(s, CODES_NVFP4, 4.5, s->act == ACT_NONE ? "nvfp4a16" : "nvfp4");
    if (f == WEIGHT_MX && (s->act == ACT_NONE || s->act == ACT_MXFP4))
        return take(s, CODES_MXFP4, 4.25, s->act == ACT_NONE ? "mxfp4a16" : "mxfp4");
    return refuse(reason,
                  "e2m1 weights go with no activation quantizer or with their own kind only");
}

static bool ct_find(const struct quant_step *w, enum weight_form f, struct scheme *s, char *reason)
{
    if (w->number == QUANT_INT)
        return ct_int(f, s, reason);
    if (w->number == QUANT_E2M1)
        return ct_fp4(f, s, reason);
    if (f != WEIGHT_MX)
        return ct_e4m3(f, s, reason);
    if (s->act == ACT_NONE || s->act == ACT_MXFP8)
        return take(s, CODES_MXFP8, 8.25, s->act == ACT_NONE ? "mxfp8a16" : "mxfp8");
    return refuse(reason, "mx e4m3 weights go with their own kind of activations only");
}

/* ---- ModelOpt's unified checkpoint: its names of algorithms ---- */

static bool modelopt_find(const struct quant_step *w, enum weight_form f, struct scheme *s,
                          char *reason)
{
    if (s->prescaled && f == WEIGHT_NVFP4 && s->act == ACT_NVFP4)
        return take(s, CODES_NVFP4, 4.5, "NVFP4_AWQ");
    if (s->prescaled && !(w->number == QUANT_INT && s->act != ACT_INT8_TOKEN))
        return refuse(reason, "no norm is in front to take its scale, and this algorithm of "
                              "ModelOpt's export has no pre_quant_scale");
    if (w->number == QUANT_E4M3 && f == WEIGHT_ONE && s->act == ACT_FP8_TENSOR) {
        if (s->methods.choice == QUANT_MSE)
            return refuse(reason, "FP8 has one range for all members, and a searched range is of "
                                  "one member");
        return take(s, CODES_FP8_ONE, 8, "FP8");
    }
    if (w->number == QUANT_E4M3 && f == WEIGHT_ROWS && s->act == ACT_FP8_TOKEN)
        return take(s, CODES_FP8, 8, "FP8_PER_CHANNEL_PER_TOKEN");
    if (f == WEIGHT_NVFP4 && s->act == ACT_NVFP4)
        return take(s, CODES_NVFP4, 4.5, "NVFP4");
    if (f == WEIGHT_NVFP4 && s->act == ACT_NONE)
        return take(s, CODES_NVFP4, 4.5, "W4A16_NVFP4");
    if (f == WEIGHT_MX && w->number == QUANT_E4M3 && s->act == ACT_MXFP8)
        return take(s, CODES_MXFP8, 8.25, "MXFP8");
    if (f == WEIGHT_GROUP && s->bits == 4 && s->group == 128 && s->act == ACT_NONE)
        return take(s, CODES_INT4_ROWS, packed_bits(s), "W4A16_AWQ");
    if (w->number == QUANT_INT && f == WEIGHT_ROWS && s->bits == 8 && s->act == ACT_NONE)
        return take(s, CODES_INT8, 8, "W8A16");
    if (w->number == QUANT_INT && f == WEIGHT_ROWS && s->bits == 8 && s->act == ACT_INT8_TENSOR)
        return take(s, CODES_INT8, 8, "W8A8_SQ_PER_CHANNEL");
    return refuse(reason, "no algorithm of ModelOpt's export has this pair");
}

/* ---- GGUF: types of tensors; what happens to activations is the engine's own ---- */

static bool gguf_find(const struct quant_step *w, enum weight_form f, struct scheme *s,
                      char *reason)
{
    if (f == WEIGHT_NVFP4)
        return take(s, CODES_NVFP4, 4.5, "NVFP4");
    if (f == WEIGHT_MX && w->number == QUANT_E2M1)
        return take(s, CODES_MXFP4, 4.25, "MXFP4");
    if (w->number != QUANT_INT)
        return refuse(reason, "GGUF has no type with these numbers and scales");
    if (s->group % 32)
        return refuse(reason, "blocks of %d inputs are not made of blocks of 32", s->group);
    if (s->bits <= 4)
        return take(s, CODES_Q4_0, 4.5, "Q4_0");
    return take(s, CODES_Q8_0, 8.5, "Q8_0");
}

bool scheme_find(enum scheme_layout layout, const struct quant_spec *w, const struct quant_spec *a,
                 bool normed, struct scheme *out, char reason[SCHEME_REASON])
{
    reason[0] = '\0';
    *out = (struct scheme){.storage_bits = 16};
    if (w->steps == 0)
        return refuse(reason, "no engine quantizes activations alone: served as it is");
    if (w->steps > 1)
        return refuse(reason, "no scheme is a sequence of quantizers");
    const struct quant_step *step = &w->step[0];
    enum weight_form f = weight_form(step);
    if (f == WEIGHT_OTHER)
        return refuse(reason, "no scheme has weights with these numbers and scales");
    /* llama.cpp decides about activations by itself: any treatment of them finds the type */
    if (!act_form(a, &out->act) && layout != LAYOUT_GGUF)
        return refuse(reason, "no scheme has activations with these numbers and scales");
    out->bits = step->bits;
    out->group = f == WEIGHT_GROUP ? step->block_cols : 0;
    out->one_range = f == WEIGHT_ONE;
    out->group_range = w->group != 0;
    out->methods = w->methods;
    out->prescaled = w->methods.scaling && !normed;
    if (out->prescaled && layout != LAYOUT_MODELOPT)
        return refuse(reason,
                      "no norm is in front to take its scale, and %s has no factor of "
                      "inputs (pre_quant_scale)",
                      layout_names[layout]);
    switch (layout) {
    case LAYOUT_CT:
        return ct_find(step, f, out, reason);
    case LAYOUT_MODELOPT:
        return modelopt_find(step, f, out, reason);
    case LAYOUT_GGUF:
        return gguf_find(step, f, out, reason);
    case LAYOUTS:
        break;
    }
    return false;
}
