#include "conf/defaults_item.h"

#include <string.h>

struct item_context {
    struct aq_arena *a;
    const struct conf_file *f;
    struct aq_err *err;
};

static int fail(const struct item_context *c, const struct node *at, const char *what)
{
    return aq_err_set(c->err, AQ_EINPUT, "%s:%d: %s", aq_show(c->f->file), at->place.line, what);
}

/* "group@package": the text before and after the @. */
static const char *split_package(struct aq_arena *a, const char *text, const char **package)
{
    const char *at = strchr(text, '@');
    *package = at ? aq_arena_strndup(a, at + 1, strcspn(at + 1, ":")) : NULL;
    if (*package && strcmp(*package, "_here_") == 0)
        *package = "";
    return at ? aq_arena_strndup(a, text, (size_t)(at - text)) : text;
}

/* "optional override /group": the words before the last are keywords. */
static const char *split_keywords(const char *text, struct conf_item *item)
{
    const char *last = strrchr(text, ' ');
    for (const char *p = text; last && p < last;) {
        size_t n = strcspn(p, " ");
        if (n == 8 && memcmp(p, "optional", n) == 0)
            item->optional = true;
        else if (n == 8 && memcmp(p, "override", n) == 0)
            item->override = true;
        else
            break;
        p += n + 1;
    }
    return last ? last + 1 : text;
}

static int check_value(const struct item_context *c, const struct node *v)
{
    if (v->type != NODE_NULL && v->type != NODE_STRING && v->type != NODE_LIST)
        return fail(c, v, "an option must be a string, a list of strings or null");
    for (size_t i = 0; v->type == NODE_LIST && i < v->count; i++)
        if (v->items[i].value->type != NODE_STRING)
            return fail(c, v, "the options in a list must be strings");
    return 0;
}

static int read_group(const struct item_context *c, const struct node *v, struct conf_item *item)
{
    if (v->count == 0)
        return fail(c, v, "a group name is missing in this item of the defaults list");
    if (v->count > 1)
        return fail(c, v, "too many keys in one item of the defaults list");
    const struct node *key = v->items[0].key;
    if (key->type != NODE_STRING)
        return fail(c, v, "a group name must be a string");
    const char *group = split_package(c->a, key->s, &item->package);
    item->group = split_keywords(group, item);
    item->value = v->items[0].value;
    if (!*item->group)
        return fail(c, v, "a group name is missing in this item of the defaults list");
    return check_value(c, item->value);
}

static int read_item(const struct item_context *c, const struct node *v, struct conf_item *item)
{
    item->line = v->place.line;
    if (v->type == NODE_MAP)
        return read_group(c, v, item);
    if (v->type != NODE_STRING)
        return fail(c, v, "an item of the defaults list must be a string or 'group: option'");
    item->path = split_package(c->a, v->s, &item->package);
    if (strcmp(item->path, "_self_") == 0 && item->package)
        return fail(c, v, "_self_ takes no package");
    return 0;
}

int conf_read_defaults(struct aq_arena *a, struct conf_file *f, struct aq_err *err)
{
    const struct item_context c = {a, f, err};
    const struct node key = {.type = NODE_STRING, .s = "defaults"};
    const struct node *list = node_find(f->tree, &key);
    if (!list)
        return 0;
    if (list->type != NODE_LIST)
        return aq_err_set(err, AQ_EINPUT, "%s:%d: the defaults list must be a list, found %s",
                          aq_show(f->file), list->place.line, node_type_name(list));
    f->default_count = list->count;
    f->defaults = aq_arena_alloc(a, (list->count + 1) * sizeof *f->defaults);
    for (size_t i = 0; i < list->count; i++)
        if (read_item(&c, list->items[i].value, &f->defaults[i]) < 0)
            return -1;
    (void)node_drop(f->tree, &key);
    return 0;
}
