/* ${name:arguments}: environment, selection, decoding, keys of mappings, run-time values, time. */
#include "base/buf.h"
#include "base/mem.h"
#include "base/names.h"
#include "conf/interp_impl.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_TIME_TEXT = 256 };

struct resolver_call {
    struct interp *in;
    struct node *v;
    const char *name;
    const struct node *args;
};

static const struct node *arg(const struct resolver_call *c, size_t i)
{
    return i < c->args->count ? c->args->items[i].value : NULL;
}

/* The first argument, which must be a string. */
static const char *key_arg(const struct resolver_call *c)
{
    const struct node *key = arg(c, 0);
    if (key && key->type == NODE_STRING)
        return key->s;
    interp_fail(c->in, c->v, "%s: the first argument must be a string", c->name);
    return NULL;
}

static struct node *null_node(const struct resolver_call *c)
{
    return node_new(c->in->a, NODE_NULL, c->v->place);
}

static struct node *resolve_env(const struct resolver_call *c)
{
    const char *key = key_arg(c);
    if (!key)
        return NULL;
    const char *value = getenv(key);
    if (value)
        return node_string(c->in->a, aq_arena_strdup(c->in->a, value), c->v->place);
    const struct node *fallback = arg(c, 1);
    if (!fallback)
        return interp_fail(c->in, c->v, "environment variable '%s' not found", aq_show(key));
    if (fallback->type == NODE_NULL)
        return null_node(c);
    struct aq_buf text = AQ_BUF_INIT;
    node_print(&text, fallback);
    struct node *s =
        node_string(c->in->a, aq_arena_strdup(c->in->a, aq_buf_str(&text)), c->v->place);
    aq_buf_release(&text);
    return s;
}

static struct node *resolve_select(const struct resolver_call *c)
{
    const char *key = key_arg(c);
    struct node *found;
    int r = key ? interp_lookup(c->in, c->v, key, true, &found) : INTERP_ERROR;
    if (r == INTERP_ERROR)
        return NULL;
    if (r == INTERP_FOUND)
        return found;
    const struct node *fallback = arg(c, 1);
    return fallback ? node_copy(c->in->a, fallback) : null_node(c);
}

static struct node *resolve_decode(const struct resolver_call *c)
{
    const struct node *text = arg(c, 0);
    if (text && text->type == NODE_NULL)
        return null_node(c);
    const char *s = key_arg(c);
    return s ? interp_eval_element(c->in, c->v, s) : NULL;
}

/* The mapping that oc.dict.keys and oc.dict.values look at. */
static const struct node *dict_arg(const struct resolver_call *c)
{
    const char *key = key_arg(c);
    struct node *found;
    int r = key ? interp_lookup(c->in, c->v, key, false, &found) : INTERP_ERROR;
    if (r == INTERP_NOT_FOUND)
        return interp_fail(c->in, c->v, "%s: key '%s' not found", c->name, aq_show(key));
    if (r == INTERP_ERROR)
        return NULL;
    if (found->type != NODE_MAP)
        return interp_fail(c->in, c->v, "%s: '%s' is %s, expected a mapping", c->name, aq_show(key),
                           node_type_name(found));
    return found;
}

static struct node *resolve_keys(const struct resolver_call *c)
{
    const struct node *map = dict_arg(c);
    if (!map)
        return NULL;
    struct node *list = node_new(c->in->a, NODE_LIST, c->v->place);
    for (size_t i = 0; i < map->count; i++)
        node_push(c->in->a, list, node_copy(c->in->a, map->items[i].key));
    return list;
}

static struct node *resolve_values(const struct resolver_call *c)
{
    const struct node *map = dict_arg(c);
    if (!map)
        return NULL;
    struct node *list = node_new(c->in->a, NODE_LIST, c->v->place);
    for (size_t i = 0; i < map->count; i++) {
        struct node *value = interp_deep(c->in, map->items[i].value);
        if (!value)
            return NULL;
        node_push(c->in->a, list, value);
    }
    return list;
}

static struct node *resolve_hydra(const struct resolver_call *c)
{
    const char *key = key_arg(c);
    struct node *hydra = node_get(c->in->root, "hydra"), *found = NULL;
    int r = key && hydra ? interp_select(c->in, hydra, key, &found) : INTERP_ERROR;
    if (key && r == INTERP_NOT_FOUND)
        return interp_fail(c->in, c->v, "hydra: key '%s' not found", aq_show(key));
    return found;
}

/* The format is the user's: strftime reads nothing but its struct tm, whatever it says. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
static size_t format_time(char *out, size_t cap, const char *format, const struct tm *tm)
{
    return *format ? strftime(out, cap, format, tm) : 0;
}
#pragma GCC diagnostic pop

static struct node *resolve_now(const struct resolver_call *c)
{
    const char *format = key_arg(c);
    if (!format)
        return NULL;
    char text[MAX_TIME_TEXT];
    size_t n = format_time(text, sizeof text, format, &c->in->now);
    if (!n && *format)
        return interp_fail(c->in, c->v, "now: '%s' cannot be used as a time format",
                           aq_show(format));
    return node_string(c->in->a, aq_arena_strndup(c->in->a, text, n), c->v->place);
}

static const struct {
    const char *name;
    size_t min, max; /* arguments */
    struct node *(*resolve)(const struct resolver_call *c);
} resolvers[] = {
    {"oc.env", 1, 2, resolve_env},
    {"oc.select", 1, 2, resolve_select},
    {"oc.decode", 1, 1, resolve_decode},
    {"oc.dict.keys", 1, 1, resolve_keys},
    {"oc.dict.values", 1, 1, resolve_values},
    {"hydra", 1, 1, resolve_hydra},
    {"now", 1, 1, resolve_now},
};

struct node *interp_call(struct interp *in, struct node *v, const char *name,
                         const struct node *args)
{
    const struct resolver_call c = {in, v, name, args};
    for (size_t i = 0; i < AQ_COUNT(resolvers); i++) {
        if (strcmp(resolvers[i].name, name) != 0)
            continue;
        if (args->count < resolvers[i].min || args->count > resolvers[i].max)
            return interp_fail(in, v, "%s: wrong number of arguments (%zu)", name, args->count);
        /* cppcheck-suppress returnDanglingLifetime ; the node returned is of the arena */
        return resolvers[i].resolve(&c);
    }
    struct aq_names names = {0};
    for (size_t i = 0; i < AQ_COUNT(resolvers); i++)
        aq_names_add(&names, resolvers[i].name);
    interp_fail(in, v, "unsupported interpolation type '%s'", aq_show(name));
    aq_names_hint(in->err, "available", name, &names);
    free(names.items);
    return NULL;
}
