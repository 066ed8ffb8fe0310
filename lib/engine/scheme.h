/*
 * Schemes: what a pair of treatments is called in a file format, and how it is stored there. A
 * layout is a family of checkpoints (compressed-tensors, ModelOpt's unified one, GGUF); each has a
 * fixed set of schemes. Whether an engine runs a scheme, and as what, is engine/engine.h's
 * business.
 */
#ifndef AQ_ENGINE_SCHEME_H
#define AQ_ENGINE_SCHEME_H

#include "quant/quant.h"

#include <stdbool.h>

enum scheme_layout { LAYOUT_CT, LAYOUT_MODELOPT, LAYOUT_GGUF, LAYOUTS };

/* "compressed-tensors", "modelopt", "gguf". */
extern const char *const layout_names[LAYOUTS + 1]; /* NULL at the end */
bool layout_parse(const char *name, enum scheme_layout *out);

/* How the weights of a scheme lie in the file. */
enum scheme_codes {
    CODES_INT8,      /* one byte a weight, an fp32 scale per row */
    CODES_FP8,       /* e4m3, an fp32 scale per row */
    CODES_FP8_ONE,   /* e4m3, one fp32 scale for the group */
    CODES_FP8_BLOCK, /* e4m3, an fp32 scale per tile of 128 x 128 */
    CODES_PACKED,    /* `bits` bits a weight in 32-bit words, a bf16 scale per row or block */
    CODES_INT4_ROWS, /* two rows in a byte, an fp32 scale per block: ModelOpt's AWQ form */
    CODES_NVFP4,     /* two weights a byte, an e4m3 scale per 16, one fp32 scale for the group */
    CODES_MXFP4,     /* two weights a byte, a power of two per 32 */
    CODES_MXFP8,     /* e4m3, a power of two per 32 */
    CODES_Q8_0,      /* GGUF: blocks of 32 with an fp16 scale, 8 or 4 bits a weight */
    CODES_Q4_0,
};

enum scheme_act {
    ACT_NONE,
    ACT_INT8_TENSOR,
    ACT_INT8_TOKEN,
    ACT_INT4_TOKEN,
    ACT_FP8_TENSOR,
    ACT_FP8_TOKEN,
    ACT_FP8_BLOCK, /* per token and 128 inputs */
    ACT_NVFP4,     /* with a calibrated second level */
    ACT_MXFP4,
    ACT_MXFP8,
};

enum { SCHEME_NAME = 32, SCHEME_REASON = 200 };

struct scheme {
    char name[SCHEME_NAME]; /* "w4a16", "NVFP4", "Q8_0" */
    enum scheme_codes codes;
    int bits;         /* of an integer weight; 8 or 4 for floats */
    int group;        /* inputs per scale; 0: a whole row */
    bool one_range;   /* the treatment's range spans the tensor; written once a row where need be */
    bool group_range; /* the treatment's second level spans the group ("@group") */
    enum scheme_act act;
    struct quant_methods methods; /* of the treatment: how codes and ranges are chosen */
    /* A calibrated scale of the input that no norm takes: the file holds its factor
       (pre_quant_scale) */
    bool prescaled;
    double storage_bits; /* of a weight, block scales included */
};

/*
 * False: the layout has no scheme for this pair, and reason says why. normed: a norm gives the
 * input of the weights, and takes the scale of a calibrated candidate.
 */
bool scheme_find(enum scheme_layout layout, const struct quant_spec *w, const struct quant_spec *a,
                 bool normed, struct scheme *out, char reason[SCHEME_REASON]);
/* Does it need the calibrated range of its input? */
bool scheme_is_calibrated(const struct scheme *s);

#endif
