/*
 * Reading a quantization manifest: the table of scores that aq-select writes and that reports are
 * made from. Older manifests of other tools are read too: all that aq adds is optional.
 *
 * What a manifest says twice must agree: importance is the largest score, ranks are the order of
 * ascending importance, the ranking lists the table. Where such a key is missing it is computed.
 */
#ifndef AQ_SELECT_MANIFEST_H
#define AQ_SELECT_MANIFEST_H

#include "base/err.h"
#include "io/json.h"
#include "store/routed.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MANIFEST_SCHEMA "aq.manifest/2"

/* One candidate of one group. NAN where the manifest does not say. */
struct manifest_option {
    const char *format; /* "FP8_DEFAULT_CFG(effective-bits: 8.0)" */
    const char *name;   /* of the candidate; NULL if the manifest has none */
    bool none;          /* not quantized */
    double bits;        /* as the format's text says */
    double score, cost;
    const struct json *score_value, *cost_value; /* as written */
    double per_batch_mean, error, storage_bits;
    double weight_only, activation_only;
    double per_token, per_token_dot; /* the score and its second form, per token */
    double first_position;           /* share of the score that the first rows of samples have */
    double range_ratio;              /* of the group's inputs: first rows over all others */
    const char *flat; /* "zero", or the side whose bits change nothing: "weights", "activations",
                         "both"; NULL: the score depends on bits, or nobody looked */
};

struct manifest_group {
    const char *handle; /* "layers.0.self_attn.q_proj.quant_recipe" */
    char *layer;        /* without ".quant_recipe" */
    struct manifest_option *options;
    size_t count;
    double importance;
    size_t rank;                /* 1: the least sensitive */
    ptrdiff_t chosen;           /* option of the recipe; -1 if the manifest does not say */
    const struct json *members; /* names of the modules; NULL if the manifest does not say */
    const struct json *model;   /* the group as lm.json has it; NULL if the manifest does not say */
    struct routed routed;       /* tokens of its experts; .experts is 0: none, or not said */
    double share; /* of each weight's bits that its cost counts: 1, or less of experts where costs
                     are those of active weights */
};

struct manifest {
    char *path; /* for messages */
    struct json *root;
    struct manifest_group *groups; /* in candidate order */
    size_t count;
    struct manifest_option *options; /* of all groups */
    size_t option_count;
    const struct json *scheme, *state;                 /* objects, always there */
    const struct json *model, *dataset, *quantization; /* NULL if absent */
    const struct json *run_config, *selection, *aq;    /* NULL if absent */
    const char *scheme_name, *model_id, *model_name;   /* NULL if absent */
    double effective_bits, score;                      /* of the search; NAN for null */
    bool satisfied;
    bool active; /* costs are those of the weights that a token uses (selection.cost_model) */
};

/* How many weights a group has, as its costs say; NAN if they do not. */
double manifest_group_weights(const struct manifest_group *g);
/* "weight" or "active" */
int manifest_cost_model(const struct jref *at, bool *active, struct aq_err *err) AQ_MUST_CHECK;
/* cost_weight of a group as lm.json has it, in (0, 1] */
int manifest_cost_weight(const struct jref *group, double *out, struct aq_err *err) AQ_MUST_CHECK;

int manifest_read(struct manifest *m, const char *path, struct aq_err *err) AQ_MUST_CHECK;
/* The same for a document already parsed; takes root over, also on failure. */
int manifest_load(struct manifest *m, struct json *root, const char *path,
                  struct aq_err *err) AQ_MUST_CHECK;
void manifest_release(struct manifest *m);

/* What the recipe does to a group: the candidate ("NONE": nothing) and its treatments ("none"). */
struct manifest_choice {
    const char *candidate, *weight, *act; /* borrowed */
};
/* group: without ".quant_recipe". AQ_EINPUT: the manifest does not say. */
int manifest_choice(const struct manifest *m, const char *group, struct manifest_choice *out,
                    struct aq_err *err) AQ_MUST_CHECK;
/* Is it of the model with this digest and this number of groups? AQ_EINPUT if not; lm is for
 * messages. */
int manifest_is_of(const struct manifest *m, const char *digest, size_t groups, const char *lm,
                   struct aq_err *err) AQ_MUST_CHECK;

/* "NAME" of "NAME(effective-bits: 8.0)"; caller frees. */
char *manifest_format_label(const char *format);

/* Checks one word for manifest_option.flat. */
int manifest_read_flat(const struct jref *at, const char **out, struct aq_err *err) AQ_MUST_CHECK;

/* What a candidate is called: its name, or the label of its format if it has none. Caller frees. */
char *manifest_candidate(const struct manifest_option *o);
bool manifest_same_candidate(const struct manifest_option *a, const struct manifest_option *b);

#endif
