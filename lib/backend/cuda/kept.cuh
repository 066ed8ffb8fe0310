/* Quantized inputs that are kept from one call of `score` to the next. */
#ifndef AQ_BACKEND_CUDA_KEPT_CUH
#define AQ_BACKEND_CUDA_KEPT_CUH

#include "backend/cuda/operand.cuh"

bool kept_wanted(const struct cuda_backend *c);
/* Are there planes of the first rows[i] rows of these activations, one after another? *clipped: not
   NULL if counts are wanted; set to those of all rows, or to NULL. */
bool kept_find(const struct cuda_backend *c, struct backend_operand *const *x, const int64_t *rows,
               int count, struct planes *out, const uint32_t **clipped);
/* Aligned bytes of that room, until inputs_keep is called again; NULL: they do not fit. */
void *kept_room(struct cuda_backend *c, size_t bytes);
/* Planes and counts in that room. */
void kept_add(struct cuda_backend *c, struct backend_operand *const *x, const int64_t *rows,
              int count, const struct planes *planes, const uint32_t *clipped);

#endif
