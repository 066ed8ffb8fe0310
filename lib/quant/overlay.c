#include "quant/overlay.h"
#include "base/buf.h"
#include "base/mem.h"
#include "base/msg.h"
#include "base/sha256.h"
#include "io/product.h"
#include "quant/format.h"
#include "quant/quantizer.h"
#include "quant/treatment.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#define WEIGHT "*weight_quantizer"
#define INPUT "*input_quantizer"

/* ---- merging ---- */

/* Attribute by attribute, except for axis and block_sizes, whose null beside the other is unset. */
static void merge_attributes(struct json *entry, const struct json *over)
{
    const struct json *axis = json_get(over, "axis"), *blocks = json_get(over, "block_sizes");
    bool set_blocks = blocks && json_type(blocks) != JSON_NULL;
    bool set_axis = axis && !set_blocks;
    for (const struct json *c = json_first(over); c; c = json_next(c))
        if (c != axis && c != blocks)
            json_set(entry, json_key(c), json_copy(c));
    if (set_axis) {
        json_set(entry, "axis", json_copy(axis));
        (void)json_remove(entry, "block_sizes");
    } else if (set_blocks) {
        struct json *mine = json_get(entry, "block_sizes");
        (void)json_remove(entry, "axis");
        if (!mine || json_type(mine) != JSON_OBJECT) {
            json_set(entry, "block_sizes", json_copy(blocks));
            return;
        }
        for (const struct json *c = json_first(blocks); c; c = json_next(c))
            json_set(mine, json_key(c), json_copy(c));
    } else if (blocks) {
        (void)json_remove(entry, "block_sizes");
    }
}

static int check_override(const struct jref *over, struct aq_err *err)
{
    struct quantizer q;
    if (json_type(over->v) != JSON_OBJECT)
        return jref_fail(over, err, "expected an object of quantizer attributes, found %s",
                         json_type_name(json_type(over->v)));
    if (quantizer_read(over, &q, err) < 0)
        return -1;
    if (q.has_axis && q.has_blocks)
        return jref_fail(over, err, "axis and block_sizes cannot both be set");
    return 0;
}

static int check_overridable(const struct jref *over, struct aq_err *err)
{
    static const char *const keys[] = {INPUT, WEIGHT, "default"};
    for (size_t i = 0; i < AQ_COUNT(keys); i++)
        if (strcmp(keys[i], over->name) == 0)
            return 0;
    jref_fail(over, err, "not a key that a granularity can override");
    return aq_err_hint(err, "allowed: " INPUT ", " WEIGHT ", default");
}

/*
 * A format whose default is enabled ("all layers") quantizes by it whatever no pattern names: that
 * gets the axis of the weights too, or else of the inputs, unless its own override says something.
 */
static void carry_axis(struct json *cfg, const struct json *overrides)
{
    struct json *entry = json_get(cfg, "default");
    const struct json *w = json_get(overrides, WEIGHT), *a = json_get(overrides, INPUT);
    const struct json *axis = w ? json_get(w, "axis") : NULL;
    if (!axis && a)
        axis = json_get(a, "axis");
    const struct json *on =
        entry && json_type(entry) == JSON_OBJECT ? json_get(entry, "enable") : NULL;
    if (!axis || json_get(overrides, "default") || !on || json_type(on) != JSON_BOOL ||
        !json_bool(on))
        return;
    json_set(entry, "axis", json_copy(axis));
    if (json_type(axis) != JSON_NULL)
        (void)json_remove(entry, "block_sizes");
}

static int merge_overrides(struct json *cfg, const struct jref *overrides, struct aq_err *err)
{
    for (const struct json *c = json_first(overrides->v); c; c = json_next(c)) {
        struct jref over = jref_child(overrides, c, 0);
        if (check_overridable(&over, err) < 0 || check_override(&over, err) < 0)
            return -1;
        struct json *entry = json_get(cfg, json_key(c));
        if (!entry)
            entry = json_add_object(cfg, json_key(c));
        if (json_type(entry) == JSON_ARRAY)
            for (struct json *e = json_first(entry); e; e = json_next(e))
                merge_attributes(e, c);
        else
            merge_attributes(entry, c);
    }
    carry_axis(cfg, overrides->v);
    return 0;
}

struct json *overlay_merge(const struct jref *format, const struct jref *overrides,
                           struct aq_err *err)
{
    enum json_type t = json_type(overrides->v);
    if (format_check(format, err) < 0)
        return NULL;
    if (t != JSON_NULL && t != JSON_OBJECT) {
        jref_fail(overrides, err, "expected an object or null, found %s", json_type_name(t));
        return NULL;
    }
    struct json *merged = json_copy(format->v);
    if (t == JSON_OBJECT && merge_overrides(json_get(merged, "quant_cfg"), overrides, err) < 0) {
        json_free(merged);
        return NULL;
    }
    return merged;
}

/* ---- what applies to a layer ---- */

/*
 * ModelOpt applies a candidate to one layer at a time, so a quantizer's name is bare: the last
 * key that matches "weight_quantizer" wins, whatever it is, and key "default" comes before all
 * others. Without any, the default list of ModelOpt's presets has switched the quantizer off.
 */
static const struct json *entry_for(const struct json *cfg, const char *name)
{
    const struct json *found = json_get(cfg, "default");
    for (const struct json *c = json_first(cfg); c; c = json_next(c))
        if (strcmp(json_key(c), "default") != 0 && fnmatch(json_key(c), name, FNM_NOESCAPE) == 0)
            found = c;
    return found;
}

struct steps {
    struct quantizer q[TREATMENT_STEPS];
    size_t count;
};

static int read_steps(const struct jref *cfg, const char *name, struct steps *s, struct aq_err *err)
{
    const struct json *entry = entry_for(cfg->v, name);
    s->count = 0;
    if (!entry)
        return 0;
    struct jref place = jref_child(cfg, entry, 0);
    if (json_type(entry) != JSON_ARRAY) {
        s->count = 1;
        return quantizer_read(&place, &s->q[0], err);
    }
    for (const struct json *c = json_first(entry); c; c = json_next(c)) {
        struct jref member = jref_child(&place, c, s->count);
        if (s->count == TREATMENT_STEPS)
            return jref_fail(&place, err, "more than %d quantizers in a sequence", TREATMENT_STEPS);
        if (quantizer_read(&member, &s->q[s->count++], err) < 0)
            return -1;
    }
    return 0;
}

/* ---- the verdict ---- */

struct verdict {
    struct treatment w, a;
    double modelopt40, modelopt47;
    char reason[TREATMENT_REASON + 40]; /* empty: the cell runs */
};

/* NULL for no calibration pass. */
static const char *algorithm_name(const struct json *format)
{
    const struct json *a = json_get(format, "algorithm");
    if (a && json_type(a) == JSON_OBJECT)
        a = json_get(a, "method");
    return a && json_type(a) == JSON_STRING ? json_string(a) : NULL;
}

/* Enabled quantizers that no linear has, such as those of the operands of attention. */
static void name_others(const struct json *cfg, struct aq_buf *out)
{
    for (const struct json *c = json_first(cfg); c; c = json_next(c)) {
        const char *key = json_key(c);
        const struct json *on = json_type(c) == JSON_OBJECT ? json_get(c, "enable") : NULL;
        if (!strstr(key, "_quantizer") || strstr(key, "weight_quantizer") ||
            strstr(key, "input_quantizer") || (on && json_type(on) == JSON_BOOL && !json_bool(on)))
            continue;
        aq_buf_addf(out, "%s%s", out->len ? ", " : "", aq_show(key));
    }
}

static bool is_applied(const char *algorithm)
{
    static const char *const names[] = {"max",      "smoothquant", "awq_lite", "awq_clip",
                                        "awq_full", "gptq",        "mse"};
    for (size_t i = 0; i < AQ_COUNT(names); i++)
        if (strcmp(names[i], algorithm) == 0)
            return true;
    return false;
}

void overlay_warn(const struct json *quant)
{
    struct aq_buf others = AQ_BUF_INIT;
    const char *name = algorithm_name(quant);
    if (!json_bool(json_get(quant, "supported")))
        return;
    if (name && !is_applied(name))
        aq_warn("algorithm '%s' is not applied: scores will be those of plain rounding",
                aq_show(name));
    name_others(json_get(quant, "quant_cfg"), &others);
    if (others.len)
        aq_warn("%s also quantizes what is not a linear layer, which is not scored: %s",
                aq_show(json_string(json_get(quant, "base_format_name"))), others.data);
    aq_buf_release(&others);
}

/* A pattern with a path, such as *mlp*weight_quantizer, and what it quantizes for nobody. */
static const char *scoped_pattern(const struct json *cfg)
{
    for (const struct json *c = json_first(cfg); c; c = json_next(c)) {
        const char *key = json_key(c);
        if (strcmp(key, "default") != 0 &&
            (strstr(key, "weight_quantizer") || strstr(key, "input_quantizer")) &&
            fnmatch(key, "weight_quantizer", FNM_NOESCAPE) != 0 &&
            fnmatch(key, "input_quantizer", FNM_NOESCAPE) != 0)
            return key;
    }
    return NULL;
}

static void judge(const struct json *format, struct verdict *v)
{
    const char *scoped;
    if (!v->w.runs)
        (void)snprintf(v->reason, sizeof v->reason, "weights: %s", v->w.reason);
    else if (!v->a.runs)
        (void)snprintf(v->reason, sizeof v->reason, "activations: %s", v->a.reason);
    else if (strcmp(v->w.text, "none") == 0 && strcmp(v->a.text, "none") == 0) {
        scoped = scoped_pattern(json_get(format, "quant_cfg"));
        if (scoped)
            (void)snprintf(v->reason, sizeof v->reason,
                           "nothing is quantized: pattern '%.80s' names layers, and a candidate is "
                           "applied to one nameless layer at a time (rule 25)",
                           aq_show(scoped));
        else
            (void)snprintf(v->reason, sizeof v->reason,
                           "nothing is quantized, neither weights nor activations (rule 25)");
    }
}

/* The methods of the algorithm in front of the weights' steps, or the reason why not. */
static int add_methods(const struct jref *format, const struct overlay_cell *cell,
                       const struct steps *w, struct verdict *v, struct aq_err *err)
{
    bool applied;
    struct quant_methods methods;
    if (method_find(format, w->count ? &w->q[0] : NULL, &cell->methods, &methods, &applied, err) <
        0)
        return -1;
    if (!v->w.runs || !v->a.runs)
        return 0;
    struct quant_spec *spec = &v->w.spec;
    if (!v->a.spec.steps) /* an input that is not quantized is the same both ways */
        methods.quantized_input = 0;
    spec->methods = methods;
    const char *rule = quant_methods_rule(spec);
    if (!rule && methods.scaling == QUANT_SMOOTH && !v->a.spec.steps)
        rule = "smoothing is for quantized activations, and none are";
    if (!rule && methods.scaling && v->a.spec.steps && v->a.spec.step[0].scope == QUANT_HIDDEN)
        rule = "ranges for each input feature undo the scaling of input channels";
    if (rule) {
        (void)snprintf(v->reason, sizeof v->reason, "algorithm '%s': %s (rule 26)",
                       aq_show(algorithm_name(format->v)), rule);
        spec->methods = (struct quant_methods){0};
    }
    quant_print(spec, v->w.text);
    return 0;
}

static int find_verdict(const struct jref *format, const struct overlay_cell *cell,
                        struct verdict *v, struct aq_err *err)
{
    struct treatment_rules rules = {.calibrated = algorithm_name(format->v),
                                    .fp4_always_16 = cell->fp4_always_16,
                                    .shared_scale = !cell->own_scales,
                                    .stored_scales =
                                        method_stores_scales(json_get(format->v, "algorithm"))};
    struct jref cfg;
    struct steps w, a;
    *v = (struct verdict){0};
    if (jref_get(format, "quant_cfg", JSON_OBJECT, &cfg, err) < 0 ||
        read_steps(&cfg, "weight_quantizer", &w, err) < 0 ||
        read_steps(&cfg, "input_quantizer", &a, err) < 0)
        return -1;
    treatment_find(w.q, w.count, TREATMENT_WEIGHT, &rules, &v->w);
    treatment_find(a.q, a.count, TREATMENT_INPUT, &rules, &v->a);
    double w40 = treatment_modelopt40_bits(w.q, w.count),
           a40 = treatment_modelopt40_bits(a.q, a.count);
    double w47 = treatment_modelopt47_bits(w.q, w.count),
           a47 = treatment_modelopt47_bits(a.q, a.count);
    v->modelopt40 = w40 < a40 ? w40 : a40;
    v->modelopt47 = w47 < a47 ? w47 : a47;
    if (add_methods(format, cell, &w, v, err) < 0)
        return -1;
    judge(format->v, v);
    return 0;
}

/* ---- the document ---- */

static struct json *summary_of(const struct json *entry)
{
    static const char *const shown[] = {"type", "axis", "block_sizes"};
    struct json *out;
    if (json_type(entry) == JSON_ARRAY) {
        out = json_new_array();
        for (const struct json *c = json_first(entry); c; c = json_next(c))
            (void)json_push(out, summary_of(c));
        return out;
    }
    out = json_new_object();
    for (size_t i = 0; i < AQ_COUNT(shown); i++) {
        const struct json *v = json_get(entry, shown[i]);
        if (v)
            (void)json_add(out, shown[i], json_copy(v));
    }
    return out;
}

static void add_summary(struct json *root, const struct json *cfg)
{
    static const char *const keys[] = {WEIGHT, INPUT};
    struct json *summary = json_add_object(root, "effective_quantizer_summary");
    for (size_t i = 0; i < AQ_COUNT(keys); i++) {
        const struct json *entry = json_get(cfg, keys[i]);
        if (entry)
            (void)json_add(summary, keys[i], summary_of(entry));
    }
}

static void add_text_or_null(struct json *object, const char *key, const char *text)
{
    if (text[0])
        json_add_string(object, key, text);
    else
        json_add_null(object, key);
}

static void add_treatment(struct json *root, const struct verdict *v)
{
    enum { ID_DIGITS = 16 };
    struct json *t = json_add_object(root, "treatment");
    add_text_or_null(t, "w", v->w.text);
    add_text_or_null(t, "a", v->a.text);
    char id[AQ_SHA256_HEX] = "";
    if (v->w.runs && v->a.runs) {
        struct aq_buf text = AQ_BUF_INIT;
        aq_buf_addf(&text, "%s|%s", v->w.text, v->a.text);
        aq_sha256_of(text.data, text.len, id);
        id[ID_DIGITS] = '\0';
        aq_buf_release(&text);
    }
    add_text_or_null(root, "treatment_id", id);
}

static void add_bits(struct json *root, const struct verdict *v)
{
    struct json *bits = json_add_object(root, "bits");
    json_add_double(bits, "modelopt40", v->modelopt40);
    json_add_double(bits, "modelopt47", v->modelopt47);
    if (v->w.runs)
        json_add_double(bits, "storage", v->w.storage_bits);
    else
        json_add_null(bits, "storage");
}

static struct json *document(const struct overlay_cell *cell, const struct json *merged,
                             const struct verdict *v, const char *label)
{
    struct json *root = product_new(QUANT_SCHEMA);
    json_add_string(root, "base_format_name", cell->format_name);
    struct json *granularity = json_add_object(root, "quant_granularity");
    json_add_string(granularity, "name", cell->granularity);
    (void)json_add(granularity, "quant_cfg_overrides",
                   json_type(cell->overrides.v) == JSON_NULL ? json_new_object()
                                                             : json_copy(cell->overrides.v));
    (void)json_add(root, "quant_cfg", json_copy(json_get(merged, "quant_cfg")));
    (void)json_add(root, "algorithm", json_copy(json_get(merged, "algorithm")));
    add_summary(root, json_get(merged, "quant_cfg"));
    add_treatment(root, v);
    json_add_string(root, "label", label);
    add_bits(root, v);
    json_add_bool(root, "supported", !v->reason[0]);
    add_text_or_null(root, "reason", v->reason);
    return root;
}

struct json *overlay_quant(const struct overlay_cell *cell, struct aq_err *err)
{
    struct json *root = NULL, *merged = overlay_merge(&cell->format, &cell->overrides, err);
    if (!merged)
        return NULL;
    struct jref place = jref_root(merged, cell->format_name);
    struct verdict v;
    char label[FORMAT_LABEL];
    if (find_verdict(&place, cell, &v, err) == 0 &&
        format_label(cell->shelf, merged, 0, label, err) == 0)
        root = document(cell, merged, &v, label);
    json_free(merged);
    return root;
}
