#include "base/num.h"

/* A loop for each type, which the compiler makes wide. */
void num_widen(const void *from, enum num_type t, size_t n, float *to)
{
    if (t == NUM_F32)
        memcpy(to, from, n * sizeof *to);
    else if (t == NUM_BF16)
        for (size_t i = 0; i < n; i++)
            to[i] = num_read(from, NUM_BF16, i);
    else
        for (size_t i = 0; i < n; i++)
            to[i] = num_read(from, NUM_F16, i);
}
