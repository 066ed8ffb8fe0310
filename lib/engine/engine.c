#include "engine/engine.h"

#include "base/file.h"
#include "base/fmt.h"
#include "base/mem.h"
#include "base/names.h"
#include "io/yaml.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const verdict_names[VERDICTS + 1] = {"exact", "near", "other", "wrong", "no", NULL};

/* ---- numbers in conditions ---- */

enum number_op {
    NUMBER_ANY,
    NUMBER_LESS,
    NUMBER_MORE,
    NUMBER_AT_LEAST,
    NUMBER_UNEQUAL,
    NUMBER_NO_MULTIPLE,
    NUMBER_NO_MULTIPLE_OF_GROUP,
    NUMBER_NOT_IN,
};

enum { NUMBER_LIST = 8 };

struct number_test {
    enum number_op op;
    int64_t value[NUMBER_LIST];
    int count;
};

static const struct {
    const char *text;
    enum number_op op;
} number_ops[] = {
    {">=", NUMBER_AT_LEAST}, {"<", NUMBER_LESS},        {">", NUMBER_MORE},
    {"!=", NUMBER_UNEQUAL},  {"%", NUMBER_NO_MULTIPLE}, {"not in ", NUMBER_NOT_IN},
};

static bool number_parse(const char *text, struct number_test *n)
{
    *n = (struct number_test){NUMBER_ANY};
    if (strcmp(text, "%group") == 0) {
        n->op = NUMBER_NO_MULTIPLE_OF_GROUP;
        return true;
    }
    for (size_t i = 0; i < AQ_COUNT(number_ops) && !n->op; i++)
        if (strncmp(text, number_ops[i].text, strlen(number_ops[i].text)) == 0) {
            n->op = number_ops[i].op;
            text += strlen(number_ops[i].text);
        }
    if (!n->op)
        return false;
    for (;;) {
        char one[24];
        size_t len = strcspn(text, ",");
        if (len >= sizeof one || n->count == NUMBER_LIST)
            return false;
        memcpy(one, text, len);
        one[len] = '\0';
        if (!aq_parse_i64(one, &n->value[n->count++]))
            return false;
        if (!text[len])
            break;
        text += len + 1;
    }
    if (n->count > 1 && n->op != NUMBER_NOT_IN)
        return false;
    return n->op != NUMBER_NO_MULTIPLE || n->value[0] > 0;
}

static bool number_holds(const struct number_test *n, int64_t x, int64_t group)
{
    switch (n->op) {
    case NUMBER_ANY:
        return true;
    case NUMBER_LESS:
        return x < n->value[0];
    case NUMBER_MORE:
        return x > n->value[0];
    case NUMBER_AT_LEAST:
        return x >= n->value[0];
    case NUMBER_UNEQUAL:
        return x != n->value[0];
    case NUMBER_NO_MULTIPLE:
        return x % n->value[0] != 0;
    case NUMBER_NO_MULTIPLE_OF_GROUP:
        return group > 0 && x % group != 0;
    case NUMBER_NOT_IN:
        for (int i = 0; i < n->count; i++)
            if (x == n->value[i])
                return false;
        return true;
    }
    return false;
}

/* ---- rules ---- */

enum { COND_LAYOUT, COND_SCHEME, COND_WEIGHT, COND_ACT, COND_KIND, COND_ARCH, COND_LACKS, CONDS };
enum {
    TEST_SM,
    TEST_TP,
    TEST_GROUP,
    TEST_ROWS,
    TEST_COLS,
    TEST_INNER_ROWS,
    TEST_MODULES,
    TEST_SCHEMES,
    TESTS
};

static const char *const cond_names[CONDS] = {"layout", "scheme", "weight", "act",
                                              "kind",   "arch",   "lacks"};
static const char *const test_names[TESTS] = {"sm",   "tp",         "group",   "rows",
                                              "cols", "inner_rows", "modules", "schemes"};
static const char *const scope_names[] = {"treatment", "dims",   "sm",   "pkg",
                                          "fused",     "config", "head", NULL};

struct engine_rule {
    const struct json *globs[CONDS]; /* a string or an array of strings; NULL: any */
    struct number_test tests[TESTS];
    bool tied, recipe;
    enum verdict verdict;
    const char *reason, *source, *runs;
};

struct engine {
    char *name;
    struct json *root; /* owns all texts */
    const char *version;
    enum scheme_layout layouts[LAYOUTS];
    int layout_count;
    bool needs_sm;
    struct engine_rule *rules;
    size_t count;
};

static int find_name(const char *const *names, const char *name)
{
    for (int i = 0; names[i]; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return -1;
}

static int read_globs(const struct jref *value, const struct json **out, struct aq_err *err)
{
    if (json_type(value->v) == JSON_ARRAY) {
        size_t i = 0;
        for (const struct json *v = json_first(value->v); v; v = json_next(v)) {
            struct jref r = jref_child(value, v, i++);
            if (jref_is(&r, JSON_STRING, err) < 0)
                return -1;
        }
    } else if (jref_is(value, JSON_STRING, err) < 0) {
        return -1;
    }
    *out = value->v;
    return 0;
}

static int read_test(const struct jref *value, struct number_test *out, struct aq_err *err)
{
    if (jref_is(value, JSON_STRING, err) < 0)
        return -1;
    if (!number_parse(json_string(value->v), out))
        return jref_fail(value, err,
                         "'%s': expected \"<n\", \">n\", \">=n\", \"!=n\", \"%%n\", "
                         "\"%%group\" or \"not in n,n\"",
                         aq_show(json_string(value->v)));
    return 0;
}

static int read_condition(const struct jref *value, struct engine_rule *rule, struct aq_err *err)
{
    const char *key = json_key(value->v);
    bool *flag = strcmp(key, "tied") == 0     ? &rule->tied
                 : strcmp(key, "recipe") == 0 ? &rule->recipe
                                              : NULL;
    if (flag) {
        if (jref_is(value, JSON_BOOL, err) < 0)
            return -1;
        *flag = json_bool(value->v);
        return 0;
    }
    for (int i = 0; i < CONDS; i++)
        if (strcmp(key, cond_names[i]) == 0)
            return read_globs(value, &rule->globs[i], err);
    for (int i = 0; i < TESTS; i++)
        if (strcmp(key, test_names[i]) == 0)
            return read_test(value, &rule->tests[i], err);
    return jref_fail(value, err, "unknown key");
}

/* What it runs must be a treatment of activations. */
static int read_runs(const struct jref *value, const char **out, struct aq_err *err)
{
    struct quant_spec a;
    struct aq_err why = {0};
    if (jref_is(value, JSON_STRING, err) < 0)
        return -1;
    *out = json_string(value->v);
    return quant_parse_act(*out, &a, &why) < 0 ? jref_fail(value, err, "%s", why.msg) : 0;
}

static int read_rule(const struct jref *r, struct engine_rule *rule, struct aq_err *err)
{
    const char *scope, *verdict;
    if (jref_is(r, JSON_OBJECT, err) < 0 || jref_string(r, "scope", &scope, err) < 0 ||
        jref_string(r, "verdict", &verdict, err) < 0 ||
        jref_string(r, "reason", &rule->reason, err) < 0 ||
        jref_string(r, "source", &rule->source, err) < 0)
        return -1;
    if (find_name(scope_names, scope) < 0)
        return jref_fail(r, err, "scope '%s' is unknown", aq_show(scope));
    int v = find_name(verdict_names, verdict);
    if (v < 0)
        return jref_fail(r, err, "verdict '%s' is unknown", aq_show(verdict));
    rule->verdict = (enum verdict)v;
    for (const struct json *c = json_first(r->v); c; c = json_next(c)) {
        static const char *const plain[] = {"scope", "verdict", "reason", "source", NULL};
        struct jref value = jref_child(r, c, 0);
        bool runs = strcmp(json_key(c), "runs") == 0;
        if (find_name(plain, json_key(c)) < 0 &&
            (runs ? read_runs(&value, &rule->runs, err) : read_condition(&value, rule, err)) < 0)
            return -1;
    }
    return 0;
}

static int read_rules(struct engine *e, const struct jref *root, struct aq_err *err)
{
    struct jref rules;
    if (jref_get(root, "rules", JSON_ARRAY, &rules, err) < 0)
        return -1;
    e->rules = xcalloc(json_size(rules.v) + 1, sizeof *e->rules);
    for (const struct json *v = json_first(rules.v); v; v = json_next(v)) {
        struct jref r = jref_child(&rules, v, e->count);
        if (read_rule(&r, &e->rules[e->count++], err) < 0)
            return -1;
    }
    return 0;
}

static int read_layouts(struct engine *e, const struct jref *root, struct aq_err *err)
{
    struct jref list;
    if (jref_get(root, "layouts", JSON_ARRAY, &list, err) < 0)
        return -1;
    size_t i = 0;
    for (const struct json *v = json_first(list.v); v; v = json_next(v)) {
        struct jref r = jref_child(&list, v, i++);
        if (jref_is(&r, JSON_STRING, err) < 0)
            return -1;
        if (e->layout_count == LAYOUTS ||
            !layout_parse(json_string(v), &e->layouts[e->layout_count++]))
            return jref_fail(&r, err, "layout '%s' is unknown", aq_show(json_string(v)));
    }
    return e->layout_count ? 0 : jref_fail(&list, err, "names no layout");
}

static int read_engine(struct engine *e, const char *path, struct aq_err *err)
{
    static const char *const keys[] = {"version", "layouts", "sm", "rules", NULL};
    e->root = yaml_read(path, err);
    if (!e->root)
        return -1;
    struct jref root = jref_root(e->root, path);
    if (jref_is(&root, JSON_OBJECT, err) < 0)
        return -1;
    for (const struct json *v = json_first(e->root); v; v = json_next(v)) {
        struct jref r = jref_child(&root, v, 0);
        if (find_name(keys, json_key(v)) < 0)
            return jref_fail(&r, err, "unknown key");
    }
    if (jref_string(&root, "version", &e->version, err) < 0 ||
        jref_bool(&root, "sm", &e->needs_sm, err) < 0 || read_layouts(e, &root, err) < 0)
        return -1;
    return read_rules(e, &root, err);
}

/* The files of the directory, for the message about a name that has none. */
static int unknown_engine(const char *dir, const char *name, struct aq_err *err)
{
    struct aq_arena strings = AQ_ARENA_INIT;
    struct aq_names names = AQ_NAMES_INIT;
    aq_err_set(err, AQ_EUSAGE, "unknown engine '%s'", aq_show(name));
    if (aq_names_read_dir(&names, &strings, dir, AQ_NAMES_OPTIONS) == 0 && names.count) {
        aq_names_order(&names);
        aq_names_hint(err, "engines", name, &names);
    }
    aq_names_release(&names);
    aq_arena_release(&strings);
    return -1;
}

struct engine *engine_load(const char *conf_dir, const char *name, struct aq_err *err)
{
    struct engine *e = xcalloc(1, sizeof *e);
    char *dir = aq_path_join(conf_dir, "engine"), *file = xasprintf("%s.yaml", name);
    char *path = aq_path_join(dir, file);
    e->name = xstrdup(name);
    int r = strchr(name, '/') || !aq_path_exists(path) ? unknown_engine(dir, name, err)
                                                       : read_engine(e, path, err);
    free(path);
    free(file);
    free(dir);
    if (r < 0) {
        engine_free(e);
        return NULL;
    }
    return e;
}

void engine_free(struct engine *e)
{
    if (!e)
        return;
    free(e->name);
    free(e->rules);
    json_free(e->root);
    free(e);
}

const char *engine_name(const struct engine *e)
{
    return e->name;
}

const char *engine_version(const struct engine *e)
{
    return e->version;
}

bool engine_needs_sm(const struct engine *e)
{
    return e->needs_sm;
}

enum scheme_layout engine_default_layout(const struct engine *e)
{
    return e->layouts[0];
}

bool engine_has_layout(const struct engine *e, enum scheme_layout layout)
{
    for (int i = 0; i < e->layout_count; i++)
        if (e->layouts[i] == layout)
            return true;
    return false;
}

/* ---- targets ---- */

static bool numbered(const char *word, const char *prefix, int64_t max, int *out)
{
    size_t n = strlen(prefix);
    int64_t value;
    if (strncmp(word, prefix, n) != 0 || !aq_parse_i64(word + n, &value) || value < 1 ||
        value > max)
        return false;
    *out = (int)value;
    return true;
}

int engine_target_parse(const char *text, struct engine_target *out, struct aq_err *err)
{
    *out = (struct engine_target){.sm = 90, .tp = 1};
    size_t len = strcspn(text, ":");
    if (len == 0 || len >= sizeof out->name)
        return aq_err_set(err, AQ_EUSAGE, "'%s': expected ENGINE[:smNN][:tpN]", aq_show(text));
    memcpy(out->name, text, len);
    bool tp_given = false;
    for (const char *at = text + len; *at;) {
        char word[16] = "";
        size_t n = strcspn(++at, ":");
        if (n < sizeof word)
            memcpy(word, at, n);
        if (!out->sm_given && numbered(word, "sm", 999, &out->sm))
            out->sm_given = true;
        else if (!tp_given && numbered(word, "tp", 1024, &out->tp))
            tp_given = true;
        else
            return aq_err_set(err, AQ_EUSAGE, "'%s': expected ENGINE[:smNN][:tpN]", aq_show(text));
        at += n;
    }
    return 0;
}

/* ---- judging ---- */

struct question {
    const struct engine_target *target;
    const char *layout;
    const struct engine_group *group;
    const struct scheme *scheme;
};

static bool glob_holds(const struct json *globs, const char *text)
{
    if (!globs)
        return true;
    if (json_type(globs) == JSON_STRING)
        return fnmatch(json_string(globs), text, 0) == 0;
    for (const struct json *v = json_first(globs); v; v = json_next(v))
        if (fnmatch(json_string(v), text, 0) == 0)
            return true;
    return false;
}

/* Tensor parallelism cuts qkv and gate_up by rows, o and down by columns; and so it does experts,
   whose last module is down. */
static bool cut_by_cols(const struct engine_group *g, int module)
{
    if (strcmp(g->kind, "experts") == 0)
        return module == g->modules - 1;
    return strcmp(g->kind, "o") == 0 || strcmp(g->kind, "down") == 0 ||
           strcmp(g->kind, "experts.down") == 0;
}

/* Do the modules from 0 to count - 1 hold one whose shard meets the condition? */
static bool shards_hold(const struct question *q, const struct number_test *n, bool cols, int count)
{
    if (n->op == NUMBER_ANY)
        return true;
    const struct engine_group *g = q->group;
    int tp = q->target->tp;
    for (int i = 0; i < count; i++) {
        int64_t x = cols ? g->cols[i] : g->rows[i];
        if (cols == cut_by_cols(g, i)) {
            if (x % tp)
                return true; /* what does not divide meets any condition about its parts */
            x /= tp;
        }
        if (number_holds(n, x, q->scheme->group))
            return true;
    }
    return false;
}

static bool rule_holds(const struct engine_rule *r, const struct question *q)
{
    const struct engine_group *g = q->group;
    const struct number_test *n = r->tests;
    return !r->recipe && (!r->tied || g->tied) && glob_holds(r->globs[COND_LAYOUT], q->layout) &&
           glob_holds(r->globs[COND_SCHEME], q->scheme->name) &&
           glob_holds(r->globs[COND_WEIGHT], g->weight) && glob_holds(r->globs[COND_ACT], g->act) &&
           glob_holds(r->globs[COND_KIND], g->kind) && glob_holds(r->globs[COND_ARCH], g->arch) &&
           number_holds(&n[TEST_SM], q->target->sm, 0) &&
           number_holds(&n[TEST_TP], q->target->tp, 0) &&
           number_holds(&n[TEST_GROUP], q->scheme->group, 0) &&
           number_holds(&n[TEST_MODULES], g->modules, 0) &&
           shards_hold(q, &n[TEST_ROWS], false, g->modules) &&
           shards_hold(q, &n[TEST_COLS], true, g->modules) &&
           shards_hold(q, &n[TEST_INNER_ROWS], false, g->modules - 1);
}

static void set_verdict(struct engine_verdict *v, enum verdict verdict, const char *reason,
                        const char *source)
{
    v->verdict = verdict;
    v->source = source;
    (void)snprintf(v->reason, sizeof v->reason, "%.*s", (int)sizeof v->reason - 1, reason);
}

void engine_judge(const struct engine *e, const struct engine_target *t, enum scheme_layout layout,
                  const struct engine_group *g, struct engine_verdict *out)
{
    struct quant_spec w, a;
    struct aq_err why = {0};
    char reason[SCHEME_REASON];
    *out = (struct engine_verdict){.verdict = VERDICT_EXACT};
    if (strcmp(g->weight, "none") == 0 && strcmp(g->act, "none") == 0)
        return;
    out->quantized = true;
    if (!engine_has_layout(e, layout)) {
        (void)snprintf(reason, sizeof reason, "%s does not load %s", e->name, layout_names[layout]);
        set_verdict(out, VERDICT_NO, reason, NULL);
        return;
    }
    if (quant_parse(g->weight, &w, &why) < 0 || quant_parse(g->act, &a, &why) < 0) {
        set_verdict(out, VERDICT_NO, why.msg, NULL);
        return;
    }
    if (!scheme_find(layout, &w, &a, g->normed, &out->scheme, reason)) {
        set_verdict(out, VERDICT_NO, reason, NULL);
        out->scheme = (struct scheme){.storage_bits = 16};
        return;
    }
    struct question q = {t, layout_names[layout], g, &out->scheme};
    for (size_t i = 0; i < e->count; i++)
        if (rule_holds(&e->rules[i], &q)) {
            set_verdict(out, e->rules[i].verdict, e->rules[i].reason, e->rules[i].source);
            out->runs = e->rules[i].runs;
            return;
        }
}

int engine_runs(const struct engine *e, const struct engine_target *t, enum scheme_layout layout,
                const struct engine_group *g, const char *where, const char **act,
                struct aq_err *err)
{
    struct engine_verdict v;
    engine_judge(e, t, layout, g, &v);
    *act = v.runs ? v.runs : g->act;
    if (v.verdict <= VERDICT_NEAR || (v.verdict == VERDICT_OTHER && v.runs))
        return 0;
    return aq_err_set(err, AQ_EINPUT, "%s: %s with %s is '%s' for %s: %s", aq_show(where),
                      aq_show(g->weight), aq_show(g->act), verdict_names[v.verdict], e->name,
                      v.reason);
}

static int64_t distinct_schemes(const struct engine_verdict *v, size_t count)
{
    int64_t n = 0;
    for (size_t i = 0; i < count; i++) {
        bool seen = !v[i].scheme.name[0];
        for (size_t k = 0; k < i && !seen; k++)
            seen = strcmp(v[k].scheme.name, v[i].scheme.name) == 0;
        n += !seen;
    }
    return n;
}

static bool recipe_lacks(const struct json *globs, const struct engine_verdict *v, size_t count)
{
    for (size_t i = 0; globs && i < count; i++)
        if (v[i].scheme.name[0] && glob_holds(globs, v[i].scheme.name))
            return false;
    return true;
}

void engine_judge_treatments(const struct engine *e, const struct engine_target *t,
                             enum scheme_layout layout, const char *weight, const char *act,
                             struct engine_verdict *out)
{
    static const struct {
        const char *kind;
        int modules;
        bool normed;
    } kinds[] = {{"qkv", 3, true}, {"o", 1, false}, {"gate_up", 2, true}, {"down", 1, false}};
    enum { ROOMY = 1 << 20 };
    struct quant_spec w;
    struct aq_err ignored = {0};
    bool scales = quant_parse(weight, &w, &ignored) == 0 && w.methods.scaling;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        struct engine_group g = {.kind = kinds[k].kind,
                                 .arch = "",
                                 .normed = kinds[k].normed,
                                 .modules = kinds[k].modules,
                                 .weight = weight,
                                 .act = act};
        struct engine_verdict v;
        if (scales && !g.normed)
            continue;
        for (int i = 0; i < g.modules; i++)
            g.rows[i] = g.cols[i] = (int64_t)ROOMY * t->tp;
        engine_judge(e, t, layout, &g, &v);
        if (k == 0 || v.verdict > out->verdict)
            *out = v;
    }
}

void engine_judge_recipe(const struct engine *e, enum scheme_layout layout,
                         struct engine_verdict *groups, size_t count)
{
    int64_t schemes = distinct_schemes(groups, count);
    for (size_t i = 0; i < e->count; i++) {
        const struct engine_rule *r = &e->rules[i];
        if (!r->recipe || !glob_holds(r->globs[COND_LAYOUT], layout_names[layout]) ||
            !number_holds(&r->tests[TEST_SCHEMES], schemes, 0) ||
            !recipe_lacks(r->globs[COND_LACKS], groups, count))
            continue;
        for (size_t k = 0; k < count; k++)
            if (groups[k].scheme.name[0] && groups[k].verdict < r->verdict)
                set_verdict(&groups[k], r->verdict, r->reason, r->source);
    }
}
