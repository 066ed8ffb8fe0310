#include "conf/resolve.h"
#include "base/mem.h"
#include "base/msg.h"
#include "io/yaml.h"

#include <stdlib.h>
#include <string.h>

int resolver_init(struct resolver *r, const char *config_dir, const char *primary,
                  const char *const *overrides, size_t count, struct aq_err *err)
{
    *r = (struct resolver){.primary = primary};
    time_t now = time(NULL);
    if (!localtime_r(&now, &r->now))
        r->now = (struct tm){0};
    if (conf_search_init(&r->search, config_dir, err) < 0)
        return -1;
    if (count > OVERRIDE_MAX_COUNT)
        return aq_err_set(err, AQ_EUSAGE, "more than %d overrides", (int)OVERRIDE_MAX_COUNT);
    r->overrides = xcalloc(count + 1, sizeof *r->overrides);
    for (; r->count < count; r->count++)
        if (override_parse(&r->arena, overrides[r->count], (int)r->count + 1,
                           &r->overrides[r->count], err) < 0)
            return -1;
    return 0;
}

void resolver_release(struct resolver *r)
{
    free(r->overrides);
    run_formats_release(&r->formats);
    aq_names_release(&r->experimental);
    aq_arena_release(&r->arena);
    conf_search_release(&r->search);
}

static struct conf_job single_job(struct resolver *r)
{
    return (struct conf_job){.search = &r->search,
                             .primary = r->primary,
                             .overrides = r->overrides,
                             .count = r->count,
                             .now = r->now};
}

/* ---- one job ---- */

static void note_experimental(struct resolver *r, const struct run *run)
{
    if (run->experimental && !aq_names_have(&r->experimental, run->pair_name))
        aq_names_add(&r->experimental, aq_arena_strdup(&r->arena, run->pair_name));
}

/* One line for all of them: a sweep may have a dozen. */
static void warn_experimental(const struct resolver *r)
{
    const struct aq_names *n = &r->experimental;
    struct aq_buf text = AQ_BUF_INIT;
    for (size_t i = 0; i < n->count; i++)
        aq_buf_addf(&text, "%s'%s'", i ? ", " : "", aq_show(n->items[i]));
    if (n->count == 1)
        aq_warn("quant_pair %s is marked experimental", aq_buf_str(&text));
    else if (n->count)
        aq_warn("%zu quant_pairs are marked experimental: %s", n->count, aq_buf_str(&text));
    aq_buf_release(&text);
}

static void note_files(struct resolver *r, const struct conf_plan *plan, const struct run *run,
                       struct resolved *out)
{
    for (size_t i = 0; i < plan->count; i++)
        aq_names_add(&out->files, plan->steps[i].file->file);
    const char *format = aq_strmap_get(&r->formats.files, run->format_name);
    if (format)
        aq_names_add(&out->files, format);
}

static int write_text(struct resolver *r, const struct conf_job *job, const struct node *app,
                      const struct run *run, enum resolve_format format, struct aq_buf *text,
                      struct aq_err *err)
{
    /* also a YAML product tells that its format is unknown */
    struct json *json =
        run_to_json(&r->search, &r->formats, app, run, job->overrides, job->count, err);
    if (!json)
        return -1;
    int result = 0;
    if (format == RESOLVE_YAML)
        yaml_write(text, app);
    else
        result = json_write(text, json,
                            JSON_NEWLINE | (format == RESOLVE_JSON_LINE ? JSON_COMPACT : 0), err);
    json_free(json);
    return result;
}

static const char *label_of(struct resolver *r, const struct conf_job *job)
{
    struct aq_buf text = AQ_BUF_INIT;
    for (size_t i = 0; i < job->count; i++)
        aq_buf_addf(&text, "%s%s", i ? " " : "", job->overrides[i].text);
    const char *kept = aq_arena_strdup(&r->arena, aq_buf_str(&text));
    aq_buf_release(&text);
    return kept;
}

static int resolve_composed(struct resolver *r, const struct conf_job *job, struct conf_result *c,
                            enum resolve_format format, struct resolved *out, struct aq_err *err)
{
    struct run run;
    struct node *app = conf_resolve(c);
    if (!app || run_describe(c, app, job->sweep, &run, err) < 0)
        return -1;
    const char *subdir = job->sweep ? run_subdir(c, err) : "";
    if (!subdir)
        return -1;
    struct aq_buf text = AQ_BUF_INIT;
    if (write_text(r, job, app, &run, format, &text, err) < 0) {
        aq_buf_release(&text);
        return -1;
    }
    note_experimental(r, &run);
    out->len = text.len;
    out->text = aq_buf_detach(&text);
    out->label = label_of(r, job);
    out->subdir = aq_arena_strdup(&r->arena, subdir);
    out->out_dir = aq_arena_strdup(&r->arena, run.out_dir);
    note_files(r, &c->plan, &run, out);
    return 0;
}

static int resolve_job(struct resolver *r, const struct conf_job *job, struct aq_arena *scratch,
                       enum resolve_format format, struct resolved_list *list, struct aq_err *err)
{
    struct conf_result c;
    struct resolved one = {0};
    if (conf_compose(job, scratch, &c, err) < 0)
        return -1;
    int result = resolve_composed(r, job, &c, format, &one, err);
    conf_result_release(&c);
    if (result < 0)
        return -1;
    AQ_GROW(list->items, list->count, list->cap);
    list->items[list->count++] = one;
    return 0;
}

void resolved_release(struct resolved_list *l)
{
    for (size_t i = 0; i < l->count; i++) {
        free(l->items[i].text);
        free(l->items[i].files.items);
    }
    free(l->items);
    *l = (struct resolved_list){0};
}

int resolve_one(struct resolver *r, enum resolve_format format, struct resolved_list *out,
                struct aq_err *err)
{
    struct aq_arena scratch = AQ_ARENA_INIT;
    struct conf_job job = single_job(r);
    int result = sweep_check_single(r->overrides, r->count, err);
    if (result == 0)
        result = resolve_job(r, &job, &scratch, format, out, err);
    aq_arena_release(&scratch);
    if (result == 0)
        warn_experimental(r);
    return result;
}

/* ---- a sweep ---- */

/* The same directory in another spelling is still the same. */
static const char *normal_path(struct aq_arena *a, const char *path)
{
    char *out = aq_arena_alloc(a, strlen(path) + 2), *to = out;
    if (*path == '/')
        *to++ = '/';
    for (const char *p = path; *p;) {
        size_t n = strcspn(p, "/");
        if (n && !(n == 1 && *p == '.')) {
            if (to > out && to[-1] != '/')
                *to++ = '/';
            memcpy(to, p, n);
            to += n;
        }
        p += n + (p[n] == '/');
    }
    return out;
}

static int check_distinct(struct resolver *r, const struct resolved_list *l,
                          const char *(*path_of)(const struct resolved *), struct aq_err *err)
{
    struct aq_strmap seen = AQ_STRMAP_INIT;
    int result = 0;
    for (size_t i = 0; i < l->count && result == 0; i++) {
        const struct resolved *now = &l->items[i];
        const char *path = normal_path(&r->arena, path_of(now));
        const struct resolved *before = aq_strmap_get(&seen, path);
        aq_strmap_put(&seen, path, &l->items[i]);
        if (!before)
            continue;
        result = aq_err_set(err, AQ_EUSAGE, "jobs %zu (%s) and %zu (%s) would both write to '%s'",
                            (size_t)(before - l->items), aq_show(before->label), i,
                            aq_show(now->label), aq_show(path));
        aq_err_hint(err, "name what differs in hydra.sweep.subdir, or use interpolations in "
                         "runner.output_dir");
    }
    aq_strmap_release(&seen);
    return result;
}

static const char *out_dir_of(const struct resolved *one)
{
    return one->out_dir;
}

static const char *subdir_of(const struct resolved *one)
{
    return one->subdir;
}

static int resolve_jobs(struct resolver *r, const struct sweep_plan *plan,
                        enum resolve_format format, struct resolved_list *out, struct aq_err *err)
{
    struct aq_arena scratch = AQ_ARENA_INIT;
    struct override *list = xcalloc(plan->count + 1, sizeof *list);
    struct conf_job job = single_job(r);
    int result = 0;
    job.overrides = list;
    job.count = plan->count;
    job.sweep = true;
    for (size_t i = 0; i < plan->jobs && result == 0; i++) {
        aq_arena_reset(&scratch);
        job.number = (int)i;
        result = sweep_job(plan, i, &scratch, list, err);
        if (result == 0)
            result = resolve_job(r, &job, &scratch, format, out, err);
        if (result < 0 && plan->jobs > 1)
            aq_err_prefix(err, "job %zu", i);
    }
    free(list);
    aq_arena_release(&scratch);
    return result;
}

int resolve_all(struct resolver *r, enum resolve_format format, struct resolved_list *out,
                struct aq_err *err)
{
    struct sweep_plan plan;
    if (sweep_expand(&r->search, &r->arena, r->overrides, r->count, &plan, err) < 0)
        return -1;
    int result = resolve_jobs(r, &plan, format, out, err);
    sweep_release(&plan);
    if (result < 0 || check_distinct(r, out, out_dir_of, err) < 0)
        return -1;
    warn_experimental(r);
    return 0;
}

int resolve_check_subdirs(struct resolver *r, const struct resolved_list *l, struct aq_err *err)
{
    return check_distinct(r, l, subdir_of, err);
}

/* ---- questions ---- */

static void print_scalar(struct aq_buf *out, const struct node *v)
{
    if (v->type == NODE_NULL)
        aq_buf_adds(out, "null");
    else if (v->type == NODE_BOOL)
        aq_buf_adds(out, v->b ? "true" : "false");
    else
        node_print(out, v);
    aq_buf_addc(out, '\n');
}

static int print_node(struct aq_buf *out, const struct node *v, bool yaml, struct aq_err *err)
{
    if (!node_is_container(v)) {
        print_scalar(out, v);
        return 0;
    }
    if (yaml) {
        yaml_write(out, v);
        return 0;
    }
    struct json *json = node_to_json(v, err);
    int result = json ? json_write(out, json, JSON_NEWLINE, err) : -1;
    json_free(json);
    return result;
}

static int print_json(struct aq_buf *out, const struct json *v, struct aq_err *err)
{
    if (json_type(v) != JSON_STRING)
        return json_write(out, v, JSON_NEWLINE, err);
    aq_buf_addf(out, "%s\n", json_string(v));
    return 0;
}

/* "_aq.out_dir": what run.json would say. */
static int show_computed(struct resolver *r, struct conf_result *c, const char *key,
                         struct aq_buf *out, struct aq_err *err)
{
    struct run run;
    struct node *app = conf_resolve(c);
    if (!app || run_describe(c, app, false, &run, err) < 0)
        return -1;
    struct json *json =
        run_to_json(&r->search, &r->formats, app, &run, r->overrides, r->count, err);
    if (!json)
        return -1;
    const char **parts;
    size_t n = interp_split_key(c->a, key, &parts);
    const struct json *at = json;
    for (size_t i = 0; i < n && at; i++)
        at = json_type(at) == JSON_OBJECT ? json_get(at, parts[i]) : NULL;
    int result = at ? print_json(out, at, err)
                    : aq_err_set(err, AQ_EUSAGE, "there is no key '%s'", aq_show(key));
    json_free(json);
    return result;
}

static bool is_computed(const char *key)
{
    return strncmp(key, "_aq", 3) == 0 && (!key[3] || key[3] == '.');
}

static int show(struct resolver *r, struct conf_result *c, const char *key, bool yaml,
                struct aq_buf *out, struct aq_err *err)
{
    if (is_computed(key))
        return show_computed(r, c, key, out, err);
    struct node *raw = conf_at(c, key, err);
    const struct node *v = raw ? interp_deep(&c->in, raw) : NULL;
    return v ? print_node(out, v, yaml, err) : -1;
}

static void explain(struct aq_arena *a, const struct node *v, bool alone, struct aq_buf *out)
{
    if (node_is_container(v) && v->count) {
        for (size_t i = 0; i < v->count; i++)
            explain(a, v->items[i].value, false, out);
        return;
    }
    if (!alone)
        aq_buf_addf(out, "%s\t", aq_show(node_path(a, v)));
    if (v->place.file)
        aq_buf_addf(out, "%s:%d\n", aq_show(v->place.file), v->place.line);
    else
        aq_buf_addf(out, "override %d\n", v->place.line);
}

static int compose_single(struct resolver *r, struct aq_arena *scratch, struct conf_result *c,
                          struct aq_err *err)
{
    struct conf_job job = single_job(r);
    if (sweep_check_single(r->overrides, r->count, err) < 0)
        return -1;
    return conf_compose(&job, scratch, c, err);
}

int resolve_show(struct resolver *r, const char *key, bool yaml, struct aq_buf *out,
                 struct aq_err *err)
{
    struct aq_arena scratch = AQ_ARENA_INIT;
    struct conf_result c;
    int result = compose_single(r, &scratch, &c, err);
    if (result == 0) {
        result = show(r, &c, key, yaml, out, err);
        conf_result_release(&c);
    }
    aq_arena_release(&scratch);
    return result;
}

int resolve_explain(struct resolver *r, const char *key, struct aq_buf *out, struct aq_err *err)
{
    struct aq_arena scratch = AQ_ARENA_INIT;
    struct conf_result c;
    int result = compose_single(r, &scratch, &c, err);
    if (result == 0) {
        const struct node *v = conf_at(&c, key, err);
        if (v)
            explain(&scratch, v, true, out);
        result = v ? 0 : -1;
        conf_result_release(&c);
    }
    aq_arena_release(&scratch);
    return result;
}

int resolve_list(struct resolver *r, const char *group, struct aq_buf *out, struct aq_err *err)
{
    if (!conf_group_exists(&r->search, group)) {
        struct aq_names groups = conf_subgroups(&r->search, "");
        aq_err_set(err, AQ_EUSAGE, "there is no group '%s'", aq_show(group));
        aq_names_hint(err, "groups", group, &groups);
        free(groups.items);
        return -1;
    }
    struct aq_names names =
        strcmp(group, "model") == 0 ? conf_models(&r->search) : conf_options(&r->search, group);
    for (size_t i = 0; i < names.count; i++)
        aq_buf_addf(out, "%s\n", names.items[i]);
    free(names.items);
    return 0;
}
