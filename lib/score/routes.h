/*
 * Where the unquantized model sends the tokens of a mixture of experts: a pass of its own, so that
 * it does not matter what a store has already. The file has for each layer with experts
 *
 *     sel/<layer>  I16 [tokens, experts per token]  by rising number
 *     w/<layer>    F32 [tokens, experts per token]  their weights
 *
 * with the tokens of all samples one after another, pads left out; metadata: lm, tokens,
 * backend.
 */
#ifndef AQ_SCORE_ROUTES_H
#define AQ_SCORE_ROUTES_H

#include "score/scoring.h"

/* tokens: the digest; samples: how many of them, from the first on. */
int routes_dump(const struct scoring *s, int64_t samples, const char *lm, const char *tokens,
                const char *path, struct aq_err *err) AQ_MUST_CHECK;

#endif
