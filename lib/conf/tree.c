#include "conf/tree.h"
#include "base/buf.h"
#include "base/fmt.h"
#include "base/mem.h"
#include "base/suggest.h"

#include <stdlib.h>
#include <string.h>

/* ---- merging ---- */

static int fail_kinds(struct interp *in, const struct node *dest, const struct node *src)
{
    return aq_err_set(
        in->err, place_class(src->place), "%s: cannot merge %s into '%s', which is %s (%s)",
        place_text(in->a, src->place), node_type_name(src), aq_show(node_path(in->a, dest)),
        node_type_name(dest), place_text(in->a, dest->place));
}

/* An interpolation that names a mapping becomes a copy of it before something is merged in. */
static struct node *open_interpolation(struct interp *in, struct node *dest, const struct node *key,
                                       struct node *v)
{
    if (!interp_is(v))
        return v;
    struct aq_err quiet, *err = in->err;
    in->err = &quiet;
    const struct node *target = interp_value(in, v);
    in->err = err;
    if (!target || !node_is_container(target))
        return v;
    struct node *copy = node_copy(in->a, target);
    node_put(in->a, dest, key, copy);
    return copy;
}

static int merge(struct interp *in, struct node *dest, const struct node *src);

static int merge_entry(struct interp *in, struct node *dest, const struct node *key,
                       const struct node *src)
{
    struct node *old = node_find(dest, key);
    if (old && node_is_missing(src))
        return 0;
    if (old && node_is_container(src))
        old = open_interpolation(in, dest, key, old);
    if (!old || !node_is_container(old) || !node_is_container(src)) {
        node_put(in->a, dest, key, node_copy(in->a, src));
        return 0;
    }
    if (old->type != src->type)
        return fail_kinds(in, old, src);
    if (old->type == NODE_LIST) {
        node_put(in->a, dest, key, node_copy(in->a, src));
        return 0;
    }
    return merge(in, old, src);
}

static int merge(struct interp *in, struct node *dest, const struct node *src)
{
    for (size_t i = 0; i < src->count; i++)
        if (merge_entry(in, dest, src->items[i].key, src->items[i].value) < 0)
            return -1;
    return 0;
}

int tree_merge(struct interp *in, struct node *root, const char *package, const struct node *src)
{
    const char **parts;
    size_t n = interp_split_key(in->a, package, &parts);
    struct node *at = root;
    for (size_t i = 0; i < n; i++) {
        const struct node *key = node_string(in->a, parts[i], src->place);
        struct node *next = node_find(at, key);
        if (next)
            next = open_interpolation(in, at, key, next);
        if (next && next->type == NODE_LIST)
            return fail_kinds(in, next, src);
        if (!next || next->type != NODE_MAP) {
            next = node_new(in->a, NODE_MAP, src->place);
            node_put(in->a, at, key, next);
        }
        at = next;
    }
    return merge(in, at, src);
}

/* ---- overrides of values ---- */

struct change {
    struct interp *in;
    const struct override *o;
    const char **parts;
    size_t count;
};

static int fail(const struct change *c, const char *what)
{
    return aq_err_set(c->in->err, AQ_EUSAGE, "override '%s': %s", aq_show(c->o->text), what);
}

/* Unknown key: what there is, and how to add one. */
static int fail_unknown(const struct change *c, const struct node *map, const char *part)
{
    const char *names[64];
    size_t n = 0;
    bool missing_group = strchr(c->o->key, '/') != NULL;
    aq_err_set(c->in->err, AQ_EUSAGE,
               missing_group ? "could not override '%s': there is no such group"
                             : "could not override '%s': there is no such key",
               aq_show(c->o->key));
    if (map->type != NODE_MAP)
        return -1;
    for (size_t i = 0; i < map->count && n < AQ_COUNT(names); i++)
        names[n++] = node_key_text(c->in->a, map->items[i].key);
    struct aq_buf hint = AQ_BUF_INIT;
    const char *near = aq_nearest(part, names, n);
    if (near)
        aq_buf_addf(&hint, "did you mean %s? ", aq_show(near));
    aq_buf_addf(&hint, "to append to the configuration use +%s; keys here: ",
                aq_show(c->o->text + (*c->o->text == '~')));
    aq_join_names(&hint, names, n);
    aq_err_hint(c->in->err, "%s", hint.data);
    aq_buf_release(&hint);
    return -1;
}

/* An index that exists, or an error. */
static int list_index(const struct change *c, const struct node *list, const char *part,
                      size_t *out)
{
    int64_t i;
    if (!aq_parse_i64(part, &i))
        return fail(c, "the key of a list element must be its index");
    if (i < 0 || (uint64_t)i >= list->count)
        return fail(c, "list index out of range");
    *out = (size_t)i;
    return 0;
}

/* Sets one key or element of a container; a closed mapping takes no new keys. */
static int put(const struct change *c, struct node *in, const char *part, struct node *value,
               bool may_add)
{
    size_t i = 0;
    if (in->type == NODE_LIST) {
        if (list_index(c, in, part, &i) < 0)
            return -1;
        value->up = in;
        in->items[i].value = value;
        return 0;
    }
    if (!may_add && !node_get(in, part))
        return fail_unknown(c, in, part);
    node_put_text(c->in->a, in, part, value);
    return 0;
}

static struct node *child(const struct node *in, const char *part)
{
    int64_t i;
    if (in->type == NODE_MAP)
        return node_get(in, part);
    if (!aq_parse_i64(part, &i) || i < 0 || (uint64_t)i >= in->count)
        return NULL;
    return in->items[i].value;
}

/* A mapping typed for a mapping that is there: its keys must exist unless it is added with +. */
static int merge_typed(const struct change *c, struct node *old, const struct node *v, bool may_add)
{
    if (old->type != v->type)
        return fail_kinds(c->in, old, v);
    if (old->type == NODE_LIST) {
        struct node *copy = node_copy(c->in->a, v), *up = old->up;
        *old = *copy;
        old->up = up;
        for (size_t i = 0; i < old->count; i++)
            old->items[i].value->up = old;
        return 0;
    }
    for (size_t i = 0; i < v->count; i++) {
        const struct node *key = v->items[i].key, *src = v->items[i].value;
        struct node *there = node_find(old, key);
        if (!there && !may_add)
            return fail_unknown(c, old, node_key_text(c->in->a, key));
        int r = there && there->type == NODE_MAP && src->type == NODE_MAP
                    ? merge_typed(c, there, src, may_add)
                    : merge_entry(c->in, old, key, src);
        if (r < 0)
            return -1;
    }
    return 0;
}

static int set_value(const struct change *c, struct node *root, const struct node *v, bool may_add)
{
    struct node *at = root;
    for (size_t i = 0; i + 1 < c->count; i++) {
        struct node *next = child(at, c->parts[i]);
        if (!next || !node_is_container(next)) {
            /* a plain value in the way is replaced by a mapping */
            next = node_new(c->in->a, NODE_MAP, v->place);
            if (put(c, at, c->parts[i], next, may_add) < 0)
                return -1;
        }
        at = next;
    }
    const char *last = c->parts[c->count - 1];
    struct node *old = child(at, last);
    if (old && node_is_container(old) && node_is_container(v))
        return merge_typed(c, old, v, may_add);
    return put(c, at, last, node_copy(c->in->a, v), may_add);
}

static int add_value(const struct change *c, struct node *root, const struct node *v)
{
    struct node *old = NULL;
    int found = interp_select(c->in, root, c->o->key, &old);
    if (found < 0)
        return aq_err_prefix(c->in->err, "override '%s'", aq_show(c->o->text));
    if (found && old->type != NODE_NULL && !node_is_container(v)) {
        aq_err_set(c->in->err, AQ_EUSAGE, "could not append to '%s': an item is already there",
                   aq_show(c->o->key));
        return aq_err_hint(c->in->err,
                           "either remove the + prefix: '%s', or add a second + to add or "
                           "override: '+%s'",
                           aq_show(c->o->text + 1), aq_show(c->o->text));
    }
    return set_value(c, root, v, true);
}

static int delete_value(const struct change *c, struct node *root)
{
    const struct node *wanted = c->o->value.node;
    struct node *old = NULL;
    int found = interp_select(c->in, root, c->o->key, &old);
    if (found < 0)
        return aq_err_prefix(c->in->err, "override '%s'", aq_show(c->o->text));
    if (!found || old->type == NODE_NULL)
        return aq_err_set(c->in->err, AQ_EUSAGE, "could not delete '%s': it does not exist",
                          aq_show(c->o->key));
    if (wanted && wanted->type != NODE_NULL && !node_equal(wanted, old)) {
        struct aq_buf text = AQ_BUF_INIT;
        node_print(&text, old);
        aq_buf_adds(&text, " and not ");
        aq_err_set(c->in->err, AQ_EUSAGE, "could not delete '%s': its value is %s%s",
                   aq_show(c->o->key), aq_show(aq_buf_str(&text)),
                   aq_show(strchr(c->o->text, '=') + 1));
        aq_buf_release(&text);
        return -1;
    }
    struct node *in = root;
    for (size_t i = 0; in && i + 1 < c->count; i++) {
        in = child(in, c->parts[i]);
        in = in ? interp_value(c->in, in) : NULL;
    }
    const struct node key = {.type = NODE_STRING, .s = c->parts[c->count - 1]};
    if (!in || in->type != NODE_MAP || !node_drop(in, &key))
        return fail(c, "an element of a list cannot be deleted");
    return 0;
}

int tree_apply(struct interp *in, struct node *root, const struct override *o)
{
    struct change c = {.in = in, .o = o};
    c.count = interp_split_key(in->a, o->key, &c.parts);
    if (o->package)
        return aq_err_set(in->err, AQ_EUSAGE,
                          "override '%s' looks like a group choice, but there is no group '%s'",
                          aq_show(o->text), aq_show(o->key));
    if (c.count + (o->value.node ? node_depth(o->value.node) : 0) > NODE_MAX_DEPTH)
        return fail(&c, "nested too deeply (limit 128)");
    if (o->kind == OVERRIDE_DELETE)
        return delete_value(&c, root);
    if (!o->value.node)
        return fail(&c, "a value is missing");
    if (o->kind == OVERRIDE_ADD)
        return add_value(&c, root, o->value.node);
    return set_value(&c, root, o->value.node, o->kind == OVERRIDE_FORCE);
}
