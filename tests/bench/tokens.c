/*
 * tokens TOKENIZER CAPTIONS ROUNDS: least CPU time, in milliseconds, to load a tokenizer and to
 * encode the lines of a file; the number of ids, and the SHA-256 of their lines.
 */
#include "base/mem.h"
#include "base/sha256.h"
#include "text/captions.h"
#include "text/tokenizer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct line {
    char *text;
    size_t len;
};

struct lines {
    struct line *items;
    size_t count, cap;
};

static double cpu_ms(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static void fail(const struct aq_err *err)
{
    (void)fprintf(stderr, "%s\n", err->msg);
    exit(1);
}

static struct lines read_lines(const char *path)
{
    struct captions c;
    struct lines l = {.items = NULL};
    struct aq_err err = {0};
    const char *text;
    size_t len;
    int r = captions_open(&c, path, &err);
    while (r == 0 && captions_next(&c, &text, &len, &err) > 0) {
        AQ_GROW(l.items, l.count, l.cap);
        l.items[l.count++] = (struct line){xstrndup(text, len), len};
    }
    if (err.msg[0])
        fail(&err);
    captions_close(&c);
    return l;
}

static double encode(struct tokenizer *t, const struct lines *l, struct ids *ids, size_t *ends)
{
    struct aq_err err = {0};
    double start = cpu_ms();
    ids->count = 0;
    for (size_t i = 0; i < l->count; i++) {
        if (tokenizer_encode(t, l->items[i].text, l->items[i].len, SIZE_MAX / 2, ids, &err) < 0)
            fail(&err);
        ends[i] = ids->count;
    }
    return cpu_ms() - start;
}

static void print_result(double loaded, double encoded, const struct ids *ids, const size_t *ends,
                         size_t lines)
{
    struct aq_buf text = AQ_BUF_INIT;
    char hex[AQ_SHA256_HEX];
    for (size_t i = 0, k = 0; i < lines; i++) {
        for (; k < ends[i]; k++)
            aq_buf_addf(&text, "%" PRId32 " ", ids->items[k]);
        aq_buf_addc(&text, '\n');
    }
    aq_sha256_of(aq_buf_str(&text), text.len, hex);
    printf("%.1f\t%.2f\t%zu\t%s\n", loaded, encoded, ids->count, hex);
    aq_buf_release(&text);
}

static struct tokenizer *load(const char *path, double *ms)
{
    struct aq_err err = {0};
    double start = cpu_ms();
    struct tokenizer *t = tokenizer_open(path, &err);
    if (!t)
        fail(&err);
    *ms = cpu_ms() - start;
    return t;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    struct lines l = read_lines(argv[2]);
    struct ids ids = {.items = NULL};
    size_t *ends = xcalloc(l.count, sizeof *ends);
    double loaded, encoded, ms;
    struct tokenizer *t = load(argv[1], &loaded);
    encoded = encode(t, &l, &ids, ends);
    for (int r = atoi(argv[3]); r > 1; r--) {
        tokenizer_free(t);
        t = load(argv[1], &ms);
        loaded = ms < loaded ? ms : loaded;
        ms = encode(t, &l, &ids, ends);
        encoded = ms < encoded ? ms : encoded;
    }
    print_result(loaded, encoded, &ids, ends, l.count);
    tokenizer_free(t);
    ids_release(&ids);
    for (size_t i = 0; i < l.count; i++)
        free(l.items[i].text);
    free(l.items);
    free(ends);
    return 0;
}
