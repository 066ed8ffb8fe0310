/*
 * The pass that all measurements begin with: forward over tiles, layer by layer, so that a layer's
 * weights are read once however many tiles there are. The inputs of all layers are kept, for what
 * starts from them later, or only those of the layer at work.
 */
#ifndef AQ_SCORE_WALK_H
#define AQ_SCORE_WALK_H

#include "base/progress.h"
#include "nn/model.h"
#include "score/kept.h"

#include <stdbool.h>

struct walk_job {
    struct backend *b;
    struct nn_model *model;
    const struct tiles *tiles;
    size_t first_tile, end_tile;
    const bool *wanted;    /* [tiles]; NULL: all of them */
    bool keep;             /* the inputs of all layers; otherwise of one layer at a time */
    size_t passing;        /* with `keep`: the last tiles, of which one layer's input is kept */
    bool spilled;          /* keep them in a file */
    const char *spill_dir; /* of that file */
};

struct walk {
    struct walk_job job; /* without `wanted`, which is not read after walk_open */
    struct backend *b;
    const struct backend_ops *op;
    struct backend_tile **tiles;   /* of the job; NULL where nothing is wanted */
    struct backend_tile **batches; /* the same rows by batches; NULL also where there are none */
    struct kept *kept; /* slot walk_slot(layer, tile): the layer's input (rows, hidden) */
    void *scratch[2];  /* (rows, hidden) each: states read from the file or to be written */
    size_t state_bytes;
    int32_t max_samples; /* of a tile */
    size_t count;        /* tiles wanted */
    int64_t computed;    /* layers whose outputs walk_forward has kept */
    bool embedded;       /* and the first layer's inputs: computed may be 0 */
    struct aq_progress progress;
    uint64_t done; /* in products of one linear with one tile */
};

/* Bytes of an activation of one tile with `cols` columns, rounded up to an alignment. */
size_t walk_act_bytes(int64_t rows, const struct backend *b, int64_t cols);

/* walk_close also after a failure. */
int walk_open(struct walk *w, const struct walk_job *job, struct aq_err *err) AQ_MUST_CHECK;
void walk_close(struct walk *w);
/* Inputs of layers that it keeps: slots of one tile and layer. */
int64_t walk_slots(const struct walk_job *job);
/* Goes on with those tiles alone that are kept and wanted: `passing` is 0 afterwards. */
void walk_narrow(struct walk *w, const bool *wanted);
/* Slot of a layer's input; layer == layers: the output of the last. */
int64_t walk_slot(const struct walk *w, int64_t layer, size_t tile);
/* Called for every tile of a layer that was just computed; acts are valid during the call. */
typedef int walk_fn(void *arg, int64_t layer, size_t tile, const struct nn_acts *acts,
                    struct aq_err *err);
/* Embeds, then computes the first `layers` layers, unless they have been computed. each: may be
   NULL. */
int walk_forward(struct walk *w, int64_t layers, walk_fn *each, void *arg,
                 struct aq_err *err) AQ_MUST_CHECK;
/* From a layer's input to the next slot. */
const struct nn_acts *walk_step(struct walk *w, int64_t layer, size_t tile, struct aq_err *err);
/* Products of one tile, for progress. */
uint64_t walk_layer_products(const struct model_layer *l);
/* Products of a forward pass over all wanted tiles and the layers from <= l < to. */
uint64_t walk_products(const struct walk *w, int64_t from, int64_t to);
void walk_advance(struct walk *w, uint64_t products);
/*
 * Something of this sample is not finite: AQ_EINPUT that names the first layer whose output is not,
 * or `what` if all are. Reads all slots, so they must still be there.
 */
int walk_blame(struct walk *w, size_t tile, int32_t sample, const char *what, struct aq_err *err);

#endif
