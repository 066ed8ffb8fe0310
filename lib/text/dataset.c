#include "text/dataset.h"
#include "base/mem.h"
#include "text/captions.h"
#include "text/records.h"
#include "text/unicode.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* All files at once, one line of each at a time. */
struct data_reader {
    const struct dataset *d;
    struct captions *files;
    int64_t *samples; /* of each file that has ended; -1 while it goes on */
    struct tokenizer *t;
    struct tokens *out;
    size_t cap; /* of out's offsets and count_from */
    struct ids ids;
    bool json;
    struct record record;
    enum record_kind kind; /* of the first record: ids do not mix with text */
    const struct chat *chat;
    struct aq_buf rendered, place;
    struct ids content; /* of one record that is cut into windows */
    struct aq_sha256 captions;
    struct aq_err *err;
};

static int fail_prefix(struct data_reader *w, size_t k, const char *text, size_t len,
                       const char *other, size_t other_len)
{
    const struct captions *small = &w->files[k], *large = &w->files[w->d->count - 1];
    if (!other)
        aq_err_set(w->err, AQ_EINPUT, "%s:%" PRIu64 ": '%s' has more lines than '%s' (%s)",
                   aq_show(small->path), small->line, w->d->sizes[k].name,
                   w->d->sizes[w->d->count - 1].name, aq_show(large->path));
    else
        aq_err_set(w->err, AQ_EINPUT, "%s:%" PRIu64 ": '%s' differs from %s:%" PRIu64 ": '%s'",
                   aq_show(small->path), small->line, aq_show_n(text, len), aq_show(large->path),
                   large->line, aq_show_n(other, other_len));
    return aq_err_hint(w->err, "each size must be a prefix of the next one");
}

/* Caption number `sample` of the last file is text (NULL: it has ended); so it must be in all. */
static int compare(struct data_reader *w, int64_t sample, const char *text, size_t len)
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

/* ---- samples ---- */

static const char *place(struct data_reader *w)
{
    const struct captions *file = &w->files[w->d->count - 1];
    aq_buf_reset(&w->place);
    aq_buf_addf(&w->place, "%s:%" PRIu64, aq_show(file->path), file->line);
    return w->place.data;
}

static void grow_samples(struct data_reader *w)
{
    struct tokens *out = w->out;
    if ((size_t)out->samples + 2 <= w->cap)
        return;
    w->cap = w->cap ? 2 * w->cap : 1024;
    out->offsets = xreallocarray(out->offsets, w->cap, sizeof *out->offsets);
    if (w->d->stride)
        out->count_from = xreallocarray(out->count_from, w->cap, sizeof *out->count_from);
}

/* The ids from `from` on are a sample. */
static int end_sample(struct data_reader *w, size_t from, int32_t count_from, const char *text,
                      size_t len)
{
    struct tokens *out = w->out;
    if (w->ids.count == from)
        return aq_err_set(w->err, AQ_EINPUT, "%s: the text has no tokens", place(w));
    if (out->samples == DATASET_MAX_SAMPLES)
        return aq_err_set(w->err, AQ_EINPUT, "'%s' has more than %d samples",
                          aq_show(w->files[w->d->count - 1].path), DATASET_MAX_SAMPLES);
    grow_samples(w);
    if (w->d->each)
        w->d->each(w->d->context, out->samples, text, len, w->ids.items + from,
                   w->ids.count - from);
    if (out->count_from)
        out->count_from[out->samples] = count_from;
    out->samples++;
    out->offsets[out->samples] = (int64_t)w->ids.count;
    return 0;
}

static void add_ids(struct ids *to, const int32_t *ids, size_t count)
{
    ids_reserve(to, count);
    if (count)
        memcpy(to->items + to->count, ids, count * sizeof *ids);
    to->count += count;
}

/* Ids of the record's text or its own, at most `enough` + 1 of a text. */
static int encode_record(struct data_reader *w, const char *text, size_t len, size_t enough,
                         struct ids *to)
{
    if (w->record.kind == RECORD_IDS) {
        add_ids(to, w->record.ids.items, w->record.ids.count);
        return 0;
    }
    if (tokenizer_encode(w->t, text, len, enough + 1, to, w->err) < 0)
        return aq_err_prefix(w->err, "%s", place(w));
    return 0;
}

/* One sample, cut at its end. */
static int add_whole(struct data_reader *w, const struct tokenizer_specials *s, const char *text,
                     size_t len)
{
    size_t from = w->ids.count, most = (size_t)w->d->seq_len - s->after_count;
    add_ids(&w->ids, s->before, s->before_count);
    if (encode_record(w, text, len, most, &w->ids) < 0)
        return -1;
    if (w->ids.count - from > most) {
        w->ids.count = from + most;
        w->out->truncated++;
    }
    add_ids(&w->ids, s->after, s->after_count);
    return end_sample(w, from, 0, text, len);
}

/*
 * As many samples as the text needs. Each begins with the special tokens before a text, the last
 * ends with those after it. Where windows overlap, ids that an earlier one has predicted are
 * context: the first new one is predicted at the position before it.
 */
static int add_windows(struct data_reader *w, const struct tokenizer_specials *s, const char *text,
                       size_t len)
{
    const struct dataset *d = w->d;
    size_t room = (size_t)d->window - s->before_count - s->after_count;
    size_t stride = d->stride ? (size_t)d->stride : room;
    if (stride > room)
        return aq_err_set(w->err, AQ_EUSAGE,
                          "--stride %zu leaves gaps: a window holds %zu ids of a text", stride,
                          room);
    w->content.count = 0;
    if (encode_record(w, text, len, SIZE_MAX / 2, &w->content) < 0)
        return -1;
    size_t total = w->content.count, start = 0, n;
    do {
        if (d->limit && w->out->samples == d->limit)
            return 0;
        size_t from = w->ids.count;
        n = total - start < room ? total - start : room;
        if (start && stride == room && s->before_count + n < 2)
            return 0; /* a last id alone has nothing to predict it */
        add_ids(&w->ids, s->before, s->before_count);
        add_ids(&w->ids, w->content.items + start, n);
        if (start + n == total)
            add_ids(&w->ids, s->after, s->after_count);
        size_t seen = start ? s->before_count + room - stride : 0;
        if (end_sample(w, from, seen ? (int32_t)seen - 1 : 0, text, len) < 0)
            return -1;
        start += stride;
    } while (start - stride + n < total);
    return 0;
}

/* ---- records ---- */

static int render_chat(struct data_reader *w)
{
    const char *jinja = tokenizer_chat_template(w->t);
    if (!w->chat && !jinja) {
        aq_err_set(w->err, AQ_EINPUT, "%s: a conversation, but the tokenizer has no chat template",
                   place(w));
        return aq_err_hint(w->err,
                           "render it yourself: JSON lines with \"text\", or \"input_ids\"");
    }
    if (!w->chat)
        w->chat = chat_find(jinja, w->err);
    if (!w->chat)
        return aq_err_prefix(w->err, "%s", place(w));
    if (chat_render(w->chat, tokenizer_bos(w->t), tokenizer_eos(w->t), w->record.messages,
                    w->record.message_count, &w->rendered, w->err) < 0)
        return aq_err_prefix(w->err, "%s", place(w));
    return 0;
}

static int check_kind(struct data_reader *w)
{
    bool ids = w->record.kind == RECORD_IDS;
    if (w->out->samples && ids != (w->kind == RECORD_IDS))
        return aq_err_set(w->err, AQ_EINPUT, "%s: %s, but the records before it have %s", place(w),
                          ids ? "input_ids" : "text", ids ? "text" : "input_ids");
    if (!ids && !w->t)
        return aq_err_set(w->err, AQ_EUSAGE, "--tokenizer is missing: %s is text", place(w));
    w->kind = w->record.kind;
    return 0;
}

/* One line of the last file. */
static int add_line(struct data_reader *w, const char *line, size_t len)
{
    static const struct tokenizer_specials none;
    const struct dataset *d = w->d;
    struct record *r = &w->record;
    if (w->json && record_of_json(r, line, len, place(w), w->err) < 0)
        return -1;
    if (!w->json)
        record_of_text(r, line, len);
    if (check_kind(w) < 0 || (r->kind == RECORD_CHAT && render_chat(w) < 0))
        return -1;
    const char *text = r->kind == RECORD_CHAT ? aq_buf_str(&w->rendered) : r->text;
    size_t n = r->kind == RECORD_CHAT ? w->rendered.len : r->len;
    if (r->kind == RECORD_TEXT && chars_leading(text, n, char_is_strippable) == n)
        return 0; /* like an empty line */
    const struct tokenizer_specials *s =
        r->kind == RECORD_TEXT && !d->no_special ? tokenizer_specials(w->t) : &none;
    int64_t room =
        (d->window ? d->window : d->seq_len) - (int64_t)s->before_count - (int64_t)s->after_count;
    if (room < 1)
        return aq_err_set(w->err, AQ_EUSAGE, "%s leaves no room between the special tokens",
                          d->window ? "--window" : "--seq-len");
    return d->window ? add_windows(w, s, text, n) : add_whole(w, s, text, n);
}

static int detect(struct data_reader *w, const char *line, size_t len)
{
    w->json = w->d->format == DATASET_JSONL;
    if (w->d->format != DATASET_AUTO)
        return 0;
    return records_detect(line, len, place(w), &w->json, w->err);
}

static int tokenize_all(struct data_reader *w)
{
    const struct dataset *d = w->d;
    struct captions *last = &w->files[d->count - 1];
    grow_samples(w);
    w->out->offsets[0] = 0;
    for (bool first = true;; first = false) {
        const char *text = NULL;
        size_t len = 0;
        bool full = d->limit && w->out->samples == d->limit;
        int r = full ? 0 : captions_next(last, &text, &len, w->err);
        if (r < 0)
            return -1;
        if (full)
            return 0; /* what the others hold beyond the limit is of no interest */
        if (compare(w, w->out->samples, r ? text : NULL, len) < 0)
            return -1;
        if (r == 0)
            return 0;
        if ((first && detect(w, text, len) < 0) || add_line(w, text, len) < 0)
            return -1;
        aq_sha256_add(&w->captions, text, len);
        aq_sha256_add(&w->captions, "\n", 1);
    }
}

static int record_sizes(struct tokens *out, const struct data_reader *w)
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
                              "'%s' has %" PRId64 " samples, but '%s' before it %" PRId64
                              ": sizes must rise",
                              d->sizes[k].name, n, d->sizes[k - 1].name, before);
        before = n;
        out->sizes[out->size_count++] = (struct tokens_size){xstrdup(d->sizes[k].name), n};
    }
    return 0;
}

/* What is known after the last record. */
static int finish(struct data_reader *w)
{
    struct tokens *out = w->out;
    bool ids = w->kind == RECORD_IDS;
    if (w->d->pad_id >= 0)
        out->pad_id = w->d->pad_id;
    else
        out->pad_id = ids || !w->t ? -1 : tokenizer_pad_id(w->t);
    if (!ids) {
        memcpy(out->tokenizer, tokenizer_digest(w->t), sizeof out->tokenizer);
        memcpy(out->tokenizer_files, tokenizer_files_digest(w->t), sizeof out->tokenizer_files);
    }
    if (out->max_length && out->pad_id < 0)
        return aq_err_set(w->err, AQ_EINPUT,
                          "'%s': %s no pad token, which --padding max_length needs: --pad-id N",
                          aq_show(w->files[w->d->count - 1].path),
                          ids ? "ready-made ids name" : "the tokenizer has");
    return 0;
}

static void release_walk(struct data_reader *w, size_t open)
{
    for (size_t k = 0; k < open; k++)
        captions_close(&w->files[k]);
    free(w->files);
    free(w->samples);
    record_release(&w->record);
    aq_buf_release(&w->rendered);
    aq_buf_release(&w->place);
    ids_release(&w->content);
}

int dataset_tokenize(struct tokens *out, const struct dataset *d, struct tokenizer *t,
                     struct aq_err *err)
{
    struct data_reader w = {.d = d, .t = t, .out = out, .err = err};
    size_t open = 0;
    int r = 0;
    *out = (struct tokens){
        .max_length = d->max_length, .seq_len = d->window ? d->window : d->seq_len, .pad_id = -1};
    w.files = xcalloc(d->count, sizeof *w.files);
    w.samples = xcalloc(d->count, sizeof *w.samples);
    out->sizes = xcalloc(d->count, sizeof *out->sizes);
    aq_sha256_init(&w.captions);
    for (size_t k = 0; k < d->count && r == 0; k++) {
        w.samples[k] = -1;
        r = captions_open(&w.files[k], d->sizes[k].path, err);
        open += r == 0;
    }
    if (r == 0)
        r = tokenize_all(&w);
    if (r == 0)
        r = record_sizes(out, &w);
    if (r == 0)
        r = finish(&w);
    aq_sha256_hex(&w.captions, out->captions);
    out->ids = w.ids.items;
    out->id_count = (int64_t)w.ids.count;
    release_walk(&w, open);
    if (r < 0)
        tokens_release(out);
    return r;
}
