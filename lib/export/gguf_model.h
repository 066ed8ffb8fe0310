/*
 * A language model in the words of GGUF: names of architectures and tensors, hyperparameters as
 * keys, and the tensors that llama.cpp wants and a checkpoint does not have. An architecture is a
 * row of a table here, with what it computes in one way only: a model that differs is refused.
 */
#ifndef AQ_EXPORT_GGUF_MODEL_H
#define AQ_EXPORT_GGUF_MODEL_H

#include "export/plan.h"
#include "io/gguf.h"
#include "io/json.h"

/*
 * llama.cpp's name of the architecture for a model; `given` (or NULL) chooses among those that fit
 * it. NULL with AQ_EINPUT, or AQ_EUSAGE for a given one that does not fit.
 */
const char *gguf_arch(const struct lm *lm, const char *given, struct aq_err *err);

/* The value of "feed_forward_length": of an architecture without a key for experts, theirs. */
int64_t gguf_feed_forward(const struct lm_arch *a, const char *arch);

/* How the file's tensor differs from the model's. */
struct gguf_form {
    /* Rows of each head's two halves, which are rotated together, alternate: gguf_source_row says
       which row of the model is row r of the file. 0: rows are in the model's order. */
    int64_t heads;
    float plus; /* added to every value: norms whose weight is 1 + w */
};

/*
 * "blk.3.attn_q.weight" for "layers.3.self_attn.q_proj.weight"; of experts the number is "{e}", and
 * the tensor is that of all of them. form: NULL or what to do with it.
 * -1 with AQ_EINPUT: no such name.
 */
int gguf_tensor_name(const struct lm_arch *a, const char *arch, const char *name,
                     struct aq_buf *out, struct gguf_form *form, struct aq_err *err) AQ_MUST_CHECK;
int64_t gguf_source_row(int64_t r, int64_t rows, int64_t heads);

/* A tensor that follows from config.json: factors of the rotation's frequencies. */
struct gguf_extra {
    const char *name;
    float *values; /* owned */
    uint64_t count;
};
enum { GGUF_EXTRAS = 2 };

/* A key of the language model's part of config.json, or of the whole; NULL: none. */
const struct json *gguf_text_value(const struct json *config, const char *key);

/* All keys but general.file_type. The caller frees the values of the extras. */
int gguf_add_keys(const struct export_plan *p, struct gguf_writer *w,
                  struct gguf_extra extras[GGUF_EXTRAS], size_t *extra_count,
                  struct aq_err *err) AQ_MUST_CHECK;

#endif
