/*
 * The grammar of interpolations, evaluated while it is read.
 *
 *     text          = { characters | "\${" | interpolation }
 *     interpolation = "${" { "." } key { "." key | "[" key "]" } "}"  |  "${" name ":" [ list ] "}"
 *     key           = characters | interpolation
 *
 * Arguments of resolvers have the values of overrides, and quoted texts may hold interpolations.
 */
#include "base/buf.h"
#include "base/fmt.h"
#include "conf/interp_impl.h"
#include "conf/lex.h"

#include <string.h>

struct interp_reader {
    struct interp *in;
    struct node *v;   /* whose text this is */
    const char *text; /* all of it, for messages */
    const char *at;
    int depth;
};

static struct node *fail(const struct interp_reader *r, const char *what)
{
    return interp_fail(r->in, r->v, "%s at column %zu of '%s'", what, (size_t)(r->at - r->text) + 1,
                       aq_show(r->text));
}

static struct node *new_string(struct interp_reader *r, struct aq_buf *text)
{
    struct node *s =
        node_string(r->in->a, aq_arena_strdup(r->in->a, aq_buf_str(text)), r->v->place);
    aq_buf_release(text);
    return s;
}

static struct node *interpolation(struct interp_reader *r);

static bool at_interpolation(const struct interp_reader *r)
{
    return r->at[0] == '$' && r->at[1] == '{';
}

/* Text made of pieces; one interpolation alone keeps its type. */
struct pieces {
    struct aq_buf text;
    struct node *only;
    bool several;
};

static bool add_value(struct interp_reader *r, struct pieces *p, struct node *value)
{
    p->several |= p->only || p->text.len;
    p->only = value;
    node_print(&p->text, value);
    if (p->text.len <= INTERP_MAX_TEXT)
        return true;
    (void)fail(r, "the resolved text is longer than 1 MiB");
    return false;
}

static void add_text(struct pieces *p, const char *s, size_t n)
{
    p->several |= p->only != NULL;
    aq_buf_add(&p->text, s, n);
}

static struct node *finish(struct interp_reader *r, struct pieces *p)
{
    if (p->only && !p->several) {
        aq_buf_release(&p->text);
        return p->only;
    }
    return new_string(r, &p->text);
}

/*
 * Up to the closing quote, or to the end if quote is 0. Backslashes count only before ${ and
 * before the quote: halved, and an odd one protects what follows.
 */
static struct node *text_until(struct interp_reader *r, char quote)
{
    struct pieces p = {AQ_BUF_INIT, NULL, false};
    const char stops[] = {'\\', '$', quote, '\0'};
    for (;;) {
        size_t n = strcspn(r->at, stops);
        if (n)
            add_text(&p, r->at, n);
        r->at += n;
        size_t slashes = strspn(r->at, "\\");
        const char *after = r->at + slashes;
        bool opens = after[0] == '$' && after[1] == '{', closes = quote && *after == quote;
        size_t kept = opens || closes ? slashes / 2 : slashes;
        if (kept)
            add_text(&p, r->at, kept);
        r->at = after;
        if ((opens || closes) && (slashes & 1)) {
            add_text(&p, r->at, opens ? 2 : 1);
            r->at += opens ? 2 : 1;
        } else if (opens) {
            struct node *value = interpolation(r);
            if (!value || !add_value(r, &p, value)) {
                aq_buf_release(&p.text);
                return NULL;
            }
        } else if (closes || !*r->at) {
            return finish(r, &p);
        } else if (*r->at == '$') {
            add_text(&p, r->at++, 1);
        }
    }
}

/* ---- ${a.b} ---- */

static bool is_key_char(char c)
{
    return c && !strchr("\\${}()[]:. \t'\"", c);
}

/* A key part: characters, or an interpolation that gives a string. */
static bool key_part(struct interp_reader *r, struct aq_buf *out)
{
    if (at_interpolation(r)) {
        const struct node *value = interpolation(r);
        if (value && value->type != NODE_STRING)
            (void)fail(r, "an interpolation inside a key must give a string");
        if (!value || value->type != NODE_STRING)
            return false;
        aq_buf_adds(out, value->s);
        return true;
    }
    size_t n = 0;
    while (is_key_char(r->at[n]))
        n++;
    if (!n) {
        (void)fail(r, "expected a key");
        return false;
    }
    aq_buf_add(out, r->at, n);
    r->at += n;
    return true;
}

static bool bracketed(struct interp_reader *r, struct aq_buf *out)
{
    aq_buf_addc(out, *r->at++);
    if (!key_part(r, out))
        return false;
    if (*r->at != ']') {
        (void)fail(r, "expected ']'");
        return false;
    }
    aq_buf_addc(out, *r->at++);
    return true;
}

/* Dots and keys up to '}' or ':'; resolver names look the same so far. */
static bool dotted(struct interp_reader *r, struct aq_buf *out)
{
    while (*r->at == '.')
        aq_buf_addc(out, *r->at++);
    if (!(*r->at == '[' ? bracketed(r, out) : key_part(r, out)))
        return false;
    while (*r->at == '.' || *r->at == '[') {
        if (*r->at == '[') {
            if (!bracketed(r, out))
                return false;
            continue;
        }
        aq_buf_addc(out, *r->at++);
        if (!key_part(r, out))
            return false;
    }
    r->at += lex_blanks(r->at);
    return true;
}

/* ---- values of arguments ---- */

static struct node *element(struct interp_reader *r);

static bool closes_element(enum token t)
{
    return t == TOK_COMMA || t == TOK_LIST_CLOSE || t == TOK_MAP_CLOSE || t == TOK_END;
}

static void add_lexeme(struct pieces *p, struct lexeme l)
{
    if (l.token != TOK_ESC) {
        add_text(p, l.at, l.len);
        return;
    }
    for (size_t i = 1; i < l.len; i += 2)
        add_text(p, l.at + i, 1);
}

/* Tokens up to a separator: one keeps its type, several are a text. */
static struct node *primitive(struct interp_reader *r, bool key)
{
    struct pieces p = {AQ_BUF_INIT, NULL, false};
    struct lexeme first = {TOK_BAD, NULL, 0};
    size_t count = 0;
    for (;; count++) {
        if (at_interpolation(r)) {
            struct node *value = interpolation(r);
            if (value && add_value(r, &p, value))
                continue;
            aq_buf_release(&p.text);
            return NULL;
        }
        struct lexeme l = lex_value(r->at);
        if (closes_element(l.token) || (key && l.token == TOK_COLON))
            break;
        if (l.token < TOK_COLON || l.token == TOK_EQUAL || l.token == TOK_QUOTED) {
            aq_buf_release(&p.text);
            return fail(r, "unexpected text");
        }
        if (!count)
            first = l;
        add_lexeme(&p, l);
        r->at += l.len;
    }
    if (count == 1 && !p.only && first.token != TOK_ESC) {
        aq_buf_release(&p.text);
        struct node *v = lex_node(r->in->a, first, r->v->place);
        return v ? v : fail(r, "this integer has too many digits");
    }
    if (count)
        return finish(r, &p);
    aq_buf_release(&p.text);
    return fail(r, "expected a value");
}

static struct node *quoted(struct interp_reader *r)
{
    char quote = *r->at++;
    struct node *v = text_until(r, quote);
    if (!v)
        return NULL;
    if (*r->at != quote)
        return fail(r, "a quote is not closed");
    r->at++;
    struct aq_buf text = AQ_BUF_INIT;
    node_print(&text, v);
    return new_string(r, &text);
}

/* Values with commas between them, up to and with the closing token; empty places are "". */
static struct node *sequence(struct interp_reader *r, enum token close)
{
    struct node *list = node_new(r->in->a, NODE_LIST, r->v->place);
    bool want = false; /* a comma was the last */
    for (;;) {
        struct lexeme l = lex_value(r->at);
        if (l.token == close || l.token == TOK_COMMA) {
            if (want || (l.token == TOK_COMMA && !list->count))
                node_push(r->in->a, list, node_string(r->in->a, "", r->v->place));
            r->at += l.len;
            if (l.token == close)
                return list;
            want = true;
            continue;
        }
        if (!want && list->count)
            return fail(r, "expected ',' or the closing bracket");
        struct node *item = element(r);
        if (!item)
            return NULL;
        /* what an interpolation names stays where it is */
        node_push(r->in->a, list, item->up ? node_copy(r->in->a, item) : item);
        want = false;
    }
}

static struct node *mapping(struct interp_reader *r)
{
    struct node *map = node_new(r->in->a, NODE_MAP, r->v->place);
    for (struct lexeme l = lex_value(r->at); l.token != TOK_MAP_CLOSE; l = lex_value(r->at)) {
        if (map->count && l.token != TOK_COMMA)
            return fail(r, "expected ',' or '}'");
        r->at += map->count ? l.len : 0;
        const struct node *key = primitive(r, true);
        if (!key)
            return NULL;
        l = lex_value(r->at);
        if (l.token != TOK_COLON || key->type == NODE_NULL || node_is_container(key))
            return fail(r, "expected 'key: value'");
        r->at += l.len;
        struct node *item = element(r);
        if (!item)
            return NULL;
        node_put(r->in->a, map, key, item->up ? node_copy(r->in->a, item) : item);
    }
    r->at += lex_value(r->at).len;
    return map;
}

static struct node *element(struct interp_reader *r)
{
    if (r->depth == NODE_MAX_DEPTH)
        return fail(r, "nested too deeply");
    r->depth++;
    struct lexeme l = lex_value(r->at);
    struct node *v;
    if (*r->at == '"' || *r->at == '\'') {
        v = quoted(r);
    } else if (l.token == TOK_LIST_OPEN) {
        r->at += l.len;
        v = sequence(r, TOK_LIST_CLOSE);
    } else if (l.token == TOK_MAP_OPEN) {
        r->at += l.len;
        v = mapping(r);
    } else {
        v = primitive(r, false);
    }
    r->depth--;
    return v;
}

/* ---- ${...} ---- */

static struct node *resolver(struct interp_reader *r, const char *name)
{
    r->at++;
    r->at += lex_blanks(r->at);
    const struct node *args = sequence(r, TOK_MAP_CLOSE);
    return args ? interp_call(r->in, r->v, name, args) : NULL;
}

static struct node *interpolation(struct interp_reader *r)
{
    if (r->depth == NODE_MAX_DEPTH)
        return fail(r, "nested too deeply");
    r->depth++;
    r->at += 2;
    r->at += lex_blanks(r->at);
    struct aq_buf name = AQ_BUF_INIT;
    struct node *v = NULL;
    if (dotted(r, &name)) {
        if (*r->at == ':') {
            v = resolver(r, aq_buf_str(&name));
        } else if (*r->at == '}') {
            r->at++;
            v = interp_node_at(r->in, r->v, aq_buf_str(&name));
        } else {
            (void)fail(r, "expected '}'");
        }
    }
    aq_buf_release(&name);
    r->depth--;
    return v;
}

/* ---- entry points ---- */

struct node *interp_eval_text(struct interp *in, struct node *v, const char *text)
{
    struct interp_reader r = {.in = in, .v = v, .text = text, .at = text};
    return text_until(&r, 0);
}

struct node *interp_eval_element(struct interp *in, struct node *v, const char *text)
{
    struct interp_reader r = {.in = in, .v = v, .text = text, .at = text};
    struct node *result = element(&r);
    return result && *r.at ? fail(&r, "unexpected text") : result;
}
