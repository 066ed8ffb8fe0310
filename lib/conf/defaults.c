#include "conf/defaults.h"
#include "base/buf.h"
#include "base/mem.h"
#include "base/suggest.h"
#include "conf/def.h"
#include "conf/interp.h"

#include <stdlib.h>
#include <string.h>

/* The tree of files that include files. A tree without children is a leaf: one file. */
struct tree {
    struct def def;
    struct tree *parent;
    struct tree *first, *last; /* children */
    struct tree *next, *prev;
    const struct conf_file *file;
};

/* A choice made by an override item or on the command line. */
struct pick {
    const char *key;
    const struct node *value;
    bool used;
    struct place place;
};

struct planner {
    struct conf_search *s;
    struct aq_arena *a;
    struct conf_plan *plan;
    struct aq_err *err;
    struct pick **picks, **deletions;
    size_t pick_count, pick_cap, deletion_count, deletion_cap;
    struct aq_strmap pick_by_key, deletion_by_key;
    const struct override **appends;
    size_t append_count, append_cap;
    size_t value_cap;
    struct node *choices;
};

/* ---- errors ---- */

static int fail(struct planner *p, struct place place, const char *text)
{
    aq_err_set(p->err, place_class(place), "%s", text);
    if (place.file)
        aq_err_prefix(p->err, "%s", place_text(p->a, place));
    return -1;
}

static void hint_group(struct planner *p, const char *group, const char *name)
{
    struct aq_names options = conf_options(p->s, group);
    if (options.count)
        aq_names_hint(p->err, aq_arena_printf(p->a, "options in '%s'", aq_show(group)), name,
                      &options);
    free(options.items);
}

static int fail_not_found(struct planner *p, const struct tree *t)
{
    const struct def *d = &t->def;
    const char *path = def_config(p->a, d);
    if (!t->parent) {
        aq_err_set(p->err, AQ_EUSAGE, "cannot find the primary configuration '%s'", aq_show(path));
        const char *slash = strrchr(path, '/');
        hint_group(p, slash ? aq_arena_strndup(p->a, path, (size_t)(slash - path)) : "",
                   slash ? slash + 1 : path);
        return -1;
    }
    fail(p, d->place,
         aq_arena_printf(p->a, "in '%s': could not find '%s'",
                         aq_show(def_config(p->a, &t->parent->def)), aq_show(path)));
    if (d->group)
        hint_group(p, def_group(p->a, d), def_option(d));
    return -1;
}

static int fail_must_specify(struct planner *p, const struct def *d)
{
    const char *key = def_key(p->a, d);
    fail(
        p, d->place,
        aq_arena_printf(p->a, "you must specify '%s', e.g. %s=OPTION", aq_show(key), aq_show(key)));
    hint_group(p, def_group(p->a, d), "");
    return -1;
}

static int fail_cycle(struct planner *p, const struct tree *t)
{
    struct aq_buf chain = AQ_BUF_INIT;
    const char *again = def_config(p->a, &t->def);
    const struct tree *from = t->parent;
    while (strcmp(def_config(p->a, &from->def), again) != 0)
        from = from->parent;
    /* from the first appearance down to the second */
    const struct tree *path[DEFAULTS_MAX_DEPTH + 1];
    size_t n = 0;
    for (const struct tree *at = t; at != from; at = at->parent)
        path[n++] = at;
    aq_buf_addf(&chain, "'%s'", aq_show(again));
    while (n-- > 0)
        aq_buf_addf(&chain, " -> '%s'", aq_show(def_config(p->a, &path[n]->def)));
    fail(p, t->def.place,
         aq_arena_printf(p->a, "the defaults lists include each other: %.600s", chain.data));
    aq_buf_release(&chain);
    return -1;
}

/* ---- what the command line chose ---- */

static void add_pick(struct planner *p, struct pick ***list, size_t *count, size_t *cap,
                     struct aq_strmap *by_key, struct pick pick)
{
    struct pick *old = aq_strmap_get(by_key, pick.key);
    if (old) {
        *old = pick;
        return;
    }
    struct pick *kept = aq_arena_alloc(p->a, sizeof *kept);
    *kept = pick;
    AQ_GROW(*list, *count, *cap);
    (*list)[(*count)++] = kept;
    aq_strmap_put(by_key, kept->key, kept);
}

static void choose(struct planner *p, struct pick pick)
{
    add_pick(p, &p->picks, &p->pick_count, &p->pick_cap, &p->pick_by_key, pick);
}

static bool names_options(const struct node *v)
{
    if (!v || v->type != NODE_LIST)
        return v && v->type == NODE_STRING;
    for (size_t i = 0; i < v->count; i++)
        if (v->items[i].value->type != NODE_STRING)
            return false;
    return true;
}

static int take_group(struct planner *p, const struct override *o)
{
    struct place place = {NULL, o->number};
    const struct node *v = o->value.node;
    const char *key = o->key;
    if (o->package)
        key = aq_arena_printf(p->a, "%s@%s", o->key, o->package);
    struct pick pick = {.key = key, .value = v, .place = place};
    if (o->kind == OVERRIDE_FORCE)
        return fail(
            p, place,
            aq_arena_printf(p->a, "force-add of a group is not supported: '%s'", aq_show(o->text)));
    if (o->kind == OVERRIDE_DELETE) {
        if (v && v->type != NODE_STRING && v->type != NODE_NULL)
            return fail(p, place, "the option of a group to delete must be a string");
        add_pick(p, &p->deletions, &p->deletion_count, &p->deletion_cap, &p->deletion_by_key, pick);
        return 0;
    }
    if (!names_options(v))
        return fail(p, place,
                    aq_arena_printf(p->a,
                                    "the option of group '%s' must be a string or a list of "
                                    "strings, found %s",
                                    aq_show(o->key), node_type_name(v)));
    if (o->kind == OVERRIDE_ADD) {
        AQ_GROW(p->appends, p->append_count, p->append_cap);
        p->appends[p->append_count++] = o;
    } else {
        choose(p, pick);
    }
    return 0;
}

static int take_overrides(struct planner *p, const struct override *overrides, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct override *o = &overrides[i];
        bool map = o->value.node && o->value.node->type == NODE_MAP;
        if (!map && conf_group_exists(p->s, o->key)) {
            if (take_group(p, o) < 0)
                return -1;
            continue;
        }
        AQ_GROW(p->plan->values, p->plan->value_count, p->value_cap);
        p->plan->values[p->plan->value_count++] = o;
    }
    return 0;
}

/* ---- the tree ---- */

static bool is_deleted(struct planner *p, struct def *d)
{
    struct pick *pick = d->group ? aq_strmap_get(&p->deletion_by_key, def_key(p->a, d)) : NULL;
    if (!pick)
        return false;
    bool any = !pick->value || pick->value->type == NODE_NULL;
    if (!any && !(def_option(d) && strcmp(def_option(d), pick->value->s) == 0))
        return false;
    pick->used = true;
    d->deleted = true;
    return true;
}

/* One choice per key: the same group twice in one package must agree. */
static int note_choice(struct planner *p, const struct def *d)
{
    if (!d->group)
        return 0;
    const char *key = def_key(p->a, d);
    const struct node *old = node_get(p->choices, key);
    const char *name = def_option(d);
    if (!old) {
        node_put_text(p->a, p->choices, key,
                      name ? node_string(p->a, name, d->place)
                           : node_new(p->a, NODE_NULL, d->place));
        return 0;
    }
    const char *before = old->type == NODE_STRING ? old->s : NULL;
    if (before == name || (before && name && strcmp(before, name) == 0))
        return 0;
    fail(p, d->place, aq_arena_printf(p->a, "multiple values for %s", aq_show(key)));
    return aq_err_hint(p->err, "to override a value use 'override %s: %s'", aq_show(key),
                       before ? aq_show(before) : "null");
}

/*
 * model=NAME: an item of the group model/ANY/arch at package `model` becomes model/NAME/arch with
 * the option NAME.default.
 */
static int choose_model(struct planner *p, struct def *d)
{
    struct pick *pick = aq_strmap_get(&p->pick_by_key, "model");
    const char *group = def_group(p->a, d);
    size_t n = strlen(group);
    if (!pick || pick->value->type != NODE_STRING || strncmp(group, "model/", 6) != 0 || n < 12 ||
        strcmp(group + n - 5, "/arch") != 0 || strcmp(def_package(p->a, d, false), "model") != 0)
        return 0;
    const char *name = pick->value->s;
    if (!conf_has_model(p->s, name)) {
        struct aq_names models = conf_models(p->s);
        fail(p, pick->place, aq_arena_printf(p->a, "unknown model '%s'", aq_show(name)));
        aq_names_hint(p->err, "models", name, &models);
        free(models.items);
        return -1;
    }
    pick->used = true;
    d->group = aq_arena_printf(p->a, "/model/%s/arch", name);
    d->value = node_string(p->a, aq_arena_printf(p->a, "%s.default", name), pick->place);
    d->place = pick->place;
    return 0;
}

static int apply_picks(struct planner *p, struct def *d)
{
    if (!d->group)
        return 0;
    struct pick *pick = aq_strmap_get(&p->pick_by_key, def_key(p->a, d));
    if (!pick)
        return choose_model(p, d);
    d->value = pick->value;
    d->place = pick->place;
    pick->used = true;
    return 0;
}

/* Items are taken from the last to the first, so each new child goes to the front. */
static struct tree *add_child(struct planner *p, struct tree *parent, const struct def *d)
{
    struct tree *t = aq_arena_alloc(p->a, sizeof *t);
    t->def = *d;
    t->parent = parent;
    t->next = parent->first;
    if (parent->first)
        parent->first->prev = t;
    else
        parent->last = t;
    parent->first = t;
    return t;
}

static int expand(struct planner *p, struct tree *t, bool interpolated, int depth);

/* The items as the file has them, with _self_ added where it is understood. */
static int list_items(struct planner *p, const struct tree *t, bool root, struct def **out,
                      size_t *count)
{
    const struct conf_file *f = t->file;
    size_t n = 0, appended = root ? p->append_count : 0;
    bool self = false, plain = false;
    struct def *list = aq_arena_alloc(p->a, (f->default_count + appended + 1) * sizeof *list);
    for (size_t i = 0; i < f->default_count; i++) {
        const struct conf_item *item = &f->defaults[i];
        list[n] = (struct def){.group = item->group,
                               .path = item->path,
                               .package = item->package,
                               .value = item->value,
                               .optional = item->optional,
                               .override = item->override,
                               .place = {f->file, item->line}};
        plain |= !item->override;
        if (def_is_self(&list[n]) && self)
            return fail(p, list[n].place,
                        aq_arena_printf(p->a, "duplicate _self_ defined in %s", aq_show(f->name)));
        self |= def_is_self(&list[n++]);
    }
    bool has_list = f->default_count || appended;
    if (has_list && ((!self && plain) || !f->default_count))
        list[n++] = (struct def){.path = "_self_", .place = {f->file, 1}};
    for (size_t i = 0; i < appended; i++) {
        const struct override *o = p->appends[i];
        /* from the root of the tree, wherever the primary configuration lives */
        list[n++] = (struct def){.group = aq_arena_printf(p->a, "/%s", o->key),
                                 .package = o->package,
                                 .value = o->value.node,
                                 .appended = true,
                                 .place = {NULL, o->number}};
    }
    *out = list;
    *count = n;
    return 0;
}

/* Override items come last; what they choose holds unless something outer has chosen before. */
static int take_override_items(struct planner *p, const struct tree *t, struct def *list,
                               size_t count, bool interpolated)
{
    const struct def *seen = NULL;
    for (size_t i = 0; i < count; i++) {
        struct def *d = &list[i];
        if (def_is_self(d))
            continue;
        def_set_parent(p->a, d, def_group(p->a, &t->def), def_package(p->a, &t->def, true));
        if (seen && !d->override && !d->appended)
            return fail(p, d->place,
                        aq_arena_printf(p->a,
                                        "overrides must be at the end of the defaults list: "
                                        "'override %s' comes before this item",
                                        aq_show(def_key(p->a, seen))));
        if (!d->group || !d->override)
            continue;
        seen = d;
        if (interpolated)
            return fail(p, d->place,
                        "override items are not allowed below an interpolated group choice");
        const char *key = def_key(p->a, d);
        if (!aq_strmap_has(&p->pick_by_key, key))
            choose(p, (struct pick){.key = key, .value = d->value, .place = d->place});
    }
    return 0;
}

static int add_options(struct planner *p, struct tree *t, const struct def *d, bool interpolated,
                       int depth)
{
    for (size_t i = d->value->count; i-- > 0;) {
        const char *name = d->value->items[i].value->s;
        if (strstr(name, "${"))
            return fail(p, d->place, "interpolations are not supported in a list of options");
        struct def one = {.path = aq_arena_printf(p->a, "%s/%s", d->group, name),
                          .package = d->package,
                          .optional = d->optional,
                          .place = d->place};
        def_set_parent(p->a, &one, d->parent_dir, d->parent_package);
        if (expand(p, add_child(p, t, &one), interpolated, depth + 1) < 0)
            return -1;
    }
    return 0;
}

static int add_item(struct planner *p, struct tree *t, struct def *d, bool interpolated, int depth)
{
    if (def_is_self(d)) {
        (void)add_child(p, t, d);
        return 0;
    }
    if (d->override)
        return 0;
    if (apply_picks(p, d) < 0)
        return -1;
    if (d->group && d->value->type == NODE_LIST)
        return add_options(p, t, d, interpolated, depth);
    struct tree *child = add_child(p, t, d);
    return def_is_interpolated(d) ? 0 : expand(p, child, interpolated, depth + 1);
}

/* `group: ${other}_x`: once everything else in this list is known. */
static int resolve_interpolated(struct planner *p, struct tree *t, struct tree *child, int depth)
{
    struct def *d = &child->def;
    struct node *root = node_copy(p->a, p->choices);
    const char *text = d->group ? def_option(d) : def_config(p->a, d);
    struct node *v = node_string(p->a, text, d->place);
    node_put_text(p->a, root, "_option_", v);
    struct interp in;
    interp_init(&in, p->a, root, &(struct tm){0}, p->err);
    const struct node *name = interp_value(&in, v);
    if (!name)
        return -1;
    if (name->type != NODE_STRING)
        return fail(p, d->place, "this interpolation does not give the name of an option");
    if (d->group)
        d->value = name;
    else
        d->path = name->s;
    def_set_parent(p->a, d, def_group(p->a, &t->def), def_package(p->a, &t->def, true));
    return expand(p, child, true, depth + 1);
}

/* From the last item to the first: inner choices must know the overrides that follow. */
static int expand_items(struct planner *p, struct tree *t, bool interpolated, int depth)
{
    struct def *list = NULL;
    size_t count = 0;
    if (list_items(p, t, depth == 0, &list, &count) < 0 ||
        take_override_items(p, t, list, count, interpolated) < 0)
        return -1;
    for (size_t i = count; i-- > 0;)
        if (add_item(p, t, &list[i], interpolated, depth) < 0)
            return -1;
    for (struct tree *child = t->last; child; child = child->prev)
        if (!def_is_self(&child->def) && def_is_interpolated(&child->def) &&
            resolve_interpolated(p, t, child, depth) < 0)
            return -1;
    return 0;
}

/* The file of an item; a bad name that was typed is a usage error, one in a file bad input. */
static int load(struct planner *p, struct tree *t)
{
    const char *path = def_config(p->a, &t->def);
    if (conf_load(p->s, path, &t->file, p->err) == 0)
        return 0;
    if (p->err->code == AQ_EUSAGE && t->def.place.file) {
        p->err->code = AQ_EINPUT;
        aq_err_prefix(p->err, "%s", place_text(p->a, t->def.place));
    }
    return -1;
}

static void set_header(struct planner *p, struct def *d, const char *package)
{
    static const char global[] = "_global_";
    if (!package)
        return;
    size_t n = strlen(global);
    bool absolute = strncmp(package, global, n) == 0 && (!package[n] || package[n] == '.');
    d->header = absolute ? package : aq_arena_printf(p->a, "%s.%s", global, package);
}

static int check_chain(struct planner *p, const struct tree *t, int depth)
{
    const char *path = def_config(p->a, &t->def);
    for (const struct tree *up = t->parent; up; up = up->parent)
        if (strcmp(def_config(p->a, &up->def), path) == 0)
            return fail_cycle(p, t);
    return depth < DEFAULTS_MAX_DEPTH
               ? 0
               : fail(p, t->def.place, "defaults lists are nested too deeply (limit 256)");
}

static int expand(struct planner *p, struct tree *t, bool interpolated, int depth)
{
    struct def *d = &t->def;
    const char *name = def_option(d);
    bool missing = name && strcmp(name, "???") == 0;
    if (name && !missing) {
        if (check_chain(p, t, depth) < 0 || load(p, t) < 0)
            return -1;
        if (t->file)
            set_header(p, d, t->file->package);
    }
    if (is_deleted(p, d))
        return 0;
    if (note_choice(p, d) < 0)
        return -1;
    if (!name)
        return 0;
    if (missing)
        return fail_must_specify(p, d);
    if (!t->file && d->optional) {
        d->deleted = true;
        return 0;
    }
    if (!t->file)
        return fail_not_found(p, t);
    return expand_items(p, t, interpolated, depth);
}

/* ---- the list ---- */

static void add_step(struct planner *p, const struct conf_file *file, const struct def *d)
{
    struct conf_plan *plan = p->plan;
    AQ_GROW(plan->steps, plan->count, plan->cap);
    plan->steps[plan->count++] = (struct conf_step){file, def_package(p->a, d, true)};
}

static int flatten(struct planner *p, const struct tree *t, struct aq_strmap *seen)
{
    for (const struct tree *child = t->first; child; child = child->next) {
        if (def_is_self(&child->def))
            add_step(p, t->file, &t->def);
        else if (flatten(p, child, seen) < 0)
            return -1;
    }
    const struct def *d = &t->def;
    if (t->first || d->deleted || !def_option(d))
        return 0;
    const char *key = d->group ? def_key(p->a, d) : NULL;
    if (key && aq_strmap_has(seen, key))
        return fail(p, d->place,
                    aq_arena_printf(p->a, "%s appears more than once in the final defaults list",
                                    aq_show(key)));
    if (key)
        aq_strmap_put(seen, key, p);
    add_step(p, t->file, d);
    return 0;
}

/* ---- leftovers ---- */

/* "Did you mean": keys of the same group in other packages. */
static int fail_unused(struct planner *p, const struct pick *pick)
{
    size_t n = strcspn(pick->key, "@");
    struct aq_names near = {0}, all = {0};
    for (size_t i = 0; i < p->choices->count; i++) {
        const char *key = p->choices->items[i].key->s;
        aq_names_add(&all, key);
        if (strncmp(key, pick->key, n) == 0 && (!key[n] || key[n] == '@'))
            aq_names_add(&near, key);
    }
    struct aq_buf list = AQ_BUF_INIT;
    aq_join_names(&list, near.items, near.count);
    fail(p, pick->place,
         aq_arena_printf(p->a, "could not override '%s': no match in the defaults list",
                         aq_show(pick->key)));
    if (near.count == 1)
        aq_err_hint(p->err, "did you mean to override %s?", list.data);
    else if (near.count > 1)
        aq_err_hint(p->err, "did you mean to override one of %s?", list.data);
    else
        aq_names_hint(p->err,
                      pick->place.file
                          ? "groups that can be overridden"
                          : aq_arena_printf(p->a,
                                            "to append to the defaults list use +%s=OPTION; "
                                            "groups that can be overridden",
                                            aq_show(pick->key)),
                      pick->key, &all);
    aq_buf_release(&list);
    free(near.items);
    free(all.items);
    return -1;
}

static int check_used(struct planner *p)
{
    for (size_t i = 0; i < p->pick_count; i++)
        if (!p->picks[i]->used)
            return fail_unused(p, p->picks[i]);
    for (size_t i = 0; i < p->deletion_count; i++) {
        const struct pick *d = p->deletions[i];
        bool named = d->value && d->value->type == NODE_STRING;
        if (!d->used)
            return fail(p, d->place,
                        aq_arena_printf(
                            p->a, "could not delete '%s%s%s': no match in the defaults list",
                            aq_show(d->key), named ? "=" : "", named ? aq_show(d->value->s) : ""));
    }
    return 0;
}

static int plan_all(struct planner *p, const char *primary, const struct override *overrides,
                    size_t count)
{
    struct tree root = {.def = {.path = primary, .parent_dir = "", .parent_package = ""}};
    struct aq_strmap seen = AQ_STRMAP_INIT;
    if (take_overrides(p, overrides, count) < 0 || expand(p, &root, false, 0) < 0)
        return -1;
    int r = flatten(p, &root, &seen);
    aq_strmap_release(&seen);
    return r < 0 ? -1 : check_used(p);
}

int conf_make_plan(struct conf_search *s, struct aq_arena *a, const char *primary,
                   const struct override *overrides, size_t count, struct conf_plan *plan,
                   struct aq_err *err)
{
    *plan = (struct conf_plan){0};
    struct planner p = {.s = s, .a = a, .plan = plan, .err = err};
    p.choices = node_new(a, NODE_MAP, (struct place){0});
    plan->choices = p.choices;
    int r = plan_all(&p, primary, overrides, count);
    free(p.picks);
    free(p.deletions);
    free(p.appends);
    aq_strmap_release(&p.pick_by_key);
    aq_strmap_release(&p.deletion_by_key);
    if (r < 0)
        conf_plan_release(plan);
    return r;
}

void conf_plan_release(struct conf_plan *p)
{
    free(p->steps);
    free(p->values);
    *p = (struct conf_plan){0};
}
