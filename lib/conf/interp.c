#include "conf/interp.h"
#include "base/fmt.h"
#include "conf/interp_impl.h"

#include <stdarg.h>
#include <string.h>

void interp_init(struct interp *in, struct aq_arena *a, struct node *root, const struct tm *now,
                 struct aq_err *err)
{
    *in = (struct interp){.a = a, .root = root, .now = *now, .err = err};
}

bool interp_is(const struct node *v)
{
    return v->type == NODE_STRING && strstr(v->s, "${");
}

struct node *interp_fail(struct interp *in, const struct node *v, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    aq_err_vset(in->err, place_class(v->place), fmt, ap);
    va_end(ap);
    return NULL;
}

/* ---- keys ---- */

/* Leading dots are the caller's; "a.b[c]" and "[a].b" alike. */
size_t interp_split_key(struct aq_arena *a, const char *key, const char ***parts)
{
    size_t n = 0;
    *parts = aq_arena_alloc(a, (strlen(key) + 1) * sizeof **parts);
    for (const char *p = key; *p;) {
        if (*p == '[') {
            size_t len = strcspn(p + 1, "]");
            (*parts)[n++] = aq_arena_strndup(a, p + 1, len);
            p += 1 + len;
            p += *p == ']';
        } else {
            size_t len = strcspn(p, ".[");
            (*parts)[n++] = aq_arena_strndup(a, p, len);
            p += len;
        }
        p += *p == '.';
    }
    return n;
}

/* One step down: the raw child or NULL. */
static int step(struct interp *in, struct node *v, struct node *c, const char *part,
                struct node **out)
{
    *out = NULL;
    if (c->type == NODE_MAP) {
        *out = node_get(c, part);
        return INTERP_FOUND;
    }
    int64_t i;
    if (!aq_parse_i64(part, &i)) {
        interp_fail(in, v, "'%s' is not an index of a list", aq_show(part));
        return INTERP_ERROR;
    }
    if (i >= 0 && (size_t)i < c->count)
        *out = c->items[i].value;
    return INTERP_FOUND;
}

static bool in_hydra(const struct interp *in, const struct node *v)
{
    const struct node *hydra = node_get(in->root, "hydra");
    for (; v; v = v->up)
        if (v == hydra)
            return true;
    return false;
}

static int descend(struct interp *in, struct node *v, struct node *from, const char *key,
                   bool asking, struct node **out)
{
    const char **parts;
    size_t n = interp_split_key(in->a, key, &parts);
    struct node *at = from;
    for (size_t i = 0; i < n; i++) {
        if (!node_is_container(at)) {
            if (asking)
                return INTERP_NOT_FOUND;
            interp_fail(in, v, "'%s' is %s and holds no '%s'", aq_show(parts[i - (i > 0)]),
                        node_type_name(at), aq_show(parts[i]));
            return INTERP_ERROR;
        }
        struct node *next;
        if (step(in, v, at, parts[i], &next) < 0)
            return INTERP_ERROR;
        at = next;
        if (!at || (asking && node_is_missing(at)))
            return INTERP_NOT_FOUND;
        if (node_is_missing(at)) {
            interp_fail(in, v, "'%s' is still ??? and needs a value",
                        aq_show(node_path(in->a, at)));
            return INTERP_ERROR;
        }
        at = interp_value(in, at);
        if (!at)
            return INTERP_ERROR;
    }
    *out = at;
    return INTERP_FOUND;
}

/* Dots in front count containers upwards, starting with the one that holds v. */
int interp_lookup(struct interp *in, struct node *v, const char *key, bool asking,
                  struct node **out)
{
    struct node *from = in->root;
    if (*key == '.') {
        from = v->up;
        for (key++; *key == '.' && from; key++)
            from = from->up;
    } else if (strncmp(key, "hydra", 5) == 0 && (!key[5] || strchr(".[", key[5])) &&
               !in_hydra(in, v)) {
        return INTERP_NOT_FOUND;
    }
    return from ? descend(in, v, from, key, asking, out) : INTERP_NOT_FOUND;
}

int interp_select(struct interp *in, struct node *from, const char *key, struct node **out)
{
    return descend(in, from, from, key, true, out);
}

struct node *interp_node_at(struct interp *in, struct node *v, const char *key)
{
    struct node *found;
    int r = interp_lookup(in, v, key, false, &found);
    if (r == INTERP_NOT_FOUND)
        return interp_fail(in, v, "interpolation key '%s' not found", aq_show(key));
    if (r < 0)
        return NULL;
    for (const struct node *up = v->up; up; up = up->up)
        if (up == found)
            return interp_fail(in, v, "'${%s}' names a mapping that contains it", aq_show(key));
    return found;
}

/* ---- values ---- */

static struct node *resolve(struct interp *in, struct node *v)
{
    for (int i = 0; i < in->depth; i++)
        if (in->active[i] == v)
            return interp_fail(in, v, "the interpolation leads back to itself");
    if (in->depth == INTERP_MAX_DEPTH)
        return interp_fail(in, v, "interpolations are nested too deeply (limit %d)",
                           (int)INTERP_MAX_DEPTH);
    if (++in->steps > INTERP_MAX_STEPS)
        return interp_fail(in, v, "too many interpolations (limit %d)", (int)INTERP_MAX_STEPS);
    in->active[in->depth++] = v;
    struct node *result = interp_eval_text(in, v, v->s);
    in->depth--;
    return result;
}

struct node *interp_value(struct interp *in, struct node *v)
{
    if (!interp_is(v))
        return v;
    struct node *result = resolve(in, v);
    if (!result) {
        /* the chain of keys from the outermost to the failure */
        const char *path = node_path(in->a, v);
        aq_err_prefix(in->err, "%s", *path ? aq_show(path) : aq_show(v->s));
    }
    return result;
}

static struct node *deep(struct interp *in, struct node *v, int depth)
{
    struct node *raw = interp_value(in, v);
    if (!raw)
        return NULL;
    if (node_is_missing(raw)) {
        const char *path = node_path(in->a, v);
        interp_fail(in, v, "'%s' is still ??? and needs a value", aq_show(path));
        aq_err_hint(in->err, "give it one: %s=VALUE", aq_show(path));
        return NULL;
    }
    if (!node_is_container(raw))
        return raw == v || raw->up ? node_copy(in->a, raw) : raw;
    if (depth > NODE_MAX_DEPTH)
        return interp_fail(in, v, "'%s' is nested too deeply (limit %d)",
                           aq_show(node_path(in->a, v)), (int)NODE_MAX_DEPTH);
    struct node *copy = node_new(in->a, raw->type, raw->place);
    for (size_t i = 0; i < raw->count; i++) {
        if (++in->steps > INTERP_MAX_STEPS)
            return interp_fail(in, v, "too many interpolations (limit %d)", (int)INTERP_MAX_STEPS);
        struct node *child = deep(in, raw->items[i].value, depth + 1);
        if (!child)
            return NULL;
        if (raw->type == NODE_MAP)
            node_put(in->a, copy, raw->items[i].key, child);
        else
            node_push(in->a, copy, child);
    }
    return copy;
}

struct node *interp_deep(struct interp *in, struct node *v)
{
    return deep(in, v, 0);
}
