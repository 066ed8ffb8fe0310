#include "conf/cells.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/msg.h"
#include "base/names.h"
#include "base/sha256.h"
#include "base/strmap.h"
#include "conf/check.h"
#include "engine/engine.h"
#include "io/hub.h"
#include "io/product.h"
#include "io/run_schema.h"
#include "io/yaml.h"
#include "quant/overlay.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- one run ---- */

struct quant {
    bool supported;
    char *reason; /* NULL if supported */
    struct engine_verdict verdict;
    bool judged; /* false: there is no treatment to judge */
    bool solved; /* `aq-calib solve` finds its numbers */
};

struct swept_cell {
    char *pair, *granularity, *size; /* names of options: the directories */
    char *scheme;
    int64_t samples, score_samples;
    bool published; /* its reports also go somewhere else */
    const struct quant *quant;
    bool smaller; /* calibrated, and not of the largest size of the sweep */
};

/* NULL: the cell is supported. */
static const char *cell_reason(const struct swept_cell *c)
{
    if (!c->quant->supported)
        return c->quant->reason;
    return c->smaller ? "calibrated candidates are solved over the largest size of the sweep alone"
                      : NULL;
}

/* What all runs of a sweep share, as words for make. */
struct common {
    char *method, *dtype, *padding, *rounding, *device;
    int64_t seq_len, dynamic_batch;
    bool moe_split;
    struct aq_buf sizes; /* " small:16 medium:128 large:512" */
    char *model_path;
};

struct cell_sweep {
    const char *dir;
    struct format_shelf formats;
    bool servable;
    struct engine *engine;
    struct engine_target target;
    struct swept_cell *items;
    size_t count, cap;
    struct common common;
    struct aq_strmap quants; /* "pair/granularity" -> struct quant */
    struct aq_arena names;
};

/* A value that becomes a word of cells.mk. */
static int word(const struct jref *group, const char *key, char **out, struct aq_err *err)
{
    const char *text;
    struct jref at;
    if (jref_get(group, key, JSON_STRING, &at, err) < 0 || jref_string(group, key, &text, err) < 0)
        return -1;
    if (!check_is_name(text) && strncmp(text, "cuda:", 5) != 0)
        return jref_fail(&at, err, "expected letters and digits, found '%s'", aq_show(text));
    free(*out);
    *out = xstrdup(text);
    return 0;
}

static int word_or(const struct jref *group, const char *key, const char *otherwise, char **out,
                   struct aq_err *err)
{
    struct jref at;
    if (jref_has(group, key, &at))
        return word(group, key, out, err);
    free(*out);
    *out = xstrdup(otherwise);
    return 0;
}

static bool is_text(const struct json *v, const char *text)
{
    return v && json_type(v) == JSON_STRING && strcmp(json_string(v), text) == 0;
}

/* Every size of the data set with its number of samples. */
static int read_sizes(const struct jref *dataset, int64_t samples, const char *size,
                      struct aq_buf *out, struct aq_err *err)
{
    struct jref map, most;
    int64_t n = 0;
    bool fixed = jref_has(dataset, "max_calib_samples", &most) && json_type(most.v) == JSON_INT;
    aq_buf_release(out);
    if (!jref_has(dataset, "size_to_max_samples", &map) || json_type(map.v) != JSON_OBJECT) {
        aq_buf_addf(out, " %s:%" PRId64, size, samples);
        return 0;
    }
    for (const struct json *c = json_first(map.v); c; c = json_next(c)) {
        if (!check_is_name(json_key(c)))
            return jref_fail(&map, err, "'%s' is not a name", aq_show(json_key(c)));
        if (fixed)
            n = samples;
        else if (jref_int(&map, json_key(c), 1, INT32_MAX, &n, err) < 0)
            return -1;
        aq_buf_addf(out, " %s:%" PRId64, json_key(c), n);
    }
    return 0;
}

static int read_common(const struct jref *run, const struct swept_cell *cell, struct common *out,
                       struct aq_err *err)
{
    struct jref model, dataset, autoquant;
    const char *path;
    int64_t batch;
    if (jref_get(run, "model", JSON_OBJECT, &model, err) < 0 ||
        jref_get(run, "dataset", JSON_OBJECT, &dataset, err) < 0 ||
        jref_get(run, "autoquant", JSON_OBJECT, &autoquant, err) < 0 ||
        jref_string(&model, "path", &path, err) < 0 ||
        word(&model, "dtype", &out->dtype, err) < 0 ||
        word(&autoquant, "method", &out->method, err) < 0 ||
        word(&autoquant, "device", &out->device, err) < 0 ||
        word_or(&dataset, "padding", "none", &out->padding, err) < 0 ||
        word_or(&autoquant, "operand_rounding", "none", &out->rounding, err) < 0 ||
        jref_int(&dataset, "calib_seq_len", 1, INT32_MAX, &out->seq_len, err) < 0 ||
        jref_int(&autoquant, "batch_size", 1, INT32_MAX, &batch, err) < 0 ||
        read_sizes(&dataset, cell->samples, cell->size, &out->sizes, err) < 0)
        return -1;
    out->dynamic_batch = is_text(json_get(autoquant.v, "dynamic_range"), "per_batch") ? batch : 0;
    const struct json *split = json_get(autoquant.v, "moe_split");
    out->moe_split = split && json_type(split) == JSON_BOOL && json_bool(split);
    free(out->model_path);
    out->model_path = hub_directory(path); /* another snapshot is another checkpoint */
    return 0;
}

/* What the engine makes of a treatment, before the model's shapes are known. */
static bool judge_quant(const struct engine *e, const struct engine_target *t,
                        const struct json *quant, struct engine_verdict *out)
{
    const struct json *both = json_get(quant, "treatment");
    const struct json *w = json_get(both, "w"), *a = json_get(both, "a");
    if (!json_bool(json_get(quant, "supported")))
        return false;
    engine_judge_treatments(e, t, engine_default_layout(e), json_string(w), json_string(a), out);
    return true;
}

static bool is_served(const struct engine_verdict *v)
{
    return v->verdict <= VERDICT_NEAR;
}

static void take_verdict(const struct cell_sweep *s, const struct json *v, struct quant *q)
{
    struct quant_spec spec;
    struct aq_err ignored = {0};
    const struct json *w = json_get(json_get(v, "treatment"), "w");
    q->supported = json_bool(json_get(v, "supported"));
    q->solved =
        q->supported && quant_parse(json_string(w), &spec, &ignored) == 0 && quant_is_solved(&spec);
    q->judged = judge_quant(s->engine, &s->target, v, &q->verdict);
    if (!q->supported) {
        q->reason = xstrdup(json_string(json_get(v, "reason")));
    } else if (s->servable && !is_served(&q->verdict)) {
        q->supported = false;
        q->reason = xasprintf("'%s' for %s: %s", verdict_names[q->verdict.verdict],
                              engine_name(s->engine), q->verdict.reason);
    }
}

/* The treatment of this pair and granularity; written once, whatever the sizes are. */
static const struct quant *quant_of(struct cell_sweep *s, const struct jref *run,
                                    const struct swept_cell *c, struct aq_err *err)
{
    char *key = xasprintf("%s/%s", c->pair, c->granularity);
    struct quant *q = aq_strmap_get(&s->quants, key);
    if (!q) {
        struct json *v = overlay_quant_of_run(run, &s->formats, err);
        struct aq_buf text = AQ_BUF_INIT;
        char *sub = aq_path_join(s->dir, key), *path = aq_path_join(sub, "quant.json");
        if (v && json_write(&text, v, JSON_NEWLINE, err) == 0 &&
            aq_write_if_changed(path, text.data, text.len, err) == 0) {
            q = xcalloc(1, sizeof *q);
            take_verdict(s, v, q);
            aq_strmap_put(&s->quants, aq_arena_strdup(&s->names, key), q);
            overlay_warn(v);
        }
        aq_buf_release(&text);
        free(path);
        free(sub);
        json_free(v);
    }
    free(key);
    return q;
}

static int read_run(struct cell_sweep *s, const struct jref *run, struct swept_cell *c,
                    struct aq_err *err)
{
    struct jref aq, layout, runner, dir;
    if (run_check_schema(run, err) < 0 || jref_get(run, "_aq", JSON_OBJECT, &aq, err) < 0 ||
        word(&aq, "scheme_name", &c->scheme, err) < 0 ||
        jref_int(&aq, "num_calib_samples", 1, INT32_MAX, &c->samples, err) < 0 ||
        jref_int(&aq, "score_samples", 1, INT32_MAX, &c->score_samples, err) < 0 ||
        jref_get(run, "output_layout", JSON_OBJECT, &layout, err) < 0 ||
        read_common(run, c, &s->common, err) < 0)
        return -1;
    c->published = is_text(json_get(layout.v, "mode"), "publish") ||
                   (jref_has(run, "runner", &runner) && jref_has(&runner, "output_dir", &dir) &&
                    json_type(dir.v) == JSON_STRING && *json_string(dir.v));
    c->quant = quant_of(s, run, c, err);
    return c->quant ? 0 : -1;
}

/* "pair/granularity/size" */
static int split(const char *line, struct swept_cell *c, struct aq_err *err)
{
    char **parts[] = {&c->pair, &c->granularity, &c->size};
    const char *at = line;
    for (size_t i = 0; i < AQ_COUNT(parts); i++) {
        size_t n = strcspn(at, "/");
        *parts[i] = xstrndup(at, n);
        if (!check_is_name(*parts[i]) || (at[n] == '/') != (i < 2))
            return aq_err_set(
                err, AQ_EINPUT,
                "'%s' is not a cell: pair/granularity/size, each of letters, digits, _ "
                ". + -",
                aq_show(line));
        at += n + 1;
    }
    return 0;
}

static void cell_release(struct swept_cell *c)
{
    free(c->pair);
    free(c->granularity);
    free(c->size);
    free(c->scheme);
}

static int add_cell(struct cell_sweep *s, const char *line, struct aq_err *err)
{
    struct swept_cell c = {0};
    struct json *v = NULL;
    char *sub = aq_path_join(s->dir, line), *path = aq_path_join(sub, "run.json");
    int result = split(line, &c, err);
    if (result == 0)
        result = (v = json_read(path, err)) ? 0 : -1;
    if (result == 0) {
        struct jref root = jref_root(v, path);
        result = read_run(s, &root, &c, err);
    }
    json_free(v);
    free(path);
    free(sub);
    if (result < 0) {
        cell_release(&c);
        return -1;
    }
    AQ_GROW(s->items, s->count, s->cap);
    s->items[s->count++] = c;
    return 0;
}

enum { LIST_MAX = 16 << 20 };

static int read_cells(struct cell_sweep *s, struct aq_err *err)
{
    struct aq_buf text = AQ_BUF_INIT;
    char *path = aq_path_join(s->dir, ".runs");
    int result = aq_read_file(path, LIST_MAX, &text, err);
    for (char *line = text.data, *end; result == 0 && line && *line; line = end) {
        end = line + strcspn(line, "\n");
        if (*end)
            *end++ = '\0';
        result = add_cell(s, line, err);
    }
    if (result == 0 && !s->count)
        result = aq_err_set(err, AQ_EINPUT, "%s: no runs", aq_show(path));
    int64_t most = 0;
    for (size_t i = 0; i < s->count; i++)
        most = s->items[i].samples > most ? s->items[i].samples : most;
    for (size_t i = 0; i < s->count; i++)
        s->items[i].smaller = s->items[i].quant->solved && s->items[i].samples < most;
    free(path);
    aq_buf_release(&text);
    return result;
}

/* ---- cells.json ---- */

static void add_verdict(struct json *one, const struct quant *q)
{
    if (!q->judged) {
        json_add_null(one, "verdict");
        return;
    }
    json_add_string(one, "verdict", verdict_names[q->verdict.verdict]);
    if (q->verdict.reason[0])
        json_add_string(one, "verdict_reason", q->verdict.reason);
}

static int write_json(const struct cell_sweep *s, struct aq_err *err)
{
    struct json *root = product_new(CELLS_SCHEMA), *engine = json_add_object(root, "engine");
    json_add_string(engine, "name", engine_name(s->engine));
    json_add_string(engine, "version", engine_version(s->engine));
    if (engine_needs_sm(s->engine))
        json_add_int(engine, "sm", s->target.sm);
    json_add_int(engine, "tp", s->target.tp);
    struct json *list = json_add_array(root, "cells");
    struct aq_buf text = AQ_BUF_INIT;
    for (size_t i = 0; i < s->count; i++) {
        const struct swept_cell *c = &s->items[i];
        struct json *one = json_push(list, json_new_object());
        char *dir = xasprintf("%s/%s/%s/%s", s->dir, c->pair, c->granularity, c->size);
        json_add_string(one, "pair", c->pair);
        json_add_string(one, "granularity", c->granularity);
        json_add_string(one, "size", c->size);
        const char *reason = cell_reason(c);
        json_add_bool(one, "supported", !reason);
        if (reason)
            json_add_string(one, "reason", reason);
        else
            json_add_null(one, "reason");
        add_verdict(one, c->quant);
        json_add_string(one, "dir", dir);
        free(dir);
    }
    char *path = aq_path_join(s->dir, "cells.json");
    int result = json_write(&text, root, JSON_NEWLINE, err);
    if (result == 0)
        result = aq_write_if_changed(path, text.data, text.len, err);
    free(path);
    json_free(root);
    aq_buf_release(&text);
    return result;
}

/* ---- cells.mk ---- */

typedef bool wanted_fn(const struct swept_cell *c);

static bool is_supported(const struct swept_cell *c)
{
    return !cell_reason(c);
}

static bool is_unsupported(const struct swept_cell *c)
{
    return cell_reason(c);
}

static bool is_published(const struct swept_cell *c)
{
    return !cell_reason(c) && c->published;
}

static bool is_any(const struct swept_cell *c)
{
    return c->quant;
}

static bool is_solved(const struct swept_cell *c)
{
    return !cell_reason(c) && c->quant->solved;
}

static void add_list(struct aq_buf *out, const char *name, const struct cell_sweep *s,
                     wanted_fn *wanted)
{
    aq_buf_addf(out, "%s :=", name);
    for (size_t i = 0; i < s->count; i++) {
        const struct swept_cell *c = &s->items[i];
        if (wanted(c))
            aq_buf_addf(out, " %s/%s/%s", c->pair, c->granularity, c->size);
    }
    aq_buf_addc(out, '\n');
}

/* The names of manifests without their ending: directory and scheme. */
static void add_schemes(struct aq_buf *out, const struct cell_sweep *s)
{
    aq_buf_adds(out, "SCHEMES :=");
    for (size_t i = 0; i < s->count; i++) {
        const struct swept_cell *c = &s->items[i];
        if (is_supported(c))
            aq_buf_addf(out, " %s/%s/%s/%s", c->pair, c->granularity, c->size, c->scheme);
    }
    aq_buf_addc(out, '\n');
}

/* The quant.json of those that have a wanted cell. */
static void add_quants(struct aq_buf *out, const char *name, const struct cell_sweep *s,
                       wanted_fn *wanted)
{
    struct aq_strmap seen = AQ_STRMAP_INIT;
    struct aq_arena a = AQ_ARENA_INIT;
    aq_buf_addf(out, "%s :=", name);
    for (size_t i = 0; i < s->count; i++) {
        const struct swept_cell *c = &s->items[i];
        const char *key = aq_arena_printf(&a, "%s/%s", c->pair, c->granularity);
        if (!wanted(c) || aq_strmap_has(&seen, key))
            continue;
        aq_strmap_put(&seen, key, &seen);
        aq_buf_addf(out, " %s/quant.json", key);
    }
    aq_buf_addc(out, '\n');
    aq_strmap_release(&seen);
    aq_arena_release(&a);
}

static int by_number(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* The data-set sizes of the supported cells, ascending, with commas; the most samples scored. */
static void add_samples(struct aq_buf *out, const struct cell_sweep *s)
{
    int64_t *n = xcalloc(s->count + 1, sizeof *n), most = 1;
    size_t count = 0;
    for (size_t i = 0; i < s->count; i++)
        if (is_supported(&s->items[i])) {
            n[count++] = s->items[i].samples;
            most = s->items[i].score_samples > most ? s->items[i].score_samples : most;
        }
    qsort(n, count, sizeof *n, by_number);
    aq_buf_adds(out, "SCORE_PREFIXES :=");
    for (size_t i = 0; i < count; i++)
        if (!i || n[i] != n[i - 1])
            aq_buf_addf(out, " %" PRId64, n[i]);
    aq_buf_addf(out, "\nSCORE_SAMPLES := %" PRId64 "\n", most);
    free(n);
}

/* A word that changes with a text which is none. */
static void add_id(struct aq_buf *out, const char *name, const char *text, size_t len)
{
    enum { ID_DIGITS = 16 };
    char hex[AQ_SHA256_HEX];
    aq_sha256_of(text, len, hex);
    aq_buf_addf(out, "%s := %.*s\n", name, (int)ID_DIGITS, hex);
}

/* Where the links of the captions lead. */
static void add_captions_id(struct aq_buf *out, const struct cell_sweep *s)
{
    struct aq_buf text = AQ_BUF_INIT;
    for (const char *p = aq_buf_str(&s->common.sizes); *p;) {
        p += strspn(p, " ");
        size_t n = strcspn(p, ":");
        char *link = xasprintf("%s/in/captions-%.*s", s->dir, (int)n, p), way[PATH_MAX];
        ssize_t got = readlink(link, way, sizeof way);
        aq_buf_add(&text, p, n);
        aq_buf_addc(&text, '\n');
        if (got > 0)
            aq_buf_add(&text, way, (size_t)got);
        aq_buf_addc(&text, '\0');
        free(link);
        p += strcspn(p, " ");
    }
    add_id(out, "CAPTIONS_ID", aq_buf_str(&text), text.len);
    aq_buf_release(&text);
}

static int write_mk(const struct cell_sweep *s, struct aq_err *err)
{
    const struct common *c = &s->common;
    struct aq_buf out = AQ_BUF_INIT;
    aq_buf_adds(&out, "# made by aq-overlay --cells: words only\n");
    aq_buf_addf(&out, "METHOD := %s\nDTYPE := %s\nPADDING := %s\nSEQ_LEN := %" PRId64 "\n",
                c->method, c->dtype, c->padding, c->seq_len);
    aq_buf_addf(&out,
                "ROUNDING := %s\nDYNAMIC_BATCH := %" PRId64 "\nDEVICE_SET := %s\nMOE_SPLIT := "
                "%s\nSIZE_SAMPLES :=%s\n",
                c->rounding, c->dynamic_batch, c->device, c->moe_split ? "1" : "",
                aq_buf_str(&c->sizes));
    add_id(&out, "CHECKPOINT_ID", c->model_path, strlen(c->model_path));
    add_captions_id(&out, s);
    add_samples(&out, s);
    add_list(&out, "CELLS", s, is_supported);
    add_list(&out, "UNSUPPORTED", s, is_unsupported);
    add_list(&out, "PUBLISHED", s, is_published);
    add_schemes(&out, s);
    add_quants(&out, "QUANTS", s, is_supported);
    add_quants(&out, "ALL_QUANTS", s, is_any);
    add_quants(&out, "SOLVED_QUANTS", s, is_solved);
    char *path = aq_path_join(s->dir, "cells.mk");
    int result = aq_write_file(path, out.data, out.len, err);
    free(path);
    aq_buf_release(&out);
    return result;
}

static void sweep_free(struct cell_sweep *s)
{
    for (size_t i = 0; i < s->count; i++)
        cell_release(&s->items[i]);
    for (size_t i = 0; i < s->quants.cap; i++)
        if (s->quants.slots[i].key) {
            struct quant *q = s->quants.slots[i].value;
            free(q->reason);
            free(q);
        }
    free(s->items);
    aq_strmap_release(&s->quants);
    format_shelf_release(&s->formats);
    aq_arena_release(&s->names);
    free(s->common.method);
    free(s->common.dtype);
    free(s->common.padding);
    free(s->common.rounding);
    free(s->common.device);
    free(s->common.model_path);
    aq_buf_release(&s->common.sizes);
}

static int open_engine(const char *conf_dir, const char *text, struct engine **e,
                       struct engine_target *t, struct aq_err *err)
{
    if (engine_target_parse(text, t, err) < 0)
        return -1;
    *e = engine_load(conf_dir, t->name, err);
    return *e ? 0 : -1;
}

int cells_write(const struct cells_request *q, struct aq_err *err)
{
    struct cell_sweep s = {
        .dir = q->dir, .formats = {.conf_dir = q->conf_dir}, .servable = q->servable};
    int result = open_engine(q->conf_dir, q->engine, &s.engine, &s.target, err);
    if (result == 0)
        result = read_cells(&s, err);
    if (result == 0)
        result = write_json(&s, err);
    if (result == 0)
        result = write_mk(&s, err);
    engine_free(s.engine);
    sweep_free(&s);
    return result;
}

/* ---- pairs that an engine serves ---- */

struct served {
    struct format_shelf formats;
    const char *granularities;
    struct engine *engine;
    struct engine_target target;
};

/* Is one of the granularities served with this format? */
static int format_is_served(struct served *s, const char *format, bool *out, struct aq_err *err)
{
    char *words = xstrdup(s->granularities), *rest = NULL;
    int r = 0;
    *out = false;
    for (char *g = strtok_r(words, ",", &rest); g && r == 0 && !*out;
         g = strtok_r(NULL, ",", &rest)) {
        struct engine_verdict v;
        struct json *quant = overlay_quant_of_names(&s->formats, format, g, false, false, err);
        if (!quant)
            r = -1;
        else if (judge_quant(s->engine, &s->target, quant, &v))
            *out = is_served(&v);
        json_free(quant);
    }
    free(words);
    return r;
}

static int pair_is_served(struct served *s, const char *dir, const char *name, bool *out,
                          struct aq_err *err)
{
    char *path = xasprintf("%s/%s.yaml", dir, name);
    struct json *v = yaml_read(path, err);
    struct jref root = jref_root(v, path);
    const char *format;
    int r = -1;
    if (v && jref_is(&root, JSON_OBJECT, err) == 0 &&
        jref_string(&root, "format_name", &format, err) == 0)
        r = format_is_served(s, format, out, err);
    json_free(v);
    free(path);
    return r;
}

int cells_served_pairs(const char *conf_dir, const char *engine, const char *granularities,
                       struct aq_buf *out, struct aq_err *err)
{
    struct served s = {.formats = {.conf_dir = conf_dir}, .granularities = granularities};
    struct aq_arena a = AQ_ARENA_INIT;
    struct aq_names names = AQ_NAMES_INIT;
    char *dir = aq_path_join(conf_dir, "quant_pair");
    int r = open_engine(conf_dir, engine, &s.engine, &s.target, err);
    if (r == 0 && aq_names_read_dir(&names, &a, dir, AQ_NAMES_OPTIONS) < 0)
        r = aq_err_sys(err, AQ_ERUN, "cannot read directory '%s'", aq_show(dir));
    if (r == 0)
        aq_names_order(&names);
    for (size_t i = 0; i < names.count && r == 0; i++) {
        bool served = false;
        r = pair_is_served(&s, dir, names.items[i], &served, err);
        if (served)
            aq_buf_addf(out, "%s\n", names.items[i]);
    }
    engine_free(s.engine);
    format_shelf_release(&s.formats);
    free(names.items);
    aq_arena_release(&a);
    free(dir);
    return r;
}
