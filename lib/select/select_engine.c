#include "select/select_engine.h"

#include "base/mem.h"
#include "engine/engine.h"

#include <stdlib.h>

struct sel_engine {
    struct engine *engine;
    struct engine_target target;
};

struct sel_engine *sel_engine_open(const char *conf_dir, const char *engine, struct aq_err *err)
{
    struct sel_engine *e = xcalloc(1, sizeof *e);
    if (engine_target_parse(engine, &e->target, err) == 0)
        e->engine = engine_load(conf_dir, e->target.name, err);
    if (!e->engine) {
        free(e);
        return NULL;
    }
    return e;
}

void sel_engine_close(struct sel_engine *e)
{
    if (!e)
        return;
    engine_free(e->engine);
    free(e);
}

static int read_shapes(const struct sel_row *row, struct engine_group *g, struct aq_err *err)
{
    struct jref at = jref_root(row->model, row->name), shapes;
    if (!row->model)
        return aq_err_set(err, AQ_EINPUT, "group '%s' has no shapes: scores of aq-score have them",
                          aq_show(row->name));
    if (jref_string(&at, "kind", &g->kind, err) < 0 ||
        jref_get(&at, "shapes", JSON_ARRAY, &shapes, err) < 0)
        return -1;
    g->normed = engine_group_normed(row->model);
    for (const struct json *v = json_first(shapes.v); v && g->modules < ENGINE_MAX_MODULES;
         v = json_next(v)) {
        struct jref one = jref_child(&shapes, v, (size_t)g->modules);
        const struct json *rows = json_type(v) == JSON_ARRAY ? json_first(v) : NULL;
        const struct json *cols = rows ? json_next(rows) : NULL;
        if (!cols || !json_int(rows, &g->rows[g->modules]) || !json_int(cols, &g->cols[g->modules]))
            return jref_fail(&one, err, "expected rows and columns");
        g->modules++;
    }
    return 0;
}

int sel_engine_serves(const struct sel_engine *e, const struct sel_candidate *c,
                      const struct sel_row *row, bool *serves, double *bits, struct aq_err *err)
{
    struct engine_group g = {.arch = "",
                             .weight = json_find_string(c->facts, "w"),
                             .act = json_find_string(c->facts, "a")};
    struct engine_verdict v;
    if (!g.weight || !g.act)
        return aq_err_set(err, AQ_EINPUT,
                          "candidate '%s': nothing says what it does, so --engine cannot judge it",
                          aq_show(c->name));
    if (read_shapes(row, &g, err) < 0)
        return -1;
    engine_judge(e->engine, &e->target, engine_default_layout(e->engine), &g, &v);
    *serves = v.verdict <= VERDICT_NEAR;
    *bits = v.scheme.storage_bits;
    return 0;
}
