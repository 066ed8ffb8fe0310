#include "conf/compose.h"
#include "base/fmt.h"
#include "base/mem.h"
#include "conf/hydra_node.h"
#include "conf/tree.h"

#include <stdlib.h>
#include <string.h>

/* ---- more directories to search: hydra.searchpath ---- */

static int fail_searchpath(const struct node *v, struct aq_err *err)
{
    return aq_err_set(err, place_class(v->place),
                      "hydra.searchpath must be a list of directories such as file://DIR");
}

static int add_searchpath(struct conf_search *s, const struct node *list, struct aq_err *err)
{
    if (list->type == NODE_NULL)
        return 0;
    if (list->type != NODE_LIST)
        return fail_searchpath(list, err);
    for (size_t i = 0; i < list->count; i++) {
        const struct node *v = list->items[i].value;
        if (v->type != NODE_STRING)
            return fail_searchpath(list, err);
        const char *dir = strncmp(v->s, "file://", 7) == 0 ? v->s + 7 : v->s;
        if (!aq_names_have(&s->dirs, dir) && conf_search_add(s, dir, err) < 0)
            return -1;
    }
    return 0;
}

/* From the command line, or else from the primary configuration. */
static int take_searchpath(const struct conf_job *job, struct aq_err *err)
{
    for (size_t i = 0; i < job->count; i++)
        if (strcmp(job->overrides[i].key, "hydra.searchpath") == 0 && job->overrides[i].value.node)
            return add_searchpath(job->search, job->overrides[i].value.node, err);
    const struct conf_file *f;
    if (conf_load(job->search, job->primary, &f, err) < 0)
        return -1;
    const struct node *list = f ? node_at(f->tree, "hydra", "searchpath", NULL) : NULL;
    return list ? add_searchpath(job->search, list, err) : 0;
}

/* ---- composing ---- */

static int merge_files(struct conf_result *r)
{
    for (size_t i = 0; i < r->plan.count; i++) {
        const struct conf_step *step = &r->plan.steps[i];
        if (tree_merge(&r->in, r->root, step->package, step->file->tree) < 0)
            return -1;
    }
    return 0;
}

static int check_hydra(const struct node *hydra, struct aq_err *err)
{
    if (hydra->type == NODE_MAP)
        return 0;
    return aq_err_set(err, place_class(hydra->place), "'hydra' must be a mapping, found %s",
                      node_type_name(hydra));
}

static int apply_overrides(const struct conf_job *job, struct conf_result *r, struct aq_err *err)
{
    for (size_t i = 0; i < r->plan.value_count; i++)
        if (tree_apply(&r->in, r->root, r->plan.values[i]) < 0)
            return -1;
    struct node *hydra = node_get(r->root, "hydra");
    if (!hydra)
        return 0; /* ~hydra */
    if (check_hydra(hydra, err) < 0)
        return -1;
    hydra_fill(r->a, hydra, r->plan.choices, job->overrides, job->count, job->number, job->primary);
    return 0;
}

int conf_compose(const struct conf_job *job, struct aq_arena *a, struct conf_result *out,
                 struct aq_err *err)
{
    *out = (struct conf_result){.a = a};
    if (take_searchpath(job, err) < 0 ||
        conf_make_plan(job->search, a, job->primary, job->overrides, job->count, &out->plan, err) <
            0)
        return -1;
    out->root = node_new(a, NODE_MAP, (struct place){0});
    node_put_text(a, out->root, "hydra", hydra_defaults(a));
    interp_init(&out->in, a, out->root, &job->now, err);
    if (merge_files(out) == 0 && check_hydra(node_get(out->root, "hydra"), err) == 0 &&
        apply_overrides(job, out, err) == 0)
        return 0;
    conf_result_release(out);
    return -1;
}

void conf_result_release(struct conf_result *r)
{
    conf_plan_release(&r->plan);
}

struct node *conf_resolve(struct conf_result *r)
{
    struct node *app = node_new(r->a, NODE_MAP, r->root->place);
    for (size_t i = 0; i < r->root->count; i++) {
        const struct node_entry *e = &r->root->items[i];
        if (e->key->type == NODE_STRING && strcmp(e->key->s, "hydra") == 0)
            continue;
        struct node *v = interp_deep(&r->in, e->value);
        if (!v)
            return NULL;
        node_put(r->a, app, e->key, v);
    }
    return app;
}

/* ---- one value ---- */

static struct node *fail_unknown(struct conf_result *r, const struct node *at, const char *part,
                                 const char *key, struct aq_err *err)
{
    struct aq_names names = {0};
    for (size_t i = 0; at->type == NODE_MAP && i < at->count; i++)
        aq_names_add(&names, node_key_text(r->a, at->items[i].key));
    aq_err_set(err, AQ_EUSAGE, "there is no key '%s'", aq_show(key));
    aq_names_hint(err, "keys here", part, &names);
    free(names.items);
    return NULL;
}

struct node *conf_at(struct conf_result *r, const char *key, struct aq_err *err)
{
    const char **parts;
    size_t n = interp_split_key(r->a, key, &parts);
    struct node *at = r->root;
    for (size_t i = 0; i < n; i++) {
        struct node *next = NULL;
        if (!(at = interp_value(&r->in, at)))
            return NULL;
        /* a key that is not a string (-1 in block_sizes) is found by its text */
        for (size_t k = 0; at->type == NODE_MAP && !next && k < at->count; k++)
            if (strcmp(node_key_text(r->a, at->items[k].key), parts[i]) == 0)
                next = at->items[k].value;
        int64_t index;
        if (at->type == NODE_LIST && aq_parse_i64(parts[i], &index) && index >= 0 &&
            (size_t)index < at->count)
            next = at->items[index].value;
        if (!next)
            return fail_unknown(r, at, parts[i], key, err);
        at = next;
    }
    return at;
}
