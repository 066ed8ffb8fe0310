/* The job of `aq-calib ranges`: files in, one file out. */
#include "base/fmt.h"
#include "base/mem.h"
#include "model/lm.h"
#include "score/ranges.h"
#include "store/range_file.h"
#include "text/tokens.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* The data set's own sizes. */
static int default_prefixes(const struct tokens *t, int64_t *out)
{
    int count = 0;
    for (size_t i = 0; i < t->size_count && count < RANGES_MAX_PREFIXES; i++)
        if (count == 0 || t->sizes[i].samples > out[count - 1])
            out[count++] = t->sizes[i].samples;
    return count;
}

/* "16,128,512": whole numbers, rising. Returns how many, or -1. */
static int parse_prefixes(const char *text, int64_t *out, struct aq_err *err)
{
    char *copy = xstrdup(text), *rest = copy, *word;
    int count = 0, status = 0;
    while (status == 0 && (word = strsep(&rest, ","))) {
        int64_t n;
        if (!aq_parse_i64(word, &n) || n < 1)
            status = aq_err_set(err, AQ_EUSAGE, "--prefix: '%s' is not a positive number",
                                aq_show(word));
        else if (count && n <= out[count - 1])
            status =
                aq_err_set(err, AQ_EUSAGE, "--prefix: %" PRId64 " does not come after %" PRId64, n,
                           out[count - 1]);
        else if (count == RANGES_MAX_PREFIXES)
            status =
                aq_err_set(err, AQ_EUSAGE, "--prefix: more than %d numbers", RANGES_MAX_PREFIXES);
        else
            out[count++] = n;
    }
    free(copy);
    return status < 0 ? -1 : count;
}

static int add_metadata(struct json *root, const struct ranges *r, const struct lm *lm,
                        const struct tokens *tokens, const struct backend *b, struct aq_err *err)
{
    struct aq_buf text = AQ_BUF_INIT;
    struct json *aq = json_new_object();
    json_add_string(aq, "schema", RANGES_SCHEMA);
    struct json *list = json_add_array(aq, "prefixes");
    for (size_t i = 0; i < r->prefix_count; i++)
        (void)json_push(list, json_new_int(r->prefixes[i]));
    json_add_string(aq, "lm", lm->digest);
    json_add_string(aq, "tokens", tokens->digest);
    json_add_string(aq, "backend", b->identity);
    int status = json_write(&text, aq, JSON_COMPACT, err);
    json_add_string(root, "aq", aq_buf_str(&text));
    aq_buf_release(&text);
    json_free(aq);
    return status;
}

/* With all inputs open. */
static int measure(const struct ranges_job *job, struct lm *lm, struct tokens *tokens,
                   const int64_t *prefixes, int count, struct aq_err *err)
{
    struct qwen3_source source = qwen3_source_of_lm(lm);
    struct backend *b = NULL;
    struct qwen3 *m = NULL;
    struct tiles tiles = {0};
    struct ranges r = {0};
    int status = -1;
    if (count < 1)
        return aq_err_set(err, AQ_EUSAGE, "'%s' names no sizes: --prefix is needed",
                          aq_show(job->tokens));
    if (prefixes[count - 1] > tokens->samples)
        return aq_err_set(err, AQ_EUSAGE, "--prefix: %" PRId64 ", but '%s' has %" PRId64 " samples",
                          prefixes[count - 1], aq_show(job->tokens), tokens->samples);
    struct tile_source samples = {.ids = tokens->ids,
                                  .offsets = tokens->offsets,
                                  .samples = prefixes[count - 1],
                                  .max_length = tokens->max_length,
                                  .seq_len = tokens->seq_len,
                                  .pad_id = tokens->pad_id};
    if (backend_open(&b, job->device, &job->config, err) < 0)
        goto out;
    if (tiles_build(&tiles, &samples, b->tile_tokens, source.config.vocab, err) < 0) {
        (void)aq_err_prefix(err, "'%s'", aq_show(job->tokens));
        goto out;
    }
    if (qwen3_open(&m, &source, b, tiles.rows, 0, err) < 0 ||
        ranges_compute(&r, m, b, &tiles, prefixes, (size_t)count, err) < 0)
        goto out;
    struct json *meta = json_new_object();
    status = add_metadata(meta, &r, lm, tokens, b, err);
    if (status == 0)
        status = ranges_write(&r, job->output, meta, err);
    else
        json_free(meta);
out:
    ranges_release(&r);
    qwen3_close(m);
    backend_close(b);
    tiles_release(&tiles);
    return status;
}

int ranges_run(const struct ranges_job *job, struct aq_err *err)
{
    int64_t prefixes[RANGES_MAX_PREFIXES];
    struct tokens tokens = {0};
    struct lm lm;
    int count = job->prefixes ? parse_prefixes(job->prefixes, prefixes, err) : 0, status = -1;
    if (count < 0)
        return -1;
    if (lm_open(&lm, job->lm, err) == 0 && tokens_open(&tokens, job->tokens, err) == 0) {
        if (count == 0)
            count = default_prefixes(&tokens, prefixes);
        status = measure(job, &lm, &tokens, prefixes, count, err);
    }
    tokens_release(&tokens);
    lm_close(&lm);
    return status;
}
