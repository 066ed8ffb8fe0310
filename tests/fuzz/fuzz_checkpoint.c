/*
 * A checkpoint directory: config.json, the index, and the headers of three shards, one after the
 * other with a zero byte between them. Data after a header are zeros, as many as it asks for. An
 * empty section is a file that is not there. What is extracted is inside the files.
 */
#include "base/mem.h"
#include "model/lm_extract.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SECTIONS = 5, MAX_DATA = 1 << 20 };

static const char *const names[SECTIONS] = {
    "config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors", "model.safetensors"};
static char dir[] = "/dev/shm/aq-fuzz-XXXXXX";

static void remove_files(void)
{
    for (int i = 0; i < SECTIONS; i++) {
        char *path = aq_path_join(dir, names[i]);
        (void)unlink(path);
        free(path);
    }
}

static void remove_dir(void)
{
    remove_files();
    (void)rmdir(dir);
}

static void make_dir(void)
{
    static bool made;
    if (made)
        return;
    if (!mkdtemp(dir) || atexit(remove_dir) != 0) {
        perror(dir);
        exit(1);
    }
    made = true;
}

/* The largest number after "data_offsets", roughly: what the header asks for. */
static size_t data_bytes(const char *header, size_t n)
{
    static const char key[] = "\"data_offsets\":[";
    size_t most = 0;
    for (const char *p = header; (p = memmem(p, n - (size_t)(p - header), key, sizeof key - 1));) {
        char number[32] = "";
        p += sizeof key - 1;
        size_t left = n - (size_t)(p - header);
        const char *comma = memchr(p, ',', left);
        if (!comma)
            break;
        left -= (size_t)(comma + 1 - p);
        memcpy(number, comma + 1, left < sizeof number - 1 ? left : sizeof number - 1);
        size_t end = strtoul(number, NULL, 10);
        if (end > most)
            most = end;
    }
    return most < MAX_DATA ? most : MAX_DATA;
}

static void write_section(int i, const char *text, size_t n)
{
    char *path = aq_path_join(dir, names[i]);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    uint64_t length = n; /* little-endian, as all the machines that run this */
    size_t begin = i < 2 ? 0 : sizeof length;
    if (fd < 0 || (begin && write(fd, &length, sizeof length) != (ssize_t)sizeof length) ||
        write(fd, text, n) != (ssize_t)n ||
        (begin && ftruncate(fd, (off_t)(begin + n + data_bytes(text, n))) < 0))
        abort();
    (void)close(fd);
    free(path);
}

static void extract(void)
{
    struct lm lm;
    struct aq_buf notes = AQ_BUF_INIT;
    struct aq_err err = {0};
    if (lm_extract(&lm, dir, LM_DIGEST_SAMPLE, &notes, &err) == 0) {
        for (size_t i = 0; i < lm.count; i++)
            if (lm.tensors[i].end > lm.files[lm.tensors[i].file].bytes || !lm.tensors[i].data)
                abort();
        lm_close(&lm);
    } else if (!err.msg[0] || strchr(err.msg, '\n')) {
        abort();
    }
    aq_buf_release(&notes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *p = (const char *)data, *end = p + size;
    make_dir();
    for (int i = 0; i < SECTIONS && p < end; i++) {
        size_t n = strnlen(p, (size_t)(end - p));
        if (n)
            write_section(i, p, n);
        p += n + 1;
    }
    extract();
    remove_files();
    return 0;
}
