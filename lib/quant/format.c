#include "quant/format.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/names.h"
#include "io/yaml.h"
#include "quant/quantizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the directory ---- */

/* All formats, sorted. */
static int list_formats(struct aq_arena *a, const char *dir, struct aq_names *n, struct aq_err *err)
{
    if (aq_names_read_dir(n, a, dir, AQ_NAMES_OPTIONS) < 0)
        return aq_err_sys(err, AQ_ERUN, "cannot read directory '%s'", aq_show(dir));
    aq_names_order(n);
    return 0;
}

int format_unknown(const char *dir, const char *what, const char *name, struct aq_err *err)
{
    struct aq_arena a = AQ_ARENA_INIT;
    struct aq_names n = {0};
    if (list_formats(&a, dir, &n, err) == 0) {
        aq_err_set(err, AQ_EUSAGE, "unknown %s '%s': no such file in '%s'", what, aq_show(name),
                   aq_show(dir));
        aq_names_hint(err, "there are", name, &n);
    }
    free(n.items);
    aq_arena_release(&a);
    return -1;
}

/* ---- contents ---- */

/* A class of modules, such as nn.LeakyReLU, holds patterns of its own; no linear layer is one. */
static bool is_class_key(const char *key)
{
    return strncmp(key, "nn.", 3) == 0;
}

static int check_entry(const struct jref *entry, struct aq_err *err)
{
    struct quantizer q;
    if (json_type(entry->v) != JSON_ARRAY)
        return quantizer_read(entry, &q, err);
    size_t i = 0;
    for (const struct json *c = json_first(entry->v); c; c = json_next(c), i++) {
        struct jref member = jref_child(entry, c, i);
        if (quantizer_read(&member, &q, err) < 0)
            return -1;
    }
    return i ? 0 : jref_fail(entry, err, "an empty list of quantizers");
}

static int check_quant_cfg(const struct jref *cfg, struct aq_err *err)
{
    for (const struct json *c = json_first(cfg->v); c; c = json_next(c)) {
        struct jref entry = jref_child(cfg, c, 0);
        if (is_class_key(json_key(c)) && json_type(c) == JSON_OBJECT)
            continue;
        if (check_entry(&entry, err) < 0)
            return -1;
    }
    return 0;
}

static int check_algorithm(const struct jref *format, struct aq_err *err)
{
    struct jref algorithm;
    if (!jref_has(format, "algorithm", &algorithm))
        return json_get(format->v, "algorithm")
                   ? 0
                   : jref_fail(format, err, "key 'algorithm' is missing");
    if (json_type(algorithm.v) == JSON_OBJECT) {
        const struct json *method = json_get(algorithm.v, "method");
        if (method && (json_type(method) == JSON_STRING || json_type(method) == JSON_NULL))
            return 0;
        return jref_fail(&algorithm, err, "expected a member 'method' with a name or null");
    }
    if (json_type(algorithm.v) != JSON_STRING)
        return jref_fail(&algorithm, err,
                         "expected a name, an object with 'method' or null, found %s",
                         json_type_name(json_type(algorithm.v)));
    return 0;
}

static int check_versions(const struct jref *format, struct aq_err *err)
{
    struct jref versions;
    if (!jref_has(format, "modelopt", &versions))
        return 0;
    if (json_type(versions.v) != JSON_ARRAY)
        return jref_fail(&versions, err, "expected a list of versions, found %s",
                         json_type_name(json_type(versions.v)));
    return 0;
}

static int check_keys(const struct jref *format, struct aq_err *err)
{
    static const char *const known[] = {"modelopt", "quant_cfg", "algorithm"};
    for (const struct json *c = json_first(format->v); c; c = json_next(c)) {
        size_t i = 0;
        while (i < AQ_COUNT(known) && strcmp(known[i], json_key(c)) != 0)
            i++;
        if (i == AQ_COUNT(known)) {
            jref_fail(format, err, "unknown key '%s' of a format", aq_show(json_key(c)));
            return aq_err_hint(err, "known: modelopt, quant_cfg, algorithm");
        }
    }
    return 0;
}

int format_check(const struct jref *format, struct aq_err *err)
{
    struct jref cfg;
    if (jref_get(format, "quant_cfg", JSON_OBJECT, &cfg, err) < 0 || check_keys(format, err) < 0 ||
        check_versions(format, err) < 0 || check_algorithm(format, err) < 0)
        return -1;
    return check_quant_cfg(&cfg, err);
}

static struct json *load_file(const char *path, struct aq_err *err)
{
    struct json *v = yaml_read(path, err);
    if (!v)
        return NULL;
    struct jref root = jref_root(v, path);
    if (format_check(&root, err) < 0) {
        json_free(v);
        return NULL;
    }
    return v;
}

/* Names are file names without the ending; nothing leads out of the directory. */
static bool is_plain_name(const char *name)
{
    return name[0] && name[0] != '.' && !strchr(name, '/');
}

struct json *format_load(const char *conf_dir, const char *name, struct aq_err *err)
{
    struct json *v = NULL;
    char *dir = aq_path_join(conf_dir, "format");
    char *file = xasprintf("%s.yaml", name);
    char *path = aq_path_join(dir, file);
    if (is_plain_name(name) && aq_path_exists(path))
        v = load_file(path, err);
    else
        (void)format_unknown(dir, "format", name, err);
    free(path);
    free(file);
    free(dir);
    return v;
}

/* ---- labels ---- */

/* Both have passed format_check, so both keys are there. */
static bool same_contents(const struct json *a, const struct json *b)
{
    return json_equal(json_get(a, "quant_cfg"), json_get(b, "quant_cfg")) &&
           json_equal(json_get(a, "algorithm"), json_get(b, "algorithm"));
}

static bool is_preset(const struct json *format)
{
    const struct json *versions = json_get(format, "modelopt");
    return versions && json_type(versions) == JSON_ARRAY && json_first(versions);
}

void format_shelf_release(struct format_shelf *s)
{
    for (size_t i = 0; i < s->names.count && s->files; i++)
        json_free(s->files[i]);
    free(s->files);
    aq_names_release(&s->names);
    aq_arena_release(&s->arena);
    s->files = NULL;
    s->listed = false;
}

static int list_shelf(struct format_shelf *s, struct aq_err *err)
{
    if (s->listed)
        return 0;
    char *dir = aq_path_join(s->conf_dir, "format");
    int bad = list_formats(&s->arena, dir, &s->names, err);
    free(dir);
    if (bad)
        return -1;
    s->files = xcalloc(s->names.count + 1, sizeof *s->files);
    s->listed = true;
    return 0;
}

static const struct json *shelf_at(struct format_shelf *s, size_t i, struct aq_err *err)
{
    if (!s->files[i]) {
        char *path = xasprintf("%s/format/%s.yaml", s->conf_dir, s->names.items[i]);
        s->files[i] = load_file(path, err);
        free(path);
    }
    return s->files[i];
}

int format_label(struct format_shelf *shelf, const struct json *format, int index,
                 char label[FORMAT_LABEL], struct aq_err *err)
{
    (void)snprintf(label, FORMAT_LABEL, "CUSTOM_%d", index);
    if (list_shelf(shelf, err) < 0)
        return -1;
    for (size_t i = 0; i < shelf->names.count; i++) {
        const struct json *v = shelf_at(shelf, i, err);
        if (!v)
            return -1;
        if (is_preset(v) && same_contents(v, format)) {
            (void)snprintf(label, FORMAT_LABEL, "%s", shelf->names.items[i]);
            break;
        }
    }
    return 0;
}
