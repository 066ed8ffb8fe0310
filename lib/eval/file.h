/*
 * Quantized files as operands: a checkpoint directory in the Hugging Face layout, or a GGUF file.
 * Weights are decoded when a layer needs them, code times scale in fp32; activations are quantized
 * as the file's configuration says, with the file's scales.
 */
#ifndef AQ_EVAL_FILE_H
#define AQ_EVAL_FILE_H

#include "base/names.h"
#include "eval/coded.h"
#include "eval/operand.h"
#include "model/checkpoint.h"

/* EVAL_CHECKPOINT for a directory, EVAL_GGUF by the first bytes; -1: neither. */
int eval_file_kind(const char *path);
int eval_file_open(struct eval_operand *o, enum eval_kind kind, const struct eval_reference *ref,
                   struct aq_err *err) AQ_MUST_CHECK;
void eval_file_close(struct eval_file *f); /* NULL is fine */

/* ---- inside ---- */

struct eval_file {
    struct lm_arch arch;
    struct ckpt ckpt;
    bool has_ckpt;
    struct json *config;
    struct gguf_file gguf;
    bool has_gguf;
    struct coded *weights; /* by name */
    size_t count;
    struct aq_names names; /* "layers.0.mlp.up_proj.weight" */
    struct aq_arena arena;
};

/* What a module's place in the configuration says. */
struct eval_module {
    struct coded_args args;
    char act[QUANT_TEXT_MAX]; /* treatment; "none" */
    const char *scale;        /* suffix of the tensor with the range's scale; NULL: not ranged */
    double factor;            /* amax = scale * factor; negative: amax = -factor / scale */
};

/* A quantization_config, read once. */
struct eval_scheme;
struct eval_scheme *eval_scheme_open(const struct json *config, const char *path,
                                     struct aq_err *err);
void eval_scheme_close(struct eval_scheme *s);
bool eval_scheme_is_modelopt(const struct eval_scheme *s); /* else compressed-tensors */
/* module: the checkpoint's name. AQ_EINPUT: nothing is said of it, or what is not computed. */
int eval_scheme_find(const struct eval_scheme *s, const char *module, struct eval_module *out,
                     struct aq_err *err) AQ_MUST_CHECK;

#endif
