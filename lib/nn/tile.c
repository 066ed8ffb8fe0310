#include "nn/tile.h"

#include "base/mem.h"

#include <stdlib.h>

static int64_t sample_length(const struct tile_source *src, int64_t s)
{
    return src->offsets[s + 1] - src->offsets[s];
}

/* Pad rows that upstream would compute for this sample. */
static int64_t sample_pads(const struct tile_source *src, int64_t s)
{
    return src->max_length ? src->seq_len - sample_length(src, s) : 0;
}

static int64_t sample_rows(const struct tile_source *src, int64_t s)
{
    return sample_length(src, s) + (sample_pads(src, s) > 0);
}

static int check_source(const struct tile_source *src, int64_t vocab, struct aq_err *err)
{
    if (src->samples <= 0)
        return aq_err_set(err, AQ_EINPUT, "there are no samples");
    if (src->offsets[0] != 0)
        return aq_err_set(err, AQ_EINPUT, "'offsets' begins with %lld, expected 0",
                          (long long)src->offsets[0]);
    if (src->max_length && (src->pad_id < 0 || src->pad_id >= vocab))
        return aq_err_set(err, AQ_EINPUT, "pad id %d is outside the vocabulary of %lld",
                          (int)src->pad_id, (long long)vocab);
    for (int64_t s = 0; s < src->samples; s++) {
        int64_t n = sample_length(src, s);
        if (n <= 0)
            return aq_err_set(err, AQ_EINPUT, "sample %lld has no tokens", (long long)s);
        if (n > INT32_MAX / 4)
            return aq_err_set(err, AQ_EINPUT, "sample %lld is too long (%lld tokens)", (long long)s,
                              (long long)n);
        if (src->max_length && n > src->seq_len)
            return aq_err_set(err, AQ_EINPUT, "sample %lld has %lld tokens, more than seq_len %lld",
                              (long long)s, (long long)n, (long long)src->seq_len);
        if (src->max_positions > 0 && n + sample_pads(src, s) > src->max_positions)
            return aq_err_set(err, AQ_EINPUT,
                              "sample %lld has %lld positions; the model's rotation changes "
                              "beyond %lld",
                              (long long)s, (long long)(n + sample_pads(src, s)),
                              (long long)src->max_positions);
        for (int64_t i = src->offsets[s]; i < src->offsets[s + 1]; i++)
            if (src->ids[i] < 0 || src->ids[i] >= vocab)
                return aq_err_set(err, AQ_EINPUT,
                                  "sample %lld: token id %d is outside the vocabulary of %lld",
                                  (long long)s, (int)src->ids[i], (long long)vocab);
    }
    return 0;
}

/* The end of the part that begins with sample s and is not split: a sample or a batch. */
static int64_t part_end(const struct tile_source *src, int64_t s)
{
    int64_t each = src->batch > 0 ? src->batch : 1;
    return src->samples - s < each ? src->samples : s + each;
}

static int64_t part_rows(const struct tile_source *src, int64_t s)
{
    int64_t rows = 0, end = part_end(src, s);
    while (s < end)
        rows += sample_rows(src, s++);
    return rows;
}

/* How many samples from `first` on fit into `rows`. */
static int32_t samples_that_fit(const struct tile_source *src, int64_t first, int32_t rows)
{
    int64_t left = rows, s = first;
    while (s < src->samples && part_rows(src, s) <= left) {
        left -= part_rows(src, s);
        s = part_end(src, s);
    }
    return (int32_t)(s - first);
}

static int32_t counted(const struct tile_source *src, int32_t id)
{
    return id == src->pad_id ? -1 : id;
}

/* Writes one sample's rows from `row` on. */
static void place_sample(struct tile *t, const struct tile_source *src, int32_t i, int32_t row)
{
    int64_t s = t->sample + i, n = sample_length(src, s), pads = sample_pads(src, s);
    const int32_t *ids = src->ids + src->offsets[s];
    int64_t from = src->count_from ? src->count_from[s] : 0;
    int32_t *row_ids = (int32_t *)t->desc.ids, *pos = (int32_t *)t->desc.pos;
    int32_t *target = (int32_t *)t->desc.target;
    if (pads > 0) {
        row_ids[row] = src->pad_id;
        target[row] = from > 0 ? -1 : counted(src, ids[0]);
        row++;
    }
    for (int64_t k = 0; k < n; k++, row++) {
        row_ids[row] = ids[k];
        pos[row] = (int32_t)(pads + k);
        target[row] = k + 1 < n && k >= from ? counted(src, ids[k + 1]) : -1;
    }
    t->tokens[i] = (int32_t)n;
    t->pads[i] = (int32_t)pads;
    ((uint8_t *)t->desc.pad)[i] = pads > 0;
}

/* Ids, positions and targets are the tile's; who attends to whom is not asked of batches. */
static void fill_batches(struct tile *t, int64_t batch)
{
    int32_t samples = t->desc.samples, count = (int32_t)((samples + batch - 1) / batch);
    int32_t *starts = xcalloc((size_t)count + 1, sizeof *starts);
    for (int32_t i = 0; i < count; i++)
        starts[i] = t->desc.first[i * batch];
    starts[count] = t->used;
    t->batches = t->desc;
    t->batches.samples = count;
    t->batches.first = starts;
}

static void fill_tile(struct tile *t, const struct tile_source *src, int64_t first, int32_t samples,
                      int32_t rows)
{
    *t = (struct tile){.sample = first};
    int32_t *starts = xcalloc((size_t)samples + 1, sizeof *starts);
    int32_t *ids = xcalloc((size_t)rows, sizeof *ids), *pos = xcalloc((size_t)rows, sizeof *pos);
    int32_t *target = xcalloc((size_t)rows, sizeof *target);
    t->tokens = xcalloc((size_t)samples, sizeof *t->tokens);
    t->labels = xcalloc((size_t)samples, sizeof *t->labels);
    t->pads = xcalloc((size_t)samples, sizeof *t->pads);
    for (int32_t r = 0; r < rows; r++)
        ids[r] = target[r] = -1;
    t->desc = (struct backend_tile_desc){.rows = rows,
                                         .samples = samples,
                                         .first = starts,
                                         .pad = xcalloc((size_t)samples, 1),
                                         .ids = ids,
                                         .pos = pos,
                                         .target = target};
    for (int32_t i = 0; i < samples; i++) {
        place_sample(t, src, i, starts[i]);
        starts[i + 1] = starts[i] + (int32_t)sample_rows(src, first + i);
        for (int32_t r = starts[i]; r < starts[i + 1]; r++)
            t->labels[i] += target[r] >= 0;
    }
    t->used = starts[samples];
    if (src->batch > 0)
        fill_batches(t, src->batch);
}

int32_t tiles_tokens(const struct backend *b, const struct lm_arch *a, int64_t total)
{
    int64_t most = a->experts ? b->expert_tile_tokens : 0, each = b->tile_tokens;
    if (total < most)
        most = aq_round_up(total, each);
    return (int32_t)(most > each ? most : each);
}

int tiles_build(struct tiles *t, const struct tile_source *src, int32_t tokens, int64_t vocab,
                struct aq_err *err)
{
    *t = (struct tiles){0};
    if (check_source(src, vocab, err) < 0)
        return -1;
    int64_t longest = 1;
    for (int64_t s = 0; s < src->samples; s++)
        t->has_pads |= sample_pads(src, s) > 0;
    for (int64_t s = 0; s < src->samples; s = part_end(src, s))
        if (part_rows(src, s) > longest)
            longest = part_rows(src, s);
    if (longest > INT32_MAX / 4)
        return aq_err_set(err, AQ_EINPUT,
                          "a batch of %lld samples has %lld tokens, which is too many",
                          (long long)src->batch, (long long)longest);
    t->rows = (int32_t)((longest + tokens - 1) / tokens * tokens);
    size_t cap = 0;
    for (int64_t s = 0; s < src->samples;) {
        int32_t samples = samples_that_fit(src, s, t->rows);
        AQ_GROW(t->items, t->count, cap);
        fill_tile(&t->items[t->count++], src, s, samples, t->rows);
        s += samples;
    }
    return 0;
}

void tiles_release(struct tiles *t)
{
    for (size_t i = 0; i < t->count; i++) {
        struct tile *one = &t->items[i];
        free((void *)one->desc.first);
        free((void *)one->batches.first);
        free((void *)one->desc.pad);
        free((void *)one->desc.ids);
        free((void *)one->desc.pos);
        free((void *)one->desc.target);
        free(one->tokens);
        free(one->labels);
        free(one->pads);
    }
    free(t->items);
    *t = (struct tiles){0};
}
