/*
 * The pass that all methods begin with: forward over all tiles that lack something, layer by layer,
 * with every layer's input kept. What a method does next starts from these.
 */
#ifndef AQ_SCORE_WALK_H
#define AQ_SCORE_WALK_H

#include "base/progress.h"
#include "score/kept.h"
#include "score/scoring.h"

struct walk {
    const struct scoring *s;
    struct backend *b;
    const struct backend_ops *op;
    struct backend_tile **tiles;   /* of the shard; NULL where nothing is lacking */
    struct backend_tile **batches; /* the same rows by batches; NULL also where there are none */
    struct kept *kept;             /* slot walk_slot(layer, tile): input of the layer */
    void *scratch[2];              /* states on their way from and to the file */
    size_t state_bytes;
    int32_t max_samples; /* of a tile */
    struct aq_progress progress;
    uint64_t done;
};

/* Elements of an activation with so many columns, in bytes, cut to a boundary. */
size_t walk_act_bytes(const struct scoring *s, int64_t cols);
int32_t walk_most_samples(const struct scoring *s);

/* spilled: keep the inputs in a file. walk_close also after a failure. */
int walk_open(struct walk *w, const struct scoring *s, bool spilled,
              struct aq_err *err) AQ_MUST_CHECK;
void walk_close(struct walk *w);
/* Slot of a layer's input; layer == layers: the output of the last. */
int64_t walk_slot(const struct walk *w, int64_t layer, size_t tile);
/* The tile as the quantizer of a row's activation sees it: a dynamic range is that of a sample, or
   of a batch where the tiles are made of batches. */
const struct backend_tile *walk_quantized_tile(const struct walk *w, size_t row, size_t tile);
/* Fills the slots 0 to `layers`; a step of progress a layer. */
int walk_forward(struct walk *w, int64_t layers, struct aq_err *err) AQ_MUST_CHECK;
/* From a layer's input to the next slot. */
int walk_step(struct walk *w, int64_t layer, size_t tile, struct aq_err *err) AQ_MUST_CHECK;
void walk_advance(struct walk *w, uint64_t steps);
/*
 * Something of this sample is not finite: AQ_EINPUT that names the first layer whose output is not,
 * or `what` if all are. Reads all slots, so they must still be there.
 */
int walk_blame(struct walk *w, size_t tile, int32_t sample, const char *what, struct aq_err *err);

#endif
