/* Where a cell comes from: a run of aq-resolve, or the names of a format and a granularity. */
#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"
#include "io/run_schema.h"
#include "io/yaml.h"
#include "quant/format.h"
#include "quant/overlay.h"
#include "quant/quant.h"

#include <stdlib.h>
#include <string.h>

/* ---- a run ---- */

static int read_fp4_block(const struct jref *run, bool *always_16, struct aq_err *err)
{
    struct jref autoquant, v;
    int64_t n;
    *always_16 = false;
    if (!jref_has(run, "autoquant", &autoquant) || !jref_has(&autoquant, "fp4_block", &v))
        return 0;
    if (json_type(v.v) == JSON_STRING && strcmp(json_string(v.v), "honour") == 0)
        return 0;
    *always_16 = true;
    if (json_type(v.v) == JSON_STRING && strcmp(json_string(v.v), "16") == 0)
        return 0;
    if (json_type(v.v) == JSON_INT && json_int(v.v, &n) && n == 16)
        return 0;
    return jref_fail(&v, err, "expected honour or 16");
}

static int read_shared_scale(const struct jref *run, bool *own_scales, struct aq_err *err)
{
    struct jref autoquant, v;
    *own_scales = false;
    if (!jref_has(run, "autoquant", &autoquant) || !jref_has(&autoquant, "shared_scale", &v))
        return 0;
    if (json_type(v.v) != JSON_BOOL)
        return jref_fail(&v, err, "expected true or false");
    *own_scales = !json_bool(v.v);
    return 0;
}

static struct json *load_named_format(const char *conf_dir, const struct jref *name,
                                      struct aq_err *err)
{
    struct json *v = format_load(conf_dir, json_string(name->v), err);
    if (!v && err && err->code == AQ_EUSAGE) {
        err->code = AQ_EINPUT; /* the name is from a file, nobody typed it */
        (void)aq_err_prefix(err, "%s", jref_show(name));
    }
    return v;
}

/*
 * A label that ends in a number names the bits of what is computed: int4, fp8; 16 is none. Any step
 * of a sequence may be the one that is meant. Labels without a number say nothing.
 */
static int check_label(const struct jref *pair, const char *key, const struct json *quant,
                       const char *side, struct aq_err *err)
{
    struct jref at;
    struct quant_spec spec;
    enum { NONE = 16 };
    if (!jref_has(pair, key, &at) || json_type(at.v) != JSON_STRING ||
        !json_bool(json_get(quant, "supported")))
        return 0;
    const char *label = json_string(at.v), *digits = label + strlen(label);
    while (digits > label && digits[-1] >= '0' && digits[-1] <= '9')
        digits--;
    if (!*digits || strlen(digits) > 3)
        return 0;
    int bits = atoi(digits);
    const char *text = json_string(json_get(json_get(quant, "treatment"), side));
    if (quant_parse(text, &spec, err) < 0)
        return -1;
    bool fits = bits == NONE && !spec.steps;
    for (int i = 0; i < spec.steps; i++)
        fits |= spec.step[i].bits == bits;
    if (fits)
        return 0;
    return jref_fail(&at, err, "label '%s' is not what its format computes: %s", aq_show(label),
                     text);
}

static struct json *checked_quant(const struct overlay_cell *cell, const struct jref *pair,
                                  struct aq_err *err)
{
    struct json *quant = overlay_quant(cell, err);
    if (quant && (check_label(pair, "weight", quant, "w", err) < 0 ||
                  check_label(pair, "activation", quant, "a", err) < 0)) {
        json_free(quant);
        return NULL;
    }
    return quant;
}

struct json *overlay_quant_of_run(const struct jref *run, struct format_shelf *shelf,
                                  struct aq_err *err)
{
    struct overlay_cell cell = {.shelf = shelf};
    struct jref pair, name, granularity, aq;
    if (run_check_schema(run, err) < 0 ||
        jref_get(run, "quant_pair", JSON_OBJECT, &pair, err) < 0 ||
        jref_get(&pair, "format_name", JSON_STRING, &name, err) < 0 ||
        jref_get(run, "quant_granularity", JSON_OBJECT, &granularity, err) < 0 ||
        jref_string(&granularity, "name", &cell.granularity, err) < 0 ||
        read_fp4_block(run, &cell.fp4_always_16, err) < 0 ||
        read_shared_scale(run, &cell.own_scales, err) < 0 ||
        method_rules_read(&cell.methods, run, err) < 0)
        return NULL;
    const struct json *overrides = json_get(granularity.v, "quant_cfg_overrides");
    if (!overrides) {
        jref_fail(&granularity, err, "key 'quant_cfg_overrides' is missing");
        return NULL;
    }
    cell.format_name = json_string(name.v);
    cell.overrides = jref_child(&granularity, overrides, 0);
    if (jref_has(run, "_aq", &aq) && jref_has(&aq, "format", &cell.format))
        return checked_quant(&cell, &pair, err);
    struct json *loaded = load_named_format(shelf->conf_dir, &name, err);
    if (!loaded)
        return NULL;
    cell.format = jref_root(loaded, cell.format_name);
    struct json *quant = checked_quant(&cell, &pair, err);
    json_free(loaded);
    return quant;
}

/* ---- names ---- */

static bool is_file_name(const char *granularity)
{
    return strchr(granularity, '/') || strchr(granularity, '.');
}

static struct json *read_granularity(const char *conf_dir, const char *granularity, char **path,
                                     struct aq_err *err)
{
    if (is_file_name(granularity)) {
        *path = xstrdup(granularity);
        return yaml_read(*path, err);
    }
    char *dir = aq_path_join(conf_dir, "quant_granularity");
    *path = xasprintf("%s/%s.yaml", dir, granularity);
    struct json *v = NULL;
    if (aq_path_exists(*path))
        v = yaml_read(*path, err);
    else
        (void)format_unknown(dir, "granularity", granularity, err);
    free(dir);
    return v;
}

static int check_granularity(const struct jref *g, struct aq_err *err)
{
    if (json_type(g->v) != JSON_OBJECT)
        return jref_fail(g, err, "expected name and quant_cfg_overrides, found %s",
                         json_type_name(json_type(g->v)));
    for (const struct json *c = json_first(g->v); c; c = json_next(c))
        if (strcmp(json_key(c), "name") != 0 && strcmp(json_key(c), "quant_cfg_overrides") != 0) {
            jref_fail(g, err, "unknown key '%s' of a granularity", aq_show(json_key(c)));
            return aq_err_hint(err, "known: name, quant_cfg_overrides");
        }
    if (!json_get(g->v, "quant_cfg_overrides"))
        return jref_fail(g, err, "key 'quant_cfg_overrides' is missing");
    return 0;
}

struct json *overlay_quant_of_names(struct format_shelf *shelf, const char *format,
                                    const char *granularity, bool fp4_always_16, bool own_scales,
                                    struct aq_err *err)
{
    struct overlay_cell cell = {.format_name = format,
                                .fp4_always_16 = fp4_always_16,
                                .own_scales = own_scales,
                                .shelf = shelf};
    char *path = NULL;
    struct json *f = format_load(shelf->conf_dir, format, err), *g = NULL, *quant = NULL;
    if (f)
        g = read_granularity(shelf->conf_dir, granularity, &path, err);
    if (g) {
        struct jref root = jref_root(g, path);
        if (check_granularity(&root, err) == 0 &&
            jref_string(&root, "name", &cell.granularity, err) == 0) {
            cell.format = jref_root(f, format);
            cell.overrides = jref_child(&root, json_get(g, "quant_cfg_overrides"), 0);
            quant = overlay_quant(&cell, err);
        }
    }
    free(path);
    json_free(g);
    json_free(f);
    return quant;
}
