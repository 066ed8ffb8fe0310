/*
 * A language model in the words of GGUF: names of architectures and tensors, hyperparameters and
 * the tokenizer as keys. A family is a row of a table here; others are refused.
 */
#ifndef AQ_EXPORT_GGUF_MODEL_H
#define AQ_EXPORT_GGUF_MODEL_H

#include "export/plan.h"
#include "io/gguf.h"

struct gguf_model;

/*
 * llama.cpp's name of the architecture for a model; `given` (or NULL) chooses among those that fit
 * it. NULL with AQ_EINPUT, or AQ_EUSAGE for a given one that does not fit.
 */
const char *gguf_arch(const struct lm *lm, const char *given, struct aq_err *err);

/* "blk.3.attn_q.weight" for "layers.3.self_attn.q_proj.weight". -1 with AQ_EINPUT: no such name. */
int gguf_tensor_name(const char *name, struct aq_buf *out, struct aq_err *err) AQ_MUST_CHECK;
/*
 * Row of the source that becomes row r: architecture llama wants the two halves of each head that
 * are rotated together interleaved, others take rows as they are. heads: of this tensor.
 */
bool gguf_permutes(const char *arch, const char *name);
int64_t gguf_source_row(int64_t r, int64_t rows, int64_t heads);

/* All keys but general.file_type. */
int gguf_add_keys(const struct export_plan *p, struct gguf_writer *w,
                  struct aq_err *err) AQ_MUST_CHECK;

#endif
