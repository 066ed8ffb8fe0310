/*
 * What one of several jobs computes: a stretch of all wanted cells (row, tile), laid out tile by
 * tile or row by row, whichever leaves less to the busiest job. A tile costs its passes in every
 * job that has a cell of it, a weight treatment its quantizing, a cell its products. So a single
 * tile keeps several devices busy, and so does a single candidate over many tiles.
 */
#ifndef AQ_SCORE_SHARD_H
#define AQ_SCORE_SHARD_H

#include "score/scoring.h"

struct shard_work {
    size_t tiles, rows;
    const size_t *order;   /* [rows]: the order of rows; those of one weight treatment together */
    const size_t *weight;  /* [rows]: number of the weight treatment, less than rows */
    const uint64_t *cost;  /* [tiles][rows]; 0: not wanted */
    const uint64_t *fixed; /* [tiles]: the passes */
    uint64_t quantizing;   /* of a weight treatment */
};

/*
 * own, [tiles][rows]: set where job `which` of `jobs` (from 0) computes. Every wanted cell belongs
 * to exactly one job; with more jobs than cells some have nothing. Depends on the arguments alone.
 */
void shard_split(const struct shard_work *w, int64_t which, int64_t jobs, bool *own);

/* "K/N", from 1: *which counts from 0. NULL: the only job. AQ_EUSAGE for anything else. */
int shard_parse(const char *text, int64_t *which, int64_t *jobs, struct aq_err *err) AQ_MUST_CHECK;

/* Leaves to s what job `which` of `jobs` computes of all its tiles and rows. own: what s refers to
   from then on; the caller frees it. */
void shard_take(struct scoring *s, int64_t which, int64_t jobs, bool **own);

#endif
