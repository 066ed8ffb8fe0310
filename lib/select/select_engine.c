#include "select/select_engine.h"

#include "base/mem.h"
#include "engine/engine.h"

#include <stdio.h>
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

int sel_engine_serves(const struct sel_engine *e, const struct sel_candidate *c,
                      const struct sel_row *row, struct sel_served *out, struct aq_err *err)
{
    struct engine_group g = {.arch = "",
                             .weight = json_find_string(c->facts, "w"),
                             .act = json_find_string(c->facts, "a")};
    struct engine_verdict v;
    if (!g.weight || !g.act)
        return aq_err_set(err, AQ_EINPUT,
                          "candidate '%s': nothing says what it does, so --engine cannot judge it",
                          aq_show(c->name));
    if (!row->model)
        return aq_err_set(err, AQ_EINPUT, "group '%s' has no shapes: scores of aq-score have them",
                          aq_show(row->name));
    if (engine_group_read(&g, row->model, row->name, err) < 0)
        return -1;
    engine_judge(e->engine, &e->target, engine_default_layout(e->engine), &g, &v);
    *out = (struct sel_served){.serves = v.verdict <= VERDICT_NEAR, .bits = v.scheme.storage_bits};
    if (!out->serves)
        (void)snprintf(out->why, sizeof out->why, "%s", v.reason);
    return 0;
}
