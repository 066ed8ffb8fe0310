/* Files of a fuzzer that are only in memory, for readers that take a path. */
#ifndef AQ_TESTS_FUZZ_MEM_FILE_H
#define AQ_TESTS_FUZZ_MEM_FILE_H

#include "base/err.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MEM_PATH = 32 };

/* Each has one file, which keeps its name. */
struct mem_file {
    int fd; /* 0: none yet */
    char path[MEM_PATH];
};

static inline const char *mem_file_set(struct mem_file *f, const void *bytes, size_t n)
{
    if (!f->fd) {
        f->fd = memfd_create("fuzz", MFD_CLOEXEC);
        (void)snprintf(f->path, sizeof f->path, "/proc/self/fd/%d", f->fd);
    }
    if (f->fd < 0 || ftruncate(f->fd, 0) < 0 || (n && pwrite(f->fd, bytes, n, 0) != (ssize_t)n))
        abort();
    return f->path;
}

/*
 * A safetensors file of a text: the header up to the first zero byte with the data after it; the
 * length in front is put right, which a fuzzer would seldom guess.
 */
static inline const char *mem_file_set_tensors(struct mem_file *f, const uint8_t *data, size_t size)
{
    size_t header = size ? strnlen((const char *)data, size) : 0;
    size_t rest = header < size ? size - header - 1 : 0;
    unsigned char *file = malloc(8 + size + 1);
    if (!file)
        abort();
    for (int i = 0; i < 8; i++)
        file[i] = (unsigned char)((uint64_t)header >> (8 * i));
    if (header)
        memcpy(file + 8, data, header);
    if (rest)
        memcpy(file + 8 + header, data + header + 1, rest);
    const char *path = mem_file_set(f, file, 8 + header + rest);
    free(file);
    return path;
}

/* What is refused is the file's fault, and said in one line. */
static inline void must_be_refusal(const struct aq_err *err)
{
    if (err->code != AQ_EINPUT || !err->msg[0] || strchr(err->msg, '\n'))
        abort();
}

#endif
