#include "conf/lex.h"
#include "conf/override.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

struct override_parser {
    struct aq_arena *a;
    const char *text; /* the whole override */
    struct lexeme now;
    struct place place;
    int depth;
    struct aq_err *err;
};

/* ---- errors: the column counts from 1, in characters ---- */

static int fail_at(const struct override_parser *p, const char *at, const char *what)
{
    size_t column = 1;
    for (const char *c = p->text; c < at; c++)
        column += (*c & 0xc0) != 0x80;
    if (!*at)
        return aq_err_set(p->err, AQ_EUSAGE, "override '%s': %s at its end", aq_show(p->text),
                          what);
    return aq_err_set(p->err, AQ_EUSAGE, "override '%s': %s at column %zu, before '%s'",
                      aq_show(p->text), what, column, aq_show(at));
}

static int fail(const struct override_parser *p, const char *what)
{
    if (*p->now.at == '{' && p->now.at > p->text && p->now.at[-1] == '$')
        what = "an interpolation is not closed";
    else if (p->now.token == TOK_BAD)
        what = *p->now.at == '\'' || *p->now.at == '"' ? "this quote is not closed"
                                                       : "this character needs quotes";
    return fail_at(p, p->now.at, what);
}

static void advance(struct override_parser *p)
{
    p->now = lex_value(p->now.at + p->now.len);
}

/* ---- primitives ---- */

static bool in_primitive(enum token t)
{
    switch (t) {
    case TOK_ID:
    case TOK_NULL:
    case TOK_INT:
    case TOK_FLOAT:
    case TOK_BOOL:
    case TOK_INTERPOLATION:
    case TOK_CHAR:
    case TOK_COLON:
    case TOK_ESC:
    case TOK_BLANK:
        return true;
    default:
        return false;
    }
}

/* A run of backslashes before a quote is halved; the quotes around the text are dropped. */
static struct node *quoted(struct override_parser *p)
{
    const char *from = p->now.at + 1, *end = p->now.at + p->now.len - 1;
    char quote = *p->now.at;
    char *text = aq_arena_alloc(p->a, p->now.len), *to = text;
    while (from < end) {
        size_t run = strspn(from, "\\");
        if (from[run] == quote) {
            memset(to, '\\', run / 2);
            to += run / 2;
            from += run;
            if (run & 1)
                *to++ = *from++;
        } else {
            run = run ? run : 1;
            memcpy(to, from, run);
            to += run;
            from += run;
        }
    }
    struct node *v = node_string(p->a, text, p->place);
    v->quote = quote;
    return v;
}

static size_t add_piece(char *to, struct lexeme l)
{
    if (l.token != TOK_ESC) {
        memcpy(to, l.at, l.len);
        return l.len;
    }
    for (size_t i = 0; i < l.len / 2; i++)
        to[i] = l.at[2 * i + 1];
    return l.len / 2;
}

/* Tokens up to the next separator: one keeps its type, several are a text without outer blanks. */
static struct node *primitive(struct override_parser *p, bool key)
{
    struct lexeme first = p->now, one = {TOK_BLANK, NULL, 0};
    size_t count = 0;
    while (in_primitive(p->now.token) &&
           !(key && (p->now.token == TOK_COLON || p->now.token == TOK_INTERPOLATION))) {
        if (p->now.token != TOK_BLANK) {
            one = p->now;
            count++;
        }
        advance(p);
    }
    if (!count) {
        (void)fail(p, key ? "expected a key" : "expected a value");
        return NULL;
    }
    const char *end = one.at + one.len; /* blanks after the last token are dropped */
    if (first.token == TOK_BLANK)
        first = lex_value(first.at + first.len);
    if (count == 1 && one.token != TOK_ESC) {
        struct node *v = lex_node(p->a, one, p->place);
        if (!v)
            (void)fail_at(p, one.at, "this integer has too many digits");
        return v;
    }
    char *text = aq_arena_alloc(p->a, (size_t)(end - first.at) + 1), *to = text;
    for (struct lexeme l = first; l.at < end; l = lex_value(l.at + l.len))
        to += add_piece(to, l);
    return node_string(p->a, text, p->place);
}

/* ---- elements ---- */

static int element(struct override_parser *p, struct value *out);

/* An element that is not a sweep; NULL with an error. */
static struct node *plain_element(struct override_parser *p)
{
    struct value v;
    if (element(p, &v) < 0)
        return NULL;
    if (v.sweep)
        (void)fail(p, "a sweep cannot be a part of a value");
    return v.node;
}

static int list(struct override_parser *p, struct node **out)
{
    struct node *v = node_new(p->a, NODE_LIST, p->place);
    advance(p);
    for (bool more = p->now.token != TOK_LIST_CLOSE; more;) {
        struct node *item = plain_element(p);
        if (!item)
            return -1;
        node_push(p->a, v, item);
        more = p->now.token == TOK_COMMA;
        if (more)
            advance(p);
    }
    if (p->now.token != TOK_LIST_CLOSE)
        return fail(p, "expected ',' or ']'");
    advance(p);
    *out = v;
    return 0;
}

static int map_entry(struct override_parser *p, struct node *map)
{
    struct node *key = primitive(p, true);
    if (!key)
        return -1;
    if (key->type == NODE_NULL)
        return fail(p, "a key must not be null");
    if (p->now.token != TOK_COLON)
        return fail(p, "expected ':' after the key");
    advance(p);
    struct node *item = plain_element(p);
    if (!item)
        return -1;
    node_put(p->a, map, key, item);
    return 0;
}

static int map(struct override_parser *p, struct node **out)
{
    struct node *v = node_new(p->a, NODE_MAP, p->place);
    advance(p);
    for (bool more = p->now.token != TOK_MAP_CLOSE; more;) {
        if (map_entry(p, v) < 0)
            return -1;
        more = p->now.token == TOK_COMMA;
        if (more)
            advance(p);
    }
    if (p->now.token != TOK_MAP_CLOSE)
        return fail(p, "expected ',' or '}'");
    advance(p);
    *out = v;
    return 0;
}

static bool at_call(const struct override_parser *p)
{
    return p->now.token == TOK_ID && lex_value(p->now.at + p->now.len).token == TOK_PAREN_OPEN;
}

static int argument(struct override_parser *p, struct function_call *c)
{
    const char *name = NULL;
    if (p->now.token == TOK_ID && lex_value(p->now.at + p->now.len).token == TOK_EQUAL) {
        name = aq_arena_strndup(p->a, p->now.at, p->now.len);
        advance(p);
        advance(p);
    } else if (c->count && c->names[c->count - 1]) {
        return fail(p, "expected name=value after a named argument");
    }
    struct value v;
    if (element(p, &v) < 0)
        return -1;
    if (c->count == c->cap) {
        c->cap = c->cap ? c->cap * 2 : 8;
        c->args = xreallocarray(c->args, c->cap, sizeof *c->args);
        c->names = xreallocarray(c->names, c->cap, sizeof *c->names);
    }
    c->args[c->count] = v;
    c->names[c->count++] = name;
    return 0;
}

static int arguments(struct override_parser *p, struct function_call *c)
{
    advance(p);
    advance(p);
    for (bool more = p->now.token != TOK_PAREN_CLOSE; more;) {
        if (argument(p, c) < 0)
            return -1;
        more = p->now.token == TOK_COMMA;
        if (more)
            advance(p);
    }
    if (p->now.token != TOK_PAREN_CLOSE)
        return fail(p, "expected ',' or ')'");
    advance(p);
    return 0;
}

static int function(struct override_parser *p, struct value *out)
{
    struct function_call c = {.name = aq_arena_strndup(p->a, p->now.at, p->now.len)};
    int r = arguments(p, &c);
    if (r == 0 && (r = override_call(p->a, &c, out, p->err)) < 0)
        aq_err_prefix(p->err, "override '%s'", aq_show(p->text));
    if (r == 0 && out->node)
        out->node->place = p->place;
    free(c.args);
    free(c.names);
    return r;
}

static int element(struct override_parser *p, struct value *out)
{
    *out = (struct value){NULL, NULL};
    if (p->depth == NODE_MAX_DEPTH)
        return fail(p, "nested too deeply (limit 128)");
    p->depth++;
    int r = 0;
    if (at_call(p)) {
        r = function(p, out);
    } else if (p->now.token == TOK_LIST_OPEN) {
        r = list(p, &out->node);
    } else if (p->now.token == TOK_MAP_OPEN) {
        r = map(p, &out->node);
    } else if (p->now.token == TOK_QUOTED) {
        out->node = quoted(p);
        advance(p);
    } else {
        out->node = primitive(p, false);
        r = out->node ? 0 : -1;
    }
    p->depth--;
    return r;
}

/* One element, or several with commas between them: a sweep. */
static int value(struct override_parser *p, struct value *out)
{
    if (p->now.token == TOK_END) {
        out->node = node_string(p->a, "", p->place);
        return 0;
    }
    if (element(p, out) < 0)
        return -1;
    if (p->now.token == TOK_COMMA) {
        struct sweep *s = aq_arena_alloc(p->a, sizeof *s);
        s->items = node_new(p->a, NODE_LIST, p->place);
        if (out->sweep)
            return fail(p, "a sweep cannot be one of several values");
        node_push(p->a, s->items, out->node);
        *out = (struct value){NULL, s};
        while (p->now.token == TOK_COMMA) {
            advance(p);
            struct node *item = plain_element(p);
            if (!item)
                return -1;
            node_push(p->a, s->items, item);
        }
    }
    return p->now.token == TOK_END ? 0 : fail(p, "unexpected text");
}

/* ---- keys ---- */

static size_t path_part(const char *p)
{
    size_t n = lex_special_id(p);
    return n ? n : lex_unsigned(p);
}

/* a  $a  a.b  a.0.b */
static size_t package(const char *p)
{
    size_t n = path_part(p);
    if (!n)
        return 0;
    size_t parts = 1;
    while (p[n] == '.') {
        size_t more = path_part(p + n + 1);
        if (!more)
            break;
        n += 1 + more;
        parts++;
    }
    return parts == 1 && !lex_special_id(p) ? 0 : n;
}

static size_t group(const char *p)
{
    size_t n = lex_id(p), parts = 1;
    while (n && p[n] == '/') {
        size_t more = lex_id(p + n + 1);
        if (!more)
            break;
        n += 1 + more;
        parts++;
    }
    return parts > 1 ? n : 0;
}

static int key(struct override_parser *p, const char **at, struct override *o)
{
    size_t n = group(*at);
    if (!n)
        n = package(*at);
    if (!n)
        return fail_at(p, *at, "expected a key");
    o->key = aq_arena_strndup(p->a, *at, n);
    *at += n;
    if (**at == '@') {
        n = package(*at + 1);
        o->package = aq_arena_strndup(p->a, *at + 1, n);
        *at += 1 + n;
    }
    return 0;
}

static enum override_kind kind(const char **at)
{
    if (**at == '~') {
        ++*at;
        return OVERRIDE_DELETE;
    }
    if (**at != '+')
        return OVERRIDE_SET;
    ++*at;
    if (**at != '+')
        return OVERRIDE_ADD;
    ++*at;
    return OVERRIDE_FORCE;
}

int override_parse(struct aq_arena *a, const char *text, int number, struct override *out,
                   struct aq_err *err)
{
    struct override_parser p = {.a = a, .text = text, .place = {NULL, number}, .err = err};
    *out = (struct override){.text = text, .number = number};
    size_t len = strlen(text);
    if (len > OVERRIDE_MAX_LENGTH)
        return aq_err_set(err, AQ_EUSAGE, "override '%s' is longer than %d bytes", aq_show(text),
                          (int)OVERRIDE_MAX_LENGTH);
    if (aq_utf8_check(text, len) < len)
        return aq_err_set(err, AQ_EUSAGE, "override '%s' is not valid UTF-8", aq_show(text));
    const char *at = text;
    out->kind = kind(&at);
    if (key(&p, &at, out) < 0)
        return -1;
    if (!*at && out->kind == OVERRIDE_DELETE)
        return 0;
    if (*at != '=')
        return fail_at(&p, at, "expected '='");
    out->has_value = true;
    at++;
    p.now = lex_value(at + lex_blanks(at));
    return value(&p, &out->value);
}

const char *override_key_element(struct aq_arena *a, const struct override *o)
{
    static const char *const prefix[] = {"", "+", "++", "~"};
    return aq_arena_printf(a, "%s%s%s%s", prefix[o->kind], o->key, o->package ? "@" : "",
                           o->package ? o->package : "");
}

bool override_of_hydra(const struct override *o)
{
    return strncmp(o->key, "hydra.", 6) == 0 || strncmp(o->key, "hydra/", 6) == 0;
}
