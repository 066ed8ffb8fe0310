/*
 * What a change does to the output distribution at a position, as a short vector: with v_id =
 * sqrt(p_id) (dz_id - sum p dz), KL is half of |v|^2 to second order, and of two changes together
 * half of |v1 + v2|^2. Ids are thrown into SKETCH buckets with random signs, which keeps inner
 * products but for a spread of sqrt(2 / SKETCH) of each position.
 *
 * Logits are linear in what the head reads, but for a cap, which its slope stands for. So the
 * vector is the change of the head's input times a matrix (hidden, SKETCH) of the position's own,
 * which is made once for all changes and spares them the vocabulary.
 */
#ifndef AQ_EVAL_SKETCH_H
#define AQ_EVAL_SKETCH_H

#include "backend/backend.h"
#include "base/pool.h"

#include <stdint.h>

enum { SKETCH = 64 };

/* Of one tile: these matrices. */
struct sketch;

struct sketch_job {
    struct backend *b;
    const struct backend_tile *tile;
    const struct backend_tile_desc *desc; /* rows without a target are left out */
    struct aq_pool *pool;
    const void *x;                   /* (rows, hidden), on the device: what the head reads */
    const struct backend_head *head; /* slices of the head, loaded, in the order of their ids */
    int64_t slices;
};

int sketch_new(struct sketch **out, const struct sketch_job *job, struct aq_err *err) AQ_MUST_CHECK;
void sketch_free(struct sketch *s); /* NULL is fine */
/* Bytes of the backend's memory that sketch_new takes for a while, and of the host's besides;
   slice: the most ids of one. */
uint64_t sketch_room(int64_t rows, int64_t hidden, int64_t slice);
uint64_t sketch_host_room(int64_t rows, int64_t hidden, int64_t slice);
/* Bytes of this many positions' matrices, in host memory. */
uint64_t sketch_bytes(int64_t positions, int64_t hidden);

/* out [rows][SKETCH], set in rows with a target; xq (rows, hidden), on the host: what the head
   reads now. Exactly 0 for an unchanged row, whose numbers depend on that row alone. */
void sketch_of(const struct sketch *s, struct aq_pool *pool, const float *xq, float *out);

#endif
