/* The safetensors reader on hostile headers, each refused for its own reason, and the writer. */
#include "base/mem.h"
#include "io/safetensors.h"
#include "tap.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* A file in memory: length field, header text, then `data` bytes. */
static struct aq_buf make(const char *header, size_t data)
{
    struct aq_buf b = AQ_BUF_INIT;
    size_t n = strlen(header);
    for (int i = 0; i < 8; i++)
        aq_buf_addc(&b, (char)(n >> (8 * i) & 255));
    aq_buf_adds(&b, header);
    for (size_t i = 0; i < data; i++)
        aq_buf_addc(&b, (char)i);
    return b;
}

static void refused_bytes(const void *p, size_t n, const char *part, const char *what)
{
    struct st_file f;
    struct aq_err err = {0};
    int r = st_open_memory(&f, p, n, "f", &err);
    if (r == 0)
        st_close(&f);
    if (!tap_ok(r < 0 && err.code == AQ_EINPUT && strstr(err.msg, part), "%s", what))
        printf("#    found: %s\n# expected: %s\n", r < 0 ? err.msg : "(accepted)", part);
}

static void refused(const char *header, size_t data, const char *part, const char *what)
{
    struct aq_buf b = make(header, data);
    refused_bytes(b.data, b.len, part, what);
    aq_buf_release(&b);
}

static void accepted(const char *header, size_t data, size_t count, const char *what)
{
    struct aq_buf b = make(header, data);
    struct st_file f;
    struct aq_err err = {0};
    int r = st_open_memory(&f, b.data, b.len, "f", &err);
    if (!tap_ok(r == 0 && f.count == count, "%s", what))
        printf("# %s\n", r < 0 ? err.msg : "another number of tensors");
    if (r == 0)
        st_close(&f);
    aq_buf_release(&b);
}

#define I32 "{\"dtype\":\"I32\",\"shape\":[2,2],\"data_offsets\":[0,16]}"

static void lengths(void)
{
    refused_bytes("", 0, "too short", "rule 1: an empty file");
    refused_bytes("1234567", 7, "too short", "rule 1: seven bytes");
    refused_bytes("\0\0\0\0\0\0\0\0", 8, "length is 0", "rule 1: eight zero bytes");
    refused_bytes("\x3c\0\0\0\xff\xff\xff\xff{", 9, "the limit is", "rule 2: a huge header");
    refused_bytes("\xf8\xff\xff\xff\xff\xff\xff\xff{", 9, "the limit is",
                  "rule 2: a length that wraps");
    refused_bytes("\x01\xe1\xf5\x05\0\0\0\0{}", 10, "the limit is", "rule 2: one above the limit");
    refused_bytes("\0\xe1\xf5\x05\0\0\0\0{}", 10, "the file has only 10",
                  "rule 3: the limit itself is past the end");
    refused_bytes("\x3c\0\0\0\0\0\0\0", 8, "the file has only 8", "rule 3: only the length");
    refused_bytes("\x01\0\0\0\0\0\0\0\xff", 9, "not valid UTF-8 at byte 8", "rule 4: not UTF-8");
    refused_bytes("\x02\0\0\0\0\0\0\0\xc0\x80", 10, "not valid UTF-8", "rule 4: overlong");
}

static void strangers(void)
{
    refused_bytes("version https://git-lfs.github.com/spec/v1\n", 43, "Git LFS pointer",
                  "a Git LFS pointer is named");
    refused_bytes("<!DOCTYPE html><html>", 21, "an HTML page", "an HTML page is named");
    refused_bytes("\x1f\x8b\x08\0\0\0\0\0\0\0", 10, "gzip", "gzip data are named");
    refused_bytes("PK\x03\x04\0\0\0\0\0\0\xff\xff", 12, "zip archive", "a zip archive is named");
    refused_bytes("GGUF\3\0\0\0\xff\0\0\0", 12, "GGUF", "a GGUF file is named");
    refused_bytes("GGUF", 4, "GGUF", "also where the file is shorter than a length");
    refused_bytes("{\"error\": \"x\"}", 14, "JSON", "a JSON error body is named");
}

static void json_rules(void)
{
    refused("{", 0, "header:1:", "rule 5: not JSON");
    refused("[]", 0, "header is a list", "rule 5: not an object");
    refused("null", 0, "header is null", "rule 5: null");
    refused("7", 0, "header is an integer", "rule 5: a number");
    refused("{}x", 0, "header:1:", "rule 5: trailing text");
    refused("\xef\xbb\xbf{}", 0, "header:1:1", "a byte-order mark before the header");
    refused_bytes("\x04\0\0\0\0\0\0\0{\0}\0", 12, "header:1:2", "a header in UTF-16");
    refused(" {}", 0, "begins with a blank", "a blank before the header");
    refused_bytes("\x04\0\0\0\0\0\0\0{}\0\0", 12, "header:1:", "padded with NUL");
    accepted("{}\r \t\n", 0, 0, "blanks after the header");
    refused("{\"a\":" I32 ",\"a\":" I32 "}", 16, "appears twice", "rule 6: duplicate name");
    refused("{\"a\":" I32 ",\"\\u0061\":" I32 "}", 16, "appears twice", "rule 6: after unescaping");
    refused("{\"__metadata__\":[],\"a\":" I32 "}", 16, "'__metadata__' is a list",
            "rule 7: a list");
    refused("{\"__metadata__\":{\"k\":1}}", 0, "'k' is an integer", "rule 7: a number in it");
    refused("{\"__metadata__\":{},\"__metadata__\":{}}", 0, "appears twice", "rule 7: twice");
}

static void entry_rules(void)
{
#define ENTRY(d, s, o) "{\"t\":{\"dtype\":" d ",\"shape\":" s ",\"data_offsets\":" o "}}"
    refused("{\"t\":null}", 0, "tensor 't': entry is null", "rule 8: entry null");
    refused("{\"t\":[]}", 0, "entry is a list", "rule 8: entry a list");
    refused("{\"t\":{\"shape\":[],\"data_offsets\":[0,4]}}", 4, "'dtype' is missing", "no dtype");
    refused("{\"t\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "'shape' is missing",
            "no shape");
    refused("{\"t\":{\"dtype\":\"F32\",\"shape\":[]}}", 4, "'data_offsets' is missing",
            "no offsets");
    refused(ENTRY("\"bf16\"", "[1]", "[0,2]"), 2, "unknown dtype 'bf16'", "lower-case dtype");
    refused(ENTRY("\"\"", "[1]", "[0,2]"), 2, "unknown dtype ''", "empty dtype");
    refused(ENTRY("7", "[1]", "[0,2]"), 2, "'dtype' is an integer", "dtype a number");
    refused(ENTRY("\"U8\"", "[-1]", "[0,1]"), 1, "shape[0] is negative", "negative");
    refused(ENTRY("\"U8\"", "[1,-0]", "[0,0]"), 0, "shape[1] is negative", "minus zero");
    refused(ENTRY("\"U8\"", "[2.0]", "[0,2]"), 2, "shape[0] is a number", "2.0");
    refused(ENTRY("\"U8\"", "[1e3]", "[0,2]"), 2, "shape[0] is a number", "1e3");
    refused(ENTRY("\"U8\"", "[\"2\"]", "[0,2]"), 2, "shape[0] is a string", "\"2\"");
    refused(ENTRY("\"U8\"", "[01]", "[0,1]"), 1, "header:1:", "leading zero");
    refused(ENTRY("\"U8\"", "[18446744073709551616]", "[0,1]"), 1, "beyond 64 bits", "2^64");
    refused(ENTRY("\"U8\"", "[100000000000000000000000000000000000000000000]", "[0,1]"), 1,
            "beyond 64 bits", "10^44");
    refused(ENTRY("\"U8\"", "[1]", "[0]"), 1, "has 1 numbers", "one offset");
    refused(ENTRY("\"U8\"", "[1]", "[0,1,2]"), 1, "has 3 numbers", "three offsets");
    refused(ENTRY("\"U8\"", "[1]", "[\"0\",\"1\"]"), 1, "data_offsets[0] is a string", "strings");
    refused(ENTRY("\"U8\"", "[1]", "[1,0]"), 1, "run backwards", "rule 9: reversed");
    refused(ENTRY("\"U8\"", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1, "more than 8", "rank 9");
    refused(ENTRY("\"I32\"", "[2,18446744073709551614]", "[0,16]"), 16, "overflows",
            "rule 10: product of the shape");
    refused(ENTRY("\"I32\"", "[2,9223372036854775807]", "[0,16]"), 16, "overflows",
            "rule 10: product with the bits");
    refused(ENTRY("\"I32\"", "[4294967296,4294967296,0]", "[0,0]"), 0, "overflows",
            "rule 10: although a later factor is 0");
    refused(ENTRY("\"F4\"", "[3]", "[0,2]"), 2, "whole bytes", "rule 11: odd number of nibbles");
    refused(ENTRY("\"I32\"", "[2,2]", "[0,4]"), 4, "need 16 bytes, data_offsets give 4",
            "rule 12: shape against offsets");
    accepted(ENTRY("\"I32\"", "[2,0]", "[0, 0]"), 0, 1, "an empty tensor");
    accepted(ENTRY("\"F32\"", "[]", "[0,4]"), 4, 1, "a scalar");
    accepted(ENTRY("\"F4\"", "[4]", "[0,2]"), 2, 1, "half bytes");
    accepted("{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":{}}}", 1, 1,
             "an unknown key in an entry");
#undef ENTRY
}

#define U8(name, from, to, n)                                                                      \
    "\"" name "\":{\"dtype\":\"U8\",\"shape\":[" n "],\"data_offsets\":[" from "," to "]}"

static void layout_rules(void)
{
    accepted("{\"test\":" I32 "}", 16, 1, "the smallest file");
    refused("{\"test\":" I32 "}", 14, "truncated: tensor 'test' ends at byte 16",
            "rule 13: two bytes missing");
    refused("{\"test\":" I32 "}", 49, "33 extra bytes", "rule 13: extra bytes");
    refused("{}", 1, "1 extra bytes", "rule 13: no tensors, one byte");
    refused("{" U8("a", "1", "2", "1") "}", 2, "hole of 1 bytes before tensor 'a'",
            "rule 9: a hole at the start");
    refused("{" U8("a", "0", "1", "1") "," U8("b", "2", "3", "1") "}", 3,
            "hole of 1 bytes before tensor 'b' at offset 1", "rule 9: a hole");
    refused("{" U8("a", "0", "2", "2") "," U8("b", "1", "3", "2") "}", 3,
            "tensors 'a' and 'b' overlap at offset 1", "rule 9: an overlap");
    refused("{" U8("a", "0", "2", "2") "," U8("b", "0", "2", "2") "}", 2,
            "tensors 'a' and 'b' overlap", "rule 9: two names on one range");
    accepted("{" U8("b", "2", "3", "1") "," U8("e", "2", "2", "0") "," U8("a", "0", "2", "2") "}",
             3, 3, "any order of names, an empty tensor between two");
}

/* Every truncation and every flipped bit of a header ends in a verdict; sanitizers watch. */
static void mutilated(void)
{
    struct aq_buf b = make(
        "{\"__metadata__\":{\"k\":\"v\"}," U8("a", "0", "2", "2") "," U8("b", "2", "5", "3") "}",
        5);
    int accepted_short = 0, verdicts = 0;
    for (size_t n = 0; n < b.len; n++) {
        struct st_file f;
        if (st_open_memory(&f, b.data, n, "f", NULL) == 0) {
            accepted_short++;
            st_close(&f);
        }
    }
    tap_ok(accepted_short == 0, "truncated at every byte: each refused");
    for (size_t bit = 0; bit < (b.len - 5) * 8; bit++) {
        struct st_file f;
        struct aq_err err = {0};
        b.data[bit / 8] = (char)(b.data[bit / 8] ^ 1 << bit % 8);
        if (st_open_memory(&f, b.data, b.len, "f", &err) == 0) {
            verdicts += f.count >= 1;
            st_close(&f);
        } else {
            verdicts += err.code == AQ_EINPUT && err.msg[0];
        }
        b.data[bit / 8] = (char)(b.data[bit / 8] ^ 1 << bit % 8);
    }
    tap_ok(verdicts == (int)(b.len - 5) * 8, "every bit of the header flipped: a verdict each");
    aq_buf_release(&b);
}

static void lookups(void)
{
    struct aq_buf b = make("{\"__metadata__\":{\"k\":\"v\"},\"test\":" I32 "}", 16);
    struct st_file f;
    struct aq_err err = {0};
    tap_ok(st_open_memory(&f, b.data, b.len, "f", &err) == 0, "opened");
    const struct st_tensor *t = st_need(&f, "test", ST_I32, 2, &err);
    tap_ok(t && t->elements == 4 && memcmp(t->data, "\0\1\2\3", 4) == 0 && t->end == b.len,
           "data, elements and byte range");
    tap_ok(!st_find(&f, "tes") && !st_find(&f, "test1"), "no other names");
    tap_ok(!st_need(&f, "x", ST_I32, 2, &err), "a missing tensor");
    tap_same(err.msg, "tensor 'x' is missing", "says so");
    tap_ok(!st_need(&f, "test", ST_F32, 2, &err), "another dtype");
    tap_same(err.msg, "tensor 'test' has dtype I32, expected F32", "says so");
    tap_ok(!st_need(&f, "test", ST_I32, 1, &err), "another rank");
    tap_same(err.msg, "tensor 'test' has 2 dimensions, expected 1", "says so");
    tap_same(st_meta(&f, "k"), "v", "metadata");
    tap_ok(!st_meta(&f, "x"), "no other metadata");
    st_close(&f);
    aq_buf_release(&b);
}

/* ---- writing ---- */

static char *scratch(const char *name)
{
    const char *dir = getenv("TMPDIR");
    return xasprintf("%s/aq-%ld-%s", dir ? dir : "/tmp", (long)getpid(), name);
}

static void round_trip(void)
{
    char *path = scratch("st");
    struct aq_err err = {0};
    struct st_writer *w = st_writer_new();
    struct json *meta = json_new_object();
    json_add_string(meta, "a", "b\xc3\xa9\"\n");
    st_writer_metadata(w, meta);
    int i32 = st_declare(w, "b", ST_I32, 2, (uint64_t[]){2, 1});
    int bf = st_declare(w, "a", ST_BF16, 1, (uint64_t[]){3});
    int f64 = st_declare(w, "z", ST_F64, 0, NULL);
    st_declare(w, "empty", ST_F32, 2, (uint64_t[]){0, 5});
    tap_ok(st_begin(w, path, &err) == 0, "begun");
    tap_ok(st_declared_begin(w, f64) == 0 && st_declared_begin(w, i32) == 8 &&
               st_declared_begin(w, bf) == 16 && st_data_size(w) == 22,
           "wide dtypes come first");
    tap_ok(st_write(w, bf, 2, "\1\2", 2, &err) == 0 && st_write(w, i32, 0, "abcd", 4, &err) == 0,
           "pieces in any order");
    tap_ok(!aq_path_exists(path), "no file under the final name yet");
    tap_ok(st_commit(w, &err) == 0, "committed");
    st_writer_free(w);

    struct st_file f;
    tap_ok(st_open(&f, path, &err) == 0 && f.count == 4, "read back");
    tap_same(st_meta(&f, "a"), "b\xc3\xa9\"\n", "metadata come back");
    const struct st_tensor *t = st_need(&f, "a", ST_BF16, 1, &err);
    tap_ok(t && memcmp(t->data, "\0\0\1\2\0", 6) == 0, "bytes never written are zero");
    tap_ok(t && (t->begin - (f.map.size - 22)) == 16, "begin");
    st_close(&f);
    (void)unlink(path);
    free(path);
}

static void refuses_to_write(const char *first, const char *second, const char *part)
{
    char *path = scratch("bad");
    struct aq_err err = {0};
    struct st_writer *w = st_writer_new();
    st_declare(w, first, ST_U8, 0, NULL);
    st_declare(w, second, ST_F32, 0, NULL);
    int r = st_begin(w, path, &err);
    tap_ok(r < 0 && strstr(err.msg, part) && !aq_path_exists(path), "not written: %s", part);
    st_writer_free(w);
    free(path);
}

#ifndef __SANITIZE_ADDRESS__ /* which has a signal handler of its own */
/* A child touches data that were cut off meanwhile: exit status 1, not death by signal. */
static void cut_short(void)
{
    enum { BYTES = 1 << 20 };
    char *path = scratch("cut");
    struct st_writer *w = st_writer_new();
    st_declare(w, "a", ST_U8, 1, (uint64_t[]){BYTES});
    int written = st_begin(w, path, NULL) == 0 && st_commit(w, NULL) == 0;
    st_writer_free(w);
    tap_ok(written, "a file to cut");
    (void)fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        struct st_file f;
        (void)close(STDERR_FILENO);
        if (st_open(&f, path, NULL) < 0 || truncate(path, 100) < 0)
            _exit(9);
        volatile unsigned char last = ((const unsigned char *)f.tensors[0].data)[BYTES - 1];
        _exit(last ? 8 : 7);
    }
    int status = 0;
    (void)waitpid(child, &status, 0);
    tap_ok(WIFEXITED(status) && WEXITSTATUS(status) == 1, "a map cut short ends with a message");
    (void)unlink(path);
    free(path);
}
#endif

/* One tensor with a name of n bytes. */
static void name_of(size_t n, const char *refusal)
{
    char *name = xmalloc(n + 1);
    memset(name, 'n', n);
    name[n] = '\0';
    char *header = xasprintf("{\"%s\":" I32 "}", name);
    if (refusal)
        refused(header, 16, refusal, "a name above the limit");
    else
        accepted(header, 16, 1, "a name at the limit");
    free(header);
    free(name);
}

int main(void)
{
    lengths();
    strangers();
    json_rules();
    entry_rules();
    layout_rules();
    name_of(ST_MAX_NAME, NULL);
    name_of(ST_MAX_NAME + 1, "has 1025 bytes, the limit is 1024");
    mutilated();
    lookups();
    round_trip();
    refuses_to_write("a", "__metadata__", "may not be named");
    refuses_to_write("a", "a", "declared twice");
    refuses_to_write("a", "b\xff", "cannot be the name");
#ifndef __SANITIZE_ADDRESS__
    cut_short();
#endif
    return tap_done();
}
