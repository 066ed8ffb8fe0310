/* A group of linears as scores and manifests describe it. */
#include "engine/engine.h"
#include "io/group_norm.h"

/* Does a norm give the input? */
static bool is_normed(const struct json *group, const char *kind)
{
    const struct json *norm = json_find(group, "norm");
    if (norm && json_type(norm) == JSON_BOOL)
        return json_bool(norm);
    return group_norm_usual(kind);
}

int engine_group_read(struct engine_group *g, const struct json *group, const char *where,
                      struct aq_err *err)
{
    struct jref at = jref_root(group, where), shapes;
    g->modules = 0;
    if (jref_string(&at, "kind", &g->kind, err) < 0 ||
        jref_get(&at, "shapes", JSON_ARRAY, &shapes, err) < 0)
        return -1;
    g->normed = is_normed(group, g->kind);
    for (const struct json *v = json_first(shapes.v); v && g->modules < ENGINE_MAX_MODULES;
         v = json_next(v)) {
        struct jref one = jref_child(&shapes, v, (size_t)g->modules);
        const struct json *rows = json_type(v) == JSON_ARRAY ? json_first(v) : NULL;
        const struct json *cols = rows ? json_next(rows) : NULL;
        if (!cols || !json_int(rows, &g->rows[g->modules]) || !json_int(cols, &g->cols[g->modules]))
            return jref_fail(&one, err, "expected rows and columns");
        g->modules++;
    }
    return g->modules ? 0 : jref_fail(&shapes, err, "expected at least one shape");
}
