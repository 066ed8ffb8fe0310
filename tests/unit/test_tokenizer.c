/*
 * The tokenizer against Hugging Face tokenizers: vectors and fuzzed strings of
 * tests/oracle/tokenizer.py, which are made again here by the same generator. The splits are held
 * against PCRE2 with the original patterns.
 *
 *     test_tokenizer DIR    replays longer runs of the kinds, from that script's DIR
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "base/file.h"
#include "base/mem.h"
#include "base/progress.h"
#include "base/sha256.h"
#include "base/utf8.h"
#include "io/json.h"
#include "tap.h"
#include "text/normalize.h"
#include "text/tokenizer_impl.h"

#include <time.h>
#include <inttypes.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>

#define ORACLE "tests/oracle/tokenizer/"
#define TINY "tests/data/tiny-tokenizer"
#define SHARED "../shared/data/"

enum { MAX_PIECES = 256, PER_HASH = 1000 };

/* ---- the generator ---- */

static struct {
    char *fixed[MAX_PIECES];
    size_t fixed_len[MAX_PIECES], fixed_count;
    uint32_t range[MAX_PIECES][2];
    size_t range_count;
} pieces;

static uint64_t random_state;

static uint64_t below(uint64_t n)
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return (z ^ z >> 31) % n;
}

static void add_char(struct aq_buf *b, uint32_t c)
{
    char utf8[4];
    int n = aq_utf8_encode(c, utf8);
    aq_buf_add(b, utf8, (size_t)n);
}

static int load_pieces(void)
{
    struct aq_buf text = AQ_BUF_INIT, piece = AQ_BUF_INIT;
    if (aq_read_file(ORACLE "pieces.txt", 1 << 20, &text, NULL) < 0)
        return -1;
    for (char *line = strtok(text.data, "\n"); line; line = strtok(NULL, "\n")) {
        char *p = line + 6;
        if (strncmp(line, "range ", 6) == 0) {
            pieces.range[pieces.range_count][0] = (uint32_t)strtoul(p, &p, 16);
            pieces.range[pieces.range_count++][1] = (uint32_t)strtoul(p, NULL, 16);
            continue;
        }
        aq_buf_reset(&piece);
        while (*p)
            add_char(&piece, (uint32_t)strtoul(p, &p, 16));
        pieces.fixed_len[pieces.fixed_count] = piece.len;
        pieces.fixed[pieces.fixed_count] = xmalloc(piece.len + 1);
        memcpy(pieces.fixed[pieces.fixed_count++], piece.data, piece.len + 1);
    }
    aq_buf_release(&piece);
    aq_buf_release(&text);
    return 0;
}

static void fuzzed(struct aq_buf *out)
{
    aq_buf_reset(out);
    for (uint64_t parts = 1 + below(24); parts; parts--) {
        uint64_t kind = below(8);
        if (kind < 4) {
            size_t k = below(pieces.fixed_count);
            aq_buf_add(out, pieces.fixed[k], pieces.fixed_len[k]);
            continue;
        }
        const uint32_t *range = pieces.range[below(pieces.range_count)];
        for (uint64_t n = kind < 6 ? 1 : 1 + below(6); n; n--)
            add_char(out, range[0] + (uint32_t)below(range[1] - range[0] + 1));
    }
}

/* ---- helpers ---- */

/* Ids of a text as "1 2 3"; "refused" if a byte or character of it has no symbol. */
static int ids_text(struct tokenizer *t, const char *text, size_t len, struct aq_buf *out)
{
    struct ids ids = {.items = NULL};
    struct aq_err err = {0};
    int r = tokenizer_encode(t, text, len, SIZE_MAX / 2, &ids, &err);
    aq_buf_reset(out);
    if (r < 0)
        aq_buf_adds(out, strstr(err.msg, "has no symbol") ? "refused" : err.msg);
    for (size_t i = 0; i < ids.count && r == 0; i++)
        aq_buf_addf(out, "%s%" PRId32, i ? " " : "", ids.items[i]);
    ids_release(&ids);
    return r;
}

static struct tokenizer *open_qwen3(void)
{
    if (!aq_path_exists(SHARED "qwen3-tokenizer/tokenizer.json.gz"))
        return NULL;
    struct aq_buf text = AQ_BUF_INIT;
    FILE *f = popen("gzip -dc " SHARED "qwen3-tokenizer/tokenizer.json.gz", "r");
    for (size_t n = 1; f && n;) {
        aq_buf_reserve(&text, 1 << 20);
        n = fread(text.data + text.len, 1, 1 << 20, f);
        text.len += n;
    }
    if (f)
        (void)pclose(f);
    struct aq_err err = {0};
    struct tokenizer *t =
        tokenizer_parse(aq_buf_str(&text), text.len, "tokenizer.json", NULL, 0, &err);
    tap_ok(t != NULL, "Qwen3's tokenizer loads %s", err.msg);
    aq_buf_release(&text);
    return t;
}

/* ---- against the oracle ---- */

static void fuzz_against(struct tokenizer *t, const char *file, const char *what)
{
    struct aq_buf table = AQ_BUF_INIT, text = AQ_BUF_INIT, ids = AQ_BUF_INIT;
    int blocks = 0, good = 0;
    if (aq_read_file(file, 1 << 20, &table, NULL) < 0) {
        tap_ok(0, "%s is there", file);
        return;
    }
    random_state = strtoull(strstr(table.data, "seed ") + 5, NULL, 10);
    for (char *line = strtok(table.data, "\n"); line; line = strtok(NULL, "\n")) {
        if (*line == '#')
            continue;
        struct aq_sha256 s;
        char hex[AQ_SHA256_HEX];
        aq_sha256_init(&s);
        for (int i = 0; i < PER_HASH; i++) {
            fuzzed(&text);
            (void)ids_text(t, aq_buf_str(&text), text.len, &ids);
            aq_buf_addc(&ids, '\n');
            aq_sha256_add(&s, ids.data, ids.len);
        }
        aq_sha256_hex(&s, hex);
        blocks++;
        good += strcmp(hex, strrchr(line, '\t') + 1) == 0;
    }
    tap_ok(blocks > 0 && good == blocks, "%s: ids of %d fuzzed strings (%d of %d blocks equal)",
           what, blocks * PER_HASH, good, blocks);
    aq_buf_release(&table);
    aq_buf_release(&text);
    aq_buf_release(&ids);
}

static void known_strings(struct tokenizer *t)
{
    struct aq_buf table = AQ_BUF_INIT, ids = AQ_BUF_INIT;
    int count = 0, good = 0;
    if (aq_read_file(ORACLE "strings.tsv", 1 << 20, &table, NULL) < 0) {
        tap_ok(0, "strings.tsv is there");
        return;
    }
    for (char *line = table.data, *next; *line; line = next) {
        next = line + strcspn(line, "\n");
        next += *next == '\n';
        next[-1] = '\0';
        char *tab = strchr(line, '\t');
        size_t len = 0;
        char text[512];
        /* \u0000 is a character to the tokenizer, but not to our JSON: written out here */
        if (strcmp(line, "\"\\u0000\"\t188") == 0) {
            text[len++] = '\0';
        } else {
            struct json *v = json_parse(line, (size_t)(tab - line), "strings.tsv", NULL);
            len = (size_t)snprintf(text, sizeof text, "%s", json_string(v));
            json_free(v);
        }
        (void)ids_text(t, text, len, &ids);
        count++;
        if (strcmp(aq_buf_str(&ids), tab + 1) == 0)
            good++;
        else
            printf("# %s gives %s\n", line, aq_buf_str(&ids));
    }
    tap_ok(count >= 120 && good == count, "%d of %d tricky strings", good, count);
    aq_buf_release(&table);
    aq_buf_release(&ids);
}

static void captions(struct tokenizer *t)
{
    static const char *const files[][2] = {
        {"small", "ca56fe5027df037261d5bcf2e551024162c5d1a869c65b2529fedd28b409a6ec"},
        {"medium", "32b874a72b231b6fd44158cb7b809de734384d3a19f51fae0c5eee27ec27bd2a"},
        {"large", "f66cb1fead0218b0d23ec79e14b429249af4a3c314c49014f0e13fa9bf9c8058"}};
    for (size_t i = 0; i < AQ_COUNT(files); i++) {
        struct aq_buf text = AQ_BUF_INIT, ids = AQ_BUF_INIT, all = AQ_BUF_INIT;
        char hex[AQ_SHA256_HEX],
            *path = xasprintf(SHARED "vlm-quantize-calib/coco2017_captions_%s.txt", files[i][0]);
        (void)!aq_read_file(path, 1 << 20, &text, NULL);
        for (char *line = strtok(text.data, "\n"); line; line = strtok(NULL, "\n")) {
            (void)ids_text(t, line, strlen(line), &ids);
            aq_buf_addf(&all, "%s%s", all.len ? "\n" : "", aq_buf_str(&ids));
        }
        aq_sha256_of(aq_buf_str(&all), all.len, hex);
        tap_same(hex, files[i][1], files[i][0]);
        aq_buf_release(&text);
        aq_buf_release(&ids);
        aq_buf_release(&all);
        free(path);
    }
}

static void kinds(const char *dir)
{
    static const struct {
        const char *name;
        struct tokenizer_specials specials;
    } all[] = {{"llama3", {.before = {342}, .before_count = 1}},
               {"gpt2", {.before_count = 0}},
               {"digits", {.before_count = 0}},
               {"digit_runs", {.before_count = 0}},
               {"llama2", {.before = {1}, .after = {2}, .before_count = 1, .after_count = 1}},
               {"metaspace_first", {.before = {1}, .before_count = 1}},
               {"metaspace_always", {.before = {1}, .before_count = 1}},
               {"unknown", {.before_count = 0}},
               {"gemma", {.before = {2}, .before_count = 1}},
               {"after_blank", {.before_count = 0}}};
    for (size_t i = 0; i < AQ_COUNT(all); i++) {
        struct aq_err err = {0};
        char *path = xasprintf(ORACLE "%s.json", all[i].name);
        char *table = xasprintf("%s/%s.tsv", dir, all[i].name);
        struct tokenizer *t = tokenizer_open(path, &err);
        if (tap_ok(t != NULL, "%s loads %s", all[i].name, err.msg)) {
            const struct tokenizer_specials *s = tokenizer_specials(t);
            tap_ok(memcmp(s, &all[i].specials, sizeof *s) == 0, "%s: special tokens (%d, %d)",
                   all[i].name, s->before[0], s->after[0]);
            fuzz_against(t, table, all[i].name);
        }
        tokenizer_free(t);
        free(path);
        free(table);
    }
}

/* ---- NFC ---- */

/* Adds NFC of a text, with a newline. */
static void add_nfc(struct aq_sha256 *s, struct aq_buf *scratch, const struct aq_buf *text)
{
    (void)!nfc_normalize(scratch, aq_buf_str(text), text->len, NULL);
    aq_buf_addc(scratch, '\n');
    aq_sha256_add(s, scratch->data, scratch->len);
}

static size_t read_codes(char *line, uint32_t *out)
{
    size_t n = 0;
    for (char *word; (word = strsep(&line, " ")) != NULL;)
        out[n++] = (uint32_t)strtoul(word, NULL, 16);
    return n;
}

static void normal_forms(const char *dir)
{
    struct aq_buf table = AQ_BUF_INIT, text = AQ_BUF_INIT, scratch = AQ_BUF_INIT;
    uint32_t firsts[1024], codes[1024];
    size_t first_count = 0;
    int good = 0, count = 0, singles = 0;
    char *path = xasprintf("%s/nfc.tsv", dir);
    if (aq_read_file(path, 1 << 20, &table, NULL) < 0)
        tap_ok(0, "nfc.tsv is there");
    for (char *rest = table.data, *line; rest && (line = strsep(&rest, "\n")) && *line;) {
        struct aq_sha256 s;
        char hex[AQ_SHA256_HEX], *kind = strsep(&line, "\t"), *list = strsep(&line, "\t");
        if (*kind == '#')
            continue;
        if (strcmp(kind, "firsts") == 0) {
            first_count = read_codes(list, firsts);
            continue;
        }
        bool one = strcmp(kind, "one") == 0;
        memset(codes, 0, sizeof codes);
        size_t n = read_codes(list, codes);
        aq_sha256_init(&s);
        for (uint32_t c = codes[0]; one && c <= codes[1]; c++)
            if (c < 0xd800 || c > 0xdfff) {
                aq_buf_reset(&text);
                add_char(&text, c);
                add_nfc(&s, &scratch, &text);
            }
        for (size_t i = 0; !one && i < n; i++)
            for (size_t k = 0; k < first_count; k++) {
                aq_buf_reset(&text);
                add_char(&text, 'a');
                add_char(&text, codes[i]);
                add_char(&text, firsts[k]);
                add_nfc(&s, &scratch, &text);
            }
        aq_sha256_hex(&s, hex);
        bool same = strcmp(hex, line) == 0;
        if (!same)
            printf("# differs: %s %x ...\n", kind, codes[0]);
        good += same;
        count++;
        singles += one;
    }
    tap_ok(count - singles >= 30 && singles == 34 && good == count,
           "NFC of all code points and of pairs of marks: %d of %d blocks", good, count);
    free(path);
    aq_buf_release(&table);
    aq_buf_release(&text);
    aq_buf_release(&scratch);
}

/* ---- the splits against PCRE2 ---- */

static int same_split(pcre2_code *code, pcre2_match_data *match, enum split split,
                      const struct aq_buf *text)
{
    for (size_t at = 0; at < text->len;) {
        int n = pcre2_match(code, (PCRE2_SPTR)text->data, text->len, at, PCRE2_NO_UTF_CHECK, match,
                            NULL);
        PCRE2_SIZE *v = pcre2_get_ovector_pointer(match);
        if (n < 1 || v[0] != at || v[1] != split_end(split, text->data, text->len, at))
            return 0;
        at = v[1];
    }
    return 1;
}

static void against_pcre2(enum split split, const char *name)
{
    enum { STRINGS = 20000 };
    int error, good = 0;
    PCRE2_SIZE offset;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)split_patterns[split], PCRE2_ZERO_TERMINATED,
                                     PCRE2_UTF | PCRE2_UCP, &error, &offset, NULL);
    if (!tap_ok(code != NULL, "the pattern of %s compiles", name))
        return;
    (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    pcre2_match_data *match = pcre2_match_data_create_from_pattern(code, NULL);
    struct aq_buf text = AQ_BUF_INIT;
    random_state = 7;
    for (int i = 0; i < STRINGS; i++) {
        /* PCRE2 takes U+180E for a blank, which it has not been since Unicode 6.3 */
        do
            fuzzed(&text);
        while (memmem(text.data, text.len, "\xe1\xa0\x8e", 3));
        int same = same_split(code, match, split, &text);
        if (!same && good == i)
            printf("# differs: %s\n", aq_show_n(text.data, text.len));
        good += same;
    }
    tap_ok(good == STRINGS, "%s: split as PCRE2's: %d of %d strings", name, good, STRINGS);
    aq_buf_release(&text);
    pcre2_match_data_free(match);
    pcre2_code_free(code);
}

/* ---- the two merge loops, and long input ---- */

static void merge_loops(struct tokenizer *t)
{
    int good = 0;
    random_state = 3;
    for (int i = 0; i < 5000; i++) {
        int32_t a[64], b[64];
        size_t n = 1 + below(AQ_COUNT(a));
        for (size_t k = 0; k < n; k++)
            /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): a loaded tokenizer has it */
            a[k] = b[k] = t->byte_id[(unsigned char)("aaaetnhr ths"[below(12)])];
        size_t scan = bpe_merge(&t->bpe, a, n), heap = bpe_merge_long(&t->bpe, b, n);
        good += scan == heap && memcmp(a, b, scan * sizeof *a) == 0;
    }
    tap_ok(good == 5000, "scan and heap merge alike: %d of 5000", good);
}

static void long_line(struct tokenizer *t, const char *unit, const char *what)
{
    enum { BYTES = 1 << 20 };
    struct aq_buf text = AQ_BUF_INIT;
    struct ids ids = {.items = NULL};
    while (text.len < BYTES)
        aq_buf_adds(&text, unit);
    double start = aq_now();
    int r = tokenizer_encode(t, text.data, text.len, SIZE_MAX / 2, &ids, NULL);
    double s = aq_now() - start;
    tap_ok(r == 0 && ids.count > 0 && s < 10, "a megabyte of %s takes %.2f s", what, s);
    ids_release(&ids);
    aq_buf_release(&text);
}

static void broken_utf8(struct tokenizer *t)
{
    static const char *const bad[] = {"a\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                      "ab\xe2\x82"};
    static const char *const place[] = {"byte 2", "byte 1", "byte 1", "byte 1", "byte 3"};
    struct ids ids = {.items = NULL};
    for (size_t i = 0; i < AQ_COUNT(bad); i++) {
        struct aq_err err = {0};
        int r = tokenizer_encode(t, bad[i], strlen(bad[i]), 100, &ids, &err);
        tap_ok(r < 0 && err.code == AQ_EINPUT && strstr(err.msg, place[i]),
               "invalid UTF-8 is refused at %s", place[i]);
    }
    ids_release(&ids);
}

/* ---- what is refused ---- */

/* The tiny tokenizer with one piece of its text replaced. */
static void refused(const char *from, const char *to, const char *part)
{
    struct aq_buf text = AQ_BUF_INIT, changed = AQ_BUF_INIT;
    struct aq_err err = {0};
    (void)!aq_read_file(TINY "/tokenizer.json", 1 << 20, &text, NULL);
    char *at = strstr(aq_buf_str(&text), from);
    if (!at) {
        tap_ok(0, "'%s' is in the tiny tokenizer", from);
    } else {
        aq_buf_add(&changed, text.data, (size_t)(at - text.data));
        aq_buf_adds(&changed, to);
        aq_buf_adds(&changed, at + strlen(from));
        struct tokenizer *t =
            tokenizer_parse(changed.data, changed.len, "tokenizer.json", NULL, 0, &err);
        if (!tap_ok(!t && err.code == AQ_EINPUT && strstr(err.msg, part), "refused: %s", part))
            printf("# found: %s\n", t ? "(accepted)" : err.msg);
        tokenizer_free(t);
    }
    aq_buf_release(&text);
    aq_buf_release(&changed);
}

#define X16 "xxxxxxxxxxxxxxxx"
#define X64 X16 X16 X16 X16
#define LONG_TOKEN X64 X64 X64 X64 /* as long as it may be */

static void longest_added_token(void)
{
    struct aq_buf text = AQ_BUF_INIT, ids = AQ_BUF_INIT;
    struct aq_err err = {0};
    (void)!aq_read_file(TINY "/tokenizer.json", 1 << 20, &text, NULL);
    char *at = strstr(aq_buf_str(&text), "<|im_start|>");
    char *changed = at ? xasprintf("%.*s" LONG_TOKEN "%s", (int)(at - text.data), text.data,
                                   at + strlen("<|im_start|>"))
                       : xstrdup("");
    struct tokenizer *t =
        tokenizer_parse(changed, strlen(changed), "tokenizer.json", NULL, 0, &err);
    if (tap_ok(t != NULL, "an added token of 256 bytes %s", err.msg)) {
        (void)ids_text(t, LONG_TOKEN "x", 257, &ids);
        tap_ok(strncmp(aq_buf_str(&ids), "321 ", 4) == 0, "is found in a text");
    }
    tokenizer_free(t);
    free(changed);
    aq_buf_release(&ids);
    aq_buf_release(&text);
}

static void refusals(void)
{
    refused("\"NFC\"", "\"NFKC\"", "normalizer.type: 'NFKC' is not supported");
    refused("{\"type\": \"NFC\"}", "7", "normalizer: expected an object");
    refused("{\"type\": \"NFC\"}", "{}", "normalizer: no type, expected one of: NFC, Prepend");
    refused("{\"type\": \"NFC\"}", "{\"type\": 7}", "normalizer.type: expected a string");
    refused("{\"type\": \"NFC\"}", "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"a\"}}",
            "only a String is supported");
    refused("{\"type\": \"NFC\"}", "{\"type\": \"Prepend\"}", "'prepend' is missing");
    refused("\"Sequence\"", "\"Whitespace\"", "'Whitespace' is not supported");
    refused("\"pretokenizers\": [", "\"pretokenizers\": [{}, ", "pretokenizers[0]: no type");
    refused("\"pretokenizers\": [",
            "\"pretokenizers\": [{\"type\": \"ByteLevel\", "
            "\"add_prefix_space\": false}, ",
            "ByteLevel must be the last step");
    refused("\"add_prefix_space\": false, ", "", "add_prefix_space is missing, expected false");
    refused("\\\\p{N}|", "\\\\p{N}+|", "the pattern is none of those of Qwen2, Llama 3 and GPT-2");
    refused("\"Isolated\"", "\"Removed\"", "'Removed' is not supported");
    refused("\"add_prefix_space\": false", "\"add_prefix_space\": true", "is set");
    refused("\"invert\": false", "\"invert\": true", "invert: is set");
    refused("\"pretokenizers\": [",
            "\"pretokenizers\": [{\"type\": \"Metaspace\", "
            "\"replacement\": \"_\"}, ",
            "replacement: '_' is not supported");
    refused("\"pretokenizers\": [",
            "\"pretokenizers\": [{\"type\": \"Metaspace\", "
            "\"replacement\": \"\xe2\x96\x81\"}, ",
            "Metaspace and ByteLevel do not go together");
    refused("\"type\": \"BPE\"", "\"type\": \"Unigram\"", "'Unigram' is not supported");
    refused("\"byte_fallback\": false", "\"byte_fallback\": true",
            "byte_fallback and ByteLevel do not go together");
    refused("\"dropout\": null", "\"dropout\": 0.1", "dropout: is set");
    refused("\"unk_token\": null", "\"unk_token\": \"xyz\"",
            "unk_token: 'xyz' is not in the vocab");
    refused("\"fuse_unk\": false", "\"fuse_unk\": 1", "fuse_unk: expected");
    refused("\"post_processor\": null", "\"post_processor\": {\"type\": \"BertProcessing\"}",
            "'BertProcessing' is not supported");
    refused("\"post_processor\": null",
            "\"post_processor\": {\"type\": \"TemplateProcessing\", "
            "\"single\": [], \"special_tokens\": {}}",
            "the text is not there");
    refused("\"post_processor\": null",
            "\"post_processor\": {\"type\": \"TemplateProcessing\", "
            "\"single\": [{\"SpecialToken\": {\"id\": \"x\"}}], \"special_tokens\": {}}",
            "'x' is missing");
    refused("\"truncation\": null", "\"truncation\": {}", "truncation: is set");
    refused("\"single_word\": false", "\"single_word\": true", "single_word: is set");
    refused("\"!\": 0", "\"!\": 1", "is taken by '!' already");
    refused("\"!\": 0", "\"!\": -1", "expected an id from 0 to");
    refused("\"!\": 0", "\"!\": 0.5", "expected an id from 0 to");
    refused("\"!\": 0", "\"!\": 2147483648", "expected an id from 0 to");
    refused("\"merges\": [[", "\"merges\": [[\"\", \"a\"], [", "side of the merge is empty");
    refused("\"merges\": [[", "\"merges\": [[\"q\", \"q\"], [", "merged symbol is not in");
    refused("\"merges\": [[", "\"merges\": [[\"qq\", \"q\"], [", "side of the merge is not in");
    refused("\"merges\": [[", "\"merges\": [\"a b c\", [", "expected \"left right\"");
    refused("\"merges\": [[", "\"merges\": [[\"a\"], [", "expected \"left right\"");
    refused("\"merges\": [[", "\"merges\": [7, [", "expected \"left right\"");
    refused("\"merges\"", "\"merged\"", "'merges' is missing");
    refused("\"<|im_start|>\"", "\"\"", "added token of 0 bytes");
    refused("\"<|im_start|>\"", "\"<|endoftext|>\"", "there twice");
    refused("\"<|im_start|>\"", "\"" LONG_TOKEN "x\"", "added token of 257 bytes");
    refused("\"added_tokens\": [", "\"added_tokens\": {}, \"x\": [",
            "added_tokens: expected a list");
    refused("\"id\": 320", "\"id\": -1", "id: expected an integer from 0");
    refused("\"id\": 320", "\"id\": 3", "does not fit the vocabulary");
}

/* Seconds of processor time to read the tiny tokenizer with more added tokens. */
static double seconds_for(int count)
{
    struct aq_buf text = AQ_BUF_INIT, all = AQ_BUF_INIT;
    struct aq_err err = {0};
    (void)!aq_read_file(TINY "/tokenizer.json", 1 << 20, &text, NULL);
    const char *at = strstr(aq_buf_str(&text), "\"added_tokens\": [");
    at = at ? strchr(at, '[') + 1 : aq_buf_str(&text);
    aq_buf_add(&all, text.data, (size_t)(at - text.data));
    for (int i = 0; i < count; i++)
        aq_buf_addf(&all, "{\"id\": %d, \"content\": \"<|added_%d|>\", \"special\": true},",
                    1000 + i, i);
    aq_buf_adds(&all, at);
    clock_t start = clock();
    struct tokenizer *t = tokenizer_parse(all.data, all.len, "tokenizer.json", NULL, 0, &err);
    double s = (double)(clock() - start) / CLOCKS_PER_SEC;
    tap_ok(t != NULL, "%d added tokens are read in %.3f s %s", count, s, err.msg);
    tokenizer_free(t);
    aq_buf_release(&text);
    aq_buf_release(&all);
    return s;
}

/* The leftmost wins, and of several there the longest. */
static void added_tokens_of_one_beginning(void)
{
    struct aq_buf text = AQ_BUF_INIT, ids = AQ_BUF_INIT;
    struct aq_err err = {0};
    (void)!aq_read_file(TINY "/tokenizer.json", 1 << 20, &text, NULL);
    const char *at = strstr(aq_buf_str(&text), "\"added_tokens\": [");
    at = at ? strchr(at, '[') + 1 : aq_buf_str(&text);
    char *changed = xasprintf("%.*s{\"id\": 900, \"content\": \"<a>\", \"special\": true},"
                              "{\"id\": 901, \"content\": \"<a><b>\", \"special\": true},%s",
                              (int)(at - text.data), text.data, at);
    struct tokenizer *t =
        tokenizer_parse(changed, strlen(changed), "tokenizer.json", NULL, 0, &err);
    if (tap_ok(t != NULL, "two added tokens with one beginning %s", err.msg)) {
        (void)ids_text(t, "<a><b><a>", 9, &ids);
        tap_ok(strcmp(aq_buf_str(&ids), "901 900") == 0, "the longest is found: %s",
               aq_buf_str(&ids));
    }
    tokenizer_free(t);
    free(changed);
    aq_buf_release(&ids);
    aq_buf_release(&text);
}

/* The time to read them is in proportion to their number. */
static void many_added_tokens(void)
{
    double few = seconds_for(10000), many = seconds_for(160000);
    tap_ok(many < 64 * few, "16 times the added tokens take %.1f times as long", many / few);
}

int main(int argc, char **argv)
{
    struct aq_err err = {0};
    if (load_pieces() < 0) {
        puts("Bail out! run in the root of the repository");
        return 2;
    }
    if (argc > 1) {
        kinds(argv[1]);
        normal_forms(argv[1]);
        return tap_done();
    }
    struct tokenizer *tiny = tokenizer_open(TINY, &err);
    if (tap_ok(tiny != NULL, "the tiny tokenizer loads %s", err.msg)) {
        tap_ok(tokenizer_pad_id(tiny) == 320, "its pad token");
        fuzz_against(tiny, ORACLE "tiny.tsv", "tiny tokenizer");
        merge_loops(tiny);
        broken_utf8(tiny);
        long_line(tiny, "a", "one letter");
        long_line(tiny, " ", "blanks");
        long_line(tiny, "\xcc\x81\xcc\xa7", "marks out of order");
        long_line(tiny, "\xf0\x9f\x91\xa9\xe2\x80\x8d", "joined emoji");
    }
    tokenizer_free(tiny);
    kinds(ORACLE);
    normal_forms(ORACLE);
    against_pcre2(SPLIT_QWEN, "Qwen");
    against_pcre2(SPLIT_LLAMA3, "Llama 3");
    against_pcre2(SPLIT_GPT2, "GPT-2");
    refusals();
    longest_added_token();
    added_tokens_of_one_beginning();
    many_added_tokens();
    struct tokenizer *qwen = open_qwen3();
    if (qwen) {
        known_strings(qwen);
        captions(qwen);
        fuzz_against(qwen, ORACLE "qwen3.tsv", "Qwen3's tokenizer");
        long_line(qwen, "a", "one letter");
        long_line(qwen, "\xe6\x97\xa5", "one CJK character");
    } else {
        tap_skip("Qwen3's tokenizer", "test data in ../shared is not here");
    }
    tokenizer_free(qwen);
    for (size_t i = 0; i < pieces.fixed_count; i++)
        free(pieces.fixed[i]);
    return tap_done();
}
