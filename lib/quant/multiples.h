/*
 * What `mse` tries for the range of a weight: multiples of its largest magnitude, the first of
 * equals first. For lib/quant and for the CUDA backend, which is C++.
 */
#ifndef AQ_QUANT_MULTIPLES_H
#define AQ_QUANT_MULTIPLES_H

enum { QUANT_MULTIPLES = 101, QUANT_MODELOPT_MULTIPLES = 39 };

/* 0.5, 0.505 to 1, or ModelOpt's linspace(0.25, 4, 39) in fp32; returns how many. */
static inline int quant_multiples(int modelopt, float out[QUANT_MULTIPLES])
{
    const float step = 3.75F / (QUANT_MODELOPT_MULTIPLES - 1);
    if (!modelopt) {
        for (int i = 0; i < QUANT_MULTIPLES; i++)
            out[i] = (float)(100 + i) / 200;
        return QUANT_MULTIPLES;
    }
    /* PyTorch counts from either end, each half from its own */
    for (int i = 0; i < QUANT_MODELOPT_MULTIPLES; i++)
        out[i] = i < QUANT_MODELOPT_MULTIPLES / 2
                     ? 0.25F + step * (float)i
                     : 4.0F - step * (float)(QUANT_MODELOPT_MULTIPLES - 1 - i);
    return QUANT_MODELOPT_MULTIPLES;
}

#endif
