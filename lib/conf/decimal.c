#include "conf/decimal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct decimal decimal_from_double(double x)
{
    struct decimal d = {.finite = isfinite(x), .negative = signbit(x)};
    char text[DECIMAL_DIGITS + 8];
    if (!d.finite)
        return d;
    (void)snprintf(text, sizeof text, "%0*.*f", DECIMAL_DIGITS + 1, DECIMAL_FRACTION, fabs(x));
    size_t n = 0;
    for (const char *p = text; *p && n < DECIMAL_DIGITS; p++)
        if (*p != '.')
            d.digit[n++] = (unsigned char)(*p - '0');
    return d;
}

double decimal_to_double(const struct decimal *d)
{
    char text[DECIMAL_DIGITS + 8], *to = text;
    if (d->negative)
        *to++ = '-';
    for (size_t i = 0; i < DECIMAL_DIGITS; i++) {
        if (i == DECIMAL_WHOLE)
            *to++ = '.';
        *to++ = (char)('0' + d->digit[i]);
    }
    *to = '\0';
    return strtod(text, NULL);
}

int decimal_sign(const struct decimal *d)
{
    for (size_t i = 0; i < DECIMAL_DIGITS; i++)
        if (d->digit[i])
            return d->negative ? -1 : 1;
    return 0;
}

int decimal_compare(const struct decimal *a, const struct decimal *b)
{
    int sa = decimal_sign(a), sb = decimal_sign(b);
    if (sa != sb)
        return sa < sb ? -1 : 1;
    int order = memcmp(a->digit, b->digit, DECIMAL_DIGITS);
    return sa < 0 ? -order : order;
}

/* Half to even, at the 28th significant digit. */
static void round_digits(struct decimal *d)
{
    size_t first = 0;
    while (first < DECIMAL_DIGITS && !d->digit[first])
        first++;
    size_t cut = first + DECIMAL_PRECISION;
    if (cut >= DECIMAL_DIGITS)
        return;
    bool rest = false;
    for (size_t i = cut + 1; i < DECIMAL_DIGITS; i++)
        rest |= d->digit[i] != 0;
    int next = d->digit[cut];
    bool up = next > 5 || (next == 5 && (rest || (d->digit[cut - 1] & 1)));
    memset(d->digit + cut, 0, DECIMAL_DIGITS - cut);
    for (size_t i = cut; up && i-- > 0;) {
        up = d->digit[i] == 9;
        d->digit[i] = up ? 0 : d->digit[i] + 1;
    }
}

struct decimal decimal_add(const struct decimal *a, const struct decimal *b)
{
    if (memcmp(a->digit, b->digit, DECIMAL_DIGITS) < 0) {
        const struct decimal *swap = a;
        a = b;
        b = swap;
    }
    struct decimal sum = {.finite = true, .negative = a->negative};
    int sign = a->negative == b->negative ? 1 : -1, carry = 0;
    for (size_t i = DECIMAL_DIGITS; i-- > 0;) {
        int v = a->digit[i] + sign * b->digit[i] + carry;
        carry = v > 9 ? 1 : v < 0 ? -1 : 0;
        sum.digit[i] = (unsigned char)(v - 10 * carry);
    }
    round_digits(&sum);
    return sum;
}
