/*
 * The parser: one pass that checks the grammar and builds cJSON's tree. cJSON's own parser is not
 * used: it takes dozens of invalid documents, keeps duplicate keys, cuts strings at \u0000 and does
 * not tell 8 from 8.0. Its tree, its memory and everything that changes a tree are.
 *
 * An item belongs to the tree as soon as it is made, so that an error has one thing to free.
 * Recursion is bounded by JSON_MAX_DEPTH.
 */
#include "base/buf.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/msg.h"
#include "base/utf8.h"
#include "io/json.h"
#include "io/json_tree.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A key of an object that is still open. The text is the item's. */
struct key {
    uint64_t hash;
    const char *text;
    size_t begin; /* in the document */
};

struct json_parser {
    const char *text, *name; /* name is for messages */
    size_t len, at;
    int depth;
    cJSON *root;
    struct key *keys; /* of all open objects, innermost last */
    size_t key_count, key_cap;
    struct aq_err *err;
};

static int fail_at(struct json_parser *p, size_t at, const char *what)
{
    size_t line = 1, start = 0;
    for (size_t i = 0; i < at && i < p->len; i++)
        if (p->text[i] == '\n') {
            line++;
            start = i + 1;
        }
    return aq_err_set(p->err, AQ_EINPUT, "%s:%zu:%zu: %s", aq_show(p->name), line, at - start + 1,
                      what);
}

static int fail(struct json_parser *p, const char *what)
{
    return fail_at(p, p->at, what);
}

static int peek(const struct json_parser *p)
{
    return p->at < p->len ? (unsigned char)p->text[p->at] : -1;
}

static bool is_blank(char ch)
{
    return ch == ' ' || ch == '\n' || ch == '\t' || ch == '\r';
}

static void skip_blanks(struct json_parser *p)
{
    while (p->at < p->len && is_blank(p->text[p->at]))
        p->at++;
}

/* ---- the tree ---- */

/* Hangs an item into the tree; the key (NULL in an array) becomes the item's. */
static cJSON *attach(struct json_parser *p, cJSON *parent, char *key, cJSON *item)
{
    if (!item) {
        aq_msg_line("out of memory");
        exit(AQ_ERUN);
    }
    item->string = key;
    if (parent)
        (void)cJSON_AddItemToArray(parent, item); /* of an object too: leaves the key alone */
    else
        p->root = item;
    return item;
}

/* ---- strings ---- */

/* The value of four hexadecimal digits, or -1. */
static int hex4(const struct json_parser *p, size_t at)
{
    int v = 0;
    if (at > p->len || p->len - at < 4)
        return -1;
    for (size_t i = at; i < at + 4; i++) {
        int d = tolower((unsigned char)p->text[i]);
        if (!isxdigit(d))
            return -1;
        v = v * 16 + (isdigit(d) ? d - '0' : d - 'a' + 10);
    }
    return v;
}

/* \uXXXX, or two of them for a character above U+FFFF. Returns the end of what it wrote. */
static char *take_unicode(struct json_parser *p, char *out)
{
    const char *what = NULL;
    int v = hex4(p, p->at + 2), low = -1;
    if (v < 0)
        what = "\\u needs four hexadecimal digits";
    else if (v == 0)
        what = "\\u0000 in a string is not supported";
    else if (v >= 0xdc00 && v <= 0xdfff)
        what = "unpaired surrogate in a string";
    if (what) {
        (void)fail(p, what);
        return NULL;
    }
    p->at += 6;
    if (v < 0xd800 || v > 0xdbff)
        return out + aq_utf8_encode((uint32_t)v, out);
    if (p->at + 1 < p->len && p->text[p->at] == '\\' && p->text[p->at + 1] == 'u')
        low = hex4(p, p->at + 2);
    if (low < 0xdc00 || low > 0xdfff) {
        (void)fail(p, "unpaired surrogate in a string");
        return NULL;
    }
    p->at += 6;
    return out +
           aq_utf8_encode(0x10000 + (((uint32_t)v - 0xd800) << 10) + ((uint32_t)low - 0xdc00), out);
}

static char *take_escape(struct json_parser *p, char *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    int e = p->at + 1 < p->len ? p->text[p->at + 1] : -1;
    if (e == 'u')
        return take_unicode(p, out);
    const char *known = e > 0 ? strchr(from, e) : NULL;
    if (!known) {
        (void)fail(p, "unknown escape in a string");
        return NULL;
    }
    p->at += 2;
    *out = to[known - from];
    return out + 1;
}

/* Length of what needs no care from here on: up to a quote, an escape, a control character. */
static size_t plain_run(const struct json_parser *p)
{
    size_t i = p->at;
    while (i < p->len && p->text[i] != '"' && p->text[i] != '\\' &&
           (unsigned char)p->text[i] >= 0x20)
        i++;
    return i - p->at;
}

/* Bytes to the closing quote, escapes not counted as one; enough for the unescaped string. */
static size_t string_bound(const struct json_parser *p)
{
    size_t i = p->at;
    while (i < p->len && p->text[i] != '"')
        i += p->text[i] == '\\' ? 2 : 1;
    return i - p->at;
}

/* From the opening quote to the byte after the closing one. NULL: an error. Caller frees. */
static char *parse_string(struct json_parser *p)
{
    size_t open = p->at++;
    char *text = xmalloc(string_bound(p) + 1), *out = text;
    for (;;) {
        size_t n = plain_run(p);
        memcpy(out, p->text + p->at, n);
        out += n;
        p->at += n;
        if (p->at >= p->len) {
            (void)fail_at(p, open, "string is not closed");
            break;
        }
        if (p->text[p->at] == '"') {
            p->at++;
            *out = '\0';
            return text;
        }
        if (p->text[p->at] != '\\') {
            (void)fail(p, "control character in a string");
            break;
        }
        if (!(out = take_escape(p, out)))
            break;
    }
    free(text);
    return NULL;
}

static int parse_string_value(struct json_parser *p, cJSON *parent, char *key)
{
    cJSON *v = attach(p, parent, key, cJSON_CreateNull());
    if (!(v->valuestring = parse_string(p)))
        return -1;
    v->type = cJSON_String;
    return 0;
}

/* ---- duplicate keys ---- */

/* By hash, then by text: keys may be made to collide. No key holds a NUL. */
static int compare_keys(const struct key *x, const struct key *y)
{
    if (x->hash != y->hash)
        return x->hash < y->hash ? -1 : 1;
    return strcmp(x->text, y->text);
}

static int by_key(const void *a, const void *b)
{
    const struct key *x = a, *y = b;
    int order = compare_keys(x, y);
    return order ? order : x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* Most objects have few members and no two equal hashes: then no sorting is needed. */
static bool surely_unique(const struct key *keys, size_t n)
{
    enum { FEW = 16 };
    if (n > FEW)
        return false;
    for (size_t i = 1; i < n; i++)
        for (size_t k = 0; k < i; k++)
            if (keys[i].hash == keys[k].hash)
                return false;
    return true;
}

static int check_duplicates(struct json_parser *p, size_t first)
{
    size_t n = p->key_count - first;
    if (n == 0) /* and there may be no array yet */
        return 0;
    struct key *keys = p->keys + first;
    if (surely_unique(keys, n))
        return 0;
    qsort(keys, n, sizeof *keys, by_key);
    for (size_t i = 1; i < n; i++) {
        if (compare_keys(&keys[i - 1], &keys[i]) != 0)
            continue;
        char what[300];
        (void)snprintf(what, sizeof what, "key '%s' appears twice", aq_show(keys[i].text));
        return fail_at(p, keys[i].begin, what);
    }
    return 0;
}

/* ---- numbers ---- */

static size_t digits(struct json_parser *p)
{
    size_t from = p->at;
    while (isdigit(peek(p)))
        p->at++;
    return p->at - from;
}

/* Past a number of JSON's grammar. *integer: neither a point nor an exponent; *n: digits before. */
static int skip_number(struct json_parser *p, bool *integer, size_t *n)
{
    *integer = true;
    if (peek(p) == '-')
        p->at++;
    size_t lead = p->at;
    *n = digits(p);
    if (*n == 0)
        return fail(p, "expected a value");
    if (*n > 1 && p->text[lead] == '0')
        return fail_at(p, lead, "number starts with a zero");
    if (peek(p) == '.') {
        *integer = false;
        p->at++;
        if (digits(p) == 0)
            return fail(p, "expected a digit");
    }
    if (peek(p) == 'e' || peek(p) == 'E') {
        *integer = false;
        p->at++;
        if (peek(p) == '+' || peek(p) == '-')
            p->at++;
        if (digits(p) == 0)
            return fail(p, "expected a digit");
    }
    return 0;
}

/* strtod needs a NUL after the number, and the text has none. */
static double convert(const char *text, size_t len)
{
    char few[64], *copy = len < sizeof few ? few : xmalloc(len + 1);
    memcpy(copy, text, len);
    copy[len] = '\0';
    double v = strtod(copy, NULL);
    if (copy != few)
        free(copy);
    return v;
}

/* Integers of so few digits are exact in a double; of longer ones the text is kept. */
enum { EXACT_DIGITS = 15 };

static double small_integer(const char *text, size_t len)
{
    bool negative = text[0] == '-';
    int64_t v = 0;
    for (size_t i = negative; i < len; i++)
        v = v * 10 + (text[i] - '0');
    return negative ? -(double)v : (double)v;
}

static int parse_number(struct json_parser *p, cJSON *parent, char *key)
{
    cJSON *v = attach(p, parent, key, cJSON_CreateNull());
    size_t begin = p->at, n;
    bool integer;
    if (skip_number(p, &integer, &n) < 0)
        return -1;
    const char *text = p->text + begin;
    size_t len = p->at - begin;
    bool small = integer && n <= EXACT_DIGITS;
    double x = small ? small_integer(text, len) : convert(text, len);
    if (!isfinite(x))
        return fail_at(p, begin, "number is too large");
    v->type = cJSON_Number | (integer ? JSON_INT_BIT : 0);
    v->valuedouble = x;
    if (integer && !small) {
        v->valuestring = xstrndup(text, len);
        v->type |= JSON_TEXT_BIT;
    }
    return 0;
}

/* ---- structure ---- */

static int parse_value(struct json_parser *p, cJSON *parent, char *key);

static int parse_word(struct json_parser *p, cJSON *parent, char *key, const char *word, int type)
{
    cJSON *v = attach(p, parent, key, cJSON_CreateNull());
    size_t n = strlen(word);
    if (p->len - p->at < n || memcmp(p->text + p->at, word, n) != 0)
        return fail(p, "expected a value");
    p->at += n;
    v->type = type;
    return 0;
}

static int parse_member(struct json_parser *p, cJSON *object)
{
    if (peek(p) != '"')
        return fail(p, "expected a key in double quotes");
    struct key k = {.begin = p->at + 1};
    char *text = parse_string(p);
    if (!text)
        return -1;
    k.text = text;
    k.hash = aq_hash(AQ_HASH_START, text, strlen(text));
    AQ_GROW(p->keys, p->key_count, p->key_cap);
    p->keys[p->key_count++] = k;
    skip_blanks(p);
    if (peek(p) != ':') {
        free(text);
        return fail(p, "expected ':'");
    }
    p->at++;
    return parse_value(p, object, text);
}

static int parse_container(struct json_parser *p, cJSON *parent, char *key)
{
    bool object = p->text[p->at++] == '{';
    char close = object ? '}' : ']';
    size_t first_key = p->key_count;
    cJSON *v = attach(p, parent, key, object ? cJSON_CreateObject() : cJSON_CreateArray());
    if (++p->depth > JSON_MAX_DEPTH)
        return fail(p, "nested too deeply");
    skip_blanks(p);
    bool empty = peek(p) == close;
    while (!empty) {
        skip_blanks(p);
        if ((object ? parse_member(p, v) : parse_value(p, v, NULL)) < 0)
            return -1;
        skip_blanks(p);
        int next = peek(p);
        if (next == close)
            break;
        if (next != ',')
            return fail(p, object ? "expected ',' or '}'" : "expected ',' or ']'");
        p->at++;
    }
    p->at++;
    p->depth--;
    int r = check_duplicates(p, first_key);
    p->key_count = first_key;
    return r;
}

/* Takes the key over, also when it fails. */
static int parse_value(struct json_parser *p, cJSON *parent, char *key)
{
    skip_blanks(p);
    switch (peek(p)) {
    case -1:
        free(key);
        return fail(p, "unexpected end of text");
    case '{':
    case '[':
        return parse_container(p, parent, key);
    case '"':
        return parse_string_value(p, parent, key);
    case 't':
        return parse_word(p, parent, key, "true", cJSON_True);
    case 'f':
        return parse_word(p, parent, key, "false", cJSON_False);
    case 'n':
        return parse_word(p, parent, key, "null", cJSON_NULL);
    default:
        return parse_number(p, parent, key);
    }
}

struct json *json_parse(const char *text, size_t len, const char *name, struct aq_err *err)
{
    struct json_parser p = {.text = text, .name = name, .len = len, .err = err};
    size_t bad = aq_utf8_check(text, len);
    int r = bad < len ? fail_at(&p, bad, "not valid UTF-8") : parse_value(&p, NULL, NULL);
    if (r == 0) {
        skip_blanks(&p);
        if (p.at < len)
            r = fail(&p, "unexpected text after the value");
    }
    if (r < 0) {
        cJSON_Delete(p.root);
        p.root = NULL;
    }
    free(p.keys);
    return (struct json *)p.root;
}
