#include "store/range_file.h"

#include "base/mem.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    return 0;
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
    if (strcmp(schema, RANGES_SCHEMA) != 0)
        return aq_err_set(err, AQ_EINPUT, "schema is '%s', expected '%s'", aq_show(schema),
                          RANGES_SCHEMA);
    if (jref_string(&root, "lm", &r->lm, err) < 0 ||
        jref_string(&root, "tokens", &r->tokens, err) < 0)
        return -1;
    return read_prefixes(r, &root, err);
}

/* A range is a finite number that is not negative. */
static int read_floats(const struct st_tensor *t, float **out, struct aq_err *err)
{
    *out = xcalloc(t->elements, sizeof **out);
    if (t->elements)
        memcpy(*out, t->data, t->elements * sizeof **out);
    for (uint64_t i = 0; i < t->elements; i++)
        if (!((*out)[i] >= 0) || isinf((*out)[i]))
            return aq_err_set(err, AQ_EINPUT, "tensor '%s' holds %g at %" PRIu64, t->name,
                              (double)(*out)[i], i);
    return 0;
}

static int read_amax(struct range_file *r, struct aq_err *err)
{
    const struct st_tensor *t = st_need(&r->file, "amax", ST_F32, 2, err);
    if (!t)
        return -1;
    if (t->shape[0] % QWEN3_INPUTS || t->elements == 0)
        return aq_err_set(err, AQ_EINPUT, "tensor 'amax' has %" PRIu64 " rows, expected %d a layer",
                          t->shape[0], QWEN3_INPUTS);
    r->layers = (int64_t)t->shape[0] / QWEN3_INPUTS;
    r->samples = (int64_t)t->shape[1];
    if (read_floats(t, &r->amax, err) < 0)
        return -1;
    const struct st_tensor *pad = st_find(&r->file, "pad");
    if (!pad)
        return 0;
    pad = st_need(&r->file, "pad", ST_F32, 1, err);
    if (!pad)
        return -1;
    if (pad->elements != t->shape[0])
        return aq_err_set(err, AQ_EINPUT, "tensor 'pad' has %" PRIu64 " ranges, expected %" PRIu64,
                          pad->elements, t->shape[0]);
    return read_floats(pad, &r->pad, err);
}

static const struct st_tensor *channel(const struct range_file *r, int64_t layer,
                                       enum qwen3_input input)
{
    char name[64];
    (void)snprintf(name, sizeof name, "channel/%" PRId64 ".%s", layer, qwen3_input_name(input));
    return st_find(&r->file, name);
}

static int check_channels(struct range_file *r, struct aq_err *err)
{
    uint64_t widest = 0;
    for (int64_t l = 0; l < r->layers; l++)
        for (int i = 0; i < QWEN3_INPUTS; i++) {
            const struct st_tensor *t = channel(r, l, (enum qwen3_input)i);
            if (!t || t->dtype != ST_F32 || t->rank != 2 || t->shape[0] != r->prefix_count)
                return aq_err_set(err, AQ_EINPUT,
                                  "tensor 'channel/%" PRId64 ".%s' is missing or not F32 [%zu, in]",
                                  l, qwen3_input_name((enum qwen3_input)i), r->prefix_count);
            float *all = NULL;
            int bad = read_floats(t, &all, err);
            free(all);
            if (bad < 0)
                return -1;
            if (t->shape[1] > widest)
                widest = t->shape[1];
        }
    r->hidden = xcalloc(widest, sizeof *r->hidden);
    return 0;
}

int range_file_open(struct range_file *r, const char *path, struct aq_err *err)
{
    *r = (struct range_file){0};
    if (st_open(&r->file, path, err) < 0)
        return -1;
    r->path = xstrdup(path);
    if (read_meta(r, err) < 0 || read_amax(r, err) < 0 || check_channels(r, err) < 0) {
        aq_err_prefix(err, "'%s'", aq_show(path));
        range_file_close(r);
        return -1;
    }
    return 0;
}

void range_file_close(struct range_file *r)
{
    if (r->path)
        st_close(&r->file);
    json_free(r->meta);
    free(r->amax);
    free(r->pad);
    free(r->hidden);
    free(r->path);
    *r = (struct range_file){0};
}

static int64_t input_cols(const struct qwen3_config *c, enum qwen3_input i)
{
    return i == QWEN3_IN_O      ? c->heads * c->head_dim
           : i == QWEN3_IN_DOWN ? c->intermediate
                                : c->hidden;
}

int range_file_matches(const struct range_file *r, const char *lm, const char *tokens,
                       const struct qwen3_config *c, struct aq_err *err)
{
    if (strcmp(r->lm, lm) != 0)
        aq_err_set(err, AQ_EINPUT, "ranges '%s' are of another model: lm digest %.16s, now %.16s",
                   aq_show(r->path), aq_show(r->lm), lm);
    else if (strcmp(r->tokens, tokens) != 0)
        aq_err_set(err, AQ_EINPUT, "ranges '%s' are of other tokens: digest %.16s, now %.16s",
                   aq_show(r->path), aq_show(r->tokens), tokens);
    else if (r->layers != c->layers)
        aq_err_set(err, AQ_EINPUT, "ranges '%s' have %" PRId64 " layers, the model %" PRId64,
                   aq_show(r->path), r->layers, c->layers);
    else {
        for (int64_t l = 0; l < r->layers; l++)
            for (int i = 0; i < QWEN3_INPUTS; i++) {
                const struct st_tensor *t = channel(r, l, (enum qwen3_input)i);
                int64_t cols = input_cols(c, (enum qwen3_input)i);
                if (t->shape[1] != (uint64_t)cols)
                    return aq_err_set(err, AQ_EINPUT,
                                      "ranges '%s': 'channel/%" PRId64 ".%s' has %" PRIu64
                                      " columns, expected %" PRId64,
                                      aq_show(r->path), l, qwen3_input_name((enum qwen3_input)i),
                                      t->shape[1], cols);
            }
        return 0;
    }
    return aq_err_hint(err, "make them again with 'aq-calib ranges'");
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

void range_file_get(struct range_file *r, int64_t layer, enum qwen3_input input, int position,
                    struct quant_range *out)
{
    int64_t row = layer * QWEN3_INPUTS + (int64_t)input;
    int64_t n = r->prefixes[position] < r->samples ? r->prefixes[position] : r->samples;
    float amax = r->pad ? r->pad[row] : 0;
    for (int64_t s = 0; s < n; s++)
        amax = fmaxf(amax, r->amax[row * r->samples + s]);
    const struct st_tensor *t = channel(r, layer, input);
    memcpy(r->hidden, (const char *)t->data + (size_t)position * t->shape[1] * sizeof(float),
           t->shape[1] * sizeof(float));
    *out = (struct quant_range){.amax = amax, .hidden = r->hidden};
}

void range_file_digest(struct range_file *r, int position, char out[AQ_SHA256_HEX])
{
    struct aq_sha256 s;
    aq_sha256_init(&s);
    for (int64_t l = 0; l < r->layers; l++)
        for (int i = 0; i < QWEN3_INPUTS; i++) {
            struct quant_range one;
            range_file_get(r, l, (enum qwen3_input)i, position, &one);
            aq_sha256_add(&s, &one.amax, sizeof one.amax);
            aq_sha256_add(&s, one.hidden,
                          channel(r, l, (enum qwen3_input)i)->shape[1] * sizeof(float));
        }
    aq_sha256_hex(&s, out);
}
