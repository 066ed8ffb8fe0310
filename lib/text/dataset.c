#include "text/dataset.h"
#include "base/mem.h"
#include "text/captions.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* All files at once, one caption of each at a time. */
struct walk {
    const struct dataset *d;
    struct captions *files;
    int64_t *samples; /* of each file that has ended; -1 while it goes on */
    struct aq_sha256 captions;
    struct aq_err *err;
};

static int fail_prefix(struct walk *w, size_t k, const char *text, size_t len, const char *other,
                       size_t other_len)
{
    const struct captions *small = &w->files[k], *large = &w->files[w->d->count - 1];
    if (!other)
        aq_err_set(w->err, AQ_EINPUT, "%s:%" PRIu64 ": '%s' has more captions than '%s' (%s)",
                   aq_show(small->path), small->line, w->d->sizes[k].name,
                   w->d->sizes[w->d->count - 1].name, aq_show(large->path));
    else
        aq_err_set(w->err, AQ_EINPUT, "%s:%" PRIu64 ": '%s' differs from %s:%" PRIu64 ": '%s'",
                   aq_show(small->path), small->line, aq_show_n(text, len), aq_show(large->path),
                   large->line, aq_show_n(other, other_len));
    return aq_err_hint(w->err, "each size must be a prefix of the next one");
}

/* Caption number `sample` of the last file is text (NULL: it has ended); so it must be in all. */
static int compare(struct walk *w, int64_t sample, const char *text, size_t len)
{
    for (size_t k = 0; k + 1 < w->d->count; k++) {
        const char *small;
        size_t n;
        if (w->samples[k] >= 0)
            continue;
        int r = captions_next(&w->files[k], &small, &n, w->err);
        if (r < 0)
            return -1;
        if (r == 0)
            w->samples[k] = sample;
        else if (!text || n != len || memcmp(small, text, n) != 0)
            return fail_prefix(w, k, small, n, text, len);
    }
    return 0;
}

static void add_offset(struct tokens *out, size_t *cap)
{
    if ((size_t)out->samples + 2 > *cap) {
        *cap = *cap ? 2 * *cap : 1024;
        out->offsets = xreallocarray(out->offsets, *cap, sizeof *out->offsets);
    }
}

static int add_sample(struct tokens *out, struct walk *w, struct tokenizer *t, struct ids *ids,
                      const char *text, size_t len)
{
    const struct captions *file = &w->files[w->d->count - 1];
    size_t from = ids->count, most = (size_t)w->d->seq_len;
    if (tokenizer_encode(t, text, len, most + 1, ids, w->err) < 0)
        return aq_err_prefix(w->err, "%s:%" PRIu64, aq_show(file->path), file->line);
    if (ids->count - from > most) {
        ids->count = from + most;
        out->truncated++;
    }
    aq_sha256_add(&w->captions, text, len);
    aq_sha256_add(&w->captions, "\n", 1);
    if (w->d->each)
        w->d->each(w->d->context, out->samples, text, len, ids->items + from, ids->count - from);
    out->samples++;
    out->offsets[out->samples] = (int64_t)ids->count;
    return 0;
}

static int tokenize_all(struct tokens *out, struct walk *w, struct tokenizer *t, struct ids *ids)
{
    const struct dataset *d = w->d;
    size_t cap = 0;
    add_offset(out, &cap);
    out->offsets[0] = 0;
    for (;;) {
        const char *text = NULL;
        size_t len = 0;
        bool full = d->limit && out->samples == d->limit;
        int r = full ? 0 : captions_next(&w->files[d->count - 1], &text, &len, w->err);
        if (r < 0)
            return -1;
        if (full)
            break; /* what the others hold beyond the limit is of no interest */
        if (compare(w, out->samples, r ? text : NULL, len) < 0)
            return -1;
        if (r == 0)
            break;
        if (out->samples == DATASET_MAX_SAMPLES)
            return aq_err_set(w->err, AQ_EINPUT, "'%s' has more than %d captions",
                              aq_show(w->files[d->count - 1].path), DATASET_MAX_SAMPLES);
        add_offset(out, &cap);
        if (add_sample(out, w, t, ids, text, len) < 0)
            return -1;
    }
    return 0;
}

static int record_sizes(struct tokens *out, const struct walk *w)
{
    const struct dataset *d = w->d;
    int64_t before = 0;
    for (size_t k = 0; k < d->count; k++) {
        int64_t n = w->samples[k] >= 0 ? w->samples[k] : out->samples;
        if (n == 0)
            return aq_err_set(w->err, AQ_EINPUT, "'%s' holds no captions",
                              aq_show(w->files[k].path));
        if (n < before)
            return aq_err_set(w->err, AQ_EINPUT,
                              "'%s' has %" PRId64 " captions, but '%s' before it %" PRId64
                              ": sizes must rise",
                              d->sizes[k].name, n, d->sizes[k - 1].name, before);
        before = n;
        out->sizes[out->size_count++] = (struct tokens_size){xstrdup(d->sizes[k].name), n};
    }
    return 0;
}

int dataset_tokenize(struct tokens *out, const struct dataset *d, struct tokenizer *t,
                     struct aq_err *err)
{
    struct walk w = {.d = d, .err = err};
    struct ids ids = {.items = NULL};
    size_t open = 0;
    int r = 0;
    *out = (struct tokens){
        .max_length = d->max_length, .seq_len = d->seq_len, .pad_id = tokenizer_pad_id(t)};
    w.files = xcalloc(d->count, sizeof *w.files);
    w.samples = xcalloc(d->count, sizeof *w.samples);
    out->sizes = xcalloc(d->count, sizeof *out->sizes);
    aq_sha256_init(&w.captions);
    memcpy(out->tokenizer, tokenizer_files_digest(t), sizeof out->tokenizer);
    for (size_t k = 0; k < d->count && r == 0; k++) {
        w.samples[k] = -1;
        r = captions_open(&w.files[k], d->sizes[k].path, err);
        open += r == 0;
    }
    if (r == 0)
        r = tokenize_all(out, &w, t, &ids);
    if (r == 0)
        r = record_sizes(out, &w);
    aq_sha256_hex(&w.captions, out->captions);
    out->ids = ids.items;
    out->id_count = (int64_t)ids.count;
    for (size_t k = 0; k < open; k++)
        captions_close(&w.files[k]);
    free(w.files);
    free(w.samples);
    if (r < 0)
        tokens_release(out);
    return r;
}
