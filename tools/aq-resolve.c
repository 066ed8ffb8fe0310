/* aq-resolve: composes one run or a sweep from the configuration tree and overrides. */
#include "base/file.h"
#include "base/mem.h"
#include "base/opt.h"
#include "conf/inputs.h"
#include "conf/resolve.h"
#include "io/run_schema.h"

#include <stdlib.h>
#include <string.h>

static struct {
    const char *config_name, *config_dir, *format, *depfile, *dir;
    const char *list, *show, *explain, *overrides;
    bool multirun, scoring_id;
} o;

static const char *const formats[] = {"json", "yaml", NULL};

static const struct aq_opt options[] = {
    {"config-name", 0, AQ_OPT_TEXT, &o.config_name, "NAME",
     "primary configuration (preset/qwen3_lm_sensitivity)", NULL, 0, 0},
    {"config-dir", 0, AQ_OPT_TEXT, &o.config_dir, "DIR",
     "a directory that is searched before the configuration tree", NULL, 0, 0},
    {"multirun", 'm', AQ_OPT_FLAG, &o.multirun, NULL,
     "one run for every combination of a=1,2 b=x,y: a line of JSON each", NULL, 0, 0},
    {"dir", 0, AQ_OPT_TEXT, &o.dir, "DIR",
     "with -m: write DIR/<hydra.sweep.subdir>/run.json for each run,\nand the links "
     "DIR/in/checkpoint "
     "and DIR/in/captions-<size>",
     NULL, 0, 0},
    {"overrides", 0, AQ_OPT_TEXT, &o.overrides, "FILE",
     "more overrides, one a line, after those typed", NULL, 0, 0},
    {"format", 0, AQ_OPT_CHOICE, &o.format, "FORMAT",
     "json (default), or yaml: the configuration alone", formats, 0, 0},
    {"depfile", 0, AQ_OPT_TEXT, &o.depfile, "FILE",
     "write a make rule: the product depends on the files it was made from", NULL, 0, 0},
    {"list", 0, AQ_OPT_TEXT, &o.list, "GROUP", "list the options of a group, such as quant_pair",
     NULL, 0, 0},
    {"show", 0, AQ_OPT_TEXT, &o.show, "KEY", "print one value, such as dataset.captions_path", NULL,
     0, 0},
    {"explain", 0, AQ_OPT_TEXT, &o.explain, "KEY",
     "say which file and line, or which override, set a value", NULL, 0, 0},
    {"scoring-id", 0, AQ_OPT_FLAG, &o.scoring_id, NULL,
     "print 8 hex digits for what the overrides of --overrides change\nof what scoring reads, or "
     "nothing",
     NULL, 0, 0},
    AQ_OPT_END,
};

static int check_options(const struct aq_cmdline *cl, struct aq_err *err)
{
    int questions = (o.list != NULL) + (o.show != NULL) + (o.explain != NULL) + o.scoring_id;
    if (questions > 1)
        return aq_err_set(err, AQ_EUSAGE,
                          "--list, --show, --explain and --scoring-id exclude one another");
    if (questions && (o.multirun || o.depfile))
        return aq_err_set(err, AQ_EUSAGE, "-m and --depfile go only with a product");
    if (o.dir && (!o.multirun || cl->output))
        return aq_err_set(err, AQ_EUSAGE, "--dir needs -m, and excludes -o");
    if (o.depfile && !o.dir && (!cl->output || strcmp(cl->output, "-") == 0))
        return aq_err_set(err, AQ_EUSAGE,
                          "--depfile needs the name of the product: -o FILE or "
                          "-m --dir DIR");
    return 0;
}

static int answer(struct resolver *r, size_t operands, const char *output, struct aq_err *err)
{
    struct aq_buf text = AQ_BUF_INIT;
    bool yaml = o.format && strcmp(o.format, "yaml") == 0;
    int result = o.scoring_id ? resolve_scoring_id(r, operands, &text, err)
                 : o.list     ? resolve_list(r, o.list, &text, err)
                 : o.show     ? resolve_show(r, o.show, yaml, &text, err)
                              : resolve_explain(r, o.explain, &text, err);
    if (result == 0)
        result = aq_write_file(output, aq_buf_str(&text), text.len, err);
    aq_buf_release(&text);
    return result;
}

/* D/<subdir>/run.json, or composed-config.yaml, for each job; unchanged files are left alone. */
static int write_each(const struct resolved_list *jobs, const char *dir, bool yaml,
                      struct aq_names *targets, struct aq_err *err)
{
    for (size_t i = 0; i < jobs->count; i++) {
        const struct resolved *job = &jobs->items[i];
        char *sub = aq_path_join(dir, job->subdir);
        char *path = aq_path_join(sub, yaml ? "composed-config.yaml" : "run.json");
        aq_names_add(targets, path);
        int result = aq_make_dirs(sub, err);
        if (result == 0)
            result = aq_write_if_changed(path, job->text, job->len, err);
        free(sub);
        if (result < 0)
            return -1;
    }
    return 0;
}

/* DIR/.runs: the directories of the runs, one a line, for aq-overlay --cells. */
static int write_list(const struct resolved_list *jobs, const char *dir, struct aq_err *err)
{
    struct aq_buf text = AQ_BUF_INIT;
    char *path = aq_path_join(dir, ".runs");
    for (size_t i = 0; i < jobs->count; i++)
        aq_buf_addf(&text, "%s\n", jobs->items[i].subdir);
    int result = aq_write_if_changed(path, aq_buf_str(&text), text.len, err);
    free(path);
    aq_buf_release(&text);
    return result;
}

static int write_together(const struct resolved_list *jobs, const char *output, bool yaml,
                          struct aq_names *targets, struct aq_err *err)
{
    struct aq_buf all = AQ_BUF_INIT;
    for (size_t i = 0; i < jobs->count; i++) {
        if (yaml && i)
            aq_buf_adds(&all, "---\n");
        aq_buf_add(&all, jobs->items[i].text, jobs->items[i].len);
    }
    if (output)
        aq_names_add(targets, xstrdup(output));
    int result = aq_write_file(output, aq_buf_str(&all), all.len, err);
    aq_buf_release(&all);
    return result;
}

static int write_depfile(const struct resolved_list *jobs, const struct aq_names *targets,
                         const char *path, struct aq_err *err)
{
    struct aq_buf text = AQ_BUF_INIT;
    struct aq_names files = {0};
    for (size_t i = 0; i < jobs->count; i++)
        for (size_t k = 0; k < jobs->items[i].files.count; k++)
            aq_names_add(&files, jobs->items[i].files.items[k]);
    int result = resolve_depfile(&text, targets, &files, err);
    if (result == 0)
        result = aq_write_if_changed(path, aq_buf_str(&text), text.len, err);
    free(files.items);
    aq_buf_release(&text);
    return result;
}

static int produce(struct resolver *r, const char *output, struct aq_err *err)
{
    struct resolved_list jobs = {0};
    struct aq_names targets = {0};
    bool yaml = o.format && strcmp(o.format, "yaml") == 0;
    enum resolve_format format = yaml                   ? RESOLVE_YAML
                                 : o.multirun && !o.dir ? RESOLVE_JSON_LINE
                                                        : RESOLVE_JSON;
    int result =
        o.multirun ? resolve_all(r, format, &jobs, err) : resolve_one(r, format, &jobs, err);
    if (result == 0 && o.dir)
        result = resolve_check_subdirs(r, &jobs, err);
    if (result == 0)
        result = o.dir ? write_each(&jobs, o.dir, yaml, &targets, err)
                       : write_together(&jobs, output, yaml, &targets, err);
    if (result == 0 && o.dir && !yaml)
        result = write_list(&jobs, o.dir, err) < 0 ? -1 : inputs_link(r, o.dir, err);
    if (result == 0 && o.depfile)
        result = write_depfile(&jobs, &targets, o.depfile, err);
    for (size_t i = 0; i < targets.count; i++)
        free((char *)targets.items[i]);
    free(targets.items);
    resolved_release(&jobs);
    return result;
}

enum { OVERRIDES_FILE_MAX = 16 << 20 };

/* Every line that is not empty is one override. The names point into the text. */
static int read_overrides(const char *path, struct aq_buf *text, struct aq_names *out,
                          struct aq_err *err)
{
    if (aq_read_file(path, OVERRIDES_FILE_MAX, text, err) < 0)
        return -1;
    if (strlen(aq_buf_str(text)) != text->len)
        return aq_err_set(err, AQ_EINPUT, "%s: a NUL byte in a list of overrides", aq_show(path));
    for (char *line = text->len ? text->data : NULL, *end; line && *line; line = end) {
        end = line + strcspn(line, "\n");
        if (*end)
            *end++ = '\0';
        if (*line)
            aq_names_add(out, line);
    }
    return 0;
}

static int run(const struct aq_cmdline *cl, struct aq_err *err)
{
    struct resolver r = {0};
    struct aq_buf text = AQ_BUF_INIT;
    struct aq_names all = {0};
    const char *primary = o.config_name ? o.config_name : "preset/qwen3_lm_sensitivity";
    int result = check_options(cl, err);
    for (int i = 0; i < cl->count; i++)
        aq_names_add(&all, cl->args[i]);
    if (result == 0 && o.overrides)
        result = read_overrides(o.overrides, &text, &all, err);
    if (result == 0)
        result = resolver_init(&r, o.config_dir, primary, all.items, all.count, err);
    if (result == 0)
        result = o.list || o.show || o.explain || o.scoring_id
                     ? answer(&r, (size_t)cl->count, cl->output, err)
                     : produce(&r, cl->output, err);
    resolver_release(&r);
    aq_names_release(&all);
    aq_buf_release(&text);
    return result;
}

static const char *const schemas[] = {RUN_SCHEMA, NULL};

static const struct aq_tool tool = {
    .name = "aq-resolve",
    .summary = "Composes a run from the configuration tree and overrides such as\n"
               "quant_pair=wint4_aint8, dataset.size=small or +key=value.",
    .usage = "aq-resolve [OPTIONS] [OVERRIDE...]",
    .example = "aq-resolve quant_pair=wint4_aint8 dataset.size=small | jq ._aq",
    .options = options,
    .max_args = -1,
    .run = run,
    .result_version = 3,
    .schemas = schemas,
};

int main(int argc, char **argv)
{
    return aq_tool_main(&tool, argc, argv);
}
