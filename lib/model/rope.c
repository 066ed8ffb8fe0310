#include "model/rope.h"

#include <math.h>

/* All in fp32 and in the order of operations of transformers' modeling_rope_utils.py. */

static float pos_freq(const struct arch_rope *r, int64_t dim, int64_t j)
{
    return powf((float)r->theta, (float)(2 * j) / (float)dim);
}

/* Long waves are divided by the factor, short ones stay, those between are mixed. */
static float llama3(const struct arch_rope *r, float inv)
{
    const float two_pi = 6.28318530717958647692F;
    float context = (float)r->original_max, wave = two_pi / inv;
    float low = (float)r->low_freq_factor, high = (float)r->high_freq_factor;
    if (wave > context / low)
        return inv / (float)r->factor;
    if (wave < context / high)
        return inv;
    float smooth = (context / wave - low) / (high - low);
    return (1 - smooth) * inv / (float)r->factor + smooth * inv;
}

/* The index of the pair that turns `rotations` times within the context of training. */
static double yarn_index(const struct arch_rope *r, int64_t dim, double rotations)
{
    const double two_pi = 6.28318530717958647692;
    return (double)dim * log((double)r->original_max / (rotations * two_pi)) / (2 * log(r->theta));
}

/* Of pair j: 1 left of the ramp, where pairs turn fast and stay; 0 right of it. */
static float yarn_keep(const struct arch_rope *r, int64_t dim, int64_t j)
{
    double low = yarn_index(r, dim, r->beta_fast), high = yarn_index(r, dim, r->beta_slow);
    if (!r->no_truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, (double)dim - 1);
    if (low == high)
        high += 0.001;
    float at = ((float)j - (float)low) / (float)(high - low);
    return 1 - fminf(fmaxf(at, 0), 1);
}

static float frequency(const struct arch_rope *r, int64_t dim, int64_t j)
{
    float wave = pos_freq(r, dim, j), inv = 1.0F / wave, factor = (float)r->factor;
    switch (r->type) {
    case ROPE_LINEAR:
        return inv / factor;
    case ROPE_LLAMA3:
        return llama3(r, inv);
    case ROPE_YARN: {
        float keep = yarn_keep(r, dim, j);
        return 1.0F / (factor * wave) * (1 - keep) + inv * keep;
    }
    case ROPE_LONGROPE:
        return 1.0F / ((float)r->short_factor[j] * wave);
    default: /* dynamic too, up to arch_max_length */
        return inv;
    }
}

void rope_table(const struct lm_arch *a, const struct arch_rope *rope, float *inv_freq,
                float *factor)
{
    for (int64_t j = 0; j < a->rotary_dim / 2; j++)
        inv_freq[j] = frequency(rope, a->rotary_dim, j);
    *factor = (float)rope->attention_factor;
}
