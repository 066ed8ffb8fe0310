#include "io/node.h"
#include "base/fmt.h"
#include "base/hash.h"
#include "base/mem.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

/* ---- places ---- */

int place_class(struct place place)
{
    return place.file ? AQ_EINPUT : AQ_EUSAGE;
}

const char *place_text(struct aq_arena *a, struct place place)
{
    if (!place.file)
        return aq_arena_printf(a, "override %d", place.line);
    return aq_arena_printf(a, "%s:%d", aq_show(place.file), place.line);
}

/* ---- making ---- */

struct node *node_new(struct aq_arena *a, enum node_type type, struct place place)
{
    struct node *v = aq_arena_alloc(a, sizeof *v);
    v->type = type;
    v->place = place;
    return v;
}

struct node *node_bool(struct aq_arena *a, bool b, struct place place)
{
    struct node *v = node_new(a, NODE_BOOL, place);
    v->b = b;
    return v;
}

struct node *node_int(struct aq_arena *a, int64_t i, struct place place)
{
    struct node *v = node_new(a, NODE_INT, place);
    v->i = i;
    return v;
}

struct node *node_float(struct aq_arena *a, double f, struct place place)
{
    struct node *v = node_new(a, NODE_FLOAT, place);
    v->f = f;
    return v;
}

struct node *node_string(struct aq_arena *a, const char *s, struct place place)
{
    struct node *v = node_new(a, NODE_STRING, place);
    v->s = s;
    return v;
}

struct node *node_int_text(struct aq_arena *a, const char *digits, struct place place)
{
    struct node *v = node_new(a, NODE_INT, place);
    if (!aq_parse_i64(digits, &v->i))
        v->wide = digits;
    return v;
}

bool node_is_container(const struct node *v)
{
    return v->type == NODE_LIST || v->type == NODE_MAP;
}

struct node *node_copy(struct aq_arena *a, const struct node *v)
{
    struct node *copy = aq_arena_alloc(a, sizeof *copy);
    *copy = *v;
    copy->up = NULL;
    if (!node_is_container(v))
        return copy;
    copy->index = NULL;
    copy->cap = v->count;
    copy->items = v->count ? aq_arena_alloc(a, v->count * sizeof *copy->items) : NULL;
    for (size_t i = 0; i < v->count; i++) {
        copy->items[i].key = v->items[i].key;
        copy->items[i].value = node_copy(a, v->items[i].value);
        copy->items[i].value->up = copy;
    }
    return copy;
}

bool node_is_missing(const struct node *v)
{
    return v->type == NODE_STRING && strcmp(v->s, "???") == 0;
}

size_t node_depth(const struct node *v)
{
    size_t deepest = 0;
    if (!node_is_container(v))
        return 0;
    for (size_t i = 0; i < v->count; i++) {
        size_t d = node_depth(v->items[i].value);
        if (d > deepest)
            deepest = d;
    }
    return deepest + 1;
}

/* ---- comparing ---- */

double node_number(const struct node *v)
{
    return v->type == NODE_BOOL ? v->b : v->type == NODE_INT ? (double)v->i : v->f;
}

bool node_is_number(const struct node *v)
{
    return v->type == NODE_BOOL || v->type == NODE_INT || v->type == NODE_FLOAT;
}

static bool same_int(const struct node *a, const struct node *b)
{
    if (a->wide || b->wide)
        return a->wide && b->wide && strcmp(a->wide, b->wide) == 0;
    return a->i == b->i;
}

static bool equal_containers(const struct node *a, const struct node *b)
{
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++) {
        const struct node *other =
            a->type == NODE_MAP ? node_find(b, a->items[i].key) : b->items[i].value;
        if (!other || !node_equal(a->items[i].value, other))
            return false;
    }
    return true;
}

bool node_equal(const struct node *a, const struct node *b)
{
    if (a->type == NODE_INT && b->type == NODE_INT)
        return same_int(a, b);
    if (node_is_number(a) && node_is_number(b))
        return node_number(a) == node_number(b);
    if (a->type != b->type)
        return false;
    if (a->type == NODE_NULL)
        return true;
    if (a->type == NODE_STRING)
        return strcmp(a->s, b->s) == 0;
    return equal_containers(a, b);
}

/* Keys are equal only within one type. */
static bool same_key(const struct node *a, const struct node *b)
{
    if (a->type != b->type)
        return false;
    switch (a->type) {
    case NODE_STRING:
        return a->s == b->s || strcmp(a->s, b->s) == 0;
    case NODE_INT:
        return same_int(a, b);
    case NODE_FLOAT:
        return a->f == b->f;
    case NODE_BOOL:
        return a->b == b->b;
    default:
        return false;
    }
}

/* ---- maps: a hash table over the entries once there are many ---- */

enum { INDEX_FROM = 16 };

static uint64_t hash_key(const struct node *key)
{
    uint64_t h = AQ_HASH_START + (uint64_t)key->type;
    switch (key->type) {
    case NODE_STRING:
        return aq_hash(h, key->s, strlen(key->s));
    case NODE_INT:
        return key->wide ? aq_hash(h, key->wide, strlen(key->wide))
                         : aq_hash(h, &key->i, sizeof key->i);
    case NODE_FLOAT: /* the two zeros are one key */
        return key->f == 0 ? h : aq_hash(h, &key->f, sizeof key->f);
    default:
        return h + key->b;
    }
}

/* The table has twice the capacity of the item array, so it never fills. Slots hold index + 1. */
static uint32_t *slot_of(const struct node *map, const struct node *key)
{
    size_t mask = map->cap * 2 - 1;
    size_t at = hash_key(key) & mask;
    while (map->index[at] && !same_key(map->items[map->index[at] - 1].key, key))
        at = (at + 1) & mask;
    return &map->index[at];
}

static void build_index(struct aq_arena *a, struct node *map)
{
    map->index = aq_arena_alloc(a, map->cap * 2 * sizeof *map->index);
    for (size_t i = 0; i < map->count; i++)
        *slot_of(map, map->items[i].key) = (uint32_t)i + 1;
}

static struct node_entry *find_entry(const struct node *map, const struct node *key)
{
    if (map->index) {
        uint32_t at = *slot_of(map, key);
        return at ? &map->items[at - 1] : NULL;
    }
    for (size_t i = 0; i < map->count; i++)
        if (same_key(map->items[i].key, key))
            return &map->items[i];
    return NULL;
}

struct node *node_find(const struct node *map, const struct node *key)
{
    const struct node_entry *e = find_entry(map, key);
    return e ? e->value : NULL;
}

struct node *node_get(const struct node *map, const char *key)
{
    const struct node k = {.type = NODE_STRING, .s = key};
    return node_find(map, &k);
}

struct node *node_at(const struct node *root, ...)
{
    va_list ap;
    va_start(ap, root);
    const struct node *v = root;
    for (const char *key; v && (key = va_arg(ap, const char *)) != NULL;)
        v = v->type == NODE_MAP ? node_get(v, key) : NULL;
    va_end(ap);
    return (struct node *)v;
}

/* Capacities are powers of two: the index relies on it. */
static void append(struct aq_arena *a, struct node *v, const struct node *key, struct node *value)
{
    if (v->count == v->cap || (v->cap & (v->cap - 1))) {
        size_t cap = 4;
        while (cap <= v->count)
            cap *= 2;
        struct node_entry *items = aq_arena_alloc(a, cap * sizeof *items);
        if (v->count)
            memcpy(items, v->items, v->count * sizeof *items);
        v->items = items;
        v->cap = cap;
        v->index = NULL;
    }
    v->items[v->count].key = key;
    v->items[v->count].value = value;
    v->count++;
    if (key && v->count > INDEX_FROM) {
        if (v->index)
            *slot_of(v, key) = (uint32_t)v->count;
        else
            build_index(a, v);
    }
}

void node_put(struct aq_arena *a, struct node *map, const struct node *key, struct node *value)
{
    struct node_entry *e = find_entry(map, key);
    value->up = map;
    if (e)
        e->value = value;
    else
        append(a, map, key, value);
}

void node_put_text(struct aq_arena *a, struct node *map, const char *key, struct node *value)
{
    node_put(a, map, node_string(a, key, value->place), value);
}

bool node_drop(struct node *map, const struct node *key)
{
    struct node_entry *e = find_entry(map, key);
    if (!e)
        return false;
    size_t after = map->count - (size_t)(e - map->items) - 1;
    memmove(e, e + 1, after * sizeof *e);
    map->count--;
    map->index = NULL; /* rebuilt at the next growth; deletions are rare */
    return true;
}

void node_push(struct aq_arena *a, struct node *list, struct node *value)
{
    value->up = list;
    append(a, list, NULL, value);
}

/* ---- text ---- */

const char *node_type_name(const struct node *v)
{
    static const char *const names[] = {"null",     "a boolean", "an integer", "a number",
                                        "a string", "a list",    "a mapping"};
    return names[v->type];
}

static void print_float(struct aq_buf *out, double f)
{
    char text[AQ_FMT_MAX];
    if (isnan(f))
        aq_buf_adds(out, "nan");
    else if (isinf(f))
        aq_buf_adds(out, f < 0 ? "-inf" : "inf");
    else
        aq_buf_adds(out, aq_fmt_double(f, text));
}

/* Python's repr(): single quotes unless only those occur inside. */
static void print_quoted(struct aq_buf *out, const char *s)
{
    char quote = strchr(s, '\'') && !strchr(s, '"') ? '"' : '\'';
    aq_buf_addc(out, quote);
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == (unsigned char)quote || c == '\\')
            aq_buf_addf(out, "\\%c", c);
        else if (c == '\n' || c == '\t' || c == '\r')
            aq_buf_addf(out, "\\%c", c == '\n' ? 'n' : c == '\t' ? 't' : 'r');
        else if (c < 0x20 || c == 0x7f)
            aq_buf_addf(out, "\\x%02x", c);
        else
            aq_buf_addc(out, (char)c);
    }
    aq_buf_addc(out, quote);
}

static void print_inner(struct aq_buf *out, const struct node *v)
{
    if (v->type == NODE_STRING)
        print_quoted(out, v->s);
    else
        node_print(out, v);
}

static void print_container(struct aq_buf *out, const struct node *v)
{
    aq_buf_addc(out, v->type == NODE_MAP ? '{' : '[');
    for (size_t i = 0; i < v->count; i++) {
        if (i)
            aq_buf_adds(out, ", ");
        if (v->type == NODE_MAP) {
            print_inner(out, v->items[i].key);
            aq_buf_adds(out, ": ");
        }
        print_inner(out, v->items[i].value);
    }
    aq_buf_addc(out, v->type == NODE_MAP ? '}' : ']');
}

void node_print(struct aq_buf *out, const struct node *v)
{
    switch (v->type) {
    case NODE_NULL:
        aq_buf_adds(out, "None");
        break;
    case NODE_BOOL:
        aq_buf_adds(out, v->b ? "True" : "False");
        break;
    case NODE_INT:
        if (v->wide)
            aq_buf_adds(out, v->wide);
        else
            aq_buf_addf(out, "%" PRId64, v->i);
        break;
    case NODE_FLOAT:
        print_float(out, v->f);
        break;
    case NODE_STRING:
        aq_buf_adds(out, v->s);
        break;
    case NODE_LIST:
    case NODE_MAP:
        print_container(out, v);
        break;
    }
}

const char *node_path(struct aq_arena *a, const struct node *v)
{
    if (!v->up)
        return "";
    size_t i = 0;
    while (i < v->up->count && v->up->items[i].value != v)
        i++;
    const char *before = node_path(a, v->up);
    if (v->up->type == NODE_LIST)
        return aq_arena_printf(a, "%s[%zu]", before, i);
    if (i == v->up->count)
        return before;
    return aq_arena_printf(a, "%s%s%s", before, *before ? "." : "",
                           node_key_text(a, v->up->items[i].key));
}

const char *node_key_text(struct aq_arena *a, const struct node *key)
{
    if (key->type == NODE_STRING)
        return key->s;
    if (key->type == NODE_BOOL)
        return key->b ? "true" : "false";
    struct aq_buf text = AQ_BUF_INIT;
    node_print(&text, key);
    const char *copy = aq_arena_strdup(a, aq_buf_str(&text));
    aq_buf_release(&text);
    return copy;
}

/* ---- JSON ---- */

static struct json *to_json(struct aq_arena *scratch, const struct node *v, struct aq_err *err);

static struct json *map_to_json(struct aq_arena *scratch, const struct node *v, struct aq_err *err)
{
    struct json *object = json_new_object();
    bool typed = false;
    for (size_t i = 0; i < v->count; i++)
        typed |= v->items[i].key->type != NODE_STRING;
    for (size_t i = 0; i < v->count; i++) {
        const char *key = node_key_text(scratch, v->items[i].key);
        struct json *child = NULL;
        if (typed && json_get(object, key))
            aq_err_set(err, AQ_EINPUT, "two keys become '%s' in JSON", aq_show(key));
        else if (!(child = to_json(scratch, v->items[i].value, err)))
            aq_err_prefix(err, "%s", aq_show(key));
        if (!child) {
            json_free(object);
            return NULL;
        }
        json_add(object, key, child);
    }
    return object;
}

static struct json *list_to_json(struct aq_arena *scratch, const struct node *v, struct aq_err *err)
{
    struct json *array = json_new_array();
    for (size_t i = 0; i < v->count; i++) {
        struct json *child = to_json(scratch, v->items[i].value, err);
        if (!child) {
            aq_err_prefix(err, "[%zu]", i);
            json_free(array);
            return NULL;
        }
        json_push(array, child);
    }
    return array;
}

static struct json *to_json(struct aq_arena *scratch, const struct node *v, struct aq_err *err)
{
    switch (v->type) {
    case NODE_NULL:
        return json_new_null();
    case NODE_BOOL:
        return json_new_bool(v->b);
    case NODE_INT:
        return v->wide ? json_parse(v->wide, strlen(v->wide), "integer", err) : json_new_int(v->i);
    case NODE_FLOAT:
        if (!isfinite(v->f)) {
            aq_err_set(err, place_class(v->place), "%s cannot be written as JSON",
                       isnan(v->f) ? "NaN" : "infinity");
            return NULL;
        }
        return json_new_double(v->f);
    case NODE_STRING:
        return json_new_string(v->s);
    case NODE_LIST:
        return list_to_json(scratch, v, err);
    case NODE_MAP:
        return map_to_json(scratch, v, err);
    }
    return NULL;
}

struct json *node_to_json(const struct node *v, struct aq_err *err)
{
    struct aq_arena scratch = AQ_ARENA_INIT;
    struct json *j = to_json(&scratch, v, err);
    aq_arena_release(&scratch);
    return j;
}
