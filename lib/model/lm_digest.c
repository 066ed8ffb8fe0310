#include "base/file.h"
#include "base/mem.h"
#include "base/progress.h"
#include "model/lm.h"

#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SAMPLE = 4096 };
/* Mapped pages count as our memory until they are let go. */
enum { BLOCK = 16 << 20 };

static void add_text(struct aq_sha256 *s, struct aq_buf *line)
{
    aq_sha256_add(s, line->data, line->len);
    aq_buf_reset(line);
}

static void add_arch(struct aq_sha256 *s, const struct lm_arch *a, struct aq_buf *line)
{
    arch_digest_line(a, line);
    add_text(s, line);
}

static void add_entry(struct aq_sha256 *s, const struct lm_tensor *t, struct aq_buf *line)
{
    aq_buf_addf(line, "%s %s", t->name, st_dtype_text(t->dtype));
    for (int i = 0; i < t->rank; i++)
        aq_buf_addf(line, " %" PRIu64, t->shape[i]);
    aq_buf_addc(line, '\n');
    add_text(s, line);
}

static void add_sample(struct aq_sha256 *s, const unsigned char *p, uint64_t n)
{
    if (n <= 3 * (uint64_t)SAMPLE) {
        aq_sha256_add(s, p, n);
        return;
    }
    aq_sha256_add(s, p, SAMPLE);
    aq_sha256_add(s, p + (n - SAMPLE) / 2, SAMPLE);
    aq_sha256_add(s, p + n - SAMPLE, SAMPLE);
}

static void add_all(struct aq_sha256 *s, const unsigned char *p, uint64_t n)
{
    while (n) {
        uint64_t take = n < BLOCK ? n : BLOCK;
        aq_sha256_add(s, p, take);
        aq_map_drop(p, take);
        p += take;
        n -= take;
    }
}

/* Samples lie far apart: reading ahead of them could fetch the whole checkpoint. */
static void advise(const struct lm *lm, int advice)
{
    for (size_t i = 0; i < lm->file_count; i++)
        if (lm->files[i].map.size)
            (void)madvise((void *)lm->files[i].map.data, lm->files[i].map.size, advice);
}

void lm_compute_digest(const struct lm *lm, enum lm_digest kind, char out[AQ_SHA256_HEX])
{
    struct aq_sha256 s;
    struct aq_buf line = AQ_BUF_INIT;
    struct aq_progress progress;
    uint64_t total = 0, done = 0;
    for (size_t i = 0; i < lm->count; i++)
        total += lm->tensors[i].end - lm->tensors[i].begin;
    if (kind == LM_DIGEST_SAMPLE)
        advise(lm, MADV_RANDOM);
    aq_progress_begin(&progress, "digest", total);
    aq_sha256_init(&s);
    add_arch(&s, &lm->arch, &line);
    for (size_t i = 0; i < lm->count; i++) {
        const struct lm_tensor *t = &lm->tensors[i];
        add_entry(&s, t, &line);
        if (kind == LM_DIGEST_SAMPLE)
            add_sample(&s, t->data, t->end - t->begin);
        else
            add_all(&s, t->data, t->end - t->begin);
        aq_progress_update(&progress, done += t->end - t->begin);
    }
    aq_progress_end(&progress);
    advise(lm, MADV_NORMAL);
    aq_sha256_hex(&s, out);
    aq_buf_release(&line);
}
