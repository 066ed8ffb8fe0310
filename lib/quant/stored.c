/* Integer codes that somebody else chose, as they are stored. */
#include "quant/plan.h"

int64_t quant_code_row_bytes(const struct quant_spec *spec, int64_t cols)
{
    return (cols * spec->step[0].bits + 7) / 8;
}

void quant_pack_codes(const struct quant_spec *spec, const int8_t *codes, int64_t cols, uint8_t *to)
{
    int bits = spec->step[0].bits, held = 0;
    unsigned word = 0, mask = (1U << bits) - 1;
    for (int64_t i = 0; i < cols; i++) {
        word |= ((unsigned)codes[i] & mask) << held;
        for (held += bits; held >= 8; held -= 8, word >>= 8)
            *to++ = (uint8_t)word;
    }
    if (held)
        *to = (uint8_t)word;
}

void quant_unpack_codes(const struct quant_spec *spec, const uint8_t *from, int64_t cols,
                        int8_t *codes)
{
    int bits = spec->step[0].bits, held = 0;
    unsigned word = 0, mask = (1U << bits) - 1, sign = 1U << (bits - 1);
    for (int64_t i = 0; i < cols; i++) {
        while (held < bits) {
            word |= (unsigned)*from++ << held;
            held += 8;
        }
        unsigned q = word & mask;
        codes[i] = (int8_t)((int)(q ^ sign) - (int)sign);
        word >>= bits;
        held -= bits;
    }
}

void quant_decode(const struct quant_spec *spec, const struct quant_grid *grid, const float *ranges,
                  const int8_t *codes, int64_t r0, int64_t r1, int64_t cols, float *to)
{
    struct plan_step s;
    plan_step_init(&s, &spec->step[0]);
    for (int64_t r = r0; r < r1; r++) {
        const float *range = ranges + r / grid->rows_each * grid->grid_cols;
        for (int64_t c = 0, b = 0; c < cols; b++) {
            float mul, back;
            int64_t end = c + grid->block < cols ? c + grid->block : cols;
            plan_scales(&s, range[b], &mul, &back);
            for (; c < end; c++)
                *to++ = (float)*codes++ / back;
        }
    }
}
