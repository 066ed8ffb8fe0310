/*
 * What all scoring methods share: the open inputs, which results are wanted, and the store that
 * they go to.
 *
 * A row is a line of the store: one candidate with the ranges of one data-set size. A tile is a
 * fixed number of token rows with some samples in it. Methods go layer by layer over all tiles: the
 * weights of a layer are loaded twice by gradient scoring (forward and backward), whatever the
 * number of rows, and the store is saved after every layer, from where an interrupted run
 * continues.
 */
#ifndef AQ_SCORE_SCORING_H
#define AQ_SCORE_SCORING_H

#include "backend/backend.h"
#include "base/err.h"
#include "nn/experts.h"
#include "nn/tile.h"
#include "score/made.h"
#include "score/walk.h"
#include "store/candidate.h"
#include "store/range_file.h"
#include "store/store.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct scoring {
    struct backend *b;
    struct nn_model *model;
    const struct model_groups *groups;
    const struct tiles *tiles;
    const struct candidates *candidates;
    const struct score_rows *rows;
    struct range_file *ranges;  /* NULL if no row has a prefix */
    struct solved_file *solved; /* NULL: no candidate needs it */
    bool to_bf16;               /* operands are rounded to bf16 */
    struct aq_pool *pool;       /* for weights that are made on the host; NULL: there are none */
    float *hidden;              /* room for the ranges of an input's channels, scaled */
    struct store_writer *store;
    size_t first_tile, end_tile; /* all tiles of the shard are between */
    const bool *own;             /* [tiles][rows]: the shard; NULL: everything */
    bool kl_div;                 /* else gradient */
    bool needs_ranges;           /* ranges is NULL only in a plan then */
    bool measures;               /* activation ranges, in the forward pass */
    size_t passing;              /* tiles after end_tile that this pass goes through as well */
    struct walk *measured;       /* the pass that measured them, for the method to go on with */
    uint64_t memory;             /* limit in bytes; 0: none */
    const char *spill_dir;
    double began; /* aq_now(), for messages */
};

/* Is the row wanted of the tile, and by this shard? */
bool scoring_wants(const struct scoring *s, size_t row, size_t tile);
/*
 * Samples of the tile that the row's cell has numbers of, from the tile's first on. A row of a
 * prefix is never asked for more samples than the prefix; those after them are zero in the store.
 */
int32_t scoring_samples(const struct scoring *s, size_t row, size_t tile);
/* Wanted, and not in the store yet for this layer. */
bool scoring_lacks(const struct scoring *s, size_t row, int64_t layer, size_t tile);
/* Does any row lack the tile, in any layer? */
bool scoring_tile_lacks(const struct scoring *s, size_t tile);
/* Candidates of which any row lacks anything. */
size_t scoring_open_candidates(const struct scoring *s);
/* Results (row, layer, tile) that are wanted, and those of them that the store has. */
struct scoring_count {
    uint64_t wanted, there;
};
struct scoring_count scoring_count(const struct scoring *s);
/* The lowest layer that any row lacks; -1: none. */
int64_t scoring_lowest_layer(const struct scoring *s);

/* Bytes of an activation of one tile with `cols` columns. */
size_t scoring_act_bytes(const struct scoring *s, int64_t cols);
/* Samples of the shard's fullest tile. */
int32_t scoring_most_samples(const struct scoring *s);
/* Opens the walk over the tiles that lack something, or takes over the one that measured ranges. */
int scoring_walk(const struct scoring *s, struct walk *w, bool spilled,
                 struct aq_err *err) AQ_MUST_CHECK;
/* Opens the walk that measures ranges: over all tiles, with what scoring needs of it kept. */
int scoring_walk_measuring(const struct scoring *s, struct walk *w,
                           struct aq_err *err) AQ_MUST_CHECK;
/* Bytes of the kept inputs of layers. */
uint64_t scoring_kept_bytes(const struct scoring *s);
/* The tile as the quantizer of a row's activation sees it: a dynamic range is that of a sample, or
   of a batch where the tiles are made of batches. */
const struct backend_tile *scoring_quantized_tile(const struct scoring *s, const struct walk *w,
                                                  size_t row, size_t tile);

/* Is the quantized weight of these candidates the same? Solved numbers are a candidate's own. */
bool scoring_same_weight(const struct candidate *a, const struct candidate *b);
/* Does any candidate have a weight that is made on the host? */
bool scoring_makes(const struct scoring *s);
/* Bytes of an operand for each element of its weight, and of what it is made from. */
uint64_t scoring_weight_bytes(const struct scoring *s);
/* What made_quantize asks for. */
struct made_from scoring_made_from(const struct scoring *s);
/* Does any candidate scale its inputs? */
bool scoring_scales(const struct scoring *s);
/*
 * What a row does to a group of a layer's experts: to both of their matrices, or to one with the
 * other as it is. Starts from {0} and keeps its room; release.
 */
struct scoring_experts {
    struct quant_spec w[EXPERT_HALVES], a[EXPERT_HALVES];
    struct quant_range room[EXPERT_HALVES];
    const struct quant_range *range[EXPERT_HALVES];
    float *hidden[EXPERT_HALVES]; /* of the ranges */
};
int scoring_experts(const struct scoring *s, size_t row, int64_t layer, int group,
                    struct scoring_experts *out, struct aq_err *err) AQ_MUST_CHECK;
void scoring_experts_release(struct scoring_experts *e);
/* Sets treatments and ranges of a swap, and how weights are quantized: with `made`. */
struct nn_expert_swap;
void scoring_swap(const struct scoring_experts *e, const struct candidate *c,
                  struct made_experts *made, struct nn_expert_swap *swap);
/* The range and factor that a row's activation takes at an input of a layer, where this linear of
   the layer reads it; *out is NULL for neither. */
int scoring_range(const struct scoring *s, const struct score_row *row, int64_t layer, int input,
                  int linear, struct quant_range *room, const struct quant_range **out,
                  struct aq_err *err) AQ_MUST_CHECK;

/*
 * Can all rows be applied to this model? AQ_EINPUT that names the linear or input, the treatment
 * and what does not fit; asked before the work starts.
 */
int scoring_fits(const struct scoring *s, struct aq_err *err) AQ_MUST_CHECK;

/* The numbers of one tile, layer and row, as a method computed them. */
struct scoring_result {
    /* [groups of the layer][samples of the tile] each, counts too; NULL: not of this method */
    const double *parts[STORE_PARTS];
};
/* Checks that all is finite, writes it, marks it. The error names layer, candidate, sample. */
int scoring_save(const struct scoring *s, size_t row, int64_t layer, size_t tile,
                 const struct scoring_result *r, struct aq_err *err) AQ_MUST_CHECK;

/* ---- experts ---- */

bool scoring_has_experts(const struct scoring *s);

/* ---- methods ---- */

/* Bytes that a method plans for, per purpose; sums to what it takes from the backend. */
struct scoring_bytes {
    uint64_t model;    /* activations of one tile */
    uint64_t kept;     /* layer inputs of all tiles */
    uint64_t spilled;  /* of these, in a file */
    uint64_t batch;    /* inputs, outputs and gradients of the tiles scored together */
    uint64_t operands; /* quantized weight and activations */
    uint64_t sums;     /* and other numbers of all rows; gradient: each row's dot form by token */
    uint64_t scratch;  /* what the backend takes by itself */
    uint64_t inputs;   /* quantized ones that the backend may keep */
    uint64_t outputs;  /* of experts under some rows, over the tiles scored together */
    size_t tiles_at_once;
};
/* The largest operands of this model. */
struct backend_sizes scoring_sizes(const struct scoring *s);
struct backend_sizes scoring_sizes_of(struct nn_model *model, const struct backend *b,
                                      int32_t rows);
/*
 * On a backend that computes in the process's own memory: can all of the plan be had? Asked before
 * the work starts, for some of it is taken only when an op first needs it. The activations of a
 * tile are there already.
 */
int scoring_has_room(const struct scoring *s, const struct scoring_bytes *plan,
                     struct aq_err *err) AQ_MUST_CHECK;
/* AQ_ERUN that says how much one tile needs. */
int scoring_too_little(const struct scoring *s, uint64_t least, struct aq_err *err);
/* Elements of the linears of the largest layer. */
int64_t scoring_layer_elements(const struct scoring *s);
/* Fails with AQ_ERUN if the limit is too small for even one tile, and says what is needed. */
int gradient_plan(const struct scoring *s, struct scoring_bytes *out,
                  struct aq_err *err) AQ_MUST_CHECK;
int gradient_run(const struct scoring *s, struct aq_err *err) AQ_MUST_CHECK;
int kl_plan(const struct scoring *s, struct scoring_bytes *out, struct aq_err *err) AQ_MUST_CHECK;
int kl_run(const struct scoring *s, struct aq_err *err) AQ_MUST_CHECK;

#endif
