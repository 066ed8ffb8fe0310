/*
 * The shards of a quantized checkpoint, streamed: sizes and headers are known from shapes alone,
 * then every tensor is copied or coded tile by tile into its final place. Shards keep their names.
 * Memory: a few tiles for each thread.
 */
#ifndef AQ_EXPORT_WEIGHTS_H
#define AQ_EXPORT_WEIGHTS_H

#include "export/codes.h"
#include "export/directory.h"
#include "export/plan.h"
#include "quant/quant.h"

/* The tensors that a module becomes in the file. */
enum piece_kind {
    PIECE_CODES,
    PIECE_SCALES,
    PIECE_SHAPE,
    PIECE_SECOND,
    PIECE_INPUT,
    PIECE_FACTOR, /* of the inputs: bf16, 1 over a calibrated candidate's scale */
};

struct piece {
    enum piece_kind kind;
    const char *suffix; /* ".weight_packed" */
    enum st_dtype dtype;
    int rank;
    uint64_t shape[2];
};

enum { PIECES = 5 };

/* The tensors of a module of this scheme; returns how many. */
int pieces_of(enum scheme_layout layout, const struct scheme *s, int64_t rows, int64_t cols,
              struct piece out[PIECES]);
/* The coder of a module; amax over what shares a range is read from the weights. */
int coder_of(const struct export_plan *p, const struct export_module *m, struct coder *out,
             struct aq_err *err) AQ_MUST_CHECK;
/* A module's largest magnitude, looked up once; not from several threads. */
int module_amax(const struct export_plan *p, struct export_group *g, int module, float *out,
                struct aq_err *err) AQ_MUST_CHECK;
/* What the file stores of a calibrated range, and of the second level. */
float piece_input_value(enum scheme_layout layout, const struct scheme *s, float amax);
float piece_second_value(const struct coder *c);

/* All shards and model.safetensors.index.json. */
int weights_write(const struct export_plan *p, const struct out_dir *d,
                  struct aq_err *err) AQ_MUST_CHECK;

#endif
