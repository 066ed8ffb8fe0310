/*
 * All inputs of a selection as one table: the groups of the model, and for each the formats that it
 * may take, by rising bits of the cost rule, unquantized last.
 */
#ifndef AQ_SELECT_SELECT_TABLE_H
#define AQ_SELECT_SELECT_TABLE_H

#include "select/predict.h"
#include "select/select_cell.h"

enum { SEL_NONE = -1 }; /* as a candidate: not quantized */

enum sel_monotone {
    SEL_MONOTONE_AS_RUN, /* off, or V40's if autoquant.monotone of the first input is true */
    SEL_MONOTONE_OFF,
    SEL_MONOTONE_V40, /* each score at most the one before it, as already lowered */
    SEL_MONOTONE_V39, /* ... as it was */
};

struct sel_option {
    int candidate;    /* position in the table, or SEL_NONE */
    char *format;     /* "FP8_DEFAULT_CFG(effective-bits: 8.0)" */
    const char *flat; /* see struct manifest_option; borrowed */
    double score;     /* what the search minimises: monotone if asked for */
    double per_batch_mean, error, weight_only, activation_only;
    double per_token, per_token_dot, first_position, range_ratio;
    double bits, storage_bits, cost;
    bool banned;  /* the engine does not serve it */
    bool allowed; /* by the menu, and not banned */
};

struct sel_row {
    const char *name;
    const struct json *members; /* NULL: by the rule for names */
    const struct json *model;   /* see struct sel_group */
    struct routed routed;       /* likewise */
    double weights;
    double share; /* of them that the cost counts: less than 1 of experts under cost model active */
    struct sel_option *options;
    size_t count;
    char *unserved; /* why the engine serves none of its candidates; NULL: it does serve one */
};

struct sel_table {
    struct sel_cell *cells;
    size_t cell_count;
    struct sel_candidate *candidates; /* borrowed texts but for the label */
    struct sel_cell **candidate_cell; /* where each comes from, */
    size_t *candidate_column;         /* and its number there */
    size_t candidate_count;
    struct sel_row *rows;
    size_t count;
    struct sel_option *options;
    enum sel_cost cost;
    bool active;       /* experts cost the share of them that a token uses */
    double total;      /* denominator of effective bits, in weights, of experts their share */
    double weights;    /* the same with all weights of experts */
    double fixed;      /* weights in it that are not searched and stay at 16 bits */
    char *denominator; /* "lm", "lm+vision", ... */
};

struct sel_engine;

struct sel_table_options {
    const char *cost;       /* NULL: of the first input */
    const char *cost_model; /* "weight", "active"; NULL: of the first input */
    bool count_vision;
    bool unchecked; /* inputs that do not say where they come from */
    enum sel_monotone monotone;
    /* Who serves the recipe; NULL: anybody. Its bits are counted unless `cost` is given. */
    const struct sel_engine *engine;
};

/* Reads and joins. Caller releases, also after a failure. */
int sel_table_read(struct sel_table *t, const char *const *paths, size_t count,
                   const struct sel_table_options *o, struct aq_err *err) AQ_MUST_CHECK;
void sel_table_release(struct sel_table *t);

/* The divergence of a recipe: option[g] of each row g. */
struct prediction sel_predict(const struct sel_table *t, const int *option);
/* One option's part of it; false: it is not quantized and has none. */
bool sel_predict_option(const struct sel_table *t, const struct sel_option *o,
                        struct predict_group *out);
/* The same for a candidate of one input. */
struct predict_group sel_predict_value(const struct sel_cell *c, size_t group, size_t candidate);

const char *sel_candidate_name(const struct sel_table *t, const struct sel_option *o);
/* Names of the modules of a group, a new list: its members, or what the name of a group means.
 */
struct json *sel_members(const struct sel_row *row);

#endif
