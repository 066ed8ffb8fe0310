/*
 * One input of a selection: the scores of one cell (scores.json), or a manifest, which is the same
 * table after an earlier selection or by another tool. Both become a list of groups, a list of
 * candidates, and a value for each pair of them.
 */
#ifndef AQ_SELECT_SELECT_CELL_H
#define AQ_SELECT_SELECT_CELL_H

#include "base/err.h"
#include "base/sha256.h"
#include "io/json.h"
#include "select/manifest.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum sel_cost { SEL_COST_STORAGE, SEL_COST_MODELOPT40, SEL_COST_MODELOPT47, SEL_COSTS };

extern const char *const sel_cost_names[SEL_COSTS + 1]; /* NULL at the end */

/* What must agree between the inputs of one selection, as text; NULL: the file does not say. */
enum sel_fact {
    SEL_LM,
    SEL_TOKENS,
    SEL_METHOD,
    SEL_PADDING,
    SEL_NORMALIZATION,
    SEL_PREFIX,
    SEL_SCORE_SAMPLES,
    SEL_MUST_AGREE,
    /* and what gives slightly different numbers if it does not */
    SEL_DTYPE = SEL_MUST_AGREE,
    SEL_OPERAND_ROUNDING,
    SEL_DYNAMIC_BATCH,
    SEL_BACKEND,
    SEL_RESULT_VERSION,
    SEL_FACTS,
};

extern const char *const sel_fact_names[SEL_FACTS];

struct sel_candidate {
    char *name;                      /* "wfp8_afp8/default" */
    char *label;                     /* "FP8_DEFAULT_CFG" or "CUSTOM_0" */
    const char *format;              /* name of the base format; borrowed; NULL: unknown */
    const char *treatment;           /* id of what it does to a layer; borrowed; NULL: unknown */
    const struct json *quantization; /* borrowed; NULL: unknown */
    const struct json *facts;        /* {"w", "a", "treatment_id", "num_bits"}; NULL: unknown */
    struct json *own_facts;          /* the same if it was made here */
};

struct sel_value {
    bool present;
    double score;     /* in the normalization of the run */
    const char *flat; /* see struct manifest_option; borrowed */
    double per_batch_mean, error, weight_only, activation_only;   /* NAN: not given */
    double per_token, per_token_dot, first_position, range_ratio; /* NAN: not given */
    double bits[SEL_COSTS];                                       /* of a weight; NAN: unknown */
    double cost[SEL_COSTS]; /* in 16-bit weights, all of them active; NAN: unknown */
};

struct sel_group {
    const char *name;           /* first member; borrowed */
    const struct json *members; /* list of strings; NULL: by the rule for names */
    const struct json *model; /* the group as lm.json has it, perhaps with scores; NULL: unknown */
    struct routed routed;     /* tokens of its experts; .experts is 0 where nobody says */
    double weights;
};

struct sel_cell {
    char *path;
    char digest[AQ_SHA256_HEX];
    struct json *root;        /* of a scores.json; a manifest owns its own */
    struct manifest manifest; /* used if is_manifest */
    bool is_manifest;
    struct sel_group *groups;
    size_t group_count;
    struct sel_candidate *candidates;
    size_t candidate_count;
    struct sel_value *values; /* [group * candidate_count + candidate] */
    char *facts[SEL_FACTS];
    /* weights of the parts of the model; for a manifest of another tool head and vision are 0 */
    double lm_weights, head_weights, vision_weights;
    const struct json *scheme, *model, *dataset, *quantization, *autoquant, *identity;
    const struct json *layers; /* of a manifest */
    double effective_bits;     /* budget of the run */
    enum sel_cost cost;
    bool active; /* costs are those of active weights */
    bool count_vision;
};

/* path "-" is standard input. Caller releases, also after a failure. */
int sel_cell_read(struct sel_cell *c, const char *path, struct aq_err *err) AQ_MUST_CHECK;
void sel_cell_release(struct sel_cell *c);

static inline struct sel_value *sel_value_at(const struct sel_cell *c, size_t group,
                                             size_t candidate)
{
    return &c->values[group * c->candidate_count + candidate];
}

#endif
