#include "conf/def.h"

#include <string.h>

static const char *dotted(struct aq_arena *a, const char *group)
{
    char *s = aq_arena_strdup(a, group);
    for (char *p = s; *p; p++)
        if (*p == '/')
            *p = '.';
    return s;
}

static const char *below(struct aq_arena *a, const char *dir, const char *name)
{
    if (!*dir || !*name)
        return *dir ? dir : name;
    return aq_arena_printf(a, "%s/%s", dir, name);
}

/* "a/b" of "a/b/c", "" of "c" */
static const char *directory(struct aq_arena *a, const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? aq_arena_strndup(a, path, (size_t)(slash - path)) : "";
}

static const char *relative(const char *name)
{
    return name + (*name == '/');
}

/* The group as written, without the parent's directory. */
static const char *own_group(struct aq_arena *a, const struct def *d)
{
    return d->group ? relative(d->group) : directory(a, relative(d->path));
}

const char *def_group(struct aq_arena *a, const struct def *d)
{
    const char *written = d->group ? d->group : d->path;
    const char *own = own_group(a, d);
    return *written == '/' ? own : below(a, d->parent_dir, own);
}

const char *def_option(const struct def *d)
{
    if (!d->group) {
        const char *slash = strrchr(d->path, '/');
        return slash ? slash + 1 : d->path;
    }
    return d->value->type == NODE_STRING ? d->value->s : NULL;
}

const char *def_config(struct aq_arena *a, const struct def *d)
{
    if (d->group)
        return aq_arena_printf(a, "%s/%s", def_group(a, d), def_option(d));
    return *d->path == '/' ? d->path + 1 : below(a, d->parent_dir, d->path);
}

const char *def_package(struct aq_arena *a, const struct def *d, bool with_header)
{
    static const char global[] = "_global_";
    const char *own = d->package;
    if (!own && with_header)
        own = d->header;
    if (!own)
        own = dotted(a, own_group(a, d));
    const char *p = d->parent_package;
    const char *whole = !*p ? own : !*own ? p : aq_arena_printf(a, "%s.%s", p, own);
    const char *last = NULL;
    for (const char *at = whole; (at = strstr(at, global)) != NULL; at++)
        last = at;
    if (!last)
        return whole;
    last += strlen(global);
    return last + (*last == '.');
}

const char *def_key(struct aq_arena *a, const struct def *d)
{
    const char *group = def_group(a, d);
    const char *package = def_package(a, d, false);
    if (strcmp(dotted(a, group), package) == 0)
        return group;
    return aq_arena_printf(a, "%s@%s", group, *package ? package : "_global_");
}

void def_set_parent(struct aq_arena *a, struct def *d, const char *dir, const char *package)
{
    d->parent_dir = dir;
    d->parent_package = package;
    const char *at = d->package ? strstr(d->package, "_group_") : NULL;
    if (at)
        d->package = aq_arena_printf(a, "_global_.%.*s%s%s", (int)(at - d->package), d->package,
                                     dotted(a, def_group(a, d)), at + strlen("_group_"));
}

bool def_is_self(const struct def *d)
{
    return d->group ? def_option(d) && strcmp(def_option(d), "_self_") == 0
                    : strcmp(d->path, "_self_") == 0;
}

bool def_is_interpolated(const struct def *d)
{
    const char *name = d->group ? def_option(d) : d->path;
    return name && strstr(name, "${");
}
