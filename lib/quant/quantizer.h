/*
 * The attributes of one quantizer, in ModelOpt 0.40's spelling, read with their types checked:
 * {"num_bits": [2, 1], "block_sizes": {"-1": 16, "type": "dynamic", "scale_bits": [4, 3]}}.
 * Whether the values make sense together is quant/treatment's business.
 */
#ifndef AQ_QUANT_QUANTIZER_H
#define AQ_QUANT_QUANTIZER_H

#include "base/err.h"
#include "io/json.h"

#include <stdbool.h>
#include <stdint.h>

enum { QUANTIZER_DIMS = 4, QUANTIZER_MAX_BLOCK = 1 << 20 };

/* A signed integer of `bits` bits, or a float of `exponent` and `mantissa` bits beside the sign. */
struct number_format {
    bool is_float;
    int bits; /* float: exponent + mantissa + 1 */
    int exponent, mantissa;
};

struct block_size {
    int dim;
    int length; /* 0: the whole dimension (null) */
};

struct quantizer {
    bool enable;
    bool bare;    /* the entry says nothing, or nothing but {enable: true} */
    bool dynamic; /* type: ranges from the data being quantized instead of calibration */
    struct number_format number;
    bool has_axis; /* axis is not null: these dimensions keep ranges of their own */
    int axis[QUANTIZER_DIMS];
    int axes;
    bool has_blocks; /* block_sizes is not null */
    struct block_size block[QUANTIZER_DIMS];
    int blocks;
    bool dynamic_blocks, four_over_six, has_scale;
    struct number_format scale; /* of the block scales */
    bool rotate;                /* acts on a disabled quantizer, too */
    const char *odd; /* attribute whose value changes numbers in a way that is not computed here */
    bool odd_for_integers; /* odd concerns integers only */
};

/* Unknown attributes and wrong types are AQ_EINPUT, with the place. */
int quantizer_read(const struct jref *entry, struct quantizer *q, struct aq_err *err) AQ_MUST_CHECK;

#endif
