#include "report/cell.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

/* The name of the only candidate of the manifest; NULL if there are several. */
static const char *only_candidate(const struct manifest *m)
{
    const char *name = NULL;
    for (size_t i = 0; i < m->option_count; i++) {
        const struct manifest_option *o = &m->options[i];
        if (o->none || !o->name)
            continue;
        if (name && strcmp(name, o->name) != 0)
            return NULL;
        name = o->name;
    }
    return name;
}

/* The directory a path ends in: absolute paths of one machine do not belong in a table. */
static char *last_component(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    size_t from = n;
    while (from > 0 && path[from - 1] != '/')
        from--;
    return from == n ? xstrdup("") : xstrndup(path + from, n - from);
}

static char *pair_of_scheme(const char *scheme)
{
    static const char ending[] = "_autoquant_lm";
    if (!scheme)
        return xstrdup("");
    const char *at = strstr(scheme, ending);
    return at && at != scheme ? xstrndup(scheme, (size_t)(at - scheme)) : xstrdup(scheme);
}

void cell_init(struct cell *c, const struct manifest *m)
{
    const char *candidate = only_candidate(m), *slash = candidate ? strchr(candidate, '/') : NULL;
    const char *granularity =
        json_find_string(json_find(m->quantization, "quant_granularity"), "name");
    const char *size = json_find_string(m->dataset, "size");
    c->model = m->model_name ? xstrdup(m->model_name)
               : m->model_id ? last_component(m->model_id)
                             : xstrdup("");
    c->pair =
        slash ? xstrndup(candidate, (size_t)(slash - candidate)) : pair_of_scheme(m->scheme_name);
    c->granularity = xstrdup(granularity ? granularity : slash ? slash + 1 : "-");
    c->size = xstrdup(size ? size : "-");
}

const char *cell_show(const char *text)
{
    return *text ? text : "-";
}

void cell_release(struct cell *c)
{
    free(c->model);
    free(c->pair);
    free(c->granularity);
    free(c->size);
    *c = (struct cell){0};
}
