#include "model/turn.h"

#include <string.h>

/* Blocks of this many rows and columns stay in the cache. */
enum { TURN = 64 };

void matrix_turn(void *to, const void *from, int64_t rows, int64_t cols, int64_t ld, size_t size)
{
    char *out = to;
    const char *in = from;
    for (int64_t r0 = 0; r0 < rows; r0 += TURN)
        for (int64_t c0 = 0; c0 < cols; c0 += TURN)
            for (int64_t r = r0; r < rows && r < r0 + TURN; r++)
                for (int64_t c = c0; c < cols && c < c0 + TURN; c++)
                    memcpy(out + (size_t)(r * cols + c) * size, in + (size_t)(c * ld + r) * size,
                           size);
}
