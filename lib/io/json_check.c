#include "io/json_check.h"
#include "base/buf.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "io/json.h"

#include <ctype.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* cJSON copies a number into 64 bytes before it converts it. */
enum { CJSON_NUMBER_MAX = 63 };

struct key {
    uint64_t hash; /* of the unescaped key */
    size_t begin, len;
};

struct check {
    const char *text, *name;
    size_t len, at;
    int depth;
    struct key *keys; /* of all open objects, innermost last */
    size_t key_count, key_cap;
    struct aq_buf one, other; /* unescaped keys that are compared */
    struct json_numbers *numbers;
    struct aq_err *err;
};

static int fail_at(struct check *c, size_t at, const char *what)
{
    size_t line = 1, start = 0;
    for (size_t i = 0; i < at && i < c->len; i++)
        if (c->text[i] == '\n') {
            line++;
            start = i + 1;
        }
    return aq_err_set(c->err, AQ_EINPUT, "%s:%zu:%zu: %s", aq_show(c->name), line, at - start + 1,
                      what);
}

static int fail(struct check *c, const char *what)
{
    return fail_at(c, c->at, what);
}

static int peek(const struct check *c)
{
    return c->at < c->len ? (unsigned char)c->text[c->at] : -1;
}

static bool is_blank(char ch)
{
    return ch == ' ' || ch == '\n' || ch == '\t' || ch == '\r';
}

static void skip_blanks(struct check *c)
{
    while (c->at < c->len && is_blank(c->text[c->at]))
        c->at++;
}

/* ---- strings ---- */

static int hex4(const struct check *c, size_t at)
{
    int v = 0;
    for (size_t i = at; i < at + 4; i++) {
        if (i >= c->len || !isxdigit((unsigned char)c->text[i]))
            return -1;
        int d = tolower((unsigned char)c->text[i]);
        v = v * 16 + (isdigit(d) ? d - '0' : d - 'a' + 10);
    }
    return v;
}

static int check_unicode_escape(struct check *c)
{
    int v = hex4(c, c->at + 2);
    if (v < 0)
        return fail(c, "\\u needs four hexadecimal digits");
    if (v == 0)
        return fail(c, "\\u0000 in a string is not supported");
    if (v >= 0xdc00 && v <= 0xdfff)
        return fail(c, "unpaired surrogate in a string");
    c->at += 6;
    if (v < 0xd800 || v > 0xdbff)
        return 0;
    int low = c->at + 1 < c->len && c->text[c->at] == '\\' && c->text[c->at + 1] == 'u'
                  ? hex4(c, c->at + 2)
                  : -1;
    if (low < 0xdc00 || low > 0xdfff)
        return fail(c, "unpaired surrogate in a string");
    c->at += 6;
    return 0;
}

static int check_escape(struct check *c)
{
    int e = c->at + 1 < c->len ? c->text[c->at + 1] : -1;
    if (e == 'u')
        return check_unicode_escape(c);
    if (e <= 0 || !strchr("\"\\/bfnrt", e))
        return fail(c, "unknown escape in a string");
    c->at += 2;
    return 0;
}

/* From the opening quote to behind the closing one. */
static int check_string(struct check *c)
{
    size_t open = c->at++;
    while (c->at < c->len) {
        unsigned char ch = (unsigned char)c->text[c->at];
        if (ch == '"') {
            c->at++;
            return 0;
        }
        if (ch < 0x20)
            return fail(c, "control character in a string");
        if (ch != '\\')
            c->at++;
        else if (check_escape(c) < 0)
            return -1;
    }
    return fail_at(c, open, "string is not closed");
}

/* One unescaped byte sequence of a key that passed check_string; returns the raw length used. */
static size_t unescape(const char *p, char out[4], int *n)
{
    if (p[0] != '\\') {
        out[0] = p[0];
        *n = 1;
        return 1;
    }
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (p[1] != 'u') {
        out[0] = to[strchr(from, p[1]) - from];
        *n = 1;
        return 2;
    }
    struct check c = {.text = p, .len = 12};
    uint32_t v = (uint32_t)hex4(&c, 2);
    if (v < 0xd800 || v > 0xdbff) {
        *n = aq_utf8_encode(v, out);
        return 6;
    }
    uint32_t low = (uint32_t)hex4(&c, 8);
    *n = aq_utf8_encode(0x10000 + ((v - 0xd800) << 10) + (low - 0xdc00), out);
    return 12;
}

static void unescape_key(const struct check *c, const struct key *k, struct aq_buf *out)
{
    aq_buf_reset(out);
    for (size_t i = 0; i < k->len;) {
        char piece[4];
        int n;
        i += unescape(c->text + k->begin + i, piece, &n);
        aq_buf_add(out, piece, (size_t)n);
    }
}

static uint64_t hash_key(const struct check *c, const struct key *k)
{
    uint64_t h = AQ_HASH_START;
    for (size_t i = 0; i < k->len;) {
        char piece[4];
        int n;
        i += unescape(c->text + k->begin + i, piece, &n);
        h = aq_hash(h, piece, (size_t)n);
    }
    return h;
}

/* ---- duplicate keys ---- */

/* By hash, then by text: keys may be made to collide. No key holds a NUL. */
static int compare_keys(struct check *c, const struct key *x, const struct key *y)
{
    if (x->hash != y->hash)
        return x->hash < y->hash ? -1 : 1;
    unescape_key(c, x, &c->one);
    unescape_key(c, y, &c->other);
    return strcmp(aq_buf_str(&c->one), aq_buf_str(&c->other));
}

static int by_key(const void *a, const void *b, void *check)
{
    const struct key *x = a, *y = b;
    int order = compare_keys(check, x, y);
    return order ? order : x->begin < y->begin ? -1 : x->begin > y->begin;
}

static int check_duplicates(struct check *c, size_t first)
{
    struct key *keys = c->keys + first;
    size_t n = c->key_count - first;
    if (n > 1)
        qsort_r(keys, n, sizeof *keys, by_key, c);
    for (size_t i = 1; i < n; i++) {
        if (compare_keys(c, &keys[i - 1], &keys[i]) != 0)
            continue;
        char what[300];
        (void)snprintf(what, sizeof what, "key '%s' appears twice", aq_show(aq_buf_str(&c->one)));
        return fail_at(c, keys[i].begin, what);
    }
    return 0;
}

/* ---- numbers ---- */

static void note_number(struct check *c, enum json_number_kind kind, size_t begin)
{
    struct json_numbers *n = c->numbers;
    AQ_GROW(n->kind, n->count, n->cap);
    n->kind[n->count++] = (unsigned char)kind;
    if (kind != JSON_N_WIDE)
        return;
    if (n->wide_count + 2 > n->wide_cap) {
        n->wide_cap = n->wide_cap ? n->wide_cap * 2 : 8;
        n->wide = xreallocarray(n->wide, n->wide_cap, sizeof *n->wide);
    }
    n->wide[n->wide_count++] = begin;
    n->wide[n->wide_count++] = c->at - begin;
}

static size_t digits(struct check *c)
{
    size_t from = c->at;
    while (isdigit(peek(c)))
        c->at++;
    return c->at - from;
}

static int check_finite(struct check *c, size_t begin)
{
    char *copy = xstrndup(c->text + begin, c->at - begin);
    double v = strtod(copy, NULL);
    free(copy);
    return isfinite(v) ? 0 : fail_at(c, begin, "number is too large");
}

static int check_number(struct check *c)
{
    size_t begin = c->at;
    bool integer = true;
    if (peek(c) == '-')
        c->at++;
    size_t lead = c->at;
    size_t n = digits(c);
    if (n == 0)
        return fail(c, "expected a value");
    if (n > 1 && c->text[lead] == '0')
        return fail_at(c, lead, "number starts with a zero");
    if (peek(c) == '.') {
        integer = false;
        c->at++;
        if (digits(c) == 0)
            return fail(c, "expected a digit");
    }
    bool exponent = peek(c) == 'e' || peek(c) == 'E';
    if (exponent) {
        integer = false;
        c->at++;
        if (peek(c) == '+' || peek(c) == '-')
            c->at++;
        if (digits(c) == 0)
            return fail(c, "expected a digit");
    }
    size_t len = c->at - begin;
    if ((exponent || n > 300) && check_finite(c, begin) < 0)
        return -1;
    /* 15 digits are exact in a double; longer integers keep their text */
    bool wide = len > CJSON_NUMBER_MAX || (integer && n > 15);
    note_number(c, wide ? JSON_N_WIDE : integer ? JSON_N_INT : JSON_N_FLOAT, begin);
    return 0;
}

/* ---- structure ---- */

static int check_value(struct check *c);

static int check_word(struct check *c, const char *word)
{
    size_t n = strlen(word);
    if (c->len - c->at < n || memcmp(c->text + c->at, word, n) != 0)
        return fail(c, "expected a value");
    c->at += n;
    return 0;
}

static int check_member(struct check *c)
{
    if (peek(c) != '"')
        return fail(c, "expected a key in double quotes");
    struct key k = {.begin = c->at + 1};
    if (check_string(c) < 0)
        return -1;
    k.len = c->at - 1 - k.begin;
    k.hash = hash_key(c, &k);
    AQ_GROW(c->keys, c->key_count, c->key_cap);
    c->keys[c->key_count++] = k;
    skip_blanks(c);
    if (peek(c) != ':')
        return fail(c, "expected ':'");
    c->at++;
    return check_value(c);
}

static int check_container(struct check *c)
{
    bool object = c->text[c->at++] == '{';
    char close = object ? '}' : ']';
    size_t first_key = c->key_count;
    if (++c->depth > JSON_MAX_DEPTH)
        return fail(c, "nested too deeply");
    skip_blanks(c);
    if (peek(c) == close) {
        c->at++;
        c->depth--;
        return 0;
    }
    for (;;) {
        skip_blanks(c);
        if ((object ? check_member(c) : check_value(c)) < 0)
            return -1;
        skip_blanks(c);
        int next = peek(c);
        if (next == close)
            break;
        if (next != ',')
            return fail(c, object ? "expected ',' or '}'" : "expected ',' or ']'");
        c->at++;
    }
    c->at++;
    c->depth--;
    int r = object ? check_duplicates(c, first_key) : 0;
    c->key_count = first_key;
    return r;
}

static int check_value(struct check *c)
{
    skip_blanks(c);
    switch (peek(c)) {
    case -1:
        return fail(c, "unexpected end of text");
    case '{':
    case '[':
        return check_container(c);
    case '"':
        return check_string(c);
    case 't':
        return check_word(c, "true");
    case 'f':
        return check_word(c, "false");
    case 'n':
        return check_word(c, "null");
    default:
        return check_number(c);
    }
}

int json_check(const char *text, size_t len, const char *name, struct json_numbers *numbers,
               struct aq_err *err)
{
    struct check c = {.text = text, .name = name, .len = len, .numbers = numbers, .err = err};
    size_t bad = aq_utf8_check(text, len);
    int r = bad < len ? fail_at(&c, bad, "not valid UTF-8") : check_value(&c);
    if (r == 0) {
        skip_blanks(&c);
        if (c.at < len)
            r = fail(&c, "unexpected text after the value");
    }
    free(c.keys);
    aq_buf_release(&c.one);
    aq_buf_release(&c.other);
    return r;
}

void json_numbers_release(struct json_numbers *n)
{
    free(n->kind);
    free(n->wide);
    *n = (struct json_numbers){0};
}
