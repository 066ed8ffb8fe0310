/*
 * The elementwise loops that need vector instructions to keep up with the products. Written once
 * over vectors of 16 lanes; the best instruction set is chosen at run time, and all give the
 * same bits. Sums are in double.
 */
#ifndef AQ_BACKEND_CPU_SIMD_H
#define AQ_BACKEND_CPU_SIMD_H

#include "backend/backend.h"

#include <stdint.h>

struct simd {
    /* n bf16 or fp16 values at any address to fp32, exactly */
    void (*widen_bf16)(float *to, const void *from, int64_t n);
    void (*widen_f16)(float *to, const void *from, int64_t n);
    /* x * factor to bf16, to nearest */
    void (*narrow_bf16)(uint16_t *to, const float *x, float factor, int64_t n);
    /* a + b + c = x exactly, but for denormals: its first, second and third 8 bits. Infinities give
       NaN. */
    void (*split_bf16)(uint16_t *a, uint16_t *b, uint16_t *c, const float *x, int64_t n);
    /* y += factor x */
    void (*add)(float *y, const float *x, float factor, int64_t n);
    /* y = factor x; y may be x */
    void (*scale)(float *y, const float *x, float factor, int64_t n);
    /* sum of ((found - expected) * slope)^2; the difference in fp32. dot, unless NULL: the sum of
       the same without the square. */
    double (*score)(const float *found, const float *expected, const float *slope, double *dot,
                    int64_t n);
    /* sum of a b c; b may be NULL: sum of a c */
    double (*dot)(const float *a, const float *b, const float *c, int64_t n);
    /* y = w (x r) */
    void (*norm)(float *y, const float *x, const float *w, float r, int64_t n);
    /* dx += scale dy w - slope x */
    void (*norm_backward)(float *dx, const float *dy, const float *x, const float *w, float scale,
                          float slope, int64_t n);
    /* y = exp(x - top) * factor, and the sum of the exp; y may be NULL, or x */
    double (*exps)(float *y, const float *x, float top, float factor, int64_t n);
    /* sums of exp(a - top), of exp(a - top) (a - b), and the same with a and b in turn, the exp in
       double; top and topq are the largest of a and of b */
    void (*divergence)(double sums[4], const float *a, const float *b, float top, float topq,
                       int64_t n);
    /* y = act(gate) up, and back */
    void (*glu)(float *y, const float *gate, const float *up, enum backend_act act, int64_t n);
    void (*glu_backward)(float *dgate, float *dup, const float *dy, const float *gate,
                         const float *up, enum backend_act act, int64_t n);
    /* y = cap tanh(factor x / cap), y may be x; slope, unless NULL: dy / d(factor x) */
    void (*cap)(float *y, float *slope, const float *x, float factor, float cap, int64_t n);
    /* the largest; NaN if there is one */
    float (*top)(const float *x, int64_t n);
    /* Pairs (x[k], x[k + half]) turned by angles, by their opposites if way is -1; y may be x. */
    void (*turn)(float *y, const float *x, const float *cosine, const float *sine, float way,
                 int64_t half);
};

const struct simd *simd(void);

#endif
