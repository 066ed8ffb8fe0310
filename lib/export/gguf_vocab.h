/* The tokenizer of a checkpoint as keys of a GGUF file. */
#ifndef AQ_EXPORT_GGUF_VOCAB_H
#define AQ_EXPORT_GGUF_VOCAB_H

#include "export/plan.h"
#include "io/gguf.h"
#include "io/json.h"

/*
 * config is config.json. Reads tokenizer.json, and tokenizer_config.json and chat_template.jinja
 * where they are there. Kinds of tokenizers that llama.cpp has no way to say are refused.
 */
int gguf_add_vocabulary(const struct export_plan *p, struct gguf_writer *w,
                        const struct json *config, struct aq_err *err) AQ_MUST_CHECK;

#endif
