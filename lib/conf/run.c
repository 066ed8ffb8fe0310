#include "conf/run.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"
#include "conf/check.h"
#include "io/run_schema.h"
#include "quant/format.h"

#include <stdlib.h>
#include <string.h>

/* A string that is there and not empty, else NULL: null and empty count as absent. */
static const char *text_at(const struct node *app, const char *group, const char *key)
{
    const struct node *v = node_at(app, group, key, NULL);
    return v && v->type == NODE_STRING && *v->s ? v->s : NULL;
}

/* ---- samples ---- */

static int fail_size(struct conf_result *r, const struct node *size, const struct node *sizes,
                     struct aq_err *err)
{
    struct aq_names names = {0};
    for (size_t i = 0; sizes && i < sizes->count; i++)
        aq_names_add(&names, node_key_text(r->a, sizes->items[i].key));
    aq_names_order(&names);
    aq_err_set(err, place_class(size->place), "unknown dataset.size '%s'", aq_show(size->s));
    aq_names_hint(err, "sizes", size->s, &names);
    free(names.items);
    return -1;
}

static int count_samples(struct conf_result *r, const struct node *app, struct run *out,
                         struct aq_err *err)
{
    const struct node *n = node_at(app, "dataset", "max_calib_samples", NULL);
    const char *key = "dataset.max_calib_samples";
    if (!n || n->type == NODE_NULL) {
        const struct node *size = node_at(app, "dataset", "size", NULL);
        const struct node *sizes = node_at(app, "dataset", "size_to_max_samples", NULL);
        bool listed = sizes && sizes->type == NODE_MAP;
        n = listed ? node_get(sizes, size->s) : NULL;
        if (!n)
            return fail_size(r, size, listed ? sizes : NULL, err);
        key = aq_arena_printf(r->a, "dataset.size_to_max_samples.%s", aq_show(size->s));
    }
    if (n->type != NODE_INT || n->wide || n->i < 1 || n->i > INT32_MAX)
        return check_fail(n, key, "an integer from 1 to 2147483647", err);
    int64_t batch = node_at(app, "autoquant", "batch_size", NULL)->i;
    int64_t score = node_at(app, "autoquant", "score_size", NULL)->i;
    int64_t steps = score / batch > 1 ? score / batch : 1;
    out->calib_samples = n->i;
    out->score_samples = steps * batch < n->i ? steps * batch : n->i;
    return 0;
}

/* ---- directories ---- */

static const char *expand_home(struct aq_arena *a, const char *path)
{
    const char *home = getenv("HOME");
    if (path[0] != '~' || (path[1] && path[1] != '/') || !home)
        return path;
    return aq_arena_printf(a, "%s%s", home, path + 1);
}

/* A resolved string below `hydra`. */
static const char *hydra_text(struct conf_result *r, const char *group, const char *key,
                              struct aq_err *err)
{
    struct node *v = node_at(r->root, "hydra", group, key, NULL);
    const char *path = aq_arena_printf(r->a, "hydra.%s.%s", group, key);
    if (!v) {
        aq_err_set(err, AQ_EUSAGE, "the configuration has no '%s'", path);
        return NULL;
    }
    const struct node *value = interp_deep(&r->in, v);
    if (!value)
        return NULL;
    if (node_is_container(value) || value->type == NODE_NULL) {
        check_fail(value, path, "a string", err);
        return NULL;
    }
    struct aq_buf text = AQ_BUF_INIT;
    node_print(&text, value);
    const char *kept = aq_arena_strdup(r->a, aq_buf_str(&text));
    aq_buf_release(&text);
    return kept;
}

const char *run_subdir(struct conf_result *r, struct aq_err *err)
{
    return hydra_text(r, "sweep", "subdir", err);
}

static const char *joined(struct aq_arena *a, const char *dir, const char *name)
{
    char *path = aq_path_join(dir, name);
    const char *kept = aq_arena_strdup(a, path);
    free(path);
    return kept;
}

static const char *run_dir(struct conf_result *r, bool sweep, struct aq_err *err)
{
    if (!sweep)
        return hydra_text(r, "run", "dir", err);
    const char *dir = hydra_text(r, "sweep", "dir", err);
    const char *sub = dir ? run_subdir(r, err) : NULL;
    return sub ? joined(r->a, dir, sub) : NULL;
}

/* root_dir / pair / granularity / run: where results are kept for others to read. */
static const char *publish_dir(struct conf_result *r, const struct node *app, struct aq_err *err)
{
    const char *root = text_at(app, "output_layout", "root_dir");
    const char *pair = text_at(app, "quant_pair", "publish_pair_dir");
    const char *run = text_at(app, "quant_pair", "publish_run_dir");
    if (!root) {
        aq_err_set(err, AQ_EUSAGE, "output_layout.root_dir: expected a directory for mode publish");
        return NULL;
    }
    if (!pair)
        pair = aq_arena_printf(r->a, "weight-%s-act-%s", text_at(app, "quant_pair", "weight"),
                               text_at(app, "quant_pair", "activation"));
    if (!run)
        run = aq_arena_printf(r->a, "%s_autoquant_%s_lm_%s", text_at(app, "model", "name"),
                              text_at(app, "quant_pair", "name"), text_at(app, "dataset", "size"));
    const char *dir = joined(r->a, expand_home(r->a, root), pair);
    dir = joined(r->a, dir, text_at(app, "quant_granularity", "name"));
    return joined(r->a, dir, run);
}

static const char *out_dir(struct conf_result *r, const struct node *app, bool sweep,
                           struct aq_err *err)
{
    const char *explicit = text_at(app, "runner", "output_dir");
    if (explicit)
        return expand_home(r->a, explicit);
    if (strcmp(text_at(app, "output_layout", "mode"), "publish") == 0)
        return publish_dir(r, app, err);
    const char *dir = run_dir(r, sweep, err);
    return dir ? expand_home(r->a, dir) : NULL;
}

/* ---- the whole ---- */

int run_describe(struct conf_result *r, struct node *app, bool sweep, struct run *out,
                 struct aq_err *err)
{
    *out = (struct run){0};
    if (check_run(app, err) < 0 || count_samples(r, app, out, err) < 0)
        return -1;
    out->pair_name = text_at(app, "quant_pair", "name");
    out->scheme_name = text_at(app, "quant_pair", "scheme_name");
    if (!out->scheme_name)
        out->scheme_name = aq_arena_printf(r->a, "%s_autoquant_lm", out->pair_name);
    const struct node *experimental = node_at(app, "quant_pair", "experimental", NULL);
    out->experimental = experimental && experimental->type == NODE_BOOL && experimental->b;
    const struct node *format = node_at(app, "quant_pair", "format_name", NULL);
    out->format_name = format->s;
    out->format_place = format->place;
    out->out_dir = out_dir(r, app, sweep, err);
    return out->out_dir ? 0 : -1;
}

/* ---- run.json ---- */

void run_formats_release(struct run_formats *f)
{
    for (size_t i = 0; i < f->by_name.cap; i++)
        if (f->by_name.slots[i].key)
            json_free(f->by_name.slots[i].value);
    aq_strmap_release(&f->by_name);
    aq_strmap_release(&f->files);
}

static int fail_format(struct conf_search *s, const struct run *run, struct aq_err *err)
{
    struct aq_names names = conf_options(s, "format");
    aq_err_set(err, place_class(run->format_place), "unknown format '%s' (quant_pair.format_name)",
               aq_show(run->format_name));
    aq_names_hint(err, "formats", run->format_name, &names);
    free(names.items);
    return -1;
}

static struct json *base_format(struct conf_search *s, struct run_formats *formats,
                                const struct run *run, struct aq_err *err)
{
    struct json *format = aq_strmap_get(&formats->by_name, run->format_name);
    if (format)
        return json_copy(format);
    const char *name = aq_arena_strdup(&s->arena, run->format_name);
    const char *dir = conf_dir_of(s, aq_arena_printf(&s->arena, "format/%s", name));
    if (!dir) {
        (void)fail_format(s, run, err);
        return NULL;
    }
    format = format_load(dir, name, err);
    if (!format)
        return NULL;
    aq_strmap_put(&formats->by_name, name, format);
    aq_strmap_put(&formats->files, name,
                  aq_arena_printf(&s->arena, "%s/format/%s.yaml", dir, name));
    return json_copy(format);
}

struct json *run_to_json(struct conf_search *s, struct run_formats *formats, const struct node *app,
                         const struct run *run, const struct override *overrides, size_t count,
                         struct aq_err *err)
{
    struct json *format = base_format(s, formats, run, err);
    if (!format)
        return NULL;
    struct json *root = node_to_json(app, err);
    if (!root) {
        json_free(format);
        return NULL;
    }
    struct json *aq = json_add_object(root, "_aq");
    json_add_string(aq, "schema", RUN_SCHEMA);
    json_add_string(aq, "scheme_name", run->scheme_name);
    json_add_int(aq, "num_calib_samples", run->calib_samples);
    json_add_int(aq, "score_samples", run->score_samples);
    json_add_string(aq, "out_dir", run->out_dir);
    json_add(aq, "format", format);
    struct json *texts = json_add_array(aq, "overrides");
    for (size_t i = 0; i < count; i++)
        json_push(texts, json_new_string(overrides[i].text));
    return root;
}
