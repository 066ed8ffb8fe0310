#include "store/collect.h"

#include "base/mem.h"
#include "base/msg.h"
#include "base/pool.h"
#include "io/json_digest.h"
#include "io/product.h"
#include "io/run_schema.h"
#include "quant/overlay.h"
#include "store/flat.h"
#include "store/score_sums.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Above this share of pad rows a ranking is that of the padding. */
static const double pad_limit = 0.2;

/* What is worth a line when all cells are done. */
struct found {
    bool *flat_groups;        /* [groups]: flat in any cell */
    double pad_low, pad_high; /* the pad row's share of a cell's score; high < 0: none is padded */
};

/* A cell while its scores are written; refs point into run and quant. */
struct cell_scores {
    const struct store *s;
    const struct range_file *ranges;
    int range_position; /* of the prefix in the ranges; -1: they lack it */
    struct json *run, *quant;
    const char *run_path, *quant_path;
    struct jref model, dataset, pair, autoquant, aq;
    const char *id, *w, *a;
    int64_t prefix, samples, batch;
    bool kl_div, batch_mean;
    const struct store_row *row, *weight_only, *activation_only;
    struct flat flat;
    struct found *found;
    double *sums; /* room for one group */
};

/* ---- what the run asks for ---- */

static int read_autoquant(struct cell_scores *c, struct aq_err *err)
{
    const char *method, *normalization;
    if (jref_string(&c->autoquant, "method", &method, err) < 0 ||
        jref_string(&c->autoquant, "normalization", &normalization, err) < 0 ||
        jref_int(&c->autoquant, "batch_size", 1, INT32_MAX, &c->batch, err) < 0 ||
        jref_int(&c->aq, "num_calib_samples", 1, INT32_MAX, &c->prefix, err) < 0 ||
        jref_int(&c->aq, "score_samples", 1, INT32_MAX, &c->samples, err) < 0)
        return -1;
    c->kl_div = strcmp(method, "kl_div") == 0;
    c->batch_mean = strcmp(normalization, "per_batch_mean") == 0;
    if (!c->batch_mean && strcmp(normalization, "per_token") != 0)
        return jref_fail(&c->autoquant, err,
                         "normalization is '%s', expected one of: per_token, per_batch_mean",
                         aq_show(normalization));
    if (c->samples > c->prefix)
        return jref_fail(&c->aq, err,
                         "score_samples %" PRId64 " is more than num_calib_samples %" PRId64,
                         c->samples, c->prefix);
    if (c->samples > c->s->shape.samples)
        return jref_fail(&c->aq, err,
                         "score_samples is %" PRId64 ", but store '%s' has %" PRId64 " samples",
                         c->samples, aq_show(c->s->path), c->s->shape.samples);
    return 0;
}

static int check_dynamic_range(const struct cell_scores *c, struct aq_err *err)
{
    struct jref run;
    int64_t batch;
    const struct json *own = json_get(c->s->identity, "dynamic_batch");
    if (!jref_has(&c->autoquant, "dynamic_range", &run))
        return 0;
    const char *range = json_type(run.v) == JSON_STRING ? json_string(run.v) : "";
    int64_t asked = strcmp(range, "per_batch") == 0 ? c->batch : 0;
    if (!own || !json_int(own, &batch))
        return jref_fail(&run, err, "store '%s' has no dynamic_batch in its identity",
                         aq_show(c->s->path));
    if (batch == asked)
        return 0;
    return jref_fail(&run, err,
                     "store '%s' was made with another dynamic_batch: %" PRId64 ", not %" PRId64,
                     aq_show(c->s->path), batch, asked);
}

/* The store must have been made the way that the run says. */
static int check_identity(const struct cell_scores *c, struct aq_err *err)
{
    const struct {
        const struct jref *in;
        const char *key, *name;
    } facts[] = {{&c->autoquant, "method", "method"},
                 {&c->model, "dtype", "dtype"},
                 {&c->autoquant, "operand_rounding", "operand_rounding"}};
    for (size_t i = 0; i < AQ_COUNT(facts); i++) {
        struct jref run;
        const struct json *own = json_get(c->s->identity, facts[i].name);
        if (!jref_has(facts[i].in, facts[i].key, &run) || (own && json_equal(own, run.v)))
            continue;
        return jref_fail(&run, err, "store '%s' was made with another %s", aq_show(c->s->path),
                         facts[i].name);
    }
    return check_dynamic_range(c, err);
}

static int read_run(struct cell_scores *c, struct aq_err *err)
{
    struct jref root = jref_root(c->run, c->run_path);
    if (run_check_schema(&root, err) < 0)
        return -1;
    struct jref *const parts[] = {&c->model, &c->dataset, &c->pair, &c->autoquant, &c->aq};
    static const char *const names[] = {"model", "dataset", "quant_pair", "autoquant", "_aq"};
    for (size_t i = 0; i < AQ_COUNT(parts); i++) {
        if (jref_get(&root, names[i], JSON_OBJECT, parts[i], err) < 0)
            return -1;
        parts[i]->up = NULL; /* the root is about to leave the stack */
        parts[i]->name = c->run_path;
    }
    return read_autoquant(c, err) < 0 ? -1 : check_identity(c, err);
}

static int read_quant(struct cell_scores *c, struct aq_err *err)
{
    struct jref root = jref_root(c->quant, c->quant_path), treatment;
    if (jref_string(&root, "treatment_id", &c->id, err) < 0 ||
        jref_get(&root, "treatment", JSON_OBJECT, &treatment, err) < 0 ||
        jref_string(&treatment, "w", &c->w, err) < 0 ||
        jref_string(&treatment, "a", &c->a, err) < 0)
        return -1;
    char expected[TREATMENT_ID];
    treatment_id(c->w, c->a, expected);
    return strcmp(expected, c->id) == 0
               ? 0
               : jref_fail(&root, err, "treatment_id is '%s', but that of its treatment is '%s'",
                           aq_show(c->id), expected);
}

/* ---- rows ---- */

static const struct store_row *find_complete(const struct cell_scores *c, const char *w,
                                             const char *a)
{
    char id[TREATMENT_ID];
    treatment_id(w, a, id);
    const struct store_row *r = store_find(c->s, id, c->prefix);
    if (!r)
        r = store_find(c->s, id, 0);
    return r && store_complete(c->s, r, c->samples) ? r : NULL;
}

static int find_rows(struct cell_scores *c, struct aq_err *err)
{
    c->row = find_complete(c, c->w, c->a);
    if (!c->row) {
        (void)aq_err_set(err, AQ_EINPUT,
                         "store '%s' lacks candidate %s|%s of prefix %" PRId64
                         " for its first %" PRId64 " samples",
                         aq_show(c->s->path), aq_show(c->w), aq_show(c->a), c->prefix, c->samples);
        return aq_err_hint(err,
                           "run aq-score --prefix %" PRId64 " --score-samples %" PRId64 " -o %s %s",
                           c->prefix, c->samples, aq_show(c->s->path), aq_show(c->quant_path));
    }
    if (c->ranges) {
        struct aq_err ignored = {0};
        c->range_position = range_file_prefix(c->ranges, c->prefix, &ignored);
    }
    c->weight_only = strcmp(c->a, "none") == 0 ? c->row : find_complete(c, c->w, "none");
    c->activation_only = strcmp(c->w, "none") == 0 ? c->row : find_complete(c, "none", c->a);
    return 0;
}

/* ---- parts of the product ---- */

static void copy_member(struct json *to, const char *name, const struct jref *from, const char *key)
{
    struct jref v;
    if (jref_has(from, key, &v))
        json_add(to, name, json_copy(v.v));
}

static int add_scheme(const struct cell_scores *c, struct json *run, struct aq_err *err)
{
    struct json *s = json_add_object(run, "scheme");
    struct jref root = jref_root(c->quant, c->quant_path), v;
    const char *name, *format;
    if (jref_string(&c->aq, "scheme_name", &name, err) < 0 ||
        jref_string(&root, "base_format_name", &format, err) < 0)
        return -1;
    json_add_string(s, "name", name);
    copy_member(s, "auto_quantize_bits", &c->autoquant, "effective_bits");
    copy_member(s, "auto_quantize_method", &c->autoquant, "method");
    copy_member(s, "auto_quantize_score_size", &c->autoquant, "score_size");
    json_add(s, "coverage_mode",
             jref_has(&c->pair, "coverage_mode", &v) ? json_copy(v.v) : json_new_string("lm_only"));
    json_add(s, "coverage_fraction",
             jref_has(&c->pair, "coverage_fraction", &v) ? json_copy(v.v) : json_new_double(1.0));
    json_push(json_add_array(s, "quant_formats"), json_new_string(format));
    return 0;
}

/* The largest number of samples of this size: given, or by the name of the size. */
static void add_max_samples(const struct cell_scores *c, struct json *d)
{
    struct jref v, sizes, size;
    if (jref_has(&c->dataset, "max_calib_samples", &v)) {
        json_add(d, "max_calib_samples", json_copy(v.v));
        return;
    }
    if (jref_has(&c->dataset, "size_to_max_samples", &sizes) && json_type(sizes.v) == JSON_OBJECT &&
        jref_has(&c->dataset, "size", &size) && json_type(size.v) == JSON_STRING)
        copy_member(d, "max_calib_samples", &sizes, json_string(size.v));
}

static void add_dataset(const struct cell_scores *c, struct json *run)
{
    static const char *const before[] = {"name", "size", "root", "captions_path"};
    struct json *d = json_add_object(run, "dataset");
    for (size_t i = 0; i < AQ_COUNT(before); i++)
        copy_member(d, before[i], &c->dataset, before[i]);
    add_max_samples(c, d);
    json_add_int(d, "num_calib_samples", c->prefix);
    copy_member(d, "calib_seq_len", &c->dataset, "calib_seq_len");
    json_add_int(d, "batch_size", c->batch);
    json_add_int(d, "num_calib_batches", (c->prefix + c->batch - 1) / c->batch);
    copy_member(d, "padding", &c->dataset, "padding");
}

static int add_run(const struct cell_scores *c, struct json *root, struct aq_err *err)
{
    static const char *const quantization[] = {"base_format_name", "quant_granularity",
                                               "effective_quantizer_summary"};
    struct jref quant = jref_root(c->quant, c->quant_path);
    struct json *run = json_add_object(root, "run");
    if (add_scheme(c, run, err) < 0)
        return -1;
    struct json *model = json_add_object(run, "model");
    copy_member(model, "id", &c->model, "path");
    copy_member(model, "name", &c->model, "name");
    add_dataset(c, run);
    struct json *q = json_add_object(run, "quantization");
    for (size_t i = 0; i < AQ_COUNT(quantization); i++)
        copy_member(q, quantization[i], &quant, quantization[i]);
    json_add(run, "autoquant", json_copy(c->autoquant.v));
    return 0;
}

static void add_identity(const struct cell_scores *c, struct json *root)
{
    char prefix[24];
    struct json *v = json_add(root, "identity", json_copy(c->s->identity));
    (void)snprintf(prefix, sizeof prefix, "%" PRId64, c->row->key.prefix);
    const struct json *digest = json_get(c->s->ranges, prefix);
    json_add_int(v, "prefix", c->prefix);
    json_add_int(v, "score_samples", c->samples);
    json_add(v, "ranges", digest ? json_copy(digest) : json_new_null());
}

/* Of the first samples, or of all that there are. */
static int64_t tokens_of(const struct cell_scores *c, int64_t samples)
{
    int64_t tokens = 0;
    for (int64_t i = 0; i < samples && i < c->s->shape.samples; i++)
        tokens += c->s->sample_tokens[i];
    return tokens;
}

static int add_candidate(const struct cell_scores *c, struct json *root, struct aq_err *err)
{
    struct jref quant = jref_root(c->quant, c->quant_path), granularity, bits;
    struct quant_spec spec;
    const char *pair, *name, *label;
    if (jref_string(&c->pair, "name", &pair, err) < 0 ||
        jref_get(&quant, "quant_granularity", JSON_OBJECT, &granularity, err) < 0 ||
        jref_string(&granularity, "name", &name, err) < 0 ||
        jref_string(&quant, "label", &label, err) < 0 ||
        jref_get(&quant, "bits", JSON_OBJECT, &bits, err) < 0)
        return -1;
    struct json *v = json_add_object(root, "candidate");
    char *full = xasprintf("%s/%s", pair, name);
    json_add_string(v, "name", full);
    free(full);
    json_add_string(v, "treatment_id", c->id);
    json_add_string(v, "label", label);
    json_add(v, "bits", json_copy(bits.v));
    struct json *treatment = json_add_object(v, "treatment");
    json_add_string(treatment, "w", c->w);
    json_add_string(treatment, "a", c->a);
    struct json *num_bits = json_add_object(v, "num_bits");
    json_add_int(num_bits, "weight", treatment_width(c->w));
    json_add_int(num_bits, "activation", treatment_width(c->a));
    if (quant_parse(c->w, &spec, err) < 0)
        return -1;
    if (quant_is_solved(&spec)) /* over the samples of the data set, not only those scored */
        json_add_int(v, "tokens", tokens_of(c, c->prefix));
    return 0;
}

static int add_counts(const struct cell_scores *c, struct json *root, struct aq_err *err)
{
    int64_t labels = 0;
    for (int64_t i = 0; i < c->samples; i++)
        labels += c->s->labels[i];
    if (labels == 0)
        return aq_err_set(err, AQ_EINPUT,
                          "store '%s': the first %" PRId64 " samples have no labels",
                          aq_show(c->s->path), c->samples);
    json_add_int(root, "tokens", tokens_of(c, c->samples));
    json_add_int(root, "labels", labels);
    json_add(root, "weights", json_copy(c->s->weights));
    struct json *batches = json_add_array(root, "batches");
    for (int64_t at = 0; at < c->samples; at += c->batch) {
        int64_t n = 0, i = at;
        for (; i < c->samples && i < at + c->batch; i++)
            n += c->s->labels[i];
        struct json *one = json_push(batches, json_new_array());
        json_push(one, json_new_int(i - at));
        json_push(one, json_new_int(n));
    }
    return 0;
}

/* ---- groups ---- */

/* Of a part of a row, over the cell's samples. */
static double part_sum(const struct cell_scores *c, enum store_part part, int64_t group)
{
    double sum = 0;
    for (int64_t i = 0; i < c->samples; i++)
        sum += store_number(c->s, c->row, part, group, i);
    return sum;
}

static void normalised(const struct cell_scores *c, const struct store_row *r, int64_t group,
                       struct score_sums *out)
{
    for (int64_t i = 0; i < c->samples; i++)
        c->sums[i] = store_sum(c->s, r, group, i);
    score_sums(out, c->sums, c->s->labels, c->samples, c->batch, c->kl_div);
}

static void add_or_null(struct json *to, const char *key, double x)
{
    json_add(to, key, isnan(x) ? json_new_null() : json_new_double(x));
}

/* A part of the score, in the normalisation of the run; null if it was not measured. */
static void add_part(const struct cell_scores *c, struct json *to, const char *key,
                     const struct store_row *r, int64_t group)
{
    struct score_sums sums;
    double part = NAN;
    if (r) {
        normalised(c, r, group, &sums);
        part = c->batch_mean ? sums.per_batch_mean : sums.per_token;
    }
    add_or_null(to, key, part);
}

/* Share of the group's input elements that lie beyond the last code. */
static double saturation(const struct cell_scores *c, int64_t group, int64_t cols)
{
    double tokens = 0;
    for (int64_t i = 0; i < c->samples; i++)
        tokens += c->s->sample_tokens[i];
    return tokens > 0 ? part_sum(c, STORE_CLIP, group) / (tokens * (double)cols) : 0;
}

/* The second score, in dot form, as per_token; and the share of the first one that comes from the
   first rows of the samples. Null for a divergence. */
static void add_second(const struct cell_scores *c, struct json *g, int64_t group, double sum)
{
    double dot = NAN, first = NAN, labels = 0;
    for (int64_t i = 0; i < c->samples; i++)
        labels += c->s->labels[i];
    if (c->s->shape.gradient) {
        dot = part_sum(c, STORE_DOTS, group) / labels;
        if (sum > 0)
            first = part_sum(c, STORE_FIRSTS, group) / sum;
    }
    add_or_null(g, "per_token_dot", dot);
    add_or_null(g, "first_position", first);
}

/* 95 % interval of per_token, or null. */
static void add_interval(struct json *g, const struct score_sums *sums)
{
    if (isnan(sums->per_token_low)) {
        json_add(g, "per_token_ci", json_new_null());
        return;
    }
    struct json *ci = json_add_array(g, "per_token_ci");
    json_push(ci, json_new_double(sums->per_token_low));
    json_push(ci, json_new_double(sums->per_token_high));
}

/* The difference to the group ranked next below, sample by sample: most of what varies between
   samples is common to both, so that far fewer samples decide an order than two errors would. */
static void add_next(const struct cell_scores *c, struct json *g, int64_t group, int64_t next)
{
    if (next < 0) {
        json_add(g, "next", json_new_null());
        return;
    }
    for (int64_t i = 0; i < c->samples; i++)
        c->sums[i] = store_sum(c->s, c->row, group, i) - store_sum(c->s, c->row, next, i);
    struct score_mean d = score_per_token(c->sums, c->s->labels, c->samples);
    struct json *v = json_add_object(g, "next");
    json_add_string(v, "name", c->s->model.items[next].name);
    json_add_double(v, "difference", d.mean);
    add_or_null(v, "se", d.error);
}

struct ranked_group {
    int64_t group;
    double score;
};

/* The highest score first; equal ones in the order of the groups. */
static int by_score(const void *a, const void *b)
{
    const struct ranked_group *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->group < y->group ? -1 : x->group > y->group;
}

/* For each group the one that is ranked next below; -1: none. Caller frees. */
static int64_t *next_groups(const struct cell_scores *c)
{
    int64_t groups = c->s->shape.groups;
    struct ranked_group *order = xcalloc((size_t)groups, sizeof *order);
    int64_t *next = xcalloc((size_t)groups, sizeof *next);
    for (int64_t g = 0; g < groups; g++) {
        order[g].group = g;
        for (int64_t i = 0; i < c->samples; i++)
            order[g].score += store_sum(c->s, c->row, g, i);
    }
    qsort(order, (size_t)groups, sizeof *order, by_score);
    for (int64_t k = 0; k < groups; k++)
        next[order[k].group] = k + 1 < groups ? order[k + 1].group : -1;
    free(order);
    return next;
}

/* How much larger the first row of a sample gets than all others; the most of the group's inputs.
 */
static double range_ratio(const struct cell_scores *c, const struct model_group *m)
{
    double most = NAN;
    for (int i = 0; c->range_position >= 0 && i < m->input_count; i++)
        most = fmax(most, range_file_ratio(c->ranges, m->inputs[i], c->range_position));
    return most;
}

static void add_group(const struct cell_scores *c, struct json *g, int64_t group, int64_t next)
{
    const struct model_group *m = &c->s->model.items[group];
    struct score_sums sums;
    normalised(c, c->row, group, &sums);
    model_group_write(m, g);
    json_add_double(g, "sum", sums.sum);
    json_add_double(g, "per_token", sums.per_token);
    add_or_null(g, "per_token_se", sums.per_token_se);
    json_add_double(g, "per_batch_mean", sums.per_batch_mean);
    add_or_null(g, "per_batch_mean_se", sums.per_batch_mean_se);
    add_part(c, g, "weight_only", c->weight_only, group);
    add_part(c, g, "activation_only", c->activation_only, group);
    json_add_double(g, "saturation", saturation(c, group, c->s->model.inputs[m->inputs[0]].cols));
    const char *flat = flat_group(&c->flat, group);
    if (flat) {
        json_add_string(g, "flat", flat);
        c->found->flat_groups[group] = true;
    }
    add_interval(g, &sums);
    add_next(c, g, group, next);
    add_second(c, g, group, sums.sum);
    add_or_null(g, "range_ratio", range_ratio(c, m));
    if (c->range_position >= 0 && m->experts) {
        const struct routed routed = range_file_routed(c->ranges, m->layer, c->range_position);
        routed_write(&routed, g, "routed");
    }
}

/* How much of the whole score comes from the pad rows, if the samples have any. */
static void find_pad_share(const struct cell_scores *c)
{
    const char *padding = json_find_string(c->dataset.v, "padding");
    double first = 0, all = 0;
    if (!c->s->shape.gradient || !padding || strcmp(padding, "max_length") != 0)
        return;
    for (int64_t g = 0; g < c->s->shape.groups; g++) {
        first += part_sum(c, STORE_FIRSTS, g);
        all += part_sum(c, STORE_SUMS, g);
    }
    if (!(all > 0))
        return;
    struct found *f = c->found;
    f->pad_low = f->pad_high < 0 ? first / all : fmin(f->pad_low, first / all);
    f->pad_high = fmax(f->pad_high, first / all);
}

static void add_groups(struct cell_scores *c, struct json *root)
{
    struct json *groups = json_add_array(root, "groups");
    c->sums = xcalloc((size_t)c->samples, sizeof *c->sums);
    int64_t *next = next_groups(c);
    flat_init(&c->flat, c->s, c->row, c->prefix, c->samples);
    for (int64_t g = 0; g < c->s->shape.groups; g++)
        add_group(c, json_push(groups, json_new_object()), g, next[g]);
    free(next);
    find_pad_share(c);
    flat_release(&c->flat);
    free(c->sums);
}

/* ---- a cell ---- */

static struct json *build(struct cell_scores *c, struct aq_err *err)
{
    struct json *root = product_new(SCORES_SCHEMA);
    if (add_run(c, root, err) == 0) {
        add_identity(c, root);
        if (add_candidate(c, root, err) == 0 && add_counts(c, root, err) == 0) {
            add_groups(c, root);
            json_add_digest(root);
            return root;
        }
    }
    json_free(root);
    return NULL;
}

static struct json *collect(const struct collect_source *from, const char *run_path,
                            const char *quant_path, struct found *found, struct aq_err *err)
{
    struct cell_scores c = {.s = from->store,
                            .ranges = from->ranges,
                            .range_position = -1,
                            .run_path = run_path,
                            .quant_path = quant_path,
                            .found = found};
    struct json *out = NULL;
    c.run = json_read(run_path, err);
    c.quant = c.run ? product_read(quant_path, QUANT_SCHEMA, err) : NULL;
    if (c.quant && read_run(&c, err) == 0 && read_quant(&c, err) == 0 && find_rows(&c, err) == 0)
        out = build(&c, err);
    json_free(c.run);
    json_free(c.quant);
    return out;
}

static struct found found_new(const struct store *s)
{
    return (struct found){.flat_groups = xcalloc((size_t)s->shape.groups, sizeof(bool)),
                          .pad_high = -1};
}

static void note_padding(const struct found *f)
{
    char share[64];
    if (f->pad_high < 0)
        return;
    if (f->pad_high - f->pad_low < 5e-4)
        (void)snprintf(share, sizeof share, "%.1f %%", 100 * f->pad_high);
    else
        (void)snprintf(share, sizeof share, "%.1f to %.1f %%", 100 * f->pad_low, 100 * f->pad_high);
    if (f->pad_high > pad_limit)
        aq_warn("%s of the score comes from the pad row, which sees no text: the order of the "
                "layers is not that of the text (dataset.padding=none measures the text alone)",
                share);
    else
        aq_note(0, "%s of the score comes from the pad row, which sees no text", share);
}

/* One line, however many cells and groups there are. */
static void note_flat(const struct store *s, const bool *flat_groups)
{
    enum { NAMED = 3 };
    int64_t all = s->shape.groups, count = 0;
    struct aq_buf names = AQ_BUF_INIT;
    for (int64_t g = 0; g < all; g++)
        if (flat_groups[g] && count++ < NAMED)
            aq_buf_addf(&names, "%s%s", count > 1 ? ", " : "", s->model.items[g].name);
    if (count)
        aq_note(0,
                "the score of %" PRId64 " of %" PRId64
                " groups does not depend on bits (\"flat\" in scores.json): %s%s",
                count, all, aq_buf_str(&names), count > NAMED ? ", ..." : "");
    aq_buf_release(&names);
}

static void found_say(const struct store *s, const struct found *f)
{
    note_flat(s, f->flat_groups);
    note_padding(f);
}

int collect_check_ranges(const struct collect_source *from, struct aq_err *err)
{
    const struct json *lm = json_get(from->store->identity, "lm");
    const struct json *tokens = json_get(from->store->identity, "tokens");
    if (!from->ranges)
        return 0;
    if (!lm || !tokens || json_type(lm) != JSON_STRING || json_type(tokens) != JSON_STRING)
        return aq_err_set(err, AQ_EINPUT, "store '%s' does not say of which model and tokens it is",
                          aq_show(from->store->path));
    const struct range_user user = {
        .lm = json_string(lm), .tokens = json_string(tokens), .model = &from->store->model};
    return range_file_matches(from->ranges, &user, err);
}

struct json *collect_cell(const struct collect_source *from, const char *run_path,
                          const char *quant_path, struct aq_err *err)
{
    struct found found = found_new(from->store);
    struct json *out = collect(from, run_path, quant_path, &found, err);
    if (out)
        found_say(from->store, &found);
    free(found.flat_groups);
    return out;
}

/* ---- a sweep ---- */

/* The next supported cell's directory: 1, or 0 at the end. */
static int next_cell(const struct jref *cells, const struct json **at, size_t *index,
                     const char **dir, struct aq_err *err)
{
    for (; *at; *at = json_next(*at), ++*index) {
        struct jref cell = jref_child(cells, *at, *index);
        bool supported;
        if (jref_bool(&cell, "supported", &supported, err) < 0 ||
            jref_string(&cell, "dir", dir, err) < 0)
            return -1;
        if (supported) {
            *at = json_next(*at);
            ++*index;
            return 1;
        }
    }
    return 0;
}

typedef int each_cell_fn(void *arg, const char *dir, struct aq_err *err);

static int each_cell(const char *cells_path, each_cell_fn *fn, void *arg, struct aq_err *err)
{
    struct json *v = json_read(cells_path, err);
    if (!v)
        return -1;
    struct jref root = jref_root(v, cells_path), cells;
    const char *dir;
    size_t index = 0;
    int r = -1;
    if (jref_get(&root, "cells", JSON_ARRAY, &cells, err) == 0) {
        const struct json *at = json_first(cells.v);
        while ((r = next_cell(&cells, &at, &index, &dir, err)) == 1)
            if (fn(arg, dir, err) < 0) {
                r = -1;
                break;
            }
    }
    json_free(v);
    return r;
}

static char *quant_of(const char *dir)
{
    char *clean = xstrdup(dir);
    for (size_t n = strlen(clean); n > 1 && clean[n - 1] == '/'; n--)
        clean[n - 1] = '\0';
    char *up = aq_path_dir(clean), *path = aq_path_join(up, "quant.json");
    free(up);
    free(clean);
    return path;
}

struct collected {
    char *dir;
    struct aq_err why; /* code 0: written, or as it was */
};

struct collection {
    const struct collect_source *from;
    struct collected *cells;
    size_t count, cap;
    struct found *found; /* [threads] */
};

static int write_cell(const struct collect_source *from, const char *dir, struct found *found,
                      struct aq_err *err)
{
    char *run = aq_path_join(dir, "run.json"), *quant = quant_of(dir);
    char *scores = aq_path_join(dir, "scores.json");
    struct aq_buf text = AQ_BUF_INIT;
    struct json *v = collect(from, run, quant, found, err);
    int r = -1;
    if (v && json_write(&text, v, JSON_NEWLINE, err) == 0)
        r = aq_write_if_changed(scores, text.data, text.len, err);
    json_free(v);
    aq_buf_release(&text);
    free(run);
    free(quant);
    free(scores);
    return r;
}

static int list_cell(void *arg, const char *dir, struct aq_err *err)
{
    struct collection *w = arg;
    (void)err;
    AQ_GROW(w->cells, w->count, w->cap);
    w->cells[w->count++] = (struct collected){.dir = xstrdup(dir)};
    return 0;
}

static void collect_unit(void *arg, int64_t unit, int worker)
{
    struct collection *w = arg;
    struct collected *c = &w->cells[unit];
    (void)write_cell(w->from, c->dir, &w->found[worker], &c->why);
}

static void found_add(struct found *to, const struct found *f, int64_t groups)
{
    for (int64_t g = 0; g < groups; g++)
        to->flat_groups[g] |= f->flat_groups[g];
    if (f->pad_high < 0)
        return;
    to->pad_low = to->pad_high < 0 ? f->pad_low : fmin(to->pad_low, f->pad_low);
    to->pad_high = fmax(to->pad_high, f->pad_high);
}

/* The first failure is the call's, those after it are warnings. */
static int say_failures(const struct collection *w, size_t *written, struct aq_err *err)
{
    int r = 0;
    for (size_t i = 0; i < w->count; i++) {
        const struct aq_err *why = &w->cells[i].why;
        *written += why->code == 0;
        if (why->code && r == 0)
            *err = *why;
        else if (why->code)
            aq_warn("%s", why->msg);
        r = why->code ? -1 : r;
    }
    return r;
}

/* Cells have nothing in common but what is only read. */
static int collect_listed(struct collection *w, size_t *written, struct aq_err *err)
{
    struct aq_pool *pool = aq_pool_new(0, NULL);
    if (!pool && !(pool = aq_pool_new(1, err)))
        return -1;
    int threads = aq_pool_threads(pool);
    int64_t groups = w->from->store->shape.groups;
    w->found = xcalloc((size_t)threads, sizeof *w->found);
    for (int i = 0; i < threads; i++)
        w->found[i] = found_new(w->from->store);
    aq_pool_run(pool, (int64_t)w->count, collect_unit, w);
    aq_pool_free(pool);
    for (int i = 1; i < threads; i++)
        found_add(&w->found[0], &w->found[i], groups);
    found_say(w->from->store, &w->found[0]);
    for (int i = 0; i < threads; i++)
        free(w->found[i].flat_groups);
    free(w->found);
    return say_failures(w, written, err);
}

int collect_cells(const struct collect_source *from, const char *cells_path, size_t *written,
                  struct aq_err *err)
{
    struct collection w = {.from = from};
    *written = 0;
    int r = each_cell(cells_path, list_cell, &w, err);
    if (r == 0)
        r = collect_listed(&w, written, err);
    for (size_t i = 0; i < w.count; i++)
        free(w.cells[i].dir);
    free(w.cells);
    return r;
}

static int add_treatment(void *arg, const char *dir, struct aq_err *err)
{
    char *quant = quant_of(dir);
    int r = candidates_add_file(arg, quant, err);
    free(quant);
    return r;
}

int collect_treatments(const char *cells_path, struct candidates *out, struct aq_err *err)
{
    return each_cell(cells_path, add_treatment, out, err);
}
