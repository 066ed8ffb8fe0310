#include "sens/token_file.h"

#include "base/mem.h"
#include "io/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int read_meta(struct token_file *t, const struct st_file *f, struct aq_err *err)
{
    const char *text = st_meta(f, "aq"), *schema;
    int64_t seq_len, pad_id;
    if (!text)
        return aq_err_set(err, AQ_EINPUT, "no token file: the metadata key 'aq' is missing");
    t->meta = json_parse(text, strlen(text), "metadata", err);
    if (!t->meta)
        return -1;
    struct jref root = jref_root(t->meta, "metadata");
    if (jref_string(&root, "schema", &schema, err) < 0)
        return -1;
    if (strcmp(schema, TOKENS_SCHEMA) != 0)
        return aq_err_set(err, AQ_EINPUT, "schema is '%s', expected '%s'", aq_show(schema),
                          TOKENS_SCHEMA);
    if (jref_string(&root, "digest", &t->digest, err) < 0 ||
        jref_string(&root, "padding", &t->padding, err) < 0 ||
        jref_int(&root, "seq_len", 0, INT32_MAX, &seq_len, err) < 0 ||
        jref_int(&root, "pad_id", -1, INT32_MAX, &pad_id, err) < 0)
        return -1;
    t->source.max_length = strcmp(t->padding, "max_length") == 0;
    if (!t->source.max_length && strcmp(t->padding, "none") != 0)
        return aq_err_set(err, AQ_EINPUT, "padding is '%s', expected none or max_length",
                          aq_show(t->padding));
    t->source.seq_len = seq_len;
    t->source.pad_id = (int32_t)pad_id;
    return 0;
}

static int read_samples(struct token_file *t, const struct st_file *f, struct aq_err *err)
{
    const struct st_tensor *ids = st_need(f, "ids", ST_I32, 1, err);
    const struct st_tensor *offsets = ids ? st_need(f, "offsets", ST_I64, 1, err) : NULL;
    if (!offsets)
        return -1;
    if (offsets->elements < 2)
        return aq_err_set(err, AQ_EINPUT, "there are no samples");
    t->ids = xcalloc(ids->elements, sizeof *t->ids);
    t->offsets = xcalloc(offsets->elements, sizeof *t->offsets);
    if (ids->elements)
        memcpy(t->ids, ids->data, ids->elements * sizeof *t->ids);
    memcpy(t->offsets, offsets->data, offsets->elements * sizeof *t->offsets);
    int64_t last = 0;
    for (uint64_t i = 0; i < offsets->elements; i++) {
        if (t->offsets[i] < last || (uint64_t)t->offsets[i] > ids->elements ||
            (i == 0 && t->offsets[i] != 0))
            return aq_err_set(err, AQ_EINPUT, "offset %" PRIu64 " is %" PRId64 ", out of order", i,
                              t->offsets[i]);
        last = t->offsets[i];
    }
    if ((uint64_t)last != ids->elements)
        return aq_err_set(err, AQ_EINPUT,
                          "the last offset is %" PRId64 ", but there are %" PRIu64 " ids", last,
                          ids->elements);
    t->source.ids = t->ids;
    t->source.offsets = t->offsets;
    t->source.samples = (int64_t)offsets->elements - 1;
    return 0;
}

int token_file_open(struct token_file *t, const char *path, struct aq_err *err)
{
    struct st_file f;
    *t = (struct token_file){0};
    if (st_open(&f, path, err) < 0)
        return -1;
    int status = read_meta(t, &f, err) < 0 || read_samples(t, &f, err) < 0 ? -1 : 0;
    st_close(&f);
    if (status < 0) {
        (void)aq_err_prefix(err, "'%s'", aq_show(path));
        token_file_close(t);
    }
    return status;
}

void token_file_close(struct token_file *t)
{
    json_free(t->meta);
    free(t->ids);
    free(t->offsets);
    *t = (struct token_file){0};
}
