#include "io/yaml.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define TAG "tag:yaml.org,2002:"

/* A collection that is still open. */
struct open_collection {
    struct node *v;
    const struct node *key; /* of a map: waiting for its value */
    struct node *merges;    /* of a map: the values of its `<<` keys, or NULL */
    bool merging;           /* the waiting key is `<<` */
};

struct anchor {
    const char *name;
    struct node *v;
};

struct yaml_reader {
    struct aq_arena *a;
    const char *text, *name;
    size_t len;
    struct aq_err *err;
    yaml_parser_t parser;
    struct open_collection stack[NODE_MAX_DEPTH];
    size_t depth;
    struct anchor *anchors;
    size_t anchor_count, anchor_cap;
    size_t nodes, budget;
    struct node *root;
};

/* ---- errors ---- */

static const char *line_at(const struct yaml_reader *r, size_t line, size_t *len)
{
    const char *p = r->text, *end = r->text + r->len;
    while (line > 1) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        if (!nl)
            break;
        p = nl + 1;
        line--;
    }
    const char *nl = memchr(p, '\n', (size_t)(end - p));
    *len = (size_t)((nl ? nl : end) - p);
    if (*len && p[*len - 1] == '\r')
        --*len;
    return p;
}

/* line and column count from 1. The line itself is shown unless it is empty. */
static int fail_at(const struct yaml_reader *r, size_t line, size_t column, const char *text)
{
    size_t len;
    const char *shown = line_at(r, line, &len);
    if (len > 80)
        len = 80;
    return len ? aq_err_set(r->err, AQ_EINPUT, "%s:%zu:%zu: %s, in '%s'", aq_show(r->name), line,
                            column, text, aq_show_n(shown, len))
               : aq_err_set(r->err, AQ_EINPUT, "%s:%zu:%zu: %s", aq_show(r->name), line, column,
                            text);
}

static int fail(const struct yaml_reader *r, const yaml_event_t *ev, const char *text)
{
    return fail_at(r, ev->start_mark.line + 1, ev->start_mark.column + 1, text);
}

static int fail_offset(const struct yaml_reader *r, size_t offset, const char *text)
{
    size_t line = 1, start = 0;
    for (size_t i = 0; i < offset && i < r->len; i++)
        if (r->text[i] == '\n') {
            line++;
            start = i + 1;
        }
    return fail_at(r, line, offset - start + 1, text);
}

static int fail_parser(const struct yaml_reader *r)
{
    const yaml_parser_t *p = &r->parser;
    if (p->error == YAML_MEMORY_ERROR)
        return aq_err_set(r->err, AQ_ERUN, "out of memory while reading '%s'", aq_show(r->name));
    if (p->error == YAML_READER_ERROR)
        return fail_offset(r, p->problem_offset, p->problem);
    return fail_at(r, p->problem_mark.line + 1, p->problem_mark.column + 1, p->problem);
}

/* ---- scalars ---- */

static struct place place_of(const struct yaml_reader *r, const yaml_event_t *ev)
{
    return (struct place){r->name, (int)ev->start_mark.line + 1};
}

/* An explicit core tag; other tags build objects elsewhere and are refused here. */
static struct node *tagged_scalar(struct yaml_reader *r, const char *tag, const char *text,
                                  struct place place)
{
    if (strcmp(tag, TAG "str") == 0)
        return node_string(r->a, text, place);
    if (strcmp(tag, TAG "null") == 0)
        return node_new(r->a, NODE_NULL, place);
    struct node *v = yaml_resolve_plain(r->a, text, place);
    if (!v)
        return NULL;
    if (strcmp(tag, TAG "float") == 0 && v->type == NODE_INT && !v->wide)
        return node_float(r->a, (double)v->i, place);
    bool fits = (strcmp(tag, TAG "int") == 0 && v->type == NODE_INT) ||
                (strcmp(tag, TAG "float") == 0 && v->type == NODE_FLOAT) ||
                (strcmp(tag, TAG "bool") == 0 && v->type == NODE_BOOL);
    return fits ? v : NULL;
}

static bool is_core_tag(const char *tag)
{
    static const char *const known[] = {TAG "str", TAG "null", TAG "int", TAG "float", TAG "bool"};
    for (size_t i = 0; i < AQ_COUNT(known); i++)
        if (strcmp(tag, known[i]) == 0)
            return true;
    return false;
}

/* Is a key of a mapping next? */
static bool at_key(const struct yaml_reader *r)
{
    return r->depth && r->stack[r->depth - 1].v->type == NODE_MAP && !r->stack[r->depth - 1].key;
}

static struct node *scalar(struct yaml_reader *r, const yaml_event_t *ev)
{
    const char *value = (const char *)ev->data.scalar.value;
    const char *tag = (const char *)ev->data.scalar.tag;
    struct place place = place_of(r, ev);
    if (strlen(value) != ev->data.scalar.length) {
        fail(r, ev, "a string must not contain NUL");
        return NULL;
    }
    char *text = aq_arena_strndup(r->a, value, ev->data.scalar.length);
    bool plain = ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    struct node *v = NULL;
    if (tag && *tag && strcmp(tag, "!") != 0) {
        if (!is_core_tag(tag)) {
            fail(r, ev, "this tag is not supported");
            return NULL;
        }
        v = tagged_scalar(r, tag, text, place);
    } else if (plain && !tag && !at_key(r) && (strcmp(text, "=") == 0 || strcmp(text, "<<") == 0)) {
        fail(r, ev, "a plain '=' or '<<' has no meaning here, quote it");
        return NULL;
    } else {
        v = plain && !tag ? yaml_resolve_plain(r->a, text, place) : node_string(r->a, text, place);
    }
    if (!v)
        fail(r, ev, "this is not a number");
    return v;
}

/* ---- building ---- */

static int count_nodes(struct yaml_reader *r, const yaml_event_t *ev, size_t more)
{
    r->nodes += more;
    return r->nodes > r->budget ? fail(r, ev, "too many nodes after expanding aliases") : 0;
}

/* Sources of `<<`, in file order; of a list of mappings the first wins, so it is put last. */
static void put_merged(struct aq_arena *a, struct node *to, const struct node *from)
{
    if (from->type == NODE_LIST) {
        for (size_t i = from->count; i-- > 0;)
            put_merged(a, to, from->items[i].value);
        return;
    }
    for (size_t i = 0; i < from->count; i++)
        node_put(a, to, from->items[i].key, from->items[i].value);
}

static size_t count_tree(const struct node *v)
{
    size_t n = 1;
    if (node_is_container(v))
        for (size_t i = 0; i < v->count; i++)
            n += count_tree(v->items[i].value);
    return n;
}

static bool is_mergeable(const struct node *v)
{
    if (v->type != NODE_LIST)
        return v->type == NODE_MAP;
    for (size_t i = 0; i < v->count; i++)
        if (v->items[i].value->type != NODE_MAP)
            return false;
    return true;
}

/* The merged entries come first, and the map's own entries win over them. */
static int merge_level(struct yaml_reader *r, const yaml_event_t *ev, struct open_collection *l)
{
    struct node *all = node_new(r->a, NODE_MAP, l->v->place);
    for (size_t i = 0; i < l->merges->count; i++) {
        const struct node *from = l->merges->items[i].value;
        if (!is_mergeable(from))
            return fail(r, ev, "'<<' takes a mapping or a list of mappings");
        if (count_nodes(r, ev, count_tree(from)) < 0)
            return -1;
        put_merged(r->a, all, from);
    }
    put_merged(r->a, all, l->v);
    *l->v = *all;
    return 0;
}

static int take_key(struct yaml_reader *r, const yaml_event_t *ev, struct open_collection *l,
                    const struct node *key)
{
    if (node_is_container(key))
        return fail(r, ev, "a mapping key must be a plain value");
    if (key->type == NODE_NULL)
        return fail(r, ev, "a mapping key must not be null");
    bool plain = ev->type == YAML_SCALAR_EVENT &&
                 ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && !ev->data.scalar.tag;
    l->merging = plain && key->type == NODE_STRING && strcmp(key->s, "<<") == 0;
    const struct node *old = l->merging ? NULL : node_find(l->v, key);
    if (old) {
        struct aq_buf text = AQ_BUF_INIT;
        aq_buf_addf(&text, "duplicate key '%s', first set in line %d",
                    aq_show(node_key_text(r->a, key)), old->place.line);
        fail(r, ev, text.data);
        aq_buf_release(&text);
        return -1;
    }
    l->key = key;
    return 0;
}

/* A finished scalar, alias or collection that just opened goes to its place. */
static int attach(struct yaml_reader *r, const yaml_event_t *ev, struct node *v)
{
    if (count_nodes(r, ev, 1) < 0)
        return -1;
    if (r->depth == 0) {
        r->root = v;
        return 0;
    }
    struct open_collection *l = &r->stack[r->depth - 1];
    if (l->v->type == NODE_LIST) {
        node_push(r->a, l->v, v);
        return 0;
    }
    if (!l->key)
        return take_key(r, ev, l, v);
    if (l->merging) {
        if (!l->merges)
            l->merges = node_new(r->a, NODE_LIST, v->place);
        node_push(r->a, l->merges, v);
    } else {
        node_put(r->a, l->v, l->key, v);
    }
    l->key = NULL;
    return 0;
}

static int add_anchor(struct yaml_reader *r, const yaml_event_t *ev, const yaml_char_t *name,
                      struct node *v)
{
    if (!name)
        return 0;
    if (r->anchor_count == YAML_MAX_ANCHORS)
        return fail(r, ev, "too many anchors");
    AQ_GROW(r->anchors, r->anchor_count, r->anchor_cap);
    r->anchors[r->anchor_count++] = (struct anchor){aq_arena_strdup(r->a, (const char *)name), v};
    return 0;
}

static int on_alias(struct yaml_reader *r, const yaml_event_t *ev)
{
    const char *name = (const char *)ev->data.alias.anchor;
    /* a name may be given anew: the latest counts */
    for (size_t i = r->anchor_count; i-- > 0;) {
        const struct anchor *at = &r->anchors[i];
        if (strcmp(at->name, name) != 0)
            continue;
        for (size_t d = 0; d < r->depth; d++)
            if (r->stack[d].v == at->v)
                return fail(r, ev, "this alias contains itself");
        if (r->depth + node_depth(at->v) > NODE_MAX_DEPTH)
            return fail(r, ev, "nested too deeply (limit 128)");
        /* one of these nodes is counted by attach */
        if (count_nodes(r, ev, count_tree(at->v) - 1) < 0)
            return -1;
        return attach(r, ev, at->v);
    }
    return fail(r, ev, "undefined alias");
}

static int on_scalar(struct yaml_reader *r, const yaml_event_t *ev)
{
    struct node *v = scalar(r, ev);
    if (!v || add_anchor(r, ev, ev->data.scalar.anchor, v) < 0)
        return -1;
    return attach(r, ev, v);
}

static int on_open(struct yaml_reader *r, const yaml_event_t *ev, enum node_type type)
{
    bool map = type == NODE_MAP;
    const yaml_char_t *anchor =
        map ? ev->data.mapping_start.anchor : ev->data.sequence_start.anchor;
    const char *tag =
        (const char *)(map ? ev->data.mapping_start.tag : ev->data.sequence_start.tag);
    if (tag && *tag && strcmp(tag, "!") != 0 && strcmp(tag, map ? TAG "map" : TAG "seq") != 0)
        return fail(r, ev, "this tag is not supported");
    if (r->depth == NODE_MAX_DEPTH)
        return fail(r, ev, "nested too deeply (limit 128)");
    struct node *v = node_new(r->a, type, place_of(r, ev));
    if (add_anchor(r, ev, anchor, v) < 0 || attach(r, ev, v) < 0)
        return -1;
    r->stack[r->depth++] = (struct open_collection){.v = v};
    return 0;
}

static int on_close(struct yaml_reader *r, const yaml_event_t *ev)
{
    struct open_collection *l = &r->stack[--r->depth];
    return l->merges ? merge_level(r, ev, l) : 0;
}

static int on_event(struct yaml_reader *r, const yaml_event_t *ev)
{
    switch (ev->type) {
    case YAML_DOCUMENT_START_EVENT:
        return r->root ? fail(r, ev, "expected one document, found a second") : 0;
    case YAML_ALIAS_EVENT:
        return on_alias(r, ev);
    case YAML_SCALAR_EVENT:
        return on_scalar(r, ev);
    case YAML_SEQUENCE_START_EVENT:
        return on_open(r, ev, NODE_LIST);
    case YAML_MAPPING_START_EVENT:
        return on_open(r, ev, NODE_MAP);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        return on_close(r, ev);
    default:
        return 0;
    }
}

static int read_events(struct yaml_reader *r)
{
    for (bool more = true; more;) {
        yaml_event_t ev;
        if (!yaml_parser_parse(&r->parser, &ev))
            return fail_parser(r);
        int bad = on_event(r, &ev);
        more = ev.type != YAML_STREAM_END_EVENT;
        yaml_event_delete(&ev);
        if (bad < 0)
            return -1;
    }
    return 0;
}

/* ---- entry points ---- */

static int check_text(struct yaml_reader *r)
{
    if (r->len > YAML_MAX_BYTES)
        return aq_err_set(r->err, AQ_EINPUT, "'%s' is larger than the limit of %d bytes",
                          aq_show(r->name), (int)YAML_MAX_BYTES);
    size_t bad = aq_utf8_check(r->text, r->len);
    if (bad < r->len)
        return fail_offset(r, bad, "invalid UTF-8");
    if (r->len >= 3 && memcmp(r->text, "\xef\xbb\xbf", 3) == 0) {
        r->text += 3;
        r->len -= 3;
    }
    return 0;
}

struct node *yaml_parse_node(struct aq_arena *a, const char *text, size_t len, const char *name,
                             struct aq_err *err)
{
    struct yaml_reader r = {.a = a, .text = text, .len = len, .name = name, .err = err};
    if (check_text(&r) < 0)
        return NULL;
    r.budget = 1000 + r.len * YAML_MAX_EXPANSION;
    if (r.budget > YAML_MAX_NODES)
        r.budget = YAML_MAX_NODES;
    if (!yaml_parser_initialize(&r.parser)) {
        aq_err_set(err, AQ_ERUN, "out of memory while reading '%s'", aq_show(name));
        return NULL;
    }
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)r.text, r.len);
    int bad = read_events(&r);
    yaml_parser_delete(&r.parser);
    free(r.anchors);
    if (bad < 0)
        return NULL;
    /* An empty file, or only comments: no document at all. An explicit null counts as empty. */
    if (!r.root || r.root->type == NODE_NULL)
        return node_new(a, NODE_MAP, (struct place){name, 1});
    return r.root;
}

struct json *yaml_parse(const char *text, size_t len, const char *name, struct aq_err *err)
{
    struct aq_arena a = AQ_ARENA_INIT;
    struct node *v = yaml_parse_node(&a, text, len, name, err);
    struct json *j = v ? node_to_json(v, err) : NULL;
    if (v && !j)
        aq_err_prefix(err, "%s", aq_show(name));
    aq_arena_release(&a);
    return j;
}

struct json *yaml_read(const char *path, struct aq_err *err)
{
    struct aq_buf text = AQ_BUF_INIT;
    struct json *j = NULL;
    if (aq_read_file(path, YAML_MAX_BYTES, &text, err) == 0)
        j = yaml_parse(aq_buf_str(&text), text.len,
                       strcmp(path, "-") == 0 ? "standard input" : path, err);
    aq_buf_release(&text);
    return j;
}
