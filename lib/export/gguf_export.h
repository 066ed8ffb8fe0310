/* The language model of a recipe as one GGUF file. */
#ifndef AQ_EXPORT_GGUF_EXPORT_H
#define AQ_EXPORT_GGUF_EXPORT_H

#include "export/plan.h"

/* The plan was accepted. The file appears under its name when it is complete. */
int export_gguf(struct export_plan *p, const char *path, struct aq_err *err) AQ_MUST_CHECK;

#endif
