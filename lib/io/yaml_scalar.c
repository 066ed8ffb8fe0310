/* Plain scalars: the YAML 1.1 rules of PyYAML, with OmegaConf's floats and without dates. */
#include "io/yaml.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_one_of(const char *s, const char *const *words)
{
    for (; *words; words++)
        if (strcmp(s, *words) == 0)
            return true;
    return false;
}

static bool is_null(const char *s)
{
    static const char *const words[] = {"", "~", "null", "Null", "NULL", NULL};
    return is_one_of(s, words);
}

static bool is_bool(const char *s, bool *value)
{
    static const char *const yes[] = {"yes",  "Yes", "YES", "true", "True",
                                      "TRUE", "on",  "On",  "ON",   NULL};
    static const char *const no[] = {"no",    "No",  "NO",  "false", "False",
                                     "FALSE", "off", "Off", "OFF",   NULL};
    *value = is_one_of(s, yes);
    return *value || is_one_of(s, no);
}

/* ---- shapes: each takes what fits from the front and returns what is left ---- */

static const char *sign(const char *p)
{
    return p + (*p == '-' || *p == '+');
}

static const char *any_of(const char *p, const char *set)
{
    return p + strspn(p, set);
}

#define DIGITS "0123456789"
#define DIGITS_ "0123456789_"

/* ":dd" pieces of a base-60 number, each below 60 */
static const char *base60_tail(const char *p)
{
    while (*p == ':') {
        const char *q = p + 1;
        size_t n = strspn(q, DIGITS);
        if (n == 0 || n > 2 || (n == 2 && *q > '5'))
            break;
        p = q + n;
    }
    return p;
}

/* [0-9]+(_[0-9]+)* */
static const char *grouped_digits(const char *p)
{
    const char *end = any_of(p, DIGITS);
    while (end > p && *end == '_' && strspn(end + 1, DIGITS))
        end = any_of(end + 1, DIGITS);
    return end;
}

/* [eE][-+]?[0-9]+ ; with need_sign the sign is not optional. NULL: no whole exponent here. */
static const char *exponent(const char *p, bool need_sign)
{
    if (*p != 'e' && *p != 'E')
        return NULL;
    const char *q = sign(p + 1);
    if ((need_sign && q == p + 1) || !strspn(q, DIGITS))
        return NULL;
    return any_of(q, DIGITS);
}

static bool is_int(const char *s)
{
    const char *p = sign(s);
    if (p[0] == '0') {
        static const char octal[] = "01234567_";
        const char *q = p[1] == 'b'   ? any_of(p + 2, "01_")
                        : p[1] == 'x' ? any_of(p + 2, "0123456789abcdefABCDEF_")
                                      : any_of(p + 1, octal);
        bool prefixed = p[1] == 'b' || p[1] == 'x';
        return !*q && (!prefixed || q > p + 2);
    }
    if (!*p || !strchr("123456789", *p))
        return false;
    return !*base60_tail(any_of(p, DIGITS_));
}

/*
 * Digits with a point, with or without an exponent, or base 60 with a point. An exponent without
 * a sign is OmegaConf's; PyYAML alone wants one.
 */
static bool is_pointed(const char *p, const char *digits_end, bool want_sign)
{
    const char *point = digits_end;
    if (*point == ':')
        point = base60_tail(point);
    if (*point != '.')
        return false;
    const char *q = any_of(point + 1, DIGITS_);
    if (!*q)
        return true;
    /* digits with loose underscores take only a signed exponent */
    bool loose = grouped_digits(p) != digits_end;
    const char *e = point == digits_end ? exponent(q, want_sign || loose) : NULL;
    return e && !*e;
}

static bool is_float(const char *s, bool pyyaml_only)
{
    if (*s == '.' && strspn(s + 1, DIGITS)) {
        const char *q = any_of(s + 1, DIGITS_);
        const char *e = exponent(q, true);
        return !*q || (e && !*e);
    }
    const char *p = sign(s);
    if (is_one_of(p, (const char *const[]){".inf", ".Inf", ".INF", NULL}) ||
        is_one_of(s, (const char *const[]){".nan", ".NaN", ".NAN", NULL}))
        return true;
    if (!strspn(p, DIGITS))
        return false;
    const char *e = pyyaml_only ? NULL : exponent(grouped_digits(p), false);
    return (e && !*e) || is_pointed(p, any_of(p, DIGITS_), pyyaml_only);
}

/* n1 to n2 digits; NULL if there are fewer */
static const char *some_digits(const char *p, size_t n1, size_t n2)
{
    size_t n = strspn(p, DIGITS);
    n = n > n2 ? n2 : n;
    return n < n1 ? NULL : p + n;
}

/* "-d" or ":dd" pieces of dates and times */
static const char *piece(const char *p, char separator, size_t n1, size_t n2)
{
    return p && *p == separator ? some_digits(p + 1, n1, n2) : NULL;
}

static bool is_zone(const char *p)
{
    p += strspn(p, " \t");
    if (*p == 'Z')
        return !p[1];
    if (*p != '-' && *p != '+')
        return false;
    p = some_digits(p + 1, 1, 2);
    return p && (!*p || ((p = piece(p, ':', 2, 2)) != NULL && !*p));
}

/* 2024-01-31, 2024-1-31 7:05:00.5 +01:00 */
static bool is_timestamp(const char *s)
{
    const char *year = some_digits(s, 4, 4);
    const char *day = piece(piece(year, '-', 2, 2), '-', 2, 2);
    if (day && !*day)
        return true;
    const char *p = piece(piece(year, '-', 1, 2), '-', 1, 2);
    if (!p || !*p || !strchr("Tt \t", *p))
        return false;
    p += *p == 'T' || *p == 't' ? 1 : strspn(p, " \t");
    p = piece(piece(some_digits(p, 1, 2), ':', 2, 2), ':', 2, 2);
    if (p && *p == '.')
        p = any_of(p + 1, DIGITS);
    return p && (!*p || is_zone(p));
}

bool yaml_is_typed_plain(const char *s)
{
    bool b;
    return is_null(s) || is_bool(s, &b) || is_int(s) || is_float(s, true) || is_timestamp(s) ||
           strcmp(s, "=") == 0 || strcmp(s, "<<") == 0;
}

/* ---- values ---- */

static char *without_underscores(struct aq_arena *a, const char *s)
{
    char *copy = aq_arena_strdup(a, s), *to = copy;
    for (const char *p = copy; *p; p++)
        if (*p != '_')
            *to++ = *p;
    *to = '\0';
    return copy;
}

static struct node *base_int(struct aq_arena *a, const char *digits, int base, bool minus,
                             struct place place)
{
    char *end;
    unsigned long long v = strtoull(digits, &end, base);
    if (end == digits || *end || v > INT64_MAX)
        return NULL;
    return node_int(a, minus ? -(int64_t)v : (int64_t)v, place);
}

static struct node *base60_int(struct aq_arena *a, const char *digits, bool minus,
                               struct place place)
{
    int64_t v = 0;
    for (const char *p = digits; *p; p += *p == ':') {
        char *end;
        long long piece = strtoll(p, &end, 10);
        if (__builtin_mul_overflow(v, 60, &v) || __builtin_add_overflow(v, piece, &v))
            return NULL;
        p = end;
    }
    return node_int(a, minus ? -v : v, place);
}

static struct node *make_int(struct aq_arena *a, const char *s, struct place place)
{
    char *text = without_underscores(a, s);
    bool minus = *text == '-';
    char *p = text + (*text == '-' || *text == '+');
    if (strlen(p) > YAML_MAX_DIGITS)
        return NULL;
    if (p[0] == '0' && p[1] == 'b')
        return base_int(a, p + 2, 2, minus, place);
    if (p[0] == '0' && p[1] == 'x')
        return base_int(a, p + 2, 16, minus, place);
    if (p[0] == '0' && p[1])
        return base_int(a, p, 8, minus, place);
    if (strchr(p, ':'))
        return base60_int(a, p, minus, place);
    return node_int_text(a, minus ? text : p, place);
}

/* Added from the last piece on, as PyYAML does: the rounding is part of the value. */
static double base60_float(char *digits)
{
    double v = 0;
    for (double base = 1;; base *= 60) {
        char *colon = strrchr(digits, ':');
        v += strtod(colon ? colon + 1 : digits, NULL) * base;
        if (!colon)
            return v;
        *colon = '\0';
    }
}

static struct node *make_float(struct aq_arena *a, const char *s, struct place place)
{
    char *text = without_underscores(a, s);
    bool minus = *text == '-';
    char *p = text + (*text == '-' || *text == '+');
    double v = 0;
    if (p[0] == '.' && (p[1] == 'i' || p[1] == 'I'))
        v = HUGE_VAL;
    else if (p[0] == '.' && (p[1] == 'n' || p[1] == 'N'))
        v = NAN;
    else
        v = base60_float(p);
    return node_float(a, minus ? -v : v, place);
}

struct node *yaml_resolve_plain(struct aq_arena *a, const char *text, struct place place)
{
    bool b;
    if (is_null(text))
        return node_new(a, NODE_NULL, place);
    if (is_bool(text, &b))
        return node_bool(a, b, place);
    if (is_int(text))
        return make_int(a, text, place);
    if (is_float(text, false))
        return make_float(a, text, place);
    return node_string(a, text, place);
}
