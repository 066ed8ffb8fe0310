#include "conf/lex.h"
#include "io/yaml.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static size_t id_with(const char *p, char extra)
{
    size_t n = 0;
    if (!is_letter(*p) && *p != '_' && (!extra || *p != extra))
        return 0;
    while (is_letter(p[n]) || is_digit(p[n]) || p[n] == '_' || p[n] == '-' ||
           (extra && p[n] == extra))
        n++;
    return n;
}

size_t lex_id(const char *p)
{
    return id_with(p, 0);
}

size_t lex_special_id(const char *p)
{
    return id_with(p, '$');
}

/* DIGIT (_? DIGIT)* */
static size_t digits(const char *p)
{
    size_t n = 0;
    while (is_digit(p[n]) || (n && p[n] == '_' && is_digit(p[n + 1])))
        n++;
    return n;
}

size_t lex_unsigned(const char *p)
{
    return *p == '0' ? 1 : digits(p);
}

static size_t sign(const char *p)
{
    return *p == '-' || *p == '+';
}

size_t lex_int(const char *p)
{
    size_t s = sign(p), n = lex_unsigned(p + s);
    return n ? s + n : 0;
}

size_t lex_word(const char *p, const char *word)
{
    size_t n = strlen(word);
    return strncasecmp(p, word, n) == 0 ? n : 0;
}

/* 1.  .5  1.5  1e3  1.5e-3  inf  nan */
size_t lex_float(const char *p)
{
    size_t s = sign(p);
    const char *q = p + s;
    size_t word = lex_word(q, "inf");
    if (!word)
        word = lex_word(q, "nan");
    if (word)
        return s + word;
    size_t n = lex_unsigned(q);
    size_t whole = n;
    bool pointed = false;
    if (q[n] == '.') {
        size_t fraction = digits(q + n + 1);
        pointed = whole || fraction;
        n += pointed ? 1 + fraction : 0;
    }
    if (!n)
        return 0;
    if (q[n] == 'e' || q[n] == 'E') {
        size_t es = sign(q + n + 1), e = digits(q + n + 1 + es);
        if (e)
            return s + n + 1 + es + e;
    }
    return pointed ? s + n : 0;
}

size_t lex_blanks(const char *p)
{
    return strspn(p, " \t");
}

static size_t escapes(const char *p)
{
    size_t n = 0;
    while (p[n] == '\\' && p[n + 1] && strchr("\\()[]{}:=, \t", p[n + 1]))
        n += 2;
    return n;
}

/* From the opening quote to the first closing one with an even run of backslashes before it. */
static size_t quoted(const char *p)
{
    bool odd = false;
    for (size_t n = 1; p[n]; n++) {
        if (p[n] == *p && !odd)
            return n + 1;
        odd = p[n] == '\\' && !odd;
    }
    return 0;
}

static size_t interpolation(const char *p)
{
    if (p[0] != '$' || p[1] != '{')
        return 0;
    const char *close = strchr(p + 2, '}');
    return close && close > p + 2 ? (size_t)(close - p) + 1 : 0;
}

/* Separators take the blanks around them, but '(' '[' '{' and ')' ']' '}' only on the inside. */
static struct lexeme separator(const char *at)
{
    static const struct {
        char c;
        enum token token;
        bool before, after;
    } table[] = {
        {'(', TOK_PAREN_OPEN, true, true}, {')', TOK_PAREN_CLOSE, true, false},
        {'[', TOK_LIST_OPEN, false, true}, {']', TOK_LIST_CLOSE, true, false},
        {'{', TOK_MAP_OPEN, false, true},  {'}', TOK_MAP_CLOSE, true, false},
        {',', TOK_COMMA, true, true},      {':', TOK_COLON, true, true},
        {'=', TOK_EQUAL, true, true},
    };
    size_t before = lex_blanks(at);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (at[before] != table[i].c || (before && !table[i].before))
            continue;
        size_t n = before + 1;
        if (table[i].after)
            n += lex_blanks(at + n);
        return (struct lexeme){table[i].token, at, n};
    }
    return (struct lexeme){TOK_BAD, at, 0};
}

static void longer(struct lexeme *best, enum token token, size_t n)
{
    if (n > best->len) {
        best->token = token;
        best->len = n;
    }
}

struct lexeme lex_value(const char *at)
{
    struct lexeme best = separator(at);
    if (best.len)
        return best;
    if (!*at)
        return (struct lexeme){TOK_END, at, 0};
    /* of equal lengths the first wins */
    longer(&best, TOK_FLOAT, lex_float(at));
    longer(&best, TOK_INT, lex_int(at));
    longer(&best, TOK_BOOL, lex_word(at, "true"));
    longer(&best, TOK_BOOL, lex_word(at, "false"));
    longer(&best, TOK_NULL, lex_word(at, "null"));
    longer(&best, TOK_CHAR, strchr("/-\\+.$%*@?|", *at) ? 1 : 0);
    /* an error in Hydra: a path below the home directory */
    longer(&best, TOK_CHAR, at[0] == '~' && at[1] == '/' ? 1 : 0);
    longer(&best, TOK_ID, lex_id(at));
    longer(&best, TOK_ESC, escapes(at));
    longer(&best, TOK_BLANK, lex_blanks(at));
    longer(&best, TOK_QUOTED, *at == '"' || *at == '\'' ? quoted(at) : 0);
    longer(&best, TOK_INTERPOLATION, interpolation(at));
    return best;
}

/* ---- values ---- */

static char *without_underscores(struct aq_arena *a, const char *p, size_t n)
{
    char *copy = aq_arena_alloc(a, n + 1), *to = copy;
    for (size_t i = *p == '+'; i < n; i++)
        if (p[i] != '_')
            *to++ = p[i];
    return copy;
}

struct node *lex_int_value(struct aq_arena *a, const char *p, size_t n, struct place place)
{
    if (n > YAML_MAX_DIGITS)
        return NULL;
    return node_int_text(a, without_underscores(a, p, n), place);
}

struct node *lex_float_value(struct aq_arena *a, const char *p, size_t n, struct place place)
{
    return node_float(a, strtod(without_underscores(a, p, n), NULL), place);
}

struct node *lex_node(struct aq_arena *a, struct lexeme l, struct place place)
{
    switch (l.token) {
    case TOK_INT:
        return lex_int_value(a, l.at, l.len, place);
    case TOK_FLOAT:
        return lex_float_value(a, l.at, l.len, place);
    case TOK_NULL:
        return node_new(a, NODE_NULL, place);
    case TOK_BOOL:
        return node_bool(a, l.len == 4, place);
    default:
        return node_string(a, aq_arena_strndup(a, l.at, l.len), place);
    }
}
