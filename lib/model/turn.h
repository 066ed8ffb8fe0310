/* A matrix from columns to rows. */
#ifndef AQ_MODEL_TURN_H
#define AQ_MODEL_TURN_H

#include <stddef.h>
#include <stdint.h>

/* to (rows, cols) from a matrix whose element (r, c) is at c * ld + r; size: bytes of an element.
 */
void matrix_turn(void *to, const void *from, int64_t rows, int64_t cols, int64_t ld, size_t size);

#endif
