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

static void put_fixed(char *out, const char *digits, int exp10)
{
    int n = (int)strlen(digits);
    if (exp10 < 0) {
        out += sprintf(out, "0.");
        for (int i = -1; i > exp10; i--)
            *out++ = '0';
        strcpy(out, digits);
        return;
    }
    for (int i = 0; i <= exp10; i++)
        *out++ = i < n ? digits[i] : '0';
    *out++ = '.';
    strcpy(out, exp10 + 1 < n ? digits + exp10 + 1 : "0");
}

const char *aq_fmt_double(double x, char out[AQ_FMT_MAX])
{
    if (isnan(x))
        return strcpy(out, "NaN");
    char *p = out;
    if (signbit(x)) {
        *p++ = '-';
        x = -x;
    }
    if (isinf(x)) {
        strcpy(p, "Infinity");
        return out;
    }
    if (x == 0) {
        strcpy(p, "0.0");
        return out;
    }
    char digits[24];
    int exp10 = shortest_digits(x, digits);
    if (exp10 >= -4 && exp10 < 16) {
        put_fixed(p, digits, exp10);
        return out;
    }
    *p++ = digits[0];
    if (digits[1])
        p += sprintf(p, ".%s", digits + 1);
    (void)sprintf(p, "e%+03d", exp10);
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
    if (*unit || v >= 9e18 || v != floor(v))
        return false;
    *out = (uint64_t)v;
    return true;
}
