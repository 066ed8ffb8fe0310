#include "export/plan.h"

#include "base/mem.h"
#include "export/gguf_model.h"
#include "export/targets.h"
#include "model/fold.h"
#include "model/turn.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the recipe ---- */

/*
 * aq leaves the head alone, but manifests of other tools may list it. A recipe that quantizes it is
 * judged as one that has the group.
 */
static int refuse_head(const struct export_plan *p, struct aq_err *err)
{
    static const char head[] = "lm_head";
    const struct lm_arch *a = &p->lm.arch;
    for (size_t i = 0; i < p->manifest.count; i++) {
        const char *name = p->manifest.groups[i].layer, *dot = strrchr(name, '.');
        struct manifest_choice c;
        struct engine_verdict v;
        if (strcmp(dot ? dot + 1 : name, head) != 0)
            continue;
        if (manifest_choice(&p->manifest, name, &c, err) < 0)
            return -1;
        if (strcmp(c.candidate, "NONE") == 0)
            continue;
        const struct engine_group q = {.kind = "head",
                                       .arch = p->arch,
                                       .tied = a->tie_word_embeddings,
                                       .modules = 1,
                                       .rows = {a->vocab_size},
                                       .cols = {a->hidden_size},
                                       .weight = c.weight,
                                       .act = c.act};
        engine_judge(p->engine, &p->target, p->layout, &q, &v);
        aq_err_set(err, AQ_EINPUT, "%s: candidate '%s' (%s | %s) is '%s' for %s: %s", aq_show(name),
                   aq_show(c.candidate), aq_show(c.weight), aq_show(c.act),
                   verdict_names[VERDICT_NO], engine_name(p->engine),
                   v.verdict == VERDICT_NO ? v.reason : "aq-export does not quantize the head");
        return aq_err_hint(err, "select again with lm_head pinned to NONE");
    }
    return 0;
}

/* What a group has of each expert. */
static void find_parts(const struct lm *lm, struct export_group *g)
{
    const struct model_group *m = g->model;
    struct model_layer shape;
    if (!m->experts)
        return;
    model_layer_describe(&shape, &lm->arch, m->layer);
    const bool *half = shape.groups[m - lm->groups.items - lm->groups.first[m->layer]].half;
    g->part = half[EXPERT_GATE_UP] ? PART_GATE : PART_DOWN;
    g->parts = (half[EXPERT_DOWN] ? EXPERT_PARTS : PART_DOWN) - g->part;
}

enum expert_part export_plan_part(const struct export_group *g, int module)
{
    return (enum expert_part)(g->part + module % g->parts);
}

static int read_recipe(struct export_plan *p, struct aq_err *err)
{
    const struct manifest *m = &p->manifest;
    p->count = p->lm.groups.count;
    p->groups = xcalloc(p->count + 1, sizeof *p->groups);
    if (refuse_head(p, err) < 0 ||
        manifest_is_of(m, p->lm.digest, p->count, p->request->lm, err) < 0)
        return -1;
    for (size_t i = 0; i < p->count; i++) {
        struct export_group *g = &p->groups[i];
        struct manifest_choice c;
        g->model = &p->lm.groups.items[i];
        find_parts(&p->lm, g);
        if (manifest_choice(m, g->model->name, &c, err) < 0)
            return -1;
        g->candidate = c.candidate;
        g->weight = c.weight;
        g->act = c.act;
    }
    return 0;
}

/* ---- verdicts ---- */

static void question_of(const struct export_plan *p, const struct export_group *g,
                        struct engine_group *q)
{
    const struct model_group *m = g->model;
    *q = (struct engine_group){
        .kind = m->kind, .arch = p->arch, .normed = m->normed, .weight = g->weight, .act = g->act};
    q->tied = p->lm.arch.tie_word_embeddings &&
              (strcmp(m->kind, "head") == 0 || strcmp(m->kind, "lm_head") == 0);
    for (int i = 0; i < m->module_count && i < ENGINE_MAX_MODULES; i++) {
        q->rows[i] = m->modules[i].rows;
        q->cols[i] = m->modules[i].cols;
        q->modules = i + 1;
    }
}

static void judge(struct export_plan *p)
{
    struct engine_verdict *all = xcalloc(p->count + 1, sizeof *all);
    for (size_t i = 0; i < p->count; i++) {
        struct engine_group q;
        question_of(p, &p->groups[i], &q);
        engine_judge(p->engine, &p->target, p->layout, &q, &all[i]);
    }
    engine_judge_recipe(p->engine, p->layout, all, p->count);
    for (size_t i = 0; i < p->count; i++)
        p->groups[i].verdict = all[i];
    free(all);
}

void export_plan_lines(const struct export_plan *p, struct aq_buf *out)
{
    for (size_t i = 0; i < p->count; i++) {
        const struct export_group *g = &p->groups[i];
        const struct engine_verdict *v = &g->verdict;
        struct json *line = json_new_object();
        json_add_string(line, "group", g->model->name);
        json_add_string(line, "candidate", g->candidate);
        json_add(line, "scheme",
                 v->scheme.name[0] ? json_new_string(v->scheme.name) : json_new_null());
        json_add_string(line, "verdict", verdict_names[v->verdict]);
        json_add(line, "reason", v->reason[0] ? json_new_string(v->reason) : json_new_null());
        json_add(line, "source", v->source ? json_new_string(v->source) : json_new_null());
        if (json_write(out, line, JSON_COMPACT | JSON_NEWLINE, NULL) < 0)
            abort(); /* strings and nulls cannot fail */
        json_free(line);
    }
}

/* The candidate of the manifest that would do for a group, with bits nearest to those chosen. */
static const char *nearest_candidate(const struct export_plan *p, const struct export_group *g)
{
    const struct json *all = json_find(p->manifest.selection, "candidates");
    double want = g->verdict.scheme.name[0] ? g->verdict.scheme.storage_bits : 0, best = INFINITY;
    const char *found = NULL;
    for (const struct json *v = json_first(all); v; v = json_next(v)) {
        struct export_group other = *g;
        struct engine_group q;
        struct engine_verdict answer;
        other.weight = json_find_string(v, "w");
        other.act = json_find_string(v, "a");
        if (!other.weight || !other.act)
            continue;
        question_of(p, &other, &q);
        engine_judge(p->engine, &p->target, p->layout, &q, &answer);
        double away = fabs(answer.scheme.storage_bits - want);
        if (answer.quantized && answer.verdict <= VERDICT_NEAR && away < best) {
            best = away;
            found = json_key(v);
        }
    }
    return found;
}

int export_plan_accept(const struct export_plan *p, bool for_check, struct aq_err *err)
{
    for (size_t i = 0; i < p->count; i++) {
        const struct export_group *g = &p->groups[i];
        const struct engine_verdict *v = &g->verdict;
        enum verdict limit = for_check || p->request->force ? VERDICT_OTHER : VERDICT_NEAR;
        if (v->verdict <= limit)
            continue;
        aq_err_set(err, AQ_EINPUT, "%s: candidate '%s' (%s | %s) is '%s' for %s: %s",
                   aq_show(g->model->name), aq_show(g->candidate), aq_show(g->weight),
                   aq_show(g->act), verdict_names[v->verdict], engine_name(p->engine), v->reason);
        const char *other = nearest_candidate(p, g);
        return aq_err_hint(err, "%s%s%s%s",
                           other ? "nearest candidate of this manifest that is served: " : "",
                           other ? other : "no candidate of this manifest is served there",
                           v->verdict == VERDICT_OTHER ? "; --force writes it all the same" : "",
                           other ? "" : ": select again with --engine");
    }
    return 0;
}

/* ---- ranges ---- */

/* Opens the solved file where a candidate of the recipe needs it. */
static int open_solved(struct export_plan *p, struct aq_err *err)
{
    const char *path = p->request->solved;
    for (size_t i = 0; i < p->count; i++) {
        struct export_group *g = &p->groups[i];
        struct quant_spec spec;
        char digest[AQ_SHA256_HEX];
        treatment_id(g->weight, g->act, g->id);
        if (quant_parse(g->weight, &spec, err) < 0)
            return aq_err_prefix(err, "%s", aq_show(g->model->name));
        if (!quant_is_solved(&spec))
            continue;
        if (!path)
            return aq_err_set(err, AQ_EUSAGE,
                              "'%s' has a calibrated candidate in %s: --solved is needed",
                              aq_show(p->request->manifest), aq_show(g->model->name));
        if (!p->solved) {
            p->solved = xcalloc(1, sizeof *p->solved);
            if (solved_open(p->solved, path, err) < 0 ||
                solved_matches(p->solved, p->lm.digest, &p->lm.groups, err) < 0)
                return -1;
        }
        if (solved_digest(p->solved, g->id, digest, err) < 0)
            return aq_err_prefix(err, "%s", aq_show(g->model->name));
    }
    return 0;
}

/* Beside the norm's: what the router and the rows of up take. */
static int take_expert_scales(struct export_plan *p, struct export_group *g, struct aq_err *err)
{
    struct model_layer shape;
    model_layer_describe(&shape, &p->lm.arch, g->model->layer);
    size_t first = p->lm.groups.first_input[g->model->layer];
    size_t inner = first + (size_t)shape.experts_input[EXPERT_DOWN];
    int64_t cols = p->lm.groups.inputs[inner].cols;
    g->router = lm_router_beside(&p->lm, (size_t)g->model->inputs[0])->source;
    g->inner_scale = solved_scale(p->solved, g->id, inner, cols, err);
    g->inner_factor = solved_factor(p->solved, g->id, inner, cols, err);
    return g->inner_scale && g->inner_factor ? 0 : -1;
}

static int take_scales(struct export_plan *p, struct aq_err *err)
{
    if (open_solved(p, err) < 0)
        return -1;
    for (size_t i = 0; i < p->count; i++) {
        struct export_group *g = &p->groups[i];
        if (!g->verdict.quantized || !g->verdict.scheme.methods.scaling)
            continue;
        size_t input = (size_t)g->model->inputs[0];
        const struct lm_tensor *norm = lm_norm_before(&p->lm, input);
        if (g->verdict.scheme.methods.own)
            return aq_err_set(err, AQ_EINPUT,
                              "%s: scales of each linear's own cannot be exported "
                              "(autoquant.awq_shared joint has one for all)",
                              aq_show(g->model->name));
        g->scale = solved_scale(p->solved, g->id, input, p->lm.groups.inputs[input].cols, err);
        if (!g->scale)
            return -1;
        if (!g->verdict.scheme.prescaled && !norm)
            return aq_err_set(err, AQ_EINPUT, "%s: no norm is in front to take its scale",
                              aq_show(g->model->name));
        g->norm = g->verdict.scheme.prescaled ? NULL : norm->source;
        if (g->model->experts && take_expert_scales(p, g, err) < 0)
            return -1;
    }
    return 0;
}

void export_plan_scales(const struct export_group *g, int module, const float **cols,
                        const float **rows)
{
    enum expert_part part = g->parts ? export_plan_part(g, module) : PART_GATE;
    *cols = g->scale;
    *rows = NULL;
    if (g->inner_scale && part == PART_DOWN)
        *cols = g->inner_scale;
    else if (g->inner_scale && part == PART_UP)
        *rows = g->inner_factor;
}

const struct export_group *export_plan_router(const struct export_plan *p, const char *tensor)
{
    for (size_t i = 0; i < p->count; i++)
        if (p->groups[i].router && strcmp(p->groups[i].router, tensor) == 0)
            return &p->groups[i];
    return NULL;
}

const struct export_group *export_plan_norm(const struct export_plan *p, const char *tensor)
{
    for (size_t i = 0; i < p->count; i++)
        if (p->groups[i].norm && strcmp(p->groups[i].norm, tensor) == 0)
            return &p->groups[i];
    return NULL;
}

/* The largest input after the division by the scale. */
static float scaled_amax(const struct export_plan *p, const float *scale, int64_t input,
                         const struct quant_range *range)
{
    float most = 0;
    for (int64_t c = 0; c < p->lm.groups.inputs[input].cols; c++) {
        float x = range->hidden[c] * (1 / scale[c]);
        most = x > most ? x : most;
    }
    return most;
}

static int take_ranges(struct export_plan *p, struct aq_err *err)
{
    const char *path = p->request->ranges;
    bool needed = false;
    for (size_t i = 0; i < p->count; i++)
        needed |= p->groups[i].verdict.scheme.name[0] &&
                  scheme_is_calibrated(&p->groups[i].verdict.scheme);
    if (!needed)
        return 0;
    if (!path)
        return aq_err_set(err, AQ_EUSAGE,
                          "this recipe has activations with calibrated ranges: give --ranges");
    struct jref root = jref_root(p->manifest.root, p->request->manifest), aq, identity;
    int64_t prefix;
    if (jref_get(&root, "aq", JSON_OBJECT, &aq, err) < 0 ||
        jref_get(&aq, "identity", JSON_OBJECT, &identity, err) < 0 ||
        jref_int(&identity, "prefix", 1, INT32_MAX, &prefix, err) < 0 ||
        range_file_open(&p->ranges, path, err) < 0)
        return -1;
    p->has_ranges = true;
    struct range_user user = {.lm = p->lm.digest, .model = &p->lm.groups};
    int at = 0;
    if (range_file_matches(&p->ranges, &user, err) < 0 ||
        (at = range_file_prefix(&p->ranges, prefix, err)) < 0)
        return -1;
    for (size_t i = 0; i < p->count; i++) {
        struct export_group *g = &p->groups[i];
        if (!g->verdict.scheme.name[0] || !scheme_is_calibrated(&g->verdict.scheme))
            continue;
        struct quant_range range;
        bool inner = g->part == PART_DOWN; /* it is of downs alone */
        float *to[] = {inner ? &g->inner_amax : &g->input_amax, &g->inner_amax};
        for (int k = 0; k < g->model->input_count && k < 2; k++) {
            range_file_get(&p->ranges, g->model->inputs[k], at, &range);
            if (!(range.amax > 0))
                return aq_err_set(err, AQ_EINPUT, "%s: the calibrated range of '%s' is %g",
                                  aq_show(path), aq_show(g->model->name), (double)range.amax);
            const float *scale = k ? g->inner_scale : g->scale;
            *to[k] = scale ? scaled_amax(p, scale, g->model->inputs[k], &range) : range.amax;
        }
    }
    return 0;
}

int export_plan_numbers(struct export_plan *p, struct aq_err *err)
{
    if (take_scales(p, err) < 0)
        return -1;
    return p->layout == LAYOUT_GGUF ? 0 : take_ranges(p, err); /* it has no words for ranges */
}

/* ---- the checkpoint ---- */

/* "<stem>.{e}.gate_proj" and so on, in place of "<stem>.gate_up_proj" and "<stem>.down_proj". */
static int take_apart(struct export_plan *p, struct export_group *g, struct aq_err *err)
{
    static const char *const names[EXPERT_PARTS] = {"gate_proj", "up_proj", "down_proj"};
    const struct model_group *m = g->model;
    const char *stem = m->modules[0].name;
    g->turned = arch_layout(&p->lm.arch, m->layer) == EXPERTS_TRANSPOSED;
    g->apart = xmalloc(sizeof *g->apart);
    *g->apart = *m;
    g->apart->module_count = g->parts;
    g->apart->modules = xcalloc((size_t)g->parts, sizeof *g->apart->modules);
    for (int k = 0; k < g->parts; k++) {
        enum expert_part part = export_plan_part(g, k);
        int half = part == PART_DOWN ? EXPERT_DOWN : EXPERT_GATE_UP;
        const struct model_module *one = &m->modules[half == EXPERT_DOWN ? m->module_count - 1 : 0];
        const struct ckpt_tensor *t = ckpt_find(&p->ckpt, one->name);
        if (!t || t->t->rank != 3 ||
            t->t->elements != (uint64_t)(m->experts * one->rows * one->cols))
            return aq_err_set(err, AQ_EINPUT, "'%s': tensor '%s' is missing or of another size",
                              aq_show(p->ckpt.dir), aq_show(one->name));
        g->fused[half] = t;
        g->apart->modules[k] = (struct model_module){
            xasprintf("%.*s{e}.%s", (int)targets_parent(stem), stem, names[part]),
            half == EXPERT_DOWN ? one->rows : one->rows / 2, one->cols};
    }
    g->model = g->apart;
    return 0;
}

/* Engines read quantized experts one by one, and of a checkpoint all or none of them; in a GGUF
   file gate and up are tensors of their own. */
static int take_experts_apart(struct export_plan *p, struct aq_err *err)
{
    bool any = p->layout == LAYOUT_GGUF;
    for (size_t i = 0; i < p->count; i++)
        any |= p->groups[i].model->experts && p->groups[i].verdict.quantized;
    for (size_t i = 0; i < p->count && any; i++) {
        const struct model_group *m = p->groups[i].model;
        if (m->experts && !strstr(m->modules[0].name, "{e}") &&
            take_apart(p, &p->groups[i], err) < 0)
            return -1;
    }
    return 0;
}

struct export_group *export_plan_apart(const struct export_plan *p, const char *tensor, int *from,
                                       int *end)
{
    for (size_t i = 0; i < p->count; i++)
        for (int h = 0; h < EXPERT_HALVES && p->groups[i].apart; h++) {
            struct export_group *g = &p->groups[i];
            if (!g->fused[h] || strcmp(g->fused[h]->t->name, tensor) != 0)
                continue;
            *from = h == EXPERT_DOWN ? g->parts - 1 : 0;
            *end = h == EXPERT_DOWN ? g->parts : PART_DOWN;
            return g;
        }
    return NULL;
}

void export_source_of(const struct export_plan *p, const struct export_group *g, int module,
                      struct export_source *out)
{
    const struct model_module *m = &g->modules[module];
    *out = (struct export_source){.owned = NULL};
    if (!g->apart) {
        char *name = xasprintf("%s.weight", m->name);
        const struct st_tensor *t = ckpt_find(&p->ckpt, name)->t;
        free(name);
        out->data = t->data;
        out->dtype = t->dtype;
        return;
    }
    enum expert_part part = export_plan_part(g, module);
    bool down = part == PART_DOWN;
    const struct st_tensor *t = g->fused[down ? EXPERT_DOWN : EXPERT_GATE_UP]->t;
    size_t size = st_dtype_bits(t->dtype) / 8;
    int64_t high = down ? m->rows : 2 * m->rows, above = part == PART_UP ? m->rows : 0;
    const char *expert =
        (const char *)t->data + (size_t)(module / g->parts * high * m->cols) * size;
    out->dtype = t->dtype;
    out->data = expert + (size_t)(above * m->cols) * size;
    if (!g->turned)
        return;
    out->owned = xmalloc((size_t)(m->rows * m->cols) * size);
    matrix_turn(out->owned, expert + (size_t)above * size, m->rows, m->cols, high, size);
    out->data = out->owned;
}

/* Those of every expert: gate, up and down of the first, then of the next. */
static int list_expert_modules(struct export_group *g, struct aq_err *err)
{
    const struct model_group *m = g->model;
    if (!strstr(m->modules[0].name, "{e}")) { /* none is quantized: the tensors stay as they are */
        g->modules = m->modules;
        return 0;
    }
    g->own = xcalloc((size_t)m->experts * (size_t)m->module_count, sizeof *g->own);
    for (int64_t e = 0; e < m->experts; e++)
        for (int k = 0; k < m->module_count; k++) {
            const char *name = m->modules[k].name, *at = strstr(name, "{e}");
            if (!at)
                return aq_err_set(err, AQ_EINPUT, "%s: module '%s' is of no expert",
                                  aq_show(m->name), aq_show(name));
            struct model_module *to = &g->own[g->module_count++];
            *to = m->modules[k];
            to->name =
                xasprintf("%.*s%lld%s", (int)(at - name), name, (long long)e, at + strlen("{e}"));
        }
    g->modules = g->own;
    return 0;
}

static int list_modules(struct export_group *g, struct aq_err *err)
{
    if (g->model->experts)
        return list_expert_modules(g, err);
    g->modules = g->model->modules;
    g->module_count = g->model->module_count;
    return 0;
}

static struct export_module module_at(struct export_group *g, int k)
{
    struct export_module m = {g, &g->modules[k], 0, g->module_count, false};
    if (g->model->experts) { /* an expert's gate and up are one matrix to the quantizers */
        int own = k % g->parts;
        m.inner = export_plan_part(g, k) == PART_DOWN;
        m.first = m.inner ? k : k - own;
        m.end = m.inner ? k + 1 : k - own + PART_DOWN;
    }
    return m;
}

struct export_module export_plan_module(const struct export_plan *p, const struct export_group *g,
                                        int module)
{
    return module_at(&p->groups[g - p->groups], module);
}

static int index_modules(struct export_plan *p, struct aq_err *err)
{
    size_t n = 0;
    for (size_t i = 0; i < p->count; i++) {
        if (list_modules(&p->groups[i], err) < 0)
            return -1;
        n += (size_t)p->groups[i].module_count;
    }
    p->by_name = xcalloc(n + 1, sizeof *p->by_name);
    for (size_t i = 0; i < p->count; i++) {
        struct export_group *g = &p->groups[i];
        g->module_amax = xcalloc((size_t)g->module_count + 1, sizeof *g->module_amax);
        for (int k = 0; k < g->module_count; k++) {
            g->module_amax[k] = -1;
            p->by_name[p->modules.count] = module_at(g, k);
            aq_names_add(&p->modules, g->modules[k].name);
        }
    }
    if (aq_names_sort(&p->modules) >= 0)
        return aq_err_set(err, AQ_EINPUT, "%s: two groups have the same module",
                          aq_show(p->request->lm));
    return 0;
}

const struct export_module *export_plan_find(const struct export_plan *p, const char *tensor)
{
    size_t len = strlen(tensor), tail = strlen(".weight");
    if (len <= tail || strcmp(tensor + len - tail, ".weight") != 0)
        return NULL;
    char *name = xstrndup(tensor, len - tail);
    ptrdiff_t i = aq_names_find(&p->modules, name);
    free(name);
    return i >= 0 && p->by_name[i].group->verdict.quantized ? &p->by_name[i] : NULL;
}

/* Every module of the recipe must be a matrix of its size in the checkpoint. */
static int check_tensors(const struct export_plan *p, struct aq_err *err)
{
    for (size_t i = 0; i < p->modules.count; i++) {
        const struct model_module *m = p->by_name[i].model;
        if (p->by_name[i].group->apart)
            continue; /* looked at when it was taken apart */
        char *name = xasprintf("%s.weight", m->name);
        const struct ckpt_tensor *t = ckpt_find(&p->ckpt, name);
        int r = 0;
        if (!t)
            r = aq_err_set(err, AQ_EINPUT, "'%s': tensor '%s' is missing", aq_show(p->ckpt.dir),
                           aq_show(name));
        else if (t->t->rank != 2 || t->t->shape[0] != (uint64_t)m->rows ||
                 t->t->shape[1] != (uint64_t)m->cols)
            r = aq_err_set(err, AQ_EINPUT, "'%s': tensor '%s' is not of shape (%lld, %lld)",
                           aq_show(p->ckpt.dir), aq_show(name), (long long)m->rows,
                           (long long)m->cols);
        free(name);
        if (r < 0)
            return -1;
    }
    return 0;
}

/* ---- all ---- */

static int open_engine(struct export_plan *p, struct aq_err *err)
{
    static const char *const usual[LAYOUTS] = {"vllm", "vllm", "llamacpp"};
    const struct export_request *q = p->request;
    const char *engine = q->engine ? q->engine : usual[q->layout_given ? q->layout : LAYOUT_CT];
    if (engine_target_parse(engine, &p->target, err) < 0)
        return -1;
    p->engine = engine_load(q->conf_dir, p->target.name, err);
    if (!p->engine)
        return -1;
    p->layout = q->layout_given ? q->layout : engine_default_layout(p->engine);
    if (!engine_has_layout(p->engine, p->layout))
        return aq_err_set(err, AQ_EUSAGE, "%s does not load %s", engine_name(p->engine),
                          layout_names[p->layout]);
    return 0;
}

int export_plan_open(struct export_plan *p, const struct export_request *q, struct aq_err *err)
{
    *p = (struct export_plan){.request = q};
    if (open_engine(p, err) < 0 || lm_open(&p->lm, q->lm, err) < 0)
        return -1;
    p->has_lm = true;
    if (manifest_read(&p->manifest, q->manifest, err) < 0)
        return -1;
    p->has_manifest = true;
    if (q->arch && p->layout != LAYOUT_GGUF)
        return aq_err_set(err, AQ_EUSAGE, "--arch goes with GGUF alone");
    p->arch = p->layout == LAYOUT_GGUF ? gguf_arch(&p->lm, q->arch, err) : p->lm.arch.model_type;
    if (!p->arch)
        return -1;
    if (read_recipe(p, err) < 0)
        return -1;
    judge(p);
    if (ckpt_open(&p->ckpt, p->lm.root, err) < 0)
        return -1;
    p->has_ckpt = true;
    if (take_experts_apart(p, err) < 0 || index_modules(p, err) < 0)
        return -1;
    return check_tensors(p, err);
}

int export_plan_start(struct export_plan *p, struct aq_err *err)
{
    p->pool = aq_pool_new(p->request->threads, err);
    return p->pool ? 0 : -1;
}

void export_plan_close(struct export_plan *p)
{
    aq_pool_free(p->pool);
    if (p->has_ranges)
        range_file_close(&p->ranges);
    if (p->solved)
        solved_close(p->solved);
    free(p->solved);
    if (p->has_ckpt)
        ckpt_close(&p->ckpt);
    if (p->has_manifest)
        manifest_release(&p->manifest);
    if (p->has_lm)
        lm_close(&p->lm);
    engine_free(p->engine);
    for (size_t i = 0; p->groups && i < p->count; i++) {
        struct export_group *g = &p->groups[i];
        for (int k = 0; g->own && k < g->module_count; k++)
            free((void *)g->own[k].name);
        free(g->own);
        for (int k = 0; g->apart && k < g->parts; k++)
            free((void *)g->apart->modules[k].name);
        if (g->apart)
            free(g->apart->modules);
        free(g->apart);
        free(g->module_amax);
    }
    free(p->groups);
    free(p->by_name);
    aq_names_release(&p->modules);
    *p = (struct export_plan){.request = NULL};
}
