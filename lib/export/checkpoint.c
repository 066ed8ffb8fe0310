#include "export/checkpoint.h"

#include "base/mem.h"
#include "export/config.h"
#include "export/notes.h"
#include "export/targets.h"
#include "export/verify.h"
#include "export/weights.h"

#include <stdlib.h>
#include <string.h>

static int write_json(const struct out_dir *d, const char *name, struct json *v, struct aq_err *err)
{
    char *path = aq_path_join(d->part, name);
    int r = json_write_file(path, v, err);
    free(path);
    return r;
}

static int write_configs(const struct export_plan *p, const struct out_dir *d, struct json *config,
                         struct aq_err *err)
{
    if (p->layout == LAYOUT_CT) {
        config_finish(p, config, config_ct(p));
        return write_json(d, "config.json", config, err);
    }
    struct json *hf = config_modelopt_hf(p);
    config_finish(p, config, config_modelopt(p));
    int r = write_json(d, "config.json", config, err);
    if (r == 0)
        r = write_json(d, "hf_quant_config.json", hf, err);
    json_free(hf);
    return r;
}

/* The members of a fused layer, and the range of each. */
static int add_group(const struct export_plan *p, struct export_group *g, struct sharing *s,
                     struct aq_err *err)
{
    int n = g->model->module_count, r = 0;
    struct quant_matrix *members = xcalloc((size_t)n, sizeof *members);
    float *amax = xcalloc((size_t)n, sizeof *amax);
    struct quant_spec spec;
    for (int i = 0; i < n && r == 0; i++) {
        const struct model_module *m = &g->model->modules[i];
        char *name = xasprintf("%s.weight", m->name);
        const struct st_tensor *t = ckpt_find(&p->ckpt, name)->t;
        members[i] =
            (struct quant_matrix){t->data, st_num_type(t->dtype), m->rows, m->cols, m->name};
        r = module_amax(p, g, i, &amax[i], err);
        free(name);
    }
    if (r == 0)
        r = quant_parse(g->weight, &spec, err);
    if (r == 0)
        r = sharing_add(s, &spec, members, amax, n, err);
    for (int i = 0; i < n && r == 0; i++)
        aq_map_drop(members[i].data, (size_t)(members[i].rows * members[i].cols) *
                                         (members[i].dtype == NUM_F32 ? 4 : 2));
    free(members);
    free(amax);
    return r;
}

static int measure_sharing(const struct export_plan *p, struct sharing *s, struct aq_err *err)
{
    for (size_t i = 0; i < p->count; i++) {
        struct export_group *g = &p->groups[i];
        if (g->verdict.quantized && g->verdict.scheme.codes == CODES_NVFP4 &&
            g->model->module_count > 1 && !g->model->experts && !g->scale &&
            add_group(p, g, s, err) < 0)
            return -1;
    }
    return 0;
}

static int write_notes(const struct export_plan *p, const struct out_dir *d, struct aq_err *err)
{
    struct aq_buf text = AQ_BUF_INIT;
    struct sharing sharing = SHARING_INIT;
    const char *slash = strrchr(d->path, '/');
    notes_readme(p, slash ? slash + 1 : d->path, &text);
    int r = out_dir_write(d, "README.md", text.data, text.len, err);
    aq_buf_reset(&text);
    if (r == 0)
        r = measure_sharing(p, &sharing, err);
    notes_check(p, &sharing, &text);
    if (r == 0)
        r = out_dir_write(d, "CHECK.md", text.data, text.len, err);
    aq_buf_release(&text);
    return r;
}

static int check_recipe(const struct export_plan *p, struct aq_err *err)
{
    for (size_t i = 0; i < p->count; i++)
        if (p->groups[i].verdict.quantized)
            return targets_check(p, err);
    return aq_err_set(err, AQ_EINPUT, "%s: the recipe quantizes nothing",
                      aq_show(p->request->manifest));
}

int export_checkpoint(struct export_plan *p, const char *dir, struct aq_err *err)
{
    struct out_dir d;
    struct json *config = NULL;
    int r = -1;
    if (check_recipe(p, err) < 0 || export_plan_start(p, err) < 0 ||
        export_plan_numbers(p, err) < 0 || !(config = config_read(p, err)))
        return -1;
    if (out_dir_open(&d, dir, p->lm.root, err) == 0) {
        r = out_dir_copy_files(&d, p->lm.root, err);
        if (r == 0)
            r = weights_write(p, &d, err);
        if (r == 0)
            r = verify_weights(p, &d, err);
        if (r == 0)
            r = write_configs(p, &d, config, err);
        if (r == 0)
            r = write_notes(p, &d, err);
        if (r == 0)
            r = out_dir_commit(&d, err);
        (void)out_dir_abort(&d);
    }
    json_free(config);
    return r;
}
