/* The samples of a data set as all that run the model take them. */
#ifndef AQ_SCORE_SAMPLES_H
#define AQ_SCORE_SAMPLES_H

#include "backend/backend.h"
#include "model/arch.h"
#include "nn/tile.h"
#include "text/tokens.h"

struct sample_set {
    const struct tokens *tokens;
    const char *path; /* of the tokens, for messages */
    int64_t samples;  /* from the first on */
    int64_t batch;    /* samples that must share a tile; 0: none */
};

/* Tiles of the backend's size for the model a. Release also after a failure. */
int sample_tiles(struct tiles *out, const struct sample_set *set, const struct lm_arch *a,
                 const struct backend *b, struct aq_err *err) AQ_MUST_CHECK;

#endif
