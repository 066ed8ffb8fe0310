/*
 * Has a GGUF file the tokenizer of a model? Its list of tokens, and its merges, against the
 * tokenizer.json beside the model's checkpoint: only then is a text one and the same for both.
 */
#ifndef AQ_EVAL_GGUF_TOKENS_H
#define AQ_EVAL_GGUF_TOKENS_H

#include "base/err.h"
#include "io/gguf.h"

/* dir: of the checkpoint. AQ_EINPUT names the first token or merge that differs. A file without
   tokens, and a checkpoint without tokenizer.json, say nothing. */
int gguf_tokens_check(struct gguf_file *f, const char *dir, struct aq_err *err) AQ_MUST_CHECK;

#endif
