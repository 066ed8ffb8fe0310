#include "report/cell_list.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

static int read_entry(struct cell_entry *e, const struct jref *at, struct aq_err *err)
{
    bool supported;
    if (jref_string(at, "pair", &e->pair, err) < 0 ||
        jref_string(at, "granularity", &e->granularity, err) < 0 ||
        jref_string(at, "size", &e->size, err) < 0 ||
        jref_bool(at, "supported", &supported, err) < 0)
        return -1;
    if (!supported)
        e->reason = "no reason given";
    if (!supported && jref_maybe_string(at, "reason", &e->reason, err) < 0)
        return -1;
    if (jref_maybe_string(at, "verdict", &e->verdict, err) < 0 ||
        jref_maybe_string(at, "verdict_reason", &e->verdict_reason, err) < 0)
        return -1;
    return jref_maybe_string(at, "dir", &e->dir, err);
}

int cell_list_read(struct cell_list *l, const char *path, struct aq_err *err)
{
    *l = (struct cell_list){.root = json_read(path, err)};
    if (!l->root)
        return -1;
    struct jref root = jref_root(l->root, path), list, engine;
    int status = jref_get(&root, "cells", JSON_ARRAY, &list, err);
    if (status == 0 && jref_has(&root, "engine", &engine))
        status = jref_is(&engine, JSON_OBJECT, err) < 0
                     ? -1
                     : jref_string(&engine, "name", &l->engine, err);
    if (status == 0) {
        l->items = xcalloc(json_size(list.v) + 1, sizeof *l->items);
        for (const struct json *v = json_first(list.v); v && status == 0; v = json_next(v)) {
            struct jref at = jref_child(&list, v, l->count);
            status = read_entry(&l->items[l->count++], &at, err);
        }
    }
    if (status < 0)
        cell_list_release(l);
    return status;
}

void cell_list_release(struct cell_list *l)
{
    free(l->items);
    json_free(l->root);
    *l = (struct cell_list){0};
}

/* Letters, digits and _ . + -, the first none of the last three. */
static bool is_option_name(const char *name)
{
    static const char all[] = ".+-abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
    return *name && strchr(all + 3, *name) && name[strspn(name, all)] == '\0';
}

char *cell_entry_link(const struct cell_entry *e)
{
    if (!is_option_name(e->pair) || !is_option_name(e->granularity) || !is_option_name(e->size))
        return NULL;
    return xasprintf("%s/%s/%s/report.html", e->pair, e->granularity, e->size);
}

const struct cell_entry *cell_list_find(const struct cell_list *l, const char *path)
{
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    for (size_t i = 0; i < l->count && slash; i++)
        if (l->items[i].dir && strlen(l->items[i].dir) == n &&
            strncmp(l->items[i].dir, path, n) == 0)
            return &l->items[i];
    return NULL;
}
