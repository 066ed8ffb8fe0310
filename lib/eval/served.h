/*
 * --engine: what a serving engine computes in place of what a recipe or a file asks for, as its
 * rules say (conf/engine): weights as they are, activations under the treatment that it runs. What
 * it refuses, or computes in a way that nobody here knows, is an error that names the group.
 */
#ifndef AQ_EVAL_SERVED_H
#define AQ_EVAL_SERVED_H

#include "engine/engine.h"
#include "eval/coded.h"
#include "model/lm.h"

struct eval_served {
    struct engine *engine; /* NULL: none was named, and everything runs as asked */
    struct engine_target target;
};

/* name: "vllm:sm90", or NULL; conf_dir: NULL where tools look. Close also after a failure. */
int served_open(struct eval_served *s, const char *name, const char *conf_dir,
                struct aq_err *err) AQ_MUST_CHECK;
void served_close(struct eval_served *s);

/* The treatment of activations that a group of the model runs under; *act: as asked, then as run.
 */
int served_group(const struct eval_served *s, const struct lm *lm, const struct model_group *g,
                 const char *weight, const char **act, struct aq_err *err) AQ_MUST_CHECK;
/* The same of one weight of a checkpoint in this layout, or of a GGUF file. */
int served_coded(const struct eval_served *s, enum scheme_layout layout, const char *module,
                 const struct coded *c, const char **act, struct aq_err *err) AQ_MUST_CHECK;

#endif
