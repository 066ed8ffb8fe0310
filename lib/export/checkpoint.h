/* A quantized checkpoint, as a directory: weights, configuration, tokenizer, and two pages. */
#ifndef AQ_EXPORT_CHECKPOINT_H
#define AQ_EXPORT_CHECKPOINT_H

#include "export/plan.h"

/* For the layouts of directories; the plan was accepted. Nothing appears under `dir` until all of
   it is written and checked. */
int export_checkpoint(struct export_plan *p, const char *dir, struct aq_err *err) AQ_MUST_CHECK;

#endif
