/* lib/base: numbers, sizes, memory, tables, digests, UTF-8, messages. */
#include "tap.h"

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/fmt.h"
#include "base/mem.h"
#include "base/names.h"
#include "base/sha256.h"
#include "base/strmap.h"
#include "base/suggest.h"
#include "base/utf8.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_doubles(void)
{
    /* expected: Python's repr() */
    static const struct {
        double x;
        const char *text;
    } cases[] = {
        {0, "0.0"},
        {-0.0, "-0.0"},
        {1, "1.0"},
        {8, "8.0"},
        {0.1, "0.1"},
        {24903680, "24903680.0"},
        {1e15, "1000000000000000.0"},
        {1e16, "1e+16"},
        {123456789012345680.0, "1.2345678901234568e+17"},
        {1e-4, "0.0001"},
        {5.6e-05, "5.6e-05"},
        {1e-5, "1e-05"},
        {1.5e300, "1.5e+300"},
        {5e-324, "5e-324"},
        {2.2250738585072014e-308, "2.2250738585072014e-308"},
        {1.7976931348623157e308, "1.7976931348623157e+308"},
        {0.30000000000000004, "0.30000000000000004"},
        {9007199254740993.0, "9007199254740992.0"},
        {-1234.5, "-1234.5"},
        {100, "100.0"},
    };
    char out[AQ_FMT_MAX];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        tap_same(aq_fmt_double(cases[i].x, out), cases[i].text, cases[i].text);
    uint64_t seed = 1;
    int bad = 0;
    for (int i = 0; i < 200000; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        uint64_t bits = seed ^ seed >> 29;
        double x;
        memcpy(&x, &bits, sizeof x);
        if (!isfinite(x))
            continue;
        bad += strtod(aq_fmt_double(x, out), NULL) != x;
    }
    tap_ok(bad == 0, "200000 random doubles read back (%d differ)", bad);
}

static void test_parsing(void)
{
    int64_t i;
    double d;
    uint64_t s;
    static const char *const bad_ints[] = {
        "", " 5", "5 ", "+5", "0x10", "1e3", "5.0", "9223372036854775808", "-"};
    for (size_t k = 0; k < sizeof bad_ints / sizeof *bad_ints; k++)
        tap_ok(!aq_parse_i64(bad_ints[k], &i), "'%s' is not an integer", bad_ints[k]);
    tap_ok(aq_parse_i64("-42", &i) && i == -42, "-42");
    static const char *const bad_doubles[] = {"", "nan", "inf", "0x1p3", "1e999", "1.5x", " 1"};
    for (size_t k = 0; k < sizeof bad_doubles / sizeof *bad_doubles; k++)
        tap_ok(!aq_parse_double(bad_doubles[k], &d), "'%s' is not a number", bad_doubles[k]);
    tap_ok(aq_parse_double("5.4", &d) && d == 5.4, "5.4");
    tap_ok(aq_parse_size("1.5G", &s) && s == 1610612736, "1.5G");
    tap_ok(aq_parse_size("2.9M", &s) && s == 3040870, "2.9M is cut to whole bytes");
    tap_ok(aq_parse_size("3.3G", &s) && s == 3543348019, "3.3G");
    tap_ok(aq_parse_size("64KiB", &s) && s == 65536, "64KiB");
    tap_ok(!aq_parse_size("8X", &s) && !aq_parse_size("G", &s) && !aq_parse_size("-1", &s) &&
               !aq_parse_size("2.5", &s),
           "no sizes");
}

static void test_sizes(void)
{
    size_t n = 7;
    tap_ok(aq_mul(SIZE_MAX, 1, &n) && n == SIZE_MAX, "the largest product");
    tap_ok(aq_mul(SIZE_MAX, 0, &n) && n == 0, "nothing of something large");
    n = 7;
    tap_ok(!aq_mul(SIZE_MAX / 2 + 1, 2, &n) && n == 7,
           "a product too large leaves the result alone");
    tap_ok(aq_add(SIZE_MAX - 1, 1, &n) && n == SIZE_MAX, "the largest sum");
    n = 7;
    tap_ok(!aq_add(SIZE_MAX, 1, &n) && n == 7, "a sum too large leaves the result alone");
    (void)fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        (void)close(STDERR_FILENO);
        free(xreallocarray(NULL, SIZE_MAX / 2, 4));
        _exit(0);
    }
    int status = -1;
    (void)waitpid(pid, &status, 0);
    tap_ok(WIFEXITED(status) && WEXITSTATUS(status) == AQ_ERUN,
           "an array too large ends the program with 1");
    struct aq_err err = {0};
    tap_ok(!aq_big_alloc(SIZE_MAX / 4, "the sums", &err) && err.code == AQ_ERUN &&
               strstr(err.msg, "MB for the sums"),
           "a large block that is not to be had is an error with size and purpose");
}

static void test_buffers(void)
{
    struct aq_buf b = AQ_BUF_INIT;
    tap_same(aq_buf_str(&b), "", "an empty buffer is a text");
    for (int i = 0; i < 1000; i++)
        aq_buf_addf(&b, "%03d,", i);
    tap_ok(b.len == 4000 && memcmp(b.data + 3996, "999,", 5) == 0, "a buffer grows");
    aq_buf_reset(&b);
    size_t wrong = 0;
    for (int n = 0; n < 300; n++) { /* shorter than the room that is left, as long, longer */
        struct aq_buf fresh = AQ_BUF_INIT;
        aq_buf_addf(&fresh, "%*sx", n, "");
        wrong +=
            fresh.len != (size_t)n + 1 || strlen(fresh.data) != fresh.len || fresh.data[n] != 'x';
        aq_buf_release(&fresh);
    }
    tap_ok(wrong == 0, "formatted text of any length is whole");
    aq_buf_add(&b, "a\0b", 3);
    tap_ok(b.len == 3 && b.data[1] == '\0' && b.data[3] == '\0', "bytes, and a NUL after them");
    char *p = aq_buf_detach(&b);
    tap_ok(memcmp(p, "a\0b", 4) == 0 && !b.data, "detached");
    free(p);

    struct aq_arena a = AQ_ARENA_INIT;
    const char *first = aq_arena_strdup(&a, "first");
    unsigned char *large = aq_arena_alloc(&a, 1 << 20);
    tap_ok((uintptr_t)large % 16 == 0 && large[0] == 0 && large[(1 << 20) - 1] == 0,
           "a large piece, aligned and zeroed");
    tap_same(first, "first", "earlier pieces stay");
    tap_same(aq_arena_printf(&a, "%s-%d", first, 2), "first-2", "printed");
    aq_arena_reset(&a);
    tap_ok(a.total == 0 && a.blocks, "emptied, with a block for the next round");
    aq_arena_release(&a);
}

static void test_tables(void)
{
    enum { MANY = 1000 };
    static char keys[MANY][16];
    struct aq_strmap m = AQ_STRMAP_INIT;
    struct aq_names names = AQ_NAMES_INIT;
    int bad = 0;
    tap_ok(!aq_strmap_has(&m, "x") && !aq_strmap_get(&m, "x"), "an empty table has nothing");
    for (int i = 0; i < MANY; i++) {
        (void)snprintf(keys[i], sizeof keys[i], "k%d", i);
        aq_strmap_put(&m, keys[i], keys[i]);
        aq_names_add(&names, keys[i]);
    }
    aq_strmap_put(&m, "k7", NULL);
    tap_ok(m.count == MANY && aq_strmap_has(&m, "k7") && !aq_strmap_get(&m, "k7"),
           "a value is replaced, also by none");
    tap_ok(aq_names_sort(&names) == -1, "no name twice");
    for (int i = 0; i < MANY; i++)
        bad += (i != 7 && aq_strmap_get(&m, keys[i]) != keys[i]) ||
               aq_names_find(&names, keys[i]) != i;
    tap_ok(bad == 0 && aq_names_find(&names, "k") == -1 && !aq_strmap_has(&m, "k"),
           "all found, and nothing else");
    aq_names_add(&names, "k500");
    aq_names_add(&names, "k3");
    tap_ok(aq_names_sort(&names) == MANY, "the first name that comes again");
    aq_strmap_release(&m);
    aq_names_release(&names);
}

static void test_sha256(void)
{
    char hex[AQ_SHA256_HEX];
    aq_sha256_of("", 0, hex);
    tap_same(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
             "sha256 of nothing");
    aq_sha256_of("abc", 3, hex);
    tap_same(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
             "sha256 of abc");
    struct aq_sha256 s;
    aq_sha256_init(&s);
    for (int k = 0; k < 1000000; k++)
        aq_sha256_add(&s, "a", 1);
    aq_sha256_hex(&s, hex);
    tap_same(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
             "sha256 of a million a");
}

static void test_utf8(void)
{
    static const char *const bad[] = {"\xff",     "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                      "\xe2\x82", "\x80"};
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++)
        tap_ok(aq_utf8_check(bad[k], strlen(bad[k])) == 0, "invalid UTF-8 %zu is found", k);
    static const char good[] = "caf\xc3\xa9 \xf0\x9f\x98\x80 plain text behind";
    tap_ok(aq_utf8_check(good, strlen(good)) == strlen(good), "valid UTF-8 passes");
    tap_same(aq_show("a\033[31m\xe2\x80\xae\xff"), "a\\x1b[31m\\u{202e}\\xff",
             "hostile names are made printable");
}

static void test_nearest(void)
{
    static const char *const names[] = {"effective_bits", "score_size", "batch_size"};
    tap_same(aq_nearest("efective_bits", names, 3), "effective_bits", "a slip is recognised");
    static const char *const options[] = {"html", "help"};
    tap_same(aq_nearest("hepl", options, 2), "help", "neighbours that changed places are one slip");
    tap_ok(aq_nearest("zzzzzz", names, 3) == NULL, "no slip, no suggestion");
}

int main(void)
{
    test_doubles();
    test_parsing();
    test_sizes();
    test_buffers();
    test_tables();
    test_sha256();
    test_utf8();
    test_nearest();
    return tap_done();
}
