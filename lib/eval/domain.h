/*
 * The texts of an evaluation: each --domain is a tokens.safetensors, cut into tiles. Counted
 * positions are those whose next token is known and counted: all but the last of each sample, and
 * none before count_from where windows overlap.
 */
#ifndef AQ_EVAL_DOMAIN_H
#define AQ_EVAL_DOMAIN_H

#include "base/names.h"
#include "nn/tile.h"
#include "text/tokens.h"

struct eval_domain {
    char *name;
    const char *path; /* borrowed */
    struct tokens tokens;
    struct tiles tiles;
    int64_t *positions; /* [samples + 1]: counted ones before each sample */
};

struct eval_domains {
    struct eval_domain *items;
    size_t count;
    size_t *first_tile; /* [count + 1] of the list of all tiles, domain after domain */
    int32_t rows;       /* of the largest tile */
};

/* A tile of the list of all. */
struct eval_place {
    struct eval_domain *domain;
    size_t number; /* of the domain */
    const struct tile *tile;
};

/* Reads NAME=TOKENS words. Without tiles. */
int eval_domains_open(struct eval_domains *d, const struct aq_names *words,
                      struct aq_err *err) AQ_MUST_CHECK;
/* Tokens of the longest domain. */
int64_t eval_domains_tokens(const struct eval_domains *d);
/* rows: of the backend; max_positions as in struct tile_source. */
int eval_domains_tile(struct eval_domains *d, int32_t rows, int64_t vocab, int64_t max_positions,
                      struct aq_err *err) AQ_MUST_CHECK;
void eval_domains_close(struct eval_domains *d);

struct eval_place eval_domains_tile_at(const struct eval_domains *d, size_t tile);

#endif
