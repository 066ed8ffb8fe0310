/*
 * The recipe alone, in the words of other tools: they quantize the model by it themselves, with
 * their own rounding.
 */
#ifndef AQ_EXPORT_RECIPE_H
#define AQ_EXPORT_RECIPE_H

#include "export/plan.h"

enum recipe_kind {
    RECIPE_LLM_COMPRESSOR, /* recipe.yaml of a QuantizationModifier */
    RECIPE_MODELOPT,       /* Python: a dict for mtq.quantize */
    RECIPE_LLAMA,          /* for llama-quantize --tensor-type-file */
    RECIPE_AUTOROUND,      /* layer_config.json */
    RECIPES,
};

/* "llm-compressor", "modelopt-cfg", "llama-types", "autoround". */
extern const char *const recipe_names[RECIPES + 1]; /* NULL at the end */

/* The layout that a kind is judged in; LAYOUTS: by no engine's rules. */
enum scheme_layout recipe_layout(enum recipe_kind kind);
/* The text of the file. AQ_EINPUT: a treatment that the tool has no words for. */
int recipe_text(const struct export_plan *p, enum recipe_kind kind, struct aq_buf *out,
                struct aq_err *err) AQ_MUST_CHECK;

#endif
