/*
 * base/num.h, exhaustively: every code of every format, and every bf16 number through every
 * conversion, against a search for the nearest code in a table.
 */
#include "tap.h"

#include "base/num.h"

enum { ALL = 65536 };

struct table {
    const char *name;
    int count;    /* codes of non-negative finite numbers, in rising order from 0 */
    float top;    /* magnitudes of this and more are beyond the largest code's rounding */
    float beyond; /* what they become */
    float nan;    /* what NaN becomes */
    float value[32768];
};

/* The nearest by distance, the even code on a tie. Distances of such numbers are exact in double.
 */
static float nearest(const struct table *t, float x)
{
    if (isnan(x))
        return copysignf(t->nan, x);
    double a = fabs((double)x);
    if (a >= (double)t->top)
        return copysignf(t->beyond, x);
    int lo = 0, hi = t->count - 1;
    while (hi - lo > 1) {
        int mid = (lo + hi) / 2;
        if ((double)t->value[mid] <= a)
            lo = mid;
        else
            hi = mid;
    }
    double down = a - (double)t->value[lo], up = (double)t->value[hi] - a;
    int best = down < up || (down == up && lo % 2 == 0) ? lo : hi;
    return copysignf(t->value[best], x);
}

static int same(float a, float b)
{
    return num_bits(a) == num_bits(b) || (isnan(a) && isnan(b));
}

/* Every bf16 number, and random fp32 ones, by way of the code and back. */
static void against_search(const struct table *t, float (*convert)(float))
{
    int bad = 0;
    uint32_t seed = 1;
    for (uint32_t i = 0; i < 3 * ALL; i++) {
        seed = seed * 1664525 + 1013904223;
        float x = i < ALL ? num_from_bf16((uint16_t)i) : num_float(seed ^ seed >> 15);
        if (i >= 2 * ALL) /* near the numbers of the format and the middles between them */
            x = (t->value[seed % (unsigned)(t->count - 1)] +
                 t->value[seed % (unsigned)(t->count - 1) + 1]) /
                2;
        if (!same(convert(x), nearest(t, x)) && bad++ < 3)
            printf("# %s: %.9g gives %.9g, expected %.9g\n", t->name, x, convert(x), nearest(t, x));
    }
    tap_ok(bad == 0, "%s: all of bf16 and 131072 more (%d differ)", t->name, bad);
}

static float via_e4m3(float x)
{
    return num_from_e4m3(num_to_e4m3(x));
}
static float via_e5m2(float x)
{
    return num_from_e5m2(num_to_e5m2(x));
}
static float via_e2m1(float x)
{
    return num_from_e2m1(num_to_e2m1(x));
}
static float via_e3m2(float x)
{
    return num_from_e3m2(num_to_e3m2(x));
}
static float via_e2m3(float x)
{
    return num_from_e2m3(num_to_e2m3(x));
}
static float via_bf16(float x)
{
    return num_from_bf16(num_to_bf16(x));
}
static float via_fp16(float x)
{
    return num_from_fp16(num_to_fp16(x));
}

static void test_small(void)
{
    static struct table t;
    static const struct {
        const char *name;
        int count;
        float (*decode)(uint8_t);
        float (*convert)(float);
        struct num_format format;
    } cases[] = {
        {"e4m3", 127, num_from_e4m3, via_e4m3, NUM_E4M3},
        {"e5m2", 124, num_from_e5m2, via_e5m2, NUM_E5M2},
        {"e2m1", 8, num_from_e2m1, via_e2m1, NUM_E2M1},
        {"e3m2", 32, num_from_e3m2, via_e3m2, NUM_E3M2},
        {"e2m3", 32, num_from_e2m3, via_e2m3, NUM_E2M3},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        t.name = cases[k].name;
        t.count = cases[k].count;
        for (int i = 0; i < t.count; i++)
            t.value[i] = cases[k].decode((uint8_t)i);
        t.top = t.beyond = cases[k].format.max;
        t.nan = cases[k].format.has_nan ? NAN : cases[k].format.max;
        tap_ok(t.value[t.count - 1] == cases[k].format.max, "%s: the largest code", t.name);
        int rising = t.value[0] == 0;
        for (int i = 1; i < t.count; i++)
            rising &= t.value[i] > t.value[i - 1];
        tap_ok(rising, "%s: codes rise", t.name);
        against_search(&t, cases[k].convert);
    }
    static const float e2m1[] = {0, 0.5F, 1, 1.5F, 2, 3, 4, 6};
    int good = 1;
    for (int i = 0; i < 8; i++)
        good &= num_from_e2m1((uint8_t)i) == e2m1[i] && num_from_e2m1((uint8_t)(8 + i)) == -e2m1[i];
    tap_ok(good, "e2m1: 0 0.5 1 1.5 2 3 4 6 and their negatives");
}

/* Code to number to code, all of them; NaN may change its payload. */
static void test_codes(void)
{
    int bad[7] = {0};
    for (int i = 0; i < 256; i++) {
        uint8_t c = (uint8_t)i;
        bad[0] += num_to_e4m3(num_from_e4m3(c)) != c;
        int kept = (c & 0x7f) < 0x7c || (c & 0x7f) == 0x7f; /* infinity saturates */
        bad[1] += kept && num_to_e5m2(num_from_e5m2(c)) != c;
        bad[2] += i < 16 && num_to_e2m1(num_from_e2m1(c)) != c;
        bad[3] += i < 64 && num_to_e3m2(num_from_e3m2(c)) != c;
        bad[4] += i < 64 && num_to_e2m3(num_from_e2m3(c)) != c;
    }
    for (uint32_t i = 0; i < ALL; i++) {
        uint16_t h = (uint16_t)i;
        int nan = (h & 0x7fff) > 0x7f80, nan16 = (h & 0x7fff) > 0x7c00;
        bad[5] += num_to_bf16(num_from_bf16(h)) != (nan ? (h | 0x40) : h);
        bad[6] += num_to_fp16(num_from_fp16(h)) != (nan16 ? (h | 0x200) : h);
    }
    static const char *const names[] = {"e4m3", "e5m2", "e2m1", "e3m2", "e2m3", "bf16", "fp16"};
    for (int i = 0; i < 7; i++)
        tap_ok(bad[i] == 0, "%s: every code comes back (%d do not)", names[i], bad[i]);
    tap_ok(isinf(num_from_e5m2(0x7c)) && isnan(num_from_e5m2(0x7d)) && isnan(num_from_e4m3(0xff)),
           "infinity and NaN of the 8-bit floats");
}

static void test_wide(void)
{
    static struct table t;
    t = (struct table){
        .name = "bf16", .count = 0x7f80, .top = 0x1.ffp127F, .beyond = INFINITY, .nan = NAN};
    for (int i = 0; i < t.count; i++)
        t.value[i] = num_from_bf16((uint16_t)i);
    against_search(&t, via_bf16);
    t = (struct table){
        .name = "fp16", .count = 0x7c00, .top = 65520, .beyond = INFINITY, .nan = NAN};
    for (int i = 0; i < t.count; i++)
        t.value[i] = num_from_fp16((uint16_t)i);
    tap_ok(t.value[1] == 0x1p-24F && t.value[0x3c00] == 1 && t.value[0x7bff] == 65504,
           "fp16: smallest, one, largest");
    against_search(&t, via_fp16);
}

static void test_powers(void)
{
    int bad = 0;
    for (int c = 0; c < 255; c++)
        bad += (double)num_from_e8m0((uint8_t)c) != ldexp(1, c - 127);
    tap_ok(bad == 0 && isnan(num_from_e8m0(255)), "e8m0: all codes");
    bad = 0;
    for (uint32_t i = 1; i < 0x7f80; i++) {
        float r = num_from_bf16((uint16_t)i);
        int e = num_ceil_log2(r), expected;
        double mantissa = frexp((double)r, &expected); /* r = mantissa * 2^expected, in [0.5, 1) */
        expected -= mantissa == 0.5;
        expected = expected > 127 ? 127 : expected < -127 ? -127 : expected;
        bad += e != expected;
    }
    tap_ok(bad == 0, "block scales: the power of two that is not below (%d differ)", bad);
    tap_ok(num_ceil_log2(0x1p-126F) == -126 && num_ceil_log2(0x1.000002p-126F) == -125 &&
               num_ceil_log2(0x1p-149F) == -127 && num_ceil_log2(0) == -127,
           "block scales of the smallest numbers");
}

int main(void)
{
    test_codes();
    test_small();
    test_wide();
    test_powers();
    return tap_done();
}
