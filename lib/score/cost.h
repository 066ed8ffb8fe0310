/* Operations (multiplications and additions of products) that a scoring takes; for plans, and to
   share work out. */
#ifndef AQ_SCORE_COST_H
#define AQ_SCORE_COST_H

#include "score/scoring.h"

/* The passes of one tile: forward, and for the gradient back. */
double cost_passes(const struct scoring *s);
/* A forward pass of one tile through all layers. */
double cost_forward(const struct scoring *s);
/* One row of one tile and layer: with one product for each linear that it replaces. */
double cost_cell(const struct scoring *s, int64_t layer);
/* The same in all layers: what every row of every tile is a multiple of. */
double cost_plain(const struct scoring *s);
/* One row of one tile in all layers, with as many products as the backend takes for it. */
double cost_row(const struct scoring *s, double plain, size_t row, size_t tile);

#endif
