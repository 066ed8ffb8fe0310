/*
 * Any bytes as a file of captions or JSON lines, through a tokenizer with special tokens. The first
 * two bytes choose format, window, stride, limit and padding. What is accepted adds up. Run in the
 * root of the repository.
 */
#include "text/dataset.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct tokenizer *small(void)
{
    static struct tokenizer *t;
    struct aq_err err = {0};
    if (!t && !(t = tokenizer_open("tests/oracle/tokenizer/llama2.json", &err))) {
        (void)fprintf(stderr, "%s\n", err.msg);
        exit(1);
    }
    return t;
}

static void check(const struct tokens *t, const struct dataset *d)
{
    if (t->samples < 1 || t->offsets[t->samples] != t->id_count ||
        (d->limit && t->samples > d->limit) || t->sizes[0].samples != t->samples)
        abort();
    for (int64_t s = 0; s < t->samples; s++) {
        int64_t n = t->offsets[s + 1] - t->offsets[s];
        if (n < 1 || n > t->seq_len ||
            (t->count_from && (t->count_from[s] < 0 || t->count_from[s] >= n)))
            abort();
    }
}

/* The bytes as a file that has a path. */
static int make_file(const uint8_t *data, size_t size, char path[64])
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        exit(1);
    (void)snprintf(path, 64, "/proc/self/fd/%d", fd);
    return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    char path[64];
    int fd = make_file(data + 2, size - 2, path);
    struct dataset_size sizes = {"small", path};
    struct dataset d = {.sizes = &sizes,
                        .count = 1,
                        .format = (enum dataset_format)(data[0] % 3),
                        .seq_len = 4 + data[0] / 3 % 8,
                        .window = data[1] & 1 ? 4 + data[1] / 2 % 8 : 0,
                        .limit = data[1] >> 6,
                        .max_length = data[0] >> 7,
                        .pad_id = data[0] & 64 ? 3 : -1};
    if (d.window && data[1] & 32)
        d.stride = 1 + data[1] % 3;
    struct tokens t;
    struct aq_err err = {0};
    if (dataset_tokenize(&t, &d, data[0] & 32 ? NULL : small(), &err) == 0) {
        check(&t, &d);
        tokens_release(&t);
    } else if ((err.code != AQ_EINPUT && err.code != AQ_EUSAGE) || !err.msg[0] ||
               strchr(err.msg, '\n')) {
        abort();
    }
    (void)close(fd);
    return 0;
}
