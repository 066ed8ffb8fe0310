#include "base/fmt.h"

#include <ctype.h>
#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Digits and decimal exponent of the shortest "%.{p}e" form that reads back to x. */
static int shortest_digits(double x, char digits[24])
{
    char text[40];
    /* 15 digits survive text -> double -> text, so 15 digits strip to the shortest; subnormals
       carry fewer. */
    for (int precision = x < DBL_MIN ? 0 : 14; precision <= 16; precision++) {
        (void)snprintf(text, sizeof text, "%.*e", precision, x);
        if (precision == 16 || strtod(text, NULL) == x)
            break;
    }
    int n = 0;
    const char *p = text;
    for (; *p && *p != 'e'; p++)
        if (isdigit((unsigned char)*p))
            digits[n++] = *p;
    while (n > 1 && digits[n - 1] == '0')
        n--;
    digits[n] = '\0';
    return (int)strtol(p + 1, NULL, 10);
}

/* digits[0] '.' digits[1..] x 10^exp10, without an exponent. */
static void put_fixed(char *out, const char *digits, int exp10)
{
    int n = (int)strlen(digits);
    if (exp10 < 0) {
        *out++ = '0';
        *out++ = '.';
        for (int i = -1; i > exp10; i--)
            *out++ = '0';
        memcpy(out, digits, (size_t)n + 1);
        return;
    }
    for (int i = 0; i <= exp10; i++)
        *out++ = i < n ? digits[i] : '0';
    *out++ = '.';
    if (exp10 + 1 < n)
        memcpy(out, digits + exp10 + 1, (size_t)(n - exp10));
    else
        memcpy(out, "0", 2);
}

const char *aq_fmt_double(double x, char out[AQ_FMT_MAX])
{
    const char *sign = signbit(x) && !isnan(x) ? "-" : "";
    const char *word = isnan(x) ? "NaN" : isinf(x) ? "Infinity" : x == 0 ? "0.0" : NULL;
    if (word) {
        (void)snprintf(out, AQ_FMT_MAX, "%s%s", sign, word);
        return out;
    }
    char digits[24] = "";
    int exp10 = shortest_digits(fabs(x), digits);
    if (exp10 >= -4 && exp10 < 16)
        put_fixed(out + snprintf(out, 2, "%s", sign), digits, exp10);
    else
        (void)snprintf(out, AQ_FMT_MAX, "%s%c%s%se%+03d", sign, digits[0], digits[1] ? "." : "",
                       digits + 1, exp10);
    return out;
}

bool aq_parse_i64(const char *s, int64_t *out)
{
    const char *digits = s + (*s == '-');
    if (!*digits)
        return false;
    for (const char *p = digits; *p; p++)
        if (!isdigit((unsigned char)*p))
            return false;
    errno = 0;
    char *end;
    long long v = strtoll(s, &end, 10);
    if (errno || *end)
        return false;
    *out = v;
    return true;
}

bool aq_parse_double(const char *s, double *out)
{
    if (!*s || strspn(s, "+-.0123456789eE") != strlen(s) || *s == '+')
        return false;
    errno = 0;
    char *end;
    double v = strtod(s, &end);
    if (end == s || *end || !isfinite(v))
        return false;
    *out = v;
    return true;
}

bool aq_parse_size(const char *s, uint64_t *out)
{
    size_t digits = strspn(s, ".0123456789");
    char number[32];
    if (digits == 0 || digits >= sizeof number)
        return false;
    memcpy(number, s, digits);
    number[digits] = '\0';
    double v;
    if (!aq_parse_double(number, &v))
        return false;
    const char *unit = s + digits;
    static const char letters[] = "KMGT";
    if (*unit) {
        const char *at = strchr(letters, toupper((unsigned char)*unit));
        if (at && *at) {
            for (const char *l = letters; l <= at; l++)
                v *= 1024;
            unit++;
            if (*unit == 'i')
                unit++;
        }
        if (*unit == 'B')
            unit++;
    }
    if (*unit || v >= 9e18 || (v != floor(v) && v < 1024)) /* 2.9M is not a whole number of bytes */
        return false;
    *out = (uint64_t)v;
    return true;
}
