/* The inputs of tests/oracle/quant.py, bit for bit. Integers and single fp32 operations only. */
#ifndef AQ_TEST_QUANT_INPUTS_H
#define AQ_TEST_QUANT_INPUTS_H

#include "base/num.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* splitmix64: element i of a stream. */
static inline uint64_t draw(uint64_t stream, uint64_t i)
{
    uint64_t z = ((stream << 32) + i + 1) * UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

/* Four 16-bit uniforms, added. */
static inline float bell(uint64_t r)
{
    int64_t s = (int64_t)((r & 0xffff) + (r >> 16 & 0xffff) + (r >> 32 & 0xffff) + (r >> 48));
    return (float)(s - 131070) * 1.7e-5F;
}

static inline float tie(const char *number, uint64_t i, uint64_t r)
{
    if (number[0] == 'e')
        return i % 8 == 0 ? 448 : (float)(16 + (r & 15)) * num_pow2((int)((r >> 8) % 19) - 14);
    int hi = (1 << (atoi(number + 3) - 1)) - 1;
    return i % 8 == 0 ? (float)hi : (float)(r % (uint64_t)(hi + 1)) + 0.5F;
}

/* number: "int4" and so on; only read for "ties". */
static inline float input(const char *dist, const char *number, uint64_t i, uint64_t cols)
{
    uint64_t r = draw(1, i), t = draw(2, i);
    if (strcmp(dist, "heavy") == 0) {
        int zeros = 0;
        while (zeros < 24 && !(t >> zeros & 1))
            zeros++;
        return bell(r) * num_pow2(zeros);
    }
    if (strcmp(dist, "constant") == 0)
        return 0.7F;
    if (strcmp(dist, "zeros") == 0)
        return r & 1 ? -0.0F : 0.0F;
    if (strcmp(dist, "denormal") == 0)
        return num_float((uint32_t)(r & 0x807fffff));
    if (strcmp(dist, "tiny") == 0)
        return bell(r) * num_pow2(-20 - (int)(i / cols % 8));
    if (strcmp(dist, "huge") == 0)
        return bell(r) * 0x1p120F;
    if (strcmp(dist, "ties") == 0) {
        char word[8] = "";
        memcpy(word, number, strcspn(number, ":") < 7 ? strcspn(number, ":") : 7);
        return tie(word, i, r) * (t & 1 ? -1.0F : 1.0F);
    }
    if (strcmp(dist, "nonfinite") == 0 && t % 29 <= 2)
        return t % 29 == 0 ? INFINITY : t % 29 == 1 ? -INFINITY : NAN;
    return bell(r);
}

#endif
