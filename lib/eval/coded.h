/*
 * Quantized weights as files hold them, and back: code times scale, in fp32. The types and
 * shapes of a module's tensors say which scheme it is, so that one page reads
 * compressed-tensors and ModelOpt's layout; GGUF has blocks of its own.
 */
#ifndef AQ_EVAL_CODED_H
#define AQ_EVAL_CODED_H

#include "base/err.h"
#include "io/gguf.h"
#include "io/safetensors.h"

#include <stdbool.h>
#include <stdint.h>

enum coded_form {
    CODED_PLAIN,  /* numbers */
    CODED_BYTES,  /* an int8 each */
    CODED_FP8,    /* an e4m3 each */
    CODED_PACKED, /* `bits` bits each, in 32-bit words, with an offset */
    CODED_FP4,    /* two e2m1 a byte */
    CODED_ROWS4,  /* two rows a byte, four bits each */
    CODED_GGUF,
};

/* A table of scales: element (r, c) has that at (r / each_rows, c / each_cols). */
struct coded_scales {
    const struct st_tensor *t;
    int64_t each_rows, each_cols, cols;
};

struct coded {
    enum coded_form form;
    int64_t rows, cols;
    int bits;
    const void *codes;
    enum st_dtype dtype; /* CODED_PLAIN */
    struct coded_scales scales;
    const struct st_tensor *zeros;  /* zero points; NULL: none */
    const struct st_tensor *groups; /* the scale's column of each column; NULL: in order */
    const struct st_tensor *inputs; /* factors of the columns; NULL: none */
    float second;                   /* of the scales: a factor, or a divisor */
    bool divides;
    float rounded; /* not 0: decoded values are rounded to e4m3 times this: int4 and then FP8 */
    enum gguf_type type; /* CODED_GGUF */
    int64_t heads;       /* rows are those of gguf_source_row; 0: as they are */
    float plus;          /* what the file adds to every value */
};

/* What a module's configuration says of its weights. */
struct coded_args {
    int bits;        /* 0: not said */
    int64_t group;   /* columns of a scale; 0: follows from the shape */
    int64_t tile[2]; /* of a block-wise scale; 0: 128 */
    bool rounded;    /* decoded values are FP8 numbers of a scale of their own: weight_scale_2 */
};

/* Finds tensors by name. */
typedef const struct st_tensor *coded_find_fn(void *arg, const char *name);

/* The weight of `module`, rows x cols, and all that belongs to it. AQ_EINPUT names the tensor. */
int coded_open(struct coded *c, const char *module, int64_t rows, int64_t cols,
               const struct coded_args *args, coded_find_fn *find, void *arg,
               struct aq_err *err) AQ_MUST_CHECK;
/* What multiplies the columns, and the inputs in its place: from now on decoded weights are without
   it. [cols], of the arena; NULL: there is nothing. */
struct aq_arena;
const float *coded_take_inputs(struct coded *c, struct aq_arena *arena);
/* out (rows, cols) */
void coded_decode(const struct coded *c, float *out);

/* What the weights went through, as a treatment: out [QUANT_TEXT_MAX]. False where none says it:
   zero points, shuffled groups, GGUF. */
bool coded_treatment(const struct coded *c, char *out);

/* One number: a scale that a whole tensor has. AQ_EINPUT if the tensor has another shape. */
int coded_number(const struct st_tensor *t, float *out, struct aq_err *err) AQ_MUST_CHECK;

#endif
