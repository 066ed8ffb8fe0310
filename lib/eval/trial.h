/*
 * Recipes measured one after another on the same texts. The input of every layer is kept for one
 * recipe, the base; another recipe starts from there at the first layer in which it differs, so
 * that only what comes after it is computed. Divergences are from the unquantized model, over the
 * whole vocabulary, summed over each sample's counted positions; the bits of a sample depend on the
 * recipe and on the samples of its tile alone, not on the layer where the run started.
 */
#ifndef AQ_EVAL_TRIAL_H
#define AQ_EVAL_TRIAL_H

#include "eval/domain.h"
#include "eval/operand.h"

struct trial_job {
    const char *device;
    struct backend_config config;
    uint64_t memory; /* in all; kept inputs beyond it go to a file in spill_dir; 0: no limit */
    const char *spill_dir;
    const struct lm *lm;
    struct eval_domains *domains;        /* not tiled yet */
    const struct eval_operand *operands; /* whatever a recipe is put together from */
    size_t count;
    /* Of `memory`, what the caller takes itself; left: what trials leave at most, or UINT64_MAX.
       The domains are tiled by then. NULL: nothing. */
    uint64_t (*beside)(void *arg, const struct backend *b, uint64_t left);
    void *arg;
};

struct trials;

/* Opens the backend and the model, and keeps the unquantized model as the base. Close also after a
   failure. */
int trials_open(struct trials **out, const struct trial_job *job, struct aq_err *err) AQ_MUST_CHECK;
void trials_close(struct trials *t);                /* NULL is fine */
const char *trials_backend(const struct trials *t); /* its identity */
struct backend *trials_device(const struct trials *t);
/* What the head costs, in products of one layer. */
double trials_head_cost(const struct trials *t);

/* What to measure: tiles first <= i < end of the list of all, from this layer on. */
struct trial_range {
    size_t first, end;
    int64_t layer; /* the first in which the recipe differs from the base */
};
/*
 * sums[s] for the samples of these tiles, s counted over the domain's samples (all tiles are of one
 * domain); others are not touched. keep: the recipe becomes the base, for these tiles.
 */
int trials_run(struct trials *t, const struct eval_operand *recipe, const struct trial_range *range,
               bool keep, double *sums, struct aq_err *err) AQ_MUST_CHECK;

/* For other uses of the outputs: those of the last layer, of one tile. */
struct trial_output {
    struct backend *b;
    struct nn_model *model;
    const struct backend_tile *tile;
    const struct backend_tile_desc *desc;
    size_t number;
    const void *reference;         /* of the unquantized model; NULL: its logits are made */
    void *changed;                 /* of the recipe, which may be overwritten */
    struct backend_logits *logits; /* where the reference's are kept; NULL: nowhere */
};
typedef int trial_output_fn(void *arg, const struct trial_output *t, struct aq_err *err);
/* The unquantized model's, with the head in use by slices; nothing is changed. */
int trials_references(struct trials *t, const struct trial_range *range, trial_output_fn *fn,
                      void *arg, struct aq_err *err) AQ_MUST_CHECK;
/* A recipe's; the ends are in use, for nn_kl. */
int trials_outputs(struct trials *t, const struct eval_operand *recipe,
                   const struct trial_range *range, trial_output_fn *fn, void *arg,
                   struct aq_err *err) AQ_MUST_CHECK;

#endif
