/* GGUF: values of blocks and a file of the package gguf; what we write, read again; bad files. */
#include "io/gguf.h"
#include "tap.h"

#include "base/mem.h"

#include <stdlib.h>
#include <unistd.h>

#define DIR "tests/oracle/gguf/"

/* ---- blocks ---- */

static size_t from_hex(const char *hex, size_t len, unsigned char *out)
{
    for (size_t i = 0; i < len / 2; i++) {
        char two[3] = {hex[2 * i], hex[2 * i + 1], '\0'};
        out[i] = (unsigned char)strtoul(two, NULL, 16);
    }
    return len / 2;
}

static const struct gguf_type_info *type_named(const char *name)
{
    for (int i = 0; i < 64; i++) {
        const struct gguf_type_info *t = gguf_type_info((enum gguf_type)i);
        if (t && strcmp(t->name, name) == 0)
            return t;
    }
    return NULL;
}

static void check_blocks(char *line)
{
    char *name = strtok(line, " "), *blocks = strtok(NULL, " "), *values = strtok(NULL, " \n");
    const struct gguf_type_info *t = name && blocks && values ? type_named(name) : NULL;
    tap_ok(t != NULL, "blocks.txt: a known type");
    if (!t || !blocks || !values)
        return;
    unsigned char *b = xmalloc(strlen(blocks)), *y = xmalloc(strlen(values));
    size_t bytes = from_hex(blocks, strlen(blocks), b), n = from_hex(values, strlen(values), y) / 4;
    float *out = xcalloc(n, sizeof *out);
    tap_ok(bytes / (size_t)t->block_bytes * (size_t)t->block == n, "%s: block size", name);
    gguf_dequantize(t->type, b, n, out);
    size_t differ = 0;
    for (size_t i = 0; i < n; i++)
        differ += memcmp(&out[i], y + 4 * i, 4) != 0; /* NOLINT(*-memory-comparison): bits */
    tap_ok(differ == 0, "%s: %zu values, %zu differ", name, n, differ);
    free(b);
    free(y);
    free(out);
}

static void test_blocks(void)
{
    struct aq_buf text = AQ_BUF_INIT;
    struct aq_err err = {0};
    int seen = 0;
    if (!tap_ok(aq_read_file(DIR "blocks.txt", 1 << 20, &text, &err) == 0, "blocks.txt"))
        return;
    for (char *line = text.data, *next; line && *line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        if (*line != '#') {
            check_blocks(line);
            seen++;
        }
    }
    tap_ok(seen == 13, "13 types");
    aq_buf_release(&text);
}

/* ---- their file ---- */

static void test_small(void)
{
    struct gguf_file f;
    struct aq_err err = {0};
    int64_t n = 0;
    double x = 0;
    bool b = false;
    size_t at = 0;
    if (!tap_ok(gguf_open(&f, DIR "small.gguf", &err) == 0, "small.gguf: %s", err.msg))
        return;
    tap_same(gguf_string(&f, gguf_get(&f, "general.architecture")), "llama", "architecture");
    tap_ok(gguf_int(gguf_get(&f, "a.u32"), &n) && n == 7, "u32");
    tap_ok(gguf_int(gguf_get(&f, "a.i32"), &n) && n == -7, "i32");
    tap_ok(gguf_int(gguf_get(&f, "a.u64"), &n) && n == (int64_t)1 << 40, "u64");
    tap_ok(gguf_number(gguf_get(&f, "a.f32"), &x) && x == 0.5, "f32");
    tap_ok(gguf_number(gguf_get(&f, "a.f64"), &x) && x == 0.1, "f64");
    tap_ok(gguf_bool(gguf_get(&f, "a.bool"), &b) && b, "bool");
    tap_same(gguf_string(&f, gguf_get(&f, "a.string")), "na\xc3\xafve", "string");
    tap_ok(!gguf_get(&f, "a") && !gguf_find(&f, "first"), "absent names");
    const struct gguf_value *v = gguf_get(&f, "a.strings");
    tap_same(gguf_next_string(&f, v, &at), "x", "strings 0");
    tap_same(gguf_next_string(&f, v, &at), "", "strings 1");
    tap_same(gguf_next_string(&f, v, &at), "yz", "strings 2");
    tap_ok(!gguf_next_string(&f, v, &at), "strings: the end");
    tap_ok(gguf_int_at(gguf_get(&f, "a.ints"), 1, &n) && n == -1 &&
               !gguf_int_at(gguf_get(&f, "a.ints"), 3, &n),
           "ints");
    const struct gguf_tensor *t = gguf_find(&f, "first.weight");
    float one;
    tap_ok(t && t->rank == 2 && t->shape[0] == 2 && t->shape[1] == 3 && t->type == GGUF_F32,
           "first.weight: shape");
    if (t) {
        memcpy(&one, (const char *)t->data + 16, 4);
        tap_ok(one == 4, "first.weight: data");
    }
    t = gguf_find(&f, "second.weight");
    float y[128];
    tap_ok(t && t->type == GGUF_Q8_0 && t->elements == 128, "second.weight");
    if (t) {
        gguf_dequantize(t->type, t->data, 128, y);
        tap_ok(y[127] > 0.999F && y[127] < 1.001F && y[0] < -0.999F, "second.weight: ends");
    }
    gguf_close(&f);
}

/* ---- ours ---- */

static void test_write(const char *path)
{
    static const char *const words[] = {"a", "", "bc"};
    static const int32_t ints[] = {1, -2};
    static const float floats[] = {1, 2, 3, 4, 5, 6};
    struct gguf_writer *w = gguf_writer_new();
    struct gguf_file f = {.path = NULL};
    struct aq_err err = {0};
    gguf_add_string(w, "general.architecture", "qwen3");
    gguf_add_u32(w, "n", 5);
    gguf_add_f32(w, "x", 0.25F);
    gguf_add_bool(w, "yes", true);
    gguf_add_strings(w, "words", words, 3);
    gguf_add_i32s(w, "ints", ints, 2);
    int a = gguf_declare(w, "odd", GGUF_F32, 2, (uint64_t[]){3, 1});
    int b = gguf_declare(w, "even", GGUF_F32, 2, (uint64_t[]){1, 3});
    bool good = gguf_begin(w, path, &err) == 0 && gguf_write(w, b, 0, floats + 3, 12, &err) == 0 &&
                gguf_write(w, a, 4, floats + 1, 8, &err) == 0 &&
                gguf_write(w, a, 0, floats, 4, &err) == 0 && gguf_commit(w, &err) == 0;
    gguf_writer_free(w);
    int64_t n = 0;
    if (!tap_ok(good && gguf_open(&f, path, &err) == 0, "written and read: %s", err.msg))
        return;
    tap_ok(gguf_int(gguf_get(&f, "n"), &n) && n == 5, "u32");
    tap_ok(gguf_get(&f, "words")->count == 3 && gguf_get(&f, "ints")->count == 2, "arrays");
    /* bits are meant: NOLINTBEGIN(*-memory-comparison) */
    tap_ok(memcmp(gguf_find(&f, "odd")->data, floats, 12) == 0 &&
               memcmp(gguf_find(&f, "even")->data, floats + 3, 12) == 0,
           "tensors");
    /* NOLINTEND(*-memory-comparison) */
    tap_ok(f.map.size % GGUF_ALIGNMENT == 0, "padded to the end");
    gguf_close(&f);
}

/* ---- bad files ---- */

static bool refused(const void *bytes, size_t n)
{
    struct gguf_file f;
    struct aq_err err = {0};
    void *copy = malloc(n ? n : 1); /* a block of exactly this size, for the sanitizers */
    if (n)
        memcpy(copy, bytes, n);
    bool no = gguf_open_memory(&f, copy, n, "test", &err) < 0 && err.code == AQ_EINPUT;
    gguf_close(&f);
    free(copy);
    return no;
}

static void test_bad(void)
{
    struct aq_buf text = AQ_BUF_INIT;
    struct aq_err err = {0};
    if (!tap_ok(aq_read_file(DIR "small.gguf", 1 << 20, &text, &err) == 0, "small.gguf"))
        return;
    size_t taken = 0;
    for (size_t n = 0; n + 32 <= text.len; n++)
        taken += !refused(text.data, n);
    tap_ok(taken == 0, "cut short anywhere: refused (%zu taken)", taken);
    static const struct {
        const char *what, *find;
        size_t offset; /* from the end of what is found */
        unsigned char byte;
    } edits[] = {
        {"a big-endian file", "GGUF", 0, 0},
        {"an unknown version", "GGUF", 0, 9},
        {"too many tensors", "GGUF", 11, 0xff},
        {"too many keys", "GGUF", 19, 0xff},
        {"a name twice", "a.i3", 0, '2'},
        {"an unknown kind", "a.u32", 0, 13},
        {"an array of arrays", "a.ints", 4, 9},
        {"a long array", "a.ints", 14, 0xff},
        {"a long string", "a.string", 10, 0xff},
        {"rank 0", "first.weight", 0, 0},
        {"rank 5", "first.weight", 0, 5},
        {"a huge dimension", "first.weight", 11, 0x7f},
        {"a type that is not read", "first.weight", 20, 99},
        {"rows that are no blocks", "second.weight", 4, 65},
        {"an offset out of the file", "second.weight", 27, 0xff},
        {"a crooked offset", "second.weight", 24, 1},
        {"tensors that overlap", "second.weight", 24, 0},
    };
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        size_t len = strlen(edits[i].find);
        char *copy = xmalloc(text.len), *at = memmem(text.data, text.len, edits[i].find, len);
        memcpy(copy, text.data, text.len);
        if (strcmp(edits[i].find, "a.i3") == 0) { /* a.i32 becomes a.u32, which is there */
            copy[at - text.data + 2] = 'u';
        } else {
            copy[(size_t)(at - text.data) + len + edits[i].offset] = (char)edits[i].byte;
            if (i == 0)
                copy[(size_t)(at - text.data) + 7] = 3;
        }
        tap_ok(refused(copy, text.len), "%s", edits[i].what);
        free(copy);
    }
    aq_buf_release(&text);
}

int main(void)
{
    char path[] = "/tmp/aq-gguf-XXXXXX";
    int fd = mkstemp(path);
    test_blocks();
    test_small();
    if (tap_ok(fd >= 0, "a temporary file")) {
        (void)close(fd);
        test_write(path);
        (void)unlink(path);
    }
    test_bad();
    return tap_done();
}
