/* tokens.safetensors: read back as written, and refused where it does not add up. */
#include "base/mem.h"
#include "io/safetensors.h"
#include "tap.h"
#include "text/tokens.h"

#include <stdlib.h>
#include <unistd.h>

static char path[4096];

static struct tokens sample(void)
{
    struct tokens t = {.id_count = 5, .samples = 2, .size_count = 2, .seq_len = 8, .pad_id = 9};
    static const int32_t ids[] = {4, 5, 6, 7, 8};
    static const int64_t offsets[] = {0, 2, 5};
    t.ids = xmalloc(sizeof ids);
    memcpy(t.ids, ids, sizeof ids);
    t.offsets = xmalloc(sizeof offsets);
    memcpy(t.offsets, offsets, sizeof offsets);
    t.sizes = xcalloc(2, sizeof *t.sizes);
    t.sizes[0] = (struct tokens_size){xstrdup("small"), 1};
    t.sizes[1] = (struct tokens_size){xstrdup("large"), 2};
    return t;
}

static void round_trip(void)
{
    struct tokens t = sample(), u = {0};
    struct aq_err err = {0};
    t.max_length = true;
    t.truncated = 1;
    t.count_from = xcalloc(2, sizeof *t.count_from);
    t.count_from[1] = 2;
    aq_sha256_of("x", 1, t.tokenizer);
    tap_ok(tokens_write(&t, "test", 1, path, &err) == 0 && tokens_open(&u, path, &err) == 0,
           "written and read %s", err.msg);
    tap_ok(u.id_count == 5 && u.samples == 2 && memcmp(u.ids, t.ids, 5 * sizeof *t.ids) == 0 &&
               memcmp(u.offsets, t.offsets, 3 * sizeof *t.offsets) == 0,
           "ids and offsets");
    tap_ok(u.count_from && u.count_from[0] == 0 && u.count_from[1] == 2 &&
               strcmp(u.tokenizer, t.tokenizer) == 0,
           "count_from and tokenizer");
    tap_ok(u.size_count == 2 && strcmp(u.sizes[1].name, "large") == 0 && u.sizes[1].samples == 2 &&
               u.max_length && u.seq_len == 8 && u.pad_id == 9 && u.truncated == 1,
           "metadata");
    tokens_release(&t);
    tokens_release(&u);
}

static void refused(const char *part)
{
    struct tokens t;
    struct aq_err err = {0};
    int r = tokens_open(&t, path, &err);
    if (!tap_ok(r < 0 && err.code == AQ_EINPUT && strstr(err.msg, part) && strstr(err.msg, path),
                "refused: %s", part))
        printf("# found: %s\n", r < 0 ? err.msg : "(accepted)");
    tokens_release(&t);
}

/* Offsets as given, over the ids of the sample; the digest fits, so that it is not what refuses. */
static void bad_offsets(int64_t a, int64_t b, int64_t c, const char *part)
{
    struct tokens t = sample();
    t.offsets[0] = a;
    t.offsets[1] = b;
    t.offsets[2] = c;
    tap_ok(tokens_write(&t, "test", 1, path, NULL) == 0, "a file of bad offsets");
    refused(part);
    tokens_release(&t);
}

static void bad_counts(int64_t small, int64_t large, int64_t truncated, const char *part)
{
    struct tokens t = sample();
    t.sizes[0].samples = small;
    t.sizes[1].samples = large;
    t.truncated = truncated;
    tap_ok(tokens_write(&t, "test", 1, path, NULL) == 0, "a file of bad counts");
    refused(part);
    tokens_release(&t);
}

static void bad_count_from(int32_t from, const char *part)
{
    struct tokens t = sample();
    t.count_from = xcalloc(2, sizeof *t.count_from);
    t.count_from[0] = from;
    tap_ok(tokens_write(&t, "test", 1, path, NULL) == 0, "a file of a bad count_from");
    refused(part);
    tokens_release(&t);
}

/* ids of this dtype, offsets [0, 1], and this text under "aq". */
static void bad_file(enum st_dtype dtype, const char *meta, const char *part)
{
    static const int64_t offsets[] = {0, 1};
    struct st_writer *w = st_writer_new();
    struct json *outer = json_new_object();
    if (meta)
        json_add_string(outer, "aq", meta);
    st_writer_metadata(w, outer);
    (void)st_declare(w, "ids", dtype, 1, (uint64_t[]){1});
    int at = st_declare(w, "offsets", ST_I64, 1, (uint64_t[]){2});
    bool done = st_begin(w, path, NULL) == 0 && st_write(w, at, 0, offsets, 16, NULL) == 0 &&
                st_commit(w, NULL) == 0;
    tap_ok(done, "a file of bad metadata");
    st_writer_free(w);
    refused(part);
}

#define META(padding, tail)                                                                        \
    "{\"schema\":\"aq.tokens/2\",\"sizes\":{\"small\":1},\"padding\":\"" padding                   \
    "\",\"seq_len\":4,\"pad_id\":0" tail "}"

static void bad_metadata(void)
{
    bad_file(ST_I32, NULL, "not a product of aq");
    bad_file(ST_I32, "{", ":1:");
    bad_file(ST_I32, "[]", "expected an object with schema 'aq.tokens/2'");
    bad_file(ST_I32, "{\"schema\":\"aq.ranges/1\"}", "schema is 'aq.ranges/1'");
    bad_file(ST_I64, META("none", ""), "tensor 'ids' has dtype I64, expected I32");
    bad_file(ST_I32, META("left", ",\"truncated\":0,\"tokenizer\":null,\"digest\":\"\""),
             "padding is 'left'");
    bad_file(ST_I32, META("none", ",\"truncated\":0,\"tokenizer\":null,\"digest\":\"ab\""),
             "digest is ab");
    bad_file(ST_I32, META("none", ",\"truncated\":0,\"tokenizer\":null"), "'digest' is missing");
    bad_file(ST_I32, META("none", ",\"truncated\":0"), "'tokenizer' is missing");
    bad_file(ST_I32, META("none", ",\"truncated\":0,\"tokenizer\":\"ab\""), "is not a SHA-256");
    bad_file(ST_I32, "{\"schema\":\"aq.tokens/2\",\"sizes\":{}}", "there is no size");
}

int main(void)
{
    const char *dir = getenv("TMPDIR");
    (void)snprintf(path, sizeof path, "%s/aq-%ld-tokens", dir ? dir : "/tmp", (long)getpid());
    round_trip();
    bad_offsets(0, 3, 2, "sample 1 has no tokens");
    bad_offsets(0, 2, 6, "offsets of sample 1 lie outside the 5 ids");
    bad_offsets(-1, 2, 5, "offsets of sample 0 lie outside the 5 ids");
    bad_offsets(0, 0, 5, "sample 0 has no tokens");
    bad_offsets(1, 2, 5, "offsets run from 1 to 5, expected 0 to 5");
    bad_offsets(0, 2, 4, "offsets run from 0 to 4, expected 0 to 5");
    bad_counts(2, 1, 0, "sizes.large: expected an integer from 2 to 2");
    bad_counts(0, 2, 0, "sizes.small: expected an integer from 1 to 2");
    bad_counts(1, 3, 0, "sizes.large: expected an integer from 1 to 2");
    bad_counts(1, 2, 3, "truncated: expected an integer from 0 to 2");
    bad_count_from(-1, "count_from of sample 0 is -1, it has 2 tokens");
    bad_count_from(2, "count_from of sample 0 is 2, it has 2 tokens");
    bad_metadata();
    (void)unlink(path);
    return tap_done();
}
