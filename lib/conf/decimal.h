/*
 * Decimal numbers of at most 28 significant digits, exact decimal sums for range(): a double turned
 * into one is exact, and only additions round.
 */
#ifndef AQ_CONF_DECIMAL_H
#define AQ_CONF_DECIMAL_H

#include <stdbool.h>

enum {
    DECIMAL_PRECISION = 28,
    DECIMAL_WHOLE = 320,     /* digits before the point: a double has at most 309 */
    DECIMAL_FRACTION = 1100, /* digits after the point: at most 1074 */
    DECIMAL_DIGITS = DECIMAL_WHOLE + DECIMAL_FRACTION,
};

struct decimal {
    bool finite, negative;
    unsigned char digit[DECIMAL_DIGITS]; /* fixed point; digit[DECIMAL_WHOLE] is the tenths */
};

struct decimal decimal_from_double(double x);
double decimal_to_double(const struct decimal *d);
struct decimal decimal_add(const struct decimal *a, const struct decimal *b);
int decimal_compare(const struct decimal *a, const struct decimal *b); /* < 0, 0, > 0 */
int decimal_sign(const struct decimal *d);

#endif
