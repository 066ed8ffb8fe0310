#include "select/select_menu.h"
#include "base/mem.h"
#include "base/suggest.h"
#include "io/yaml.h"
#include "select/pattern.h"

#include <stdlib.h>
#include <string.h>

const char *const sel_rule_names[SEL_RULE_KINDS] = {"only", "never", "pin"};

/* ---- groups ---- */

static int matches_row(const struct pattern *p, const struct sel_row *row, struct aq_err *err)
{
    struct json *members = sel_members(row);
    int found = 0;
    for (const struct json *m = json_first(members); m && found == 0; m = json_next(m))
        found = pattern_match(p, json_string(m), err);
    json_free(members);
    return found;
}

static int no_group(const struct jref *at, const struct sel_table *t, struct aq_err *err)
{
    const char **names = xcalloc(t->count + 1, sizeof *names);
    for (size_t g = 0; g < t->count; g++)
        names[g] = t->rows[g].name;
    jref_fail(at, err, "'%s' matches no module", aq_show(json_string(at->v)));
    const char *near = aq_nearest(json_string(at->v), names, t->count);
    aq_err_hint(err, near ? "did you mean '%s'?" : "modules are named like '%s'",
                aq_show(near ? near : names[0]));
    free(names);
    return -1;
}

static int find_rows(struct sel_rule *rule, const struct jref *at, const struct sel_table *t,
                     struct aq_err *err)
{
    struct jref match;
    if (jref_get(at, "match", JSON_STRING, &match, err) < 0)
        return -1;
    rule->match = json_string(match.v);
    rule->rows = xcalloc(t->count + 1, sizeof *rule->rows);
    struct pattern *p = pattern_new(rule->match, err);
    if (!p)
        return aq_err_prefix(err, "%s", jref_show(&match));
    size_t found = 0;
    int r = 0;
    for (size_t g = 0; g < t->count && r >= 0; g++) {
        r = matches_row(p, &t->rows[g], err);
        rule->rows[g] = r == 1;
        found += r == 1;
    }
    pattern_free(p);
    if (r < 0)
        return aq_err_prefix(err, "%s", jref_show(&match));
    return found ? 0 : no_group(&match, t, err);
}

/* ---- candidates ---- */

static int add_candidate(struct sel_rule *rule, const struct jref *at, const struct sel_table *t,
                         struct aq_err *err)
{
    if (json_type(at->v) != JSON_STRING)
        return jref_fail(at, err, "expected the name of a candidate, found %s",
                         json_type_name(json_type(at->v)));
    const char *name = json_string(at->v);
    if (strcmp(name, "NONE") == 0) {
        rule->candidates[rule->count++] = SEL_NONE;
        return 0;
    }
    const char **names = xcalloc(t->candidate_count + 1, sizeof *names);
    size_t i = 0;
    for (; i < t->candidate_count; i++) {
        names[i] = t->candidates[i].name;
        if (strcmp(name, names[i]) == 0)
            break;
    }
    if (i < t->candidate_count) {
        rule->candidates[rule->count++] = (int)i;
    } else {
        struct aq_buf list = AQ_BUF_INIT;
        names[i] = "NONE";
        aq_join_names(&list, names, t->candidate_count + 1);
        jref_fail(at, err, "there is no candidate '%s'", aq_show(name));
        aq_err_hint(err, "candidates: %s", list.data);
        aq_buf_release(&list);
    }
    free(names);
    return i < t->candidate_count ? 0 : -1;
}

static int find_candidates(struct sel_rule *rule, const struct jref *value,
                           const struct sel_table *t, struct aq_err *err)
{
    bool list = json_type(value->v) == JSON_ARRAY;
    rule->candidates = xcalloc((list ? json_size(value->v) : 1) + 1, sizeof *rule->candidates);
    if (!list)
        return add_candidate(rule, value, t, err);
    size_t i = 0;
    for (const struct json *v = json_first(value->v); v; v = json_next(v), i++) {
        struct jref at = jref_child(value, v, i);
        if (add_candidate(rule, &at, t, err) < 0)
            return -1;
    }
    return i ? 0 : jref_fail(value, err, "the list is empty");
}

/* ---- rules ---- */

static int read_rule(struct sel_rule *rule, const struct jref *at, const struct sel_table *t,
                     struct aq_err *err)
{
    struct jref value = {0};
    size_t actions = 0;
    if (json_type(at->v) != JSON_OBJECT)
        return jref_fail(at, err, "expected a rule such as {match: ..., pin: ...}, found %s",
                         json_type_name(json_type(at->v)));
    for (const struct json *v = json_first(at->v); v; v = json_next(v)) {
        bool known = strcmp(json_key(v), "match") == 0;
        for (size_t k = 0; k < SEL_RULE_KINDS; k++) {
            if (strcmp(json_key(v), sel_rule_names[k]) != 0)
                continue;
            known = true;
            actions++;
            rule->kind = (enum sel_rule_kind)k;
            value = jref_child(at, v, 0);
        }
        if (!known) {
            struct jref key = jref_child(at, v, 0);
            return jref_fail(&key, err,
                             "unknown key; a rule has match and one of only, never, pin");
        }
    }
    if (actions != 1)
        return jref_fail(at, err, "expected exactly one of only, never, pin, found %zu", actions);
    if (rule->kind == SEL_PIN && json_type(value.v) != JSON_STRING)
        return jref_fail(&value, err, "a pin names one candidate, found %s",
                         json_type_name(json_type(value.v)));
    if (find_rows(rule, at, t, err) < 0)
        return -1;
    return find_candidates(rule, &value, t, err);
}

int sel_menu_read(struct sel_menu *m, const char *path, const struct sel_table *t,
                  struct aq_err *err)
{
    *m = (struct sel_menu){.path = xstrdup(path)};
    m->root = yaml_read(path, err);
    if (!m->root)
        return -1;
    struct jref root = jref_root(m->root, m->path);
    if (json_type(m->root) != JSON_ARRAY)
        return jref_fail(&root, err, "expected a list of rules, found %s",
                         json_type_name(json_type(m->root)));
    m->rules = xcalloc(json_size(m->root) + 1, sizeof *m->rules);
    for (const struct json *v = json_first(m->root); v; v = json_next(v)) {
        struct jref at = jref_child(&root, v, m->count);
        if (read_rule(&m->rules[m->count++], &at, t, err) < 0)
            return -1;
    }
    return 0;
}

void sel_menu_release(struct sel_menu *m)
{
    for (size_t i = 0; i < m->count; i++) {
        free(m->rules[i].candidates);
        free(m->rules[i].rows);
    }
    free(m->rules);
    free(m->path);
    json_free(m->root);
    *m = (struct sel_menu){0};
}

/* ---- acting ---- */

static bool rule_allows(const struct sel_rule *rule, int candidate)
{
    bool listed = false;
    for (size_t i = 0; i < rule->count; i++)
        listed = listed || rule->candidates[i] == candidate;
    return rule->kind == SEL_NEVER ? !listed : listed;
}

static int apply_rule(const struct sel_menu *m, size_t r, struct sel_table *t, struct aq_err *err)
{
    const struct sel_rule *rule = &m->rules[r];
    for (size_t g = 0; g < t->count; g++) {
        if (!rule->rows[g])
            continue;
        size_t left = 0;
        for (size_t i = 0; i < t->rows[g].count; i++) {
            struct sel_option *o = &t->rows[g].options[i];
            o->allowed = o->allowed && rule_allows(rule, o->candidate);
            left += o->allowed;
        }
        if (!left)
            return aq_err_set(err, AQ_EINPUT, "%s: [%zu]: '%s' leaves no format for '%s'",
                              aq_show(m->path), r, aq_show(rule->match), aq_show(t->rows[g].name));
    }
    return 0;
}

int sel_menu_apply(const struct sel_menu *m, struct sel_table *t, ptrdiff_t without,
                   struct aq_err *err)
{
    for (size_t g = 0; g < t->count; g++)
        for (size_t i = 0; i < t->rows[g].count; i++)
            t->rows[g].options[i].allowed = !t->rows[g].options[i].banned;
    for (size_t r = 0; r < m->count; r++)
        if ((ptrdiff_t)r != without && apply_rule(m, r, t, err) < 0)
            return -1;
    return 0;
}
