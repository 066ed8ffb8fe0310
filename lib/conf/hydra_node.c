#include "conf/hydra_node.h"
#include "base/buf.h"
#include "base/mem.h"
#include "base/names.h"
#include "conf/override.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct place builtin = {"(built in)", 1};

static struct node *map_in(struct aq_arena *a, struct node *map, const char *key)
{
    struct node *v = node_new(a, NODE_MAP, builtin);
    node_put_text(a, map, key, v);
    return v;
}

static void put_string(struct aq_arena *a, struct node *map, const char *key, const char *s)
{
    node_put_text(a, map, key, node_string(a, s, builtin));
}

static struct node *list_in(struct aq_arena *a, struct node *map, const char *key)
{
    struct node *v = node_new(a, NODE_LIST, builtin);
    node_put_text(a, map, key, v);
    return v;
}

struct node *hydra_defaults(struct aq_arena *a)
{
    struct node *hydra = node_new(a, NODE_MAP, builtin);
    put_string(a, map_in(a, hydra, "run"), "dir", "outputs/${now:%Y-%m-%d}/${now:%H-%M-%S}");
    struct node *sweep = map_in(a, hydra, "sweep");
    put_string(a, sweep, "dir", "multirun/${now:%Y-%m-%d}/${now:%H-%M-%S}");
    put_string(a, sweep, "subdir", "${hydra.job.num}");
    list_in(a, hydra, "searchpath");
    put_string(a, hydra, "output_subdir", ".hydra");
    node_put_text(a, hydra, "verbose", node_bool(a, false, builtin));
    struct node *job = map_in(a, hydra, "job");
    put_string(a, job, "name", "aq");
    node_put_text(a, job, "chdir", node_new(a, NODE_NULL, builtin));
    put_string(a, job, "override_dirname", "???");
    put_string(a, job, "num", "???");
    put_string(a, job, "config_name", "???");
    struct node *overrides = map_in(a, hydra, "overrides");
    list_in(a, overrides, "hydra");
    list_in(a, overrides, "task");
    struct node *runtime = map_in(a, hydra, "runtime");
    put_string(a, runtime, "cwd", "???");
    put_string(a, runtime, "output_dir", "???");
    map_in(a, runtime, "choices");
    return hydra;
}

/* The application's overrides as typed, sorted, with commas between them. */
static const char *override_dirname(struct aq_arena *a, const struct override *overrides,
                                    size_t count)
{
    struct aq_names texts = {0};
    for (size_t i = 0; i < count; i++)
        if (!override_of_hydra(&overrides[i]))
            aq_names_add(&texts, overrides[i].text);
    aq_names_order(&texts);
    struct aq_buf name = AQ_BUF_INIT;
    for (size_t i = 0; i < texts.count; i++)
        aq_buf_addf(&name, "%s%s", i ? "," : "", texts.items[i]);
    const char *kept = aq_arena_strdup(a, aq_buf_str(&name));
    aq_buf_release(&name);
    free(texts.items);
    return kept;
}

void hydra_fill(struct aq_arena *a, struct node *hydra, const struct node *choices,
                const struct override *overrides, size_t count, int number, const char *primary)
{
    struct node *job = node_get(hydra, "job"), *runtime = node_get(hydra, "runtime");
    struct node *typed = node_get(hydra, "overrides");
    for (size_t i = 0; typed && typed->type == NODE_MAP && i < count; i++) {
        struct node *list = node_get(typed, override_of_hydra(&overrides[i]) ? "hydra" : "task");
        if (list && list->type == NODE_LIST)
            node_push(a, list, node_string(a, overrides[i].text, builtin));
    }
    if (job && job->type == NODE_MAP) {
        put_string(a, job, "override_dirname", override_dirname(a, overrides, count));
        node_put_text(a, job, "num", node_int(a, number, builtin));
        put_string(a, job, "config_name", primary);
    }
    if (runtime && runtime->type == NODE_MAP) {
        char *cwd = getcwd(NULL, 0);
        put_string(a, runtime, "cwd", aq_arena_strdup(a, cwd ? cwd : "."));
        free(cwd);
        node_put_text(a, runtime, "choices", node_copy(a, choices));
    }
}
