/*
 * The writer follows PyYAML's emitter state for state: what it breaks and where depends on the
 * column, on whether the last thing written was a blank, and on whether the line so far is only
 * indentation.
 */
#include "base/fmt.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "io/yaml.h"

#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { WIDTH = 80, INDENT = 2, SIMPLE_KEY = 128 };

struct emitter {
    struct aq_buf *out;
    int column; /* in characters */
    int indent;
    bool blank;     /* the last character leaves room for the next thing */
    bool indention; /* nothing but indentation and indicators in this line */
};

/* A text as characters. */
struct text {
    uint32_t *c;
    size_t n;
};

/* ---- low level ---- */

static void put(struct emitter *e, const char *s, int columns)
{
    aq_buf_adds(e->out, s);
    e->column += columns;
}

static void put_chars(struct emitter *e, const uint32_t *c, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char bytes[4];
        aq_buf_add(e->out, bytes, (size_t)aq_utf8_encode(c[i], bytes));
    }
    e->column += (int)n;
}

static void line_break(struct emitter *e)
{
    aq_buf_addc(e->out, '\n');
    e->blank = e->indention = true;
    e->column = 0;
}

static void write_indent(struct emitter *e)
{
    if (!e->indention || e->column > e->indent || (e->column == e->indent && !e->blank))
        line_break(e);
    if (e->column < e->indent) {
        e->blank = true;
        while (e->column < e->indent)
            put(e, " ", 1);
    }
}

static void indicator(struct emitter *e, const char *s, bool need_blank, bool indention)
{
    if (need_blank && !e->blank)
        put(e, " ", 1);
    put(e, s, (int)strlen(s));
    e->blank = false;
    e->indention = e->indention && indention;
}

/* ---- what a text needs ---- */

static bool is_break(uint32_t c)
{
    return c == '\n' || c == 0x85 || c == 0x2028 || c == 0x2029;
}

static bool ends_word(uint32_t c)
{
    return c == ' ' || c == '\t' || c == '\r' || is_break(c);
}

static bool is_printable(uint32_t c)
{
    if (c == '\n' || (c >= 0x20 && c <= 0x7e))
        return true;
    return (c == 0x85 || (c >= 0xa0 && c <= 0xd7ff) || (c >= 0xe000 && c <= 0xfffd) ||
            (c >= 0x10000 && c < 0x10ffff)) &&
           c != 0xfeff;
}

static bool in_set(uint32_t c, const char *set)
{
    return c && c < 0x80 && strchr(set, (int)c);
}

struct analysis {
    bool multiline, plain, single_quoted;
};

/* Does the character at i mean something to a YAML reader there? */
static bool is_indicator(const struct text *t, size_t i)
{
    uint32_t c = t->c[i];
    bool before_blank = i + 1 >= t->n || ends_word(t->c[i + 1]);
    if (i == 0)
        return in_set(c, "#,[]{}&*!|>'\"%@`") || (in_set(c, "?:-") && before_blank);
    return (c == ':' && before_blank) || (c == '#' && ends_word(t->c[i - 1]));
}

static bool starts_document_mark(const struct text *t)
{
    return t->n >= 3 && t->c[0] == t->c[1] && t->c[1] == t->c[2] && in_set(t->c[0], "-.");
}

static struct analysis analyze(const struct text *t)
{
    struct analysis a = {.plain = true, .single_quoted = true};
    if (t->n == 0)
        return a;
    bool indicators = starts_document_mark(t), special = false;
    bool break_space = false, space_break = false;
    for (size_t i = 0; i < t->n; i++) {
        uint32_t c = t->c[i], before = i ? t->c[i - 1] : 0;
        indicators |= is_indicator(t, i);
        special |= !is_printable(c);
        a.multiline |= is_break(c);
        break_space |= c == ' ' && is_break(before);
        space_break |= is_break(c) && before == ' ';
    }
    uint32_t first = t->c[0], last = t->c[t->n - 1];
    bool outer = first == ' ' || is_break(first) || last == ' ' || is_break(last);
    a.single_quoted = !break_space && !space_break && !special;
    a.plain = a.single_quoted && !outer && !a.multiline && !indicators;
    return a;
}

/* Digits with single underscores between them, as Python reads them; NULL if there are none. */
static const char *python_digits(const char *p)
{
    if (!isdigit((unsigned char)*p))
        return NULL;
    while (isdigit((unsigned char)*p) || (*p == '_' && isdigit((unsigned char)p[1])))
        p++;
    return p;
}

/* What Python's float() takes, and with it int(). */
static bool is_python_number(const char *s)
{
    s += *s == '-' || *s == '+';
    if (strcasecmp(s, "inf") == 0 || strcasecmp(s, "infinity") == 0 || strcasecmp(s, "nan") == 0)
        return true;
    const char *whole = python_digits(s), *p = whole ? whole : s;
    if (*p == '.') {
        const char *fraction = python_digits(++p);
        if (!whole && !fraction)
            return false;
        p = fraction ? fraction : p;
    } else if (!whole) {
        return false;
    }
    if (*p == 'e' || *p == 'E') {
        p += 1 + (p[1] == '-' || p[1] == '+');
        p = python_digits(p);
    }
    return p && !*p;
}

/* The words that YAML 1.1 calls booleans, also those that PyYAML does not read. */
static bool is_letter_bool(const char *s)
{
    return (*s == 'y' || *s == 'Y' || *s == 'n' || *s == 'N') && !s[1];
}

static bool is_plain_string(const char *s)
{
    return !is_letter_bool(s) && !is_python_number(s) && !yaml_is_typed_plain(s);
}

/* ---- scalars ---- */

static void write_plain(struct emitter *e, const struct text *t, bool split)
{
    if (t->n == 0)
        return;
    if (!e->blank)
        put(e, " ", 1);
    e->blank = e->indention = false;
    for (size_t from = 0, to; from < t->n; from = to) {
        bool space = t->c[from] == ' ';
        for (to = from; to < t->n && (t->c[to] == ' ') == space;)
            to++;
        if (space && to - from == 1 && e->column > WIDTH && split) {
            write_indent(e);
            e->blank = e->indention = false;
        } else {
            put_chars(e, t->c + from, to - from);
        }
    }
}

/* A run of line breaks: one more than there are, so that folding gives them back. */
static void write_breaks(struct emitter *e, const uint32_t *c, size_t n)
{
    if (c[0] == '\n')
        line_break(e);
    for (size_t i = 0; i < n; i++) {
        if (c[i] == '\n') {
            line_break(e);
        } else {
            put_chars(e, c + i, 1);
            e->blank = e->indention = true;
            e->column = 0;
        }
    }
    write_indent(e);
}

static int kind_of(uint32_t c)
{
    return c == ' ' ? 1 : is_break(c) ? 2 : 0;
}

static void write_single_quoted(struct emitter *e, const struct text *t, bool split)
{
    indicator(e, "'", true, false);
    for (size_t from = 0, to; from < t->n; from = to) {
        int kind = kind_of(t->c[from]);
        for (to = from; to < t->n && kind_of(t->c[to]) == kind;)
            to++;
        if (kind == 2) {
            write_breaks(e, t->c + from, to - from);
        } else if (kind == 1 && to - from == 1 && e->column > WIDTH && split && from != 0 &&
                   to != t->n) {
            write_indent(e);
        } else {
            for (size_t i = from; i < to; i++) {
                put_chars(e, t->c + i, 1);
                if (t->c[i] == '\'')
                    put_chars(e, t->c + i, 1);
            }
        }
    }
    indicator(e, "'", false, false);
}

static bool goes_unescaped(uint32_t c)
{
    return (c >= 0x20 && c <= 0x7e && c != '"' && c != '\\') ||
           (c >= 0xa0 && c <= 0xd7ff && c != 0x2028 && c != 0x2029) ||
           (c >= 0xe000 && c <= 0xfffd && c != 0xfeff);
}

static void write_escape(struct emitter *e, uint32_t c)
{
    static const struct {
        uint32_t c;
        char letter;
    } table[] = {{0, '0'},     {7, 'a'},    {8, 'b'},      {9, 't'},     {10, 'n'},
                 {11, 'v'},    {12, 'f'},   {13, 'r'},     {27, 'e'},    {'"', '"'},
                 {'\\', '\\'}, {0x85, 'N'}, {0x2028, 'L'}, {0x2029, 'P'}};
    char text[16];
    int n = 0;
    for (size_t i = 0; i < AQ_COUNT(table); i++)
        if (table[i].c == c)
            n = snprintf(text, sizeof text, "\\%c", table[i].letter);
    if (!n)
        n = c <= 0xff     ? snprintf(text, sizeof text, "\\x%02" PRIX32, c)
            : c <= 0xffff ? snprintf(text, sizeof text, "\\u%04" PRIX32, c)
                          : snprintf(text, sizeof text, "\\U%08" PRIX32, c);
    put(e, text, n);
}

static void write_double_quoted(struct emitter *e, const struct text *t, bool split)
{
    indicator(e, "\"", true, false);
    size_t start = 0; /* of what is not written yet */
    for (size_t end = 0; end <= t->n; end++) {
        bool more = end < t->n;
        if (!more || !goes_unescaped(t->c[end])) {
            put_chars(e, t->c + start, end - start);
            start = end;
            if (more) {
                write_escape(e, t->c[end]);
                start = end + 1;
            }
        }
        if (end == 0 || end + 1 >= t->n || !split || (t->c[end] != ' ' && start < end) ||
            e->column + (int)end - (int)start <= WIDTH)
            continue;
        if (start < end) {
            put_chars(e, t->c + start, end - start);
            start = end;
        }
        put(e, "\\", 1);
        write_indent(e);
        e->blank = e->indention = false;
        if (t->c[start] == ' ')
            put(e, "\\", 1);
    }
    indicator(e, "\"", false, false);
}

static struct text text_of(const char *s)
{
    size_t len = strlen(s), at = 0;
    struct text t = {xreallocarray(NULL, len + 1, sizeof *t.c), 0};
    while (at < len) {
        int n = aq_utf8_decode((const unsigned char *)s + at, len - at, &t.c[t.n++]);
        at += n > 0 ? (size_t)n : 1;
    }
    return t;
}

static void write_string(struct emitter *e, const char *s, bool key)
{
    struct text t = text_of(s);
    struct analysis a = analyze(&t);
    if (is_plain_string(s) && a.plain && !(key && t.n == 0))
        write_plain(e, &t, !key);
    else if (a.single_quoted && !(key && a.multiline))
        write_single_quoted(e, &t, !key);
    else
        write_double_quoted(e, &t, !key);
    free(t.c);
}

static void write_float(struct aq_buf *out, double x)
{
    char text[AQ_FMT_MAX];
    if (isnan(x) || isinf(x)) {
        aq_buf_adds(out, isnan(x) ? ".nan" : x < 0 ? "-.inf" : ".inf");
        return;
    }
    aq_fmt_double(x, text);
    const char *exponent = strchr(text, 'e');
    if (exponent && !strchr(text, '.')) /* 1e-05 is not a YAML 1.1 float */
        aq_buf_addf(out, "%.*s.0%s", (int)(exponent - text), text, exponent);
    else
        aq_buf_adds(out, text);
}

static void write_scalar(struct emitter *e, const struct node *v, bool key)
{
    if (v->type == NODE_STRING) {
        write_string(e, v->s, key);
        return;
    }
    struct aq_buf text = AQ_BUF_INIT;
    if (v->type == NODE_NULL)
        aq_buf_adds(&text, "null");
    else if (v->type == NODE_BOOL)
        aq_buf_adds(&text, v->b ? "true" : "false");
    else if (v->type == NODE_FLOAT)
        write_float(&text, v->f);
    else
        node_print(&text, v);
    struct text t = text_of(aq_buf_str(&text));
    write_plain(e, &t, !key);
    free(t.c);
    aq_buf_release(&text);
}

/* ---- collections ---- */

static void write_node(struct emitter *e, const struct node *v, bool in_map);

/* Long, empty and many-lined keys are written after a question mark. */
static bool is_simple_key(const struct node *key)
{
    if (key->type != NODE_STRING) {
        struct aq_buf text = AQ_BUF_INIT;
        node_print(&text, key);
        size_t tag = key->type == NODE_FLOAT ? strlen("!!float") : strlen("!!int");
        bool simple = text.len + tag < SIMPLE_KEY;
        aq_buf_release(&text);
        return simple;
    }
    struct text t = text_of(key->s);
    bool simple = t.n && t.n + strlen("!!str") < SIMPLE_KEY && !analyze(&t).multiline;
    free(t.c);
    return simple;
}

static void write_map(struct emitter *e, const struct node *v)
{
    for (size_t i = 0; i < v->count; i++) {
        const struct node *key = v->items[i].key;
        bool simple = is_simple_key(key);
        write_indent(e);
        if (simple) {
            write_scalar(e, key, true);
            indicator(e, ":", false, false);
        } else {
            indicator(e, "?", true, true);
            write_node(e, key, true);
            write_indent(e);
            indicator(e, ":", true, true);
        }
        write_node(e, v->items[i].value, true);
    }
}

static void write_list(struct emitter *e, const struct node *v)
{
    for (size_t i = 0; i < v->count; i++) {
        write_indent(e);
        indicator(e, "-", true, true);
        write_node(e, v->items[i].value, false);
    }
}

static void write_node(struct emitter *e, const struct node *v, bool in_map)
{
    int indent = e->indent;
    if (!node_is_container(v)) {
        /* a scalar is indented deeper than its parent where it is folded */
        e->indent = indent < 0 ? INDENT : indent + INDENT;
        write_scalar(e, v, false);
    } else if (v->count == 0) {
        indicator(e, v->type == NODE_MAP ? "{}" : "[]", true, false);
    } else {
        /* a list that is the value of a simple key keeps the key's indentation */
        bool flat = v->type == NODE_LIST && in_map && !e->indention;
        e->indent = indent < 0 ? 0 : flat ? indent : indent + INDENT;
        if (v->type == NODE_MAP)
            write_map(e, v);
        else
            write_list(e, v);
    }
    e->indent = indent;
}

void yaml_write(struct aq_buf *out, const struct node *v)
{
    struct emitter e = {.out = out, .indent = -1, .blank = true, .indention = true};
    write_node(&e, v, false);
    e.indent = 0;
    write_indent(&e);
}
