/*
 * Tiles: consecutive samples packed without padding into a fixed number of rows. A tile is the unit
 * of work, of checkpoints and of shards. Boundaries follow from the data alone (greedy from sample
 * 0, a sample is never split), and every product is made with exactly `rows` rows, so that the
 * bits of a sample do not depend on who shares its tile.
 *
 * With padding to a fixed length, all pad rows of a sample are equal (they see nothing), so that
 * one row in front of the sample represents them all. It also is the last pad row, the one
 * that predicts the first token.
 */
#ifndef AQ_NN_TILE_H
#define AQ_NN_TILE_H

#include "backend/backend.h"
#include "base/err.h"
#include "model/arch.h"

#include <stddef.h>
#include <stdint.h>

/* What tiles are made from: the content of tokens.safetensors. */
struct tile_source {
    const int32_t *ids;     /* all samples, one after another, unpadded */
    const int64_t *offsets; /* [samples + 1] */
    int64_t samples;
    int max_length;  /* padding to seq_len, else none */
    int64_t seq_len; /* only read with max_length */
    int32_t pad_id;
    int64_t batch;         /* samples that must share a tile, from sample 0 on; 0: none */
    int64_t max_positions; /* the model rotates longer samples otherwise: refused; 0: any */
    /* [samples] or NULL: targets of positions before this one are not counted */
    const int32_t *count_from;
};

struct tile {
    struct backend_tile_desc desc; /* arrays owned by the tile */
    /* The same rows with a whole batch for a sample, for what is measured over a batch. It has no
       samples if the source has no batches. */
    struct backend_tile_desc batches;
    int64_t sample;  /* index of the first sample in the source */
    int32_t used;    /* rows that hold a token or a pad */
    int32_t *labels; /* [desc.samples]: targets counted in the loss */
    int32_t *tokens; /* [desc.samples]: ids without pads */
    int32_t *pads;   /* [desc.samples]: pad rows that the pad row represents; 0: none */
};

struct tiles {
    struct tile *items;
    size_t count;
    int32_t rows; /* of every tile: tile_tokens of the store's identity */
    int has_pads; /* some sample has a pad row */
};

/*
 * Rows are `tokens` (of the backend), or the next multiple of it that holds the longest sample, or
 * batch where there are batches: they are not split either. Batches whose rows no tile can count,
 * samples without an id, ids outside 0..vocab-1 and samples longer than seq_len are AQ_EINPUT; a
 * sample without a target is kept (labels 0).
 */
/* For such a model and a file of `total` tokens, all of its samples: no more than they need. */
int32_t tiles_tokens(const struct backend *b, const struct lm_arch *a, int64_t total);
int tiles_build(struct tiles *t, const struct tile_source *src, int32_t tokens, int64_t vocab,
                struct aq_err *err) AQ_MUST_CHECK;
void tiles_release(struct tiles *t);

#endif
