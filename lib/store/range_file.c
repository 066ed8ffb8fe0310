#include "store/range_file.h"

#include "base/mem.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the digest ---- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct range_tensor *)a)->name, ((const struct range_tensor *)b)->name);
}

int range_file_seal(const struct json *aq, struct range_tensor *tensors, size_t count,
                    char out[AQ_SHA256_HEX], struct aq_err *err)
{
    struct aq_buf text = AQ_BUF_INIT;
    struct aq_sha256 s;
    int status = json_write(&text, aq, JSON_COMPACT, err);
    aq_sha256_init(&s);
    aq_sha256_add(&s, aq_buf_str(&text), text.len);
    qsort(tensors, count, sizeof *tensors, by_name);
    for (size_t i = 0; i < count; i++) {
        const struct range_tensor *t = &tensors[i];
        aq_buf_reset(&text);
        aq_buf_addf(&text, "\n%s %" PRIu64 " %" PRIu64 "\n", t->name, t->shape[0], t->shape[1]);
        aq_sha256_add(&s, aq_buf_str(&text), text.len);
        aq_sha256_add(&s, t->data, t->shape[0] * t->shape[1] * st_dtype_bits(t->dtype) / 8);
    }
    aq_sha256_hex(&s, out);
    aq_buf_release(&text);
    return status;
}

static int check_seal(const struct range_file *r, const struct jref *root, struct aq_err *err)
{
    const char *digest;
    char found[AQ_SHA256_HEX];
    if (jref_string(root, "digest", &digest, err) < 0)
        return -1;
    struct json *open = json_copy(r->meta);
    (void)json_remove(open, "digest");
    struct range_tensor *all = xcalloc(r->file.count + 1, sizeof *all);
    for (size_t i = 0; i < r->file.count; i++) {
        const struct st_tensor *t = &r->file.tensors[i];
        all[i] = (struct range_tensor){xstrdup(t->name),
                                       t->dtype,
                                       t->rank,
                                       {t->shape[0], t->rank > 1 ? t->shape[1] : 1},
                                       t->data};
    }
    int status = range_file_seal(open, all, r->file.count, found, err);
    if (status == 0 && strcmp(found, digest) != 0) {
        status = aq_err_set(err, AQ_EINPUT, "the file is damaged: its digest is %.16s, not %.16s",
                            found, aq_show(digest));
        (void)aq_err_hint(err, "make it again with 'aq-calib ranges'");
    }
    for (size_t i = 0; i < r->file.count; i++)
        free(all[i].name);
    free(all);
    json_free(open);
    return status;
}

/* ---- opening ---- */

static int read_prefixes(struct range_file *r, const struct jref *root, struct aq_err *err)
{
    struct jref list;
    if (jref_get(root, "prefixes", JSON_ARRAY, &list, err) < 0)
        return -1;
    for (const struct json *v = json_first(list.v); v; v = json_next(v)) {
        int64_t n;
        struct jref at = jref_child(&list, v, r->prefix_count);
        if (!json_int(v, &n) || n < 1 || (r->prefix_count && n <= r->prefixes[r->prefix_count - 1]))
            return jref_fail(&at, err, "expected rising positive integers");
        if (r->prefix_count == RANGES_MAX_PREFIXES)
            return jref_fail(&at, err, "more than %d prefixes", RANGES_MAX_PREFIXES);
        r->prefixes[r->prefix_count++] = n;
    }
    return r->prefix_count ? 0 : jref_fail(&list, err, "there is no prefix");
}

static int read_meta(struct range_file *r, struct aq_err *err)
{
    const char *text = st_meta(&r->file, "aq"), *schema;
    if (!text)
        return aq_err_set(err, AQ_EINPUT, "no activation ranges: the metadata key 'aq' is missing");
    r->meta = json_parse(text, strlen(text), "metadata", err);
    if (!r->meta)
        return -1;
    struct jref root = jref_root(r->meta, "metadata");
    if (jref_string(&root, "schema", &schema, err) < 0)
        return -1;
    if (strcmp(schema, RANGES_SCHEMA) != 0) {
        aq_err_set(err, AQ_EINPUT, "schema is '%s', expected '%s'", aq_show(schema), RANGES_SCHEMA);
        return aq_err_hint(err, "make it again with 'aq-calib ranges'");
    }
    if (jref_string(&root, "lm", &r->lm, err) < 0 ||
        jref_string(&root, "tokens", &r->tokens, err) < 0 ||
        jref_string(&root, "backend", &r->backend, err) < 0 ||
        jref_string(&root, "dtype", &r->dtype, err) < 0 || read_prefixes(r, &root, err) < 0 ||
        model_groups_read(&r->model, &root, err) < 0)
        return -1;
    return 0;
}

/* A range is a finite number that is not negative. */
static int check_floats(const struct st_tensor *t, struct aq_err *err)
{
    for (uint64_t i = 0; i < t->elements; i++) {
        float x;
        memcpy(&x, (const char *)t->data + i * sizeof x, sizeof x);
        if (!(x >= 0) || isinf(x))
            return aq_err_set(err, AQ_EINPUT, "tensor '%s' holds %g at %" PRIu64, t->name,
                              (double)x, i);
    }
    return 0;
}

static int read_floats(struct range_file *r, const char *name, int rank, uint64_t rows,
                       uint64_t cols, float **out, struct aq_err *err)
{
    const struct st_tensor *t = st_need(&r->file, name, ST_F32, rank, err);
    if (!t)
        return -1;
    if (t->shape[0] != rows || t->elements != rows * cols)
        return aq_err_set(err, AQ_EINPUT,
                          "tensor '%s' has %" PRIu64 " rows and %" PRIu64
                          " elements, expected %" PRIu64 " and %" PRIu64,
                          name, t->shape[0], t->elements, rows, rows * cols);
    *out = xcalloc(t->elements + 1, sizeof **out);
    if (t->elements)
        memcpy(*out, t->data, t->elements * sizeof **out);
    return check_floats(t, err);
}

/* Counts are no fewer in a longer prefix. */
static int check_counts(const struct st_tensor *t, struct aq_err *err)
{
    for (uint64_t i = 0; i < t->elements; i++) {
        int32_t n, before = 0;
        memcpy(&n, (const char *)t->data + i * sizeof n, sizeof n);
        if (i >= t->shape[1])
            memcpy(&before, (const char *)t->data + (i - t->shape[1]) * sizeof n, sizeof n);
        if (n < before)
            return aq_err_set(err, AQ_EINPUT, "tensor '%s' holds %" PRId32 " at %" PRIu64, t->name,
                              n, i);
    }
    return 0;
}

static int find_routed(struct range_file *r, struct aq_err *err)
{
    r->routed = xcalloc((size_t)r->model.layers + 1, sizeof(const struct st_tensor *));
    for (size_t g = 0; g < r->model.count; g++) {
        const struct model_group *m = &r->model.items[g];
        char name[40];
        if (!m->experts || r->routed[m->layer])
            continue;
        (void)snprintf(name, sizeof name, "routed/%" PRId64, m->layer);
        const struct st_tensor *t = st_need(&r->file, name, ST_I32, 2, err);
        if (!t)
            return aq_err_hint(err, "make it again with 'aq-calib ranges'");
        if (t->shape[0] != r->prefix_count || t->shape[1] != (uint64_t)m->experts)
            return aq_err_set(err, AQ_EINPUT,
                              "tensor '%s' is [%" PRIu64 ", %" PRIu64 "], expected [%zu, %" PRId64
                              "]",
                              name, t->shape[0], t->shape[1], r->prefix_count, m->experts);
        if (check_counts(t, err) < 0)
            return -1;
        r->routed[m->layer] = t;
    }
    return 0;
}

static int read_tensors(struct range_file *r, struct aq_err *err)
{
    uint64_t inputs = r->model.input_count;
    r->samples = r->prefixes[r->prefix_count - 1];
    if (read_floats(r, "first", 2, inputs, (uint64_t)r->samples, &r->first, err) < 0 ||
        read_floats(r, "rest", 2, inputs, (uint64_t)r->samples, &r->rest, err) < 0)
        return -1;
    bool pad = st_find(&r->file, "pad") != NULL;
    if (pad && read_floats(r, "pad", 1, inputs, 1, &r->pad, err) < 0)
        return -1;
    uint64_t sparse = 0;
    for (int64_t l = 0; l < r->model.layers; l++)
        sparse += r->routed[l] != NULL;
    if (r->file.count != 2 * inputs + 2 + pad + sparse)
        return aq_err_set(err, AQ_EINPUT, "%zu tensors, expected %" PRIu64, r->file.count,
                          2 * inputs + 2 + pad + sparse);
    return 0;
}

/* "<kind>/<input>": [prefixes, columns of the input]; NULL with a message. */
static const struct st_tensor *columns_tensor(const struct range_file *r, const char *kind,
                                              size_t input, enum st_dtype dtype, struct aq_err *err)
{
    char name[32];
    int64_t cols = r->model.inputs[input].cols;
    (void)snprintf(name, sizeof name, "%s/%zu", kind, input);
    const struct st_tensor *t = st_need(&r->file, name, dtype, 2, err);
    if (!t) {
        (void)aq_err_hint(err, "make it again with 'aq-calib ranges'");
        return NULL;
    }
    if (t->shape[0] != r->prefix_count || t->shape[1] != (uint64_t)cols) {
        (void)aq_err_set(err, AQ_EINPUT,
                         "tensor '%s' is [%" PRIu64 ", %" PRIu64 "], expected [%zu, %" PRId64 "]",
                         name, t->shape[0], t->shape[1], r->prefix_count, cols);
        return NULL;
    }
    return t;
}

static int check_doubles(const struct st_tensor *t, struct aq_err *err)
{
    for (uint64_t i = 0; i < t->elements; i++) {
        double x;
        memcpy(&x, (const char *)t->data + i * sizeof x, sizeof x);
        if (!(x >= 0) || isinf(x))
            return aq_err_set(err, AQ_EINPUT, "tensor '%s' holds %g at %" PRIu64, t->name, x, i);
    }
    return 0;
}

static int find_channels(struct range_file *r, struct aq_err *err)
{
    int64_t widest = 1;
    r->channel = xcalloc(r->model.input_count, sizeof(const struct st_tensor *));
    r->mean = xcalloc(r->model.input_count, sizeof(const struct st_tensor *));
    for (size_t i = 0; i < r->model.input_count; i++) {
        int64_t cols = r->model.inputs[i].cols;
        r->channel[i] = columns_tensor(r, "channel", i, ST_F32, err);
        if (!r->channel[i] || check_floats(r->channel[i], err) < 0)
            return -1;
        r->mean[i] = columns_tensor(r, "mean", i, ST_F64, err);
        if (!r->mean[i] || check_doubles(r->mean[i], err) < 0)
            return -1;
        widest = cols > widest ? cols : widest;
    }
    r->hidden = xcalloc((size_t)widest, sizeof *r->hidden);
    return 0;
}

int range_file_open(struct range_file *r, const char *path, struct aq_err *err)
{
    *r = (struct range_file){0};
    if (st_open(&r->file, path, err) < 0)
        return -1;
    r->path = xstrdup(path);
    int status = read_meta(r, err);
    if (status == 0) {
        struct jref root = jref_root(r->meta, "metadata");
        status = find_routed(r, err) < 0 || find_channels(r, err) < 0 || read_tensors(r, err) < 0
                     ? -1
                     : check_seal(r, &root, err);
    }
    if (status < 0) {
        aq_err_prefix(err, "'%s'", aq_show(path));
        range_file_close(r);
    }
    return status;
}

void range_file_close(struct range_file *r)
{
    if (r->path)
        st_close(&r->file);
    json_free(r->meta);
    model_groups_release(&r->model);
    free(r->channel);
    free(r->mean);
    free(r->routed);
    free(r->first);
    free(r->rest);
    free(r->pad);
    free(r->hidden);
    free(r->path);
    *r = (struct range_file){0};
}

/* ---- does it belong here? ---- */

static int same_inputs(const struct range_file *r, const struct model_groups *g, struct aq_err *err)
{
    bool same = r->model.input_count == g->input_count;
    for (size_t i = 0; same && i < g->input_count; i++)
        same = r->model.inputs[i].cols == g->inputs[i].cols &&
               strcmp(r->model.inputs[i].name, g->inputs[i].name) == 0;
    return same ? 0
                : aq_err_set(err, AQ_EINPUT, "ranges '%s' are of other inputs than the model's",
                             aq_show(r->path));
}

static int other(const struct range_file *r, const char *what, const char *found,
                 const char *expected, struct aq_err *err)
{
    aq_err_set(err, AQ_EINPUT, "ranges '%s' were made with another %s: '%s', now '%s'",
               aq_show(r->path), what, aq_show(found), expected);
    return -1;
}

int range_file_matches(const struct range_file *r, const struct range_user *u, struct aq_err *err)
{
    int status = 0;
    if (strcmp(r->lm, u->lm) != 0)
        status = aq_err_set(err, AQ_EINPUT,
                            "ranges '%s' are of another model: lm digest %.16s, now %.16s",
                            aq_show(r->path), aq_show(r->lm), u->lm);
    else if (u->tokens && strcmp(r->tokens, u->tokens) != 0)
        status =
            aq_err_set(err, AQ_EINPUT, "ranges '%s' are of other tokens: digest %.16s, now %.16s",
                       aq_show(r->path), aq_show(r->tokens), u->tokens);
    else if (u->backend && strcmp(r->backend, u->backend) != 0)
        status = other(r, "backend", r->backend, u->backend, err);
    else if (u->dtype && strcmp(r->dtype, u->dtype) != 0)
        status = other(r, "dtype", r->dtype, u->dtype, err);
    else
        status = same_inputs(r, u->model, err);
    return status < 0 ? aq_err_hint(err, "make them again with 'aq-calib ranges'") : 0;
}

int range_file_prefix(const struct range_file *r, int64_t prefix, struct aq_err *err)
{
    struct aq_buf list = AQ_BUF_INIT;
    for (size_t i = 0; i < r->prefix_count; i++) {
        if (r->prefixes[i] == prefix) {
            aq_buf_release(&list);
            return (int)i;
        }
        aq_buf_addf(&list, "%s%" PRId64, i ? ", " : "", r->prefixes[i]);
    }
    aq_err_set(err, AQ_EINPUT, "ranges '%s' have no prefix %" PRId64 ", only %s", aq_show(r->path),
               prefix, aq_buf_str(&list));
    aq_buf_release(&list);
    return -1;
}

/* ---- ranges ---- */

static float most(const struct range_file *r, const float *of, int64_t input, int position)
{
    float amax = 0;
    for (int64_t s = 0; s < r->prefixes[position]; s++)
        amax = fmaxf(amax, of[input * r->samples + s]);
    return amax;
}

void range_file_get(struct range_file *r, int64_t input, int position, struct quant_range *out)
{
    const struct st_tensor *t = r->channel[input];
    size_t bytes = t->shape[1] * sizeof(float);
    float amax = fmaxf(most(r, r->first, input, position), most(r, r->rest, input, position));
    memcpy(r->hidden, (const char *)t->data + (size_t)position * bytes, bytes);
    *out = (struct quant_range){.amax = r->pad ? fmaxf(amax, r->pad[input]) : amax,
                                .hidden = r->hidden};
}

void range_file_mean(const struct range_file *r, int64_t input, int position, double *mean)
{
    const struct st_tensor *t = r->mean[input];
    size_t bytes = t->shape[1] * sizeof *mean;
    memcpy(mean, (const char *)t->data + (size_t)position * bytes, bytes);
}

double range_file_ratio(const struct range_file *r, int64_t input, int position)
{
    double rest = (double)most(r, r->rest, input, position);
    return rest > 0 ? (double)most(r, r->first, input, position) / rest : NAN;
}

struct routed range_file_routed(const struct range_file *r, int64_t layer, int position)
{
    const struct st_tensor *t = r->routed[layer];
    if (!t)
        return (struct routed){0};
    int32_t *counts = xcalloc(t->shape[1], sizeof *counts);
    memcpy(counts, (const char *)t->data + (size_t)position * t->shape[1] * sizeof *counts,
           t->shape[1] * sizeof *counts);
    struct routed out = routed_of(counts, (int64_t)t->shape[1]);
    free(counts);
    return out;
}

void range_file_digest(struct range_file *r, int position, char out[AQ_SHA256_HEX])
{
    struct aq_sha256 s;
    aq_sha256_init(&s);
    for (size_t i = 0; i < r->model.input_count; i++) {
        struct quant_range one;
        range_file_get(r, (int64_t)i, position, &one);
        aq_sha256_add(&s, &one.amax, sizeof one.amax);
        aq_sha256_add(&s, one.hidden, r->channel[i]->shape[1] * sizeof(float));
    }
    aq_sha256_hex(&s, out);
}
