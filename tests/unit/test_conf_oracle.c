/*
 * Composition against Hydra: the vectors that tests/oracle/hydra.py wrote, replayed. A case passes
 * if the resolved configuration has the same text as OmegaConf.to_yaml's, or if both refuse.
 */
#include "base/file.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "conf/compose.h"
#include "conf/sweep.h"
#include "io/yaml.h"
#include "tap.h"

#include <stdlib.h>
#include <unistd.h>

#define VECTORS "tests/oracle/hydra/"

static int tried, wrong;

static void complain(const struct json *c, const char *found, const char *expected)
{
    struct aq_buf text = AQ_BUF_INIT;
    if (json_write(&text, c, JSON_COMPACT, NULL) < 0)
        aq_buf_adds(&text, "?");
    if (++wrong <= 40)
        printf("# case: %.300s\n#    found: %.1500s\n# expected: %.1500s\n", aq_buf_str(&text),
               found, expected);
    aq_buf_release(&text);
}

static const char *text_of(const struct json *c, const char *key)
{
    const struct json *v = json_get(c, key);
    return v ? json_string(v) : NULL;
}

/* ---- composing ---- */

static int compose_text(struct conf_search *s, const char *primary, const char **texts,
                        size_t count, struct aq_buf *out, struct aq_err *err)
{
    struct aq_arena a = AQ_ARENA_INIT;
    struct override *list = xcalloc(count + 1, sizeof *list);
    struct conf_result c;
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++)
        r = override_parse(&a, texts[i], (int)i + 1, &list[i], err);
    struct conf_job job = {.search = s, .primary = primary, .overrides = list, .count = count};
    if (r == 0)
        r = sweep_check_single(list, count, err);
    if (r == 0 && (r = conf_compose(&job, &a, &c, err)) == 0) {
        const struct node *app = conf_resolve(&c);
        if (app)
            yaml_write(out, app);
        r = app ? 0 : -1;
        conf_result_release(&c);
    }
    free(list);
    aq_arena_release(&a);
    return r;
}

static void check_outcome(const struct json *c, int r, const struct aq_buf *text,
                          const struct aq_buf *base, const struct aq_err *err)
{
    const char *yaml = text_of(c, "yaml"), *sha = text_of(c, "sha256"),
               *added = text_of(c, "added");
    char hex[AQ_SHA256_HEX];
    tried++;
    if (text_of(c, "error")) {
        if (r == 0)
            complain(c, aq_buf_str(text), "an error");
        else if (err->code != AQ_EUSAGE && err->code != AQ_EINPUT)
            complain(c, err->msg, "exit code 2 or 3");
        return;
    }
    if (r < 0) {
        complain(c, err->msg, "no error");
        return;
    }
    if (yaml && strcmp(aq_buf_str(text), yaml) != 0)
        complain(c, aq_buf_str(text), yaml);
    if (added) {
        char *whole = xasprintf("%s%s", aq_buf_str(base), added);
        if (strcmp(aq_buf_str(text), whole) != 0)
            complain(c, aq_buf_str(text) + (text->len > base->len ? base->len : 0), added);
        free(whole);
    }
    aq_sha256_of(aq_buf_str(text), text->len, hex);
    if (sha && strcmp(hex, sha) != 0)
        complain(c, aq_buf_str(text), sha);
}

static void run_case(struct conf_search *s, const struct json *c, const char *primary,
                     const char **texts, size_t count, const struct aq_buf *base)
{
    struct aq_buf text = AQ_BUF_INIT;
    struct aq_err err = {0};
    /* on purpose: "~/" in a value, which Hydra refuses, is a path below the home directory */
    for (size_t i = 0; i < count; i++)
        if (strstr(texts[i], "=~/") && json_get(c, "error"))
            return;
    int r = compose_text(s, primary, texts, count, &text, &err);
    check_outcome(c, r, &text, base, &err);
    aq_buf_release(&text);
}

static size_t args_of(const struct json *c, const char *key, const char ***out)
{
    const struct json *args = json_get(c, key);
    size_t n = 0;
    *out = xcalloc(json_size(args) + 1, sizeof **out);
    for (const struct json *v = json_first(args); v; v = json_next(v))
        (*out)[n++] = json_string(v);
    return n;
}

/* ---- the files of vectors: a line of versions, then a line for each case ---- */

typedef void case_fn(const struct json *c, void *with);

static void each_case(const char *name, case_fn *fn, void *with)
{
    char *path = xasprintf(VECTORS "%s", name), *save = NULL;
    struct aq_buf text = AQ_BUF_INIT;
    struct aq_err err = {0};
    if (aq_read_file(path, 1 << 24, &text, &err) < 0) {
        tap_ok(0, "%s (%s)", path, err.msg);
    } else {
        (void)strtok_r(text.data, "\n", &save);
        for (const char *line; (line = strtok_r(NULL, "\n", &save)) != NULL;) {
            struct json *c = json_parse(line, strlen(line), path, &err);
            if (c)
                fn(c, with);
            else
                tap_ok(0, "%s", err.msg);
            json_free(c);
        }
    }
    aq_buf_release(&text);
    free(path);
}

struct tree {
    struct conf_search search;
    struct aq_buf base;
};

static void conf_case(const struct json *c, void *with)
{
    struct tree *t = with;
    const char **args;
    size_t n = args_of(c, "args", &args);
    run_case(&t->search, c, text_of(c, "primary"), args, n, &t->base);
    free(args);
}

static void cell_case(const struct json *c, void *with)
{
    struct tree *t = with;
    const char **cell;
    (void)args_of(c, "cell", &cell);
    char *args[] = {xasprintf("quant_pair=%s", cell[0]), xasprintf("quant_granularity=%s", cell[1]),
                    xasprintf("dataset.size=%s", cell[2])};
    run_case(&t->search, c, "preset/qwen3_lm_sensitivity", (const char **)args, 3, &t->base);
    for (size_t i = 0; i < AQ_COUNT(args); i++)
        free(args[i]);
    free(cell);
}

static void sweep_case(const struct json *c, void *with)
{
    struct tree *t = with;
    struct aq_arena a = AQ_ARENA_INIT;
    struct aq_err err = {0};
    struct sweep_plan plan = {0};
    const char **args;
    size_t n = args_of(c, "args", &args);
    struct override *list = xcalloc(n + 1, sizeof *list);
    int r = 0;
    for (size_t i = 0; i < n && r == 0; i++)
        r = override_parse(&a, args[i], (int)i + 1, &list[i], &err);
    if (r == 0)
        r = sweep_expand(&t->search, &a, list, n, &plan, &err);
    tried++;
    if (r < 0) {
        if (!text_of(c, "error"))
            complain(c, err.msg, "jobs");
    } else {
        struct json *jobs = json_new_array();
        for (size_t j = 0; j < plan.jobs; j++) {
            struct json *one = json_push(jobs, json_new_array());
            struct override *job = xcalloc(plan.count + 1, sizeof *job);
            if (sweep_job(&plan, j, &a, job, &err) < 0)
                json_push(one, json_new_string(err.msg));
            else
                for (size_t i = 0; i < plan.count; i++)
                    json_push(one, json_new_string(job[i].text));
            free(job);
        }
        struct aq_buf found = AQ_BUF_INIT;
        if (json_write(&found, jobs, JSON_COMPACT, NULL) < 0 || !json_get(c, "jobs") ||
            !json_equal(jobs, json_get(c, "jobs")))
            complain(c, aq_buf_str(&found), "the jobs of the case");
        aq_buf_release(&found);
        json_free(jobs);
        sweep_release(&plan);
    }
    free(list);
    free(args);
    aq_arena_release(&a);
}

/* ---- YAML ---- */

static void scalar_case(const struct json *c, void *with)
{
    struct aq_arena a = AQ_ARENA_INIT;
    struct aq_buf text = AQ_BUF_INIT;
    struct aq_err err = {0};
    const char *yaml = text_of(c, "text");
    const struct node *v = yaml_parse_node(&a, yaml, strlen(yaml), "t.yaml", &err);
    if (v)
        yaml_write(&text, v);
    (void)with;
    check_outcome(c, v ? 0 : -1, &text, &text, &err);
    aq_buf_release(&text);
    aq_arena_release(&a);
}

static struct node *node_of(struct aq_arena *a, const struct json *v)
{
    const struct place none = {0};
    struct aq_buf text = AQ_BUF_INIT;
    struct node *n = node_new(a, NODE_NULL, none);
    switch (json_type(v)) {
    case JSON_NULL:
        break;
    case JSON_BOOL:
        n = node_bool(a, json_bool(v), none);
        break;
    case JSON_INT:
        if (json_write(&text, v, JSON_COMPACT, NULL) == 0)
            n = node_int_text(a, aq_arena_strdup(a, aq_buf_str(&text)), none);
        break;
    case JSON_FLOAT:
        n = node_float(a, json_number(v), none);
        break;
    case JSON_STRING:
        n = node_string(a, json_string(v), none);
        break;
    case JSON_ARRAY:
        n = node_new(a, NODE_LIST, none);
        for (const struct json *i = json_first(v); i; i = json_next(i))
            node_push(a, n, node_of(a, i));
        break;
    case JSON_OBJECT:
        n = node_new(a, NODE_MAP, none);
        for (const struct json *i = json_first(v); i; i = json_next(i))
            node_put_text(a, n, json_key(i), node_of(a, i));
        break;
    }
    aq_buf_release(&text);
    return n;
}

static void writer_case(const struct json *c, void *with)
{
    struct aq_arena a = AQ_ARENA_INIT;
    struct aq_buf text = AQ_BUF_INIT;
    struct aq_err err = {0};
    yaml_write(&text, node_of(&a, json_get(c, "value")));
    (void)with;
    check_outcome(c, 0, &text, &text, &err);
    aq_buf_release(&text);
    aq_arena_release(&a);
}

/* ---- small trees: written out to a directory of their own ---- */

struct trees {
    char *dir;
    const struct json *files;
};

static void write_trees(const struct trees *t)
{
    for (const struct json *tree = json_first(t->files); tree; tree = json_next(tree))
        for (const struct json *f = json_first(tree); f; f = json_next(f)) {
            char *path = xasprintf("%s/%s/%s", t->dir, json_key(tree), json_key(f));
            char *dir = aq_path_dir(path);
            struct aq_err err;
            if (aq_make_dirs(dir, &err) < 0 ||
                aq_write_file(path, json_string(f), strlen(json_string(f)), &err) < 0)
                tap_ok(0, "%s", err.msg);
            free(dir);
            free(path);
        }
}

static void tree_case(const struct json *c, void *with)
{
    const struct trees *t = with;
    struct tree one = {.base = AQ_BUF_INIT};
    struct aq_err err = {0};
    char *dir = xasprintf("%s/%s", t->dir, text_of(c, "tree"));
    (void)setenv("AQ_CONF", dir, 1);
    if (conf_search_init(&one.search, NULL, &err) < 0)
        tap_ok(0, "%s", err.msg);
    else
        conf_case(c, &one);
    conf_search_release(&one.search);
    free(dir);
}

static void report(const char *what)
{
    tap_ok(wrong == 0 && tried > 0, "%s: %d cases, %d differ from Hydra", what, tried, wrong);
    tried = wrong = 0;
}

int main(void)
{
    each_case("scalars.jsonl", scalar_case, NULL);
    report("YAML files");
    each_case("writer.jsonl", writer_case, NULL);
    report("YAML written");

    struct aq_err err = {0};
    struct tree conf = {.base = AQ_BUF_INIT};
    (void)setenv("AQ_ORACLE_VAR", "from the environment", 1);
    (void)unsetenv("AQ_NOT_SET");
    (void)setenv("AQ_CONF", "conf", 1);
    if (conf_search_init(&conf.search, NULL, &err) < 0 ||
        compose_text(&conf.search, "preset/qwen3_lm_sensitivity", NULL, 0, &conf.base, &err) < 0)
        tap_ok(0, "%s", err.msg);
    each_case("conf.jsonl", conf_case, &conf);
    report("the shipped tree");
    each_case("cells.jsonl", cell_case, &conf);
    report("every pair, granularity and size");
    each_case("sweeps.jsonl", sweep_case, &conf);
    report("sweeps");
    conf_search_release(&conf.search);
    aq_buf_release(&conf.base);

    char dir[] = "/tmp/aq-trees-XXXXXX";
    struct json *files = json_read(VECTORS "trees.json", &err);
    if (files && mkdtemp(dir)) {
        struct trees trees = {dir, files};
        write_trees(&trees);
        each_case("trees.jsonl", tree_case, &trees);
        report("defaults lists, interpolations, merging");
        char *rm = xasprintf("rm -r '%s'", dir);
        if (system(rm) != 0)
            printf("# cannot remove %s\n", dir);
        free(rm);
    } else {
        tap_ok(0, "the small trees (%s)", err.msg);
    }
    json_free(files);
    return tap_done();
}
