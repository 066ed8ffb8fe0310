/* lib/io/json: what is refused, what is kept, how it is written. */
#include "tap.h"

#include "base/file.h"
#include "io/json.h"
#include "io/json_digest.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

static void refused(const char *text, const char *expected)
{
    struct aq_err err = {0};
    struct json *v = json_parse(text, strlen(text), "x.json", &err);
    tap_ok(v == NULL && err.code == AQ_EINPUT, "refused: %s", aq_show(text));
    if (expected)
        tap_same(err.msg, expected, "message");
    json_free(v);
}

static void round_trip(const char *text, const char *expected)
{
    struct aq_err err = {0};
    struct aq_buf out = AQ_BUF_INIT;
    struct json *v = json_parse(text, strlen(text), "x.json", &err);
    if (v && json_write(&out, v, JSON_COMPACT, &err) == 0)
        tap_same(aq_buf_str(&out), expected, aq_show(text));
    else
        tap_ok(0, "%s: %s", aq_show(text), err.msg);
    aq_buf_release(&out);
    json_free(v);
}

static void test_refusals(void)
{
    /* clang-format off */
    static const char *const bad[] = {
        "", " ", "{", "[1,]", "{\"a\":1,}", "[01]", "[1.]", "[.5]", "[+1]", "[1e]", "[NaN]", "[Infinity]", "[-]",
        "{a:1}", "{'a':1}", "[\"\t\"]", "[\"\\x\"]", "[\"\\u12g4\"]", "[\"\\ud800\"]", "[\"\\udc00\"]", "[1] 2",
        "\xef\xbb\xbf{}", "[\"\xff\"]", "nul", "tru", "[1 2]", "{\"a\" 1}", "{\"a\":}", "[,1]", "{,}", "[1e400]",
        "// c\n1", "[\"a", "\v1",
    };
    /* clang-format on */
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refused(bad[i], NULL);
    refused("{\"a\": 1,\n \"\\u0061\": 2}", "x.json:2:3: key 'a' appears twice");
    refused("{\"a\": [1, 2,, 3]}", "x.json:1:13: expected a value");
    refused("[\"a\\u0000b\"]", "x.json:1:4: \\u0000 in a string is not supported");
    char deep[1001];
    memset(deep, '[', 1000);
    deep[1000] = '\0';
    refused(deep, "x.json:1:202: nested too deeply");
}

struct text {
    const char *bytes;
    size_t size;
};
#define TEXT(literal)                                                                              \
    {                                                                                              \
        literal, sizeof(literal) - 1                                                               \
    }

/* clang-format off */
/* The refusals that conformance suites ask for, by the part of the grammar that is broken. */
static const struct text broken[] = {
    /* arrays */
    TEXT("[1 true]"), TEXT("[a"), TEXT("[\"\": 1]"), TEXT("[\"\"],"), TEXT("[1,,2]"), TEXT("[\"x\",,]"),
    TEXT("[\"x\"]]"), TEXT("[\"\",]"), TEXT("[\"x\""), TEXT("[3[4]]"), TEXT("[1:2]"), TEXT("[,]"), TEXT("[   , \"\"]"),
    TEXT("[\"a\",\n4\n,1,"), TEXT("[1,,]"), TEXT("[\"\va\"\\f]"), TEXT("[*]"), TEXT("[1,"), TEXT("[{}"), TEXT("["),
    TEXT("]"), TEXT("[\f]"), TEXT("[\xe2\x81\xa0]"), TEXT("[1]x"), TEXT("[1]]"), TEXT("[][]"), TEXT("[<null>]"),
    /* words */
    TEXT("[fals]"), TEXT("[nul]"), TEXT("[tru]"), TEXT("[True]"), TEXT("[truth]"), TEXT("[ false, nul"), TEXT("abc"), TEXT("*"),
    TEXT("nulll"), TEXT("\xe5"), TEXT("<.>"),
    /* numbers */
    TEXT("[++1234]"), TEXT("[+Inf]"), TEXT("[-01]"), TEXT("[-1.0.]"), TEXT("[-2.]"), TEXT("[-NaN]"), TEXT("[.-1]"), TEXT("[.2e-3]"),
    TEXT("[0.1.2]"), TEXT("[0.3e+]"), TEXT("[0.3e]"), TEXT("[0.e1]"), TEXT("[0E+]"), TEXT("[0E]"), TEXT("[0e+]"), TEXT("[1.0e-]"),
    TEXT("[1 000.0]"), TEXT("[1eE2]"), TEXT("[2.e+3]"), TEXT("[9.e+]"), TEXT("[Inf]"), TEXT("[\xef\xbc\x91]"), TEXT("[1+2]"),
    TEXT("[0x1]"), TEXT("[0x42]"), TEXT("[0e+-1]"), TEXT("[-123.123foo]"), TEXT("[123\xe5]"), TEXT("[1e1\xe5]"), TEXT("[-Infinity]"),
    TEXT("[-foo]"), TEXT("[- 1]"), TEXT("[-012]"), TEXT("[-.123]"), TEXT("[-1x]"), TEXT("[1ea]"), TEXT("[1.2a-3]"),
    TEXT("[1.8011670033376514H-308]"), TEXT("[012]"), TEXT("2@"), TEXT("-"), TEXT("1]"), TEXT("[1_000]"),
    /* objects */
    TEXT("{[: \"x\"}"), TEXT("{\"x\", null}"), TEXT("{\"x\"::\"b\"}"), TEXT("{\xf0\x9f\x87\xa8}"), TEXT("{\"a\":\"a\" 123}"),
    TEXT("{\"a\" b}"), TEXT("{:\"b\"}"), TEXT("{\"a\" \"b\"}"), TEXT("{\"a\":"), TEXT("{\"a\""), TEXT("{1:1}"), TEXT("{9999E9999:1}"),
    TEXT("{null:null,null:null}"), TEXT("{\"id\":0,,,,,}"), TEXT("{'a':0}"), TEXT("{\"a\":\"b\",,\"c\":\"d\"}"), TEXT("{\"a\":\"a"),
    TEXT("{ \"foo\" : \"bar\", \"a\" }"), TEXT("{}}"), TEXT("{]"), TEXT("{["), TEXT("{,"), TEXT("{\"a\": true} \"x\""),
    /* comments */
    TEXT("{\"a\":\"b\"}/**/"), TEXT("{\"a\":\"b\"}//"), TEXT("{\"a\":\"b\"}/"), TEXT("{\"a\":\"b\"}#"), TEXT("{\"a\":/*comment*/\"b\"}"),
    /* strings */
    TEXT("[\"\\uD800\\\"]"), TEXT("[\"\\uD800\\u\"]"), TEXT("[\"\\uD800\\u1\"]"), TEXT("[\"\\uD800\\u1x\"]"), TEXT("[\xc3\xa9]"),
    TEXT("[\"\\x00\"]"), TEXT("[\"\\\\\\\"]"), TEXT("[\"\\\t\"]"), TEXT("[\"\\\xf0\x9f\x8c\x80\"]"), TEXT("[\"\\\"]"),
    TEXT("[\"\\u00A\"]"), TEXT("[\"\\uD834\\uDd\"]"), TEXT("[\"\\uD800\\uD800\\x\"]"), TEXT("[\"\\u\xe5\"]"), TEXT("[\"\\a\"]"),
    TEXT("[\"\\uqqqq\"]"), TEXT("[\\u0020\"asd\"]"), TEXT("[\\n]"), TEXT("\""), TEXT("['single quote']"), TEXT("[\"new\nline\"]"),
    TEXT("\"\\UA66D\""), TEXT("\"\"x"), TEXT("[\"asd]"), TEXT("[\"\x1f\"]"), TEXT("[\"\\uDC00\\uD800\"]"),
    /* bytes */
    TEXT("123\0"), TEXT("[\0]"), TEXT("[\"a\0a\"]"), TEXT("[\"\\\0\"]"), TEXT("\xef\xbb{}"), TEXT("\xef\xbb\xbf"), TEXT("\xff\xfe[\0]\0"),
    TEXT("[\"\xe9\"]"), TEXT("[\"\xc0\xaf\"]"), TEXT("[\"\xed\xa0\x80\"]"), TEXT("[\"\xf4\xbf\xbf\xbf\"]"), TEXT("[\"\xe0\xff\"]"),
    TEXT("[\"\x81\"]"), TEXT("{\"\xb9\":\"0\"}"), TEXT("\xa0[1]"), TEXT("\xc2\xa0[1]"), TEXT("\xe2\x80\xa8[1]"),
};

/* What must pass, and comes out as the second text. */
static const char *const sound[][2] = {
    {"[[]   ]", "[[]]"}, {"[\"\"]", "[\"\"]"}, {" []\n", "[]"}, {"\t[\r\n1 , 2 ]", "[1, 2]"}, {"[1,null,null,null,2]", "[1, null, null, null, 2]"},
    {"[0e+1]", "[0.0]"}, {"[-0]", "[0]"}, {"[20e1]", "[200.0]"}, {"[1E22]", "[1e+22]"}, {"[1E-2]", "[0.01]"}, {"[1.5e+9999]", NULL}, {"[-1]", "[-1]"},
    {"[123.456e78]", "[1.23456e+80]"}, {"{\"\":0}", "{\"\": 0}"}, {"{\"foo\\u0020bar\": 42}", "{\"foo bar\": 42}"},
    {"{\"a\":[]}", "{\"a\": []}"}, {"[\"\\u0060\\u012a\\u12AB\"]", "[\"`\\u012a\\u12ab\"]"}, {"[\"\\uD801\\udc37\"]", "[\"\\ud801\\udc37\"]"},
    {"[\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"]", "[\"\\\"\\\\/\\b\\f\\n\\r\\t\"]"}, {"[\"\\\\u0000\"]", "[\"\\\\u0000\"]"},
    {"[\"a/*b*/c/*d//e\"]", "[\"a/*b*/c/*d//e\"]"}, {"[\"\\uDBFF\\uDFFF\"]", "[\"\\udbff\\udfff\"]"}, {"[\"\x7f\"]", "[\"\x7f\"]"},
    {"[\"\xe2\x80\xa8\"]", "[\"\\u2028\"]"}, {"[\"\xef\xbf\xbf\"]", "[\"\\uffff\"]"}, {"\"\"", "\"\""}, {"false", "false"}, {"42", "42"},
    {"-0.1", "-0.1"}, {"null", "null"}, {"{\"min\": -1.0e+28, \"max\": 1.0e+28}", "{\"min\": -1e+28, \"max\": 1e+28}"},
};

/* clang-format on */

/* The check in front of cJSON earns its place. */
static void test_what_cjson_takes(void)
{
    size_t taken = 0;
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        cJSON *c = cJSON_ParseWithLength(broken[i].bytes, broken[i].size);
        taken += c != NULL;
        cJSON_Delete(c);
    }
    tap_ok(taken >= 33, "cJSON alone takes %zu of them", taken);
}

static void test_conformance(void)
{
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        struct aq_err err = {0};
        struct json *v = json_parse(broken[i].bytes, broken[i].size, "x.json", &err);
        tap_ok(v == NULL && err.code == AQ_EINPUT, "refused: %s",
               aq_show_n(broken[i].bytes, broken[i].size));
        json_free(v);
    }
    for (size_t i = 0; i < sizeof sound / sizeof *sound; i++)
        if (sound[i][1])
            round_trip(sound[i][0], sound[i][1]);
        else
            refused(sound[i][0], NULL);
}

static void test_round_trips(void)
{
    round_trip("{\"a\": 8, \"b\": 8.0, \"c\": 1e3}", "{\"a\": 8, \"b\": 8.0, \"c\": 1000.0}");
    round_trip("[9007199254740993, -9223372036854775808]",
               "[9007199254740993, -9223372036854775808]");
    round_trip("[0.1000000000000000000000000000000000000000000000000000000000000000000000001]",
               "[0.1]");
    round_trip("[\"\\u00e9\\ud83d\\ude00\\n\\\"\\\\/\"]",
               "[\"\\u00e9\\ud83d\\ude00\\n\\\"\\\\/\"]");
    round_trip("{\"z\": null, \"a\": [true, false], \"e\": {}, \"l\": []}",
               "{\"z\": null, \"a\": [true, false], \"e\": {}, \"l\": []}");
    round_trip("[-0.0, 1E-7]", "[-0.0, 1e-07]");
}

static void test_refs(void)
{
    struct aq_err err = {0};
    const char *text = "{\"groups\": [{\"sum\": 1}, {\"sum\": \"x\"}], \"n\": 3.5}";
    struct json *v = json_parse(text, strlen(text), "s.json", &err);
    struct jref root = jref_root(v, "s.json"), groups, second;
    double d;
    int64_t n;
    tap_ok(jref_get(&root, "groups", JSON_ARRAY, &groups, &err) == 0, "groups");
    second = jref_child(&groups, json_at(groups.v, 1), 1);
    tap_ok(jref_double(&second, "sum", &d, &err) < 0, "a string is not a number");
    tap_same(err.msg, "s.json: groups[1].sum: expected a number, found a string",
             "path in the message");
    tap_ok(jref_int(&root, "n", 0, 10, &n, &err) < 0, "3.5 is not an integer");
    tap_same(err.msg, "s.json: n: expected an integer, found a number", "path in the message");
    tap_ok(jref_get(&root, "nope", JSON_ARRAY, &second, &err) < 0, "missing");
    tap_same(err.msg, "s.json: key 'nope' is missing", "missing key");
    json_free(v);
}

static void test_building(void)
{
    struct aq_err err = {0};
    struct aq_buf out = AQ_BUF_INIT;
    struct json *o = json_new_object();
    json_add_int(o, "i", INT64_MAX);
    json_add_double(o, "d", 2);
    json_add_string(o, "s", "x");
    json_set(o, "s", json_new_string("y"));
    json_push(json_add_array(o, "l"), json_new_null());
    tap_ok(json_remove(o, "d") && !json_remove(o, "d"), "remove");
    tap_ok(json_write(&out, o, JSON_SORT_KEYS | JSON_NEWLINE, &err) == 0, "write");
    tap_same(aq_buf_str(&out),
             "{\n  \"i\": 9223372036854775807,\n  \"l\": [\n    null\n  ],\n  \"s\": \"y\"\n}\n",
             "pretty");
    json_add_double(o, "bad", NAN);
    tap_ok(json_write(&out, o, 0, &err) < 0, "NaN is not written");
    tap_same(err.msg, "bad: the value NaN cannot be written", "and the key is named");
    struct json *copy = json_copy(o);
    json_remove(copy, "bad");
    json_remove(o, "bad");
    tap_ok(json_equal(o, copy), "a copy is equal");
    json_set(copy, "i", json_new_double(9223372036854775807.0));
    tap_ok(!json_equal(o, copy), "a float is not an int");
    json_free(copy);
    json_free(o);
    aq_buf_release(&out);
}

/* Against hashlib: tests/oracle/json_digest.py. */
static void test_digests(void)
{
    struct aq_buf text = AQ_BUF_INIT;
    struct aq_err err = {0};
    size_t good = 0, lines = 0;
    if (aq_read_file("tests/oracle/json/digest.txt", 1 << 20, &text, &err) < 0) {
        tap_ok(false, "%s", err.msg);
        return;
    }
    for (char *rest = text.data, *line; (line = strsep(&rest, "\n")) && *line; lines++) {
        char hex[AQ_SHA256_HEX], *doc = strchr(line, '\t');
        *doc++ = '\0';
        struct json *v = json_parse(doc, strlen(doc), "f", &err);
        json_digest(v, "digest", hex);
        if (strcmp(hex, line) == 0)
            good++;
        else
            tap_ok(false, "%s", doc);
        json_free(v);
    }
    tap_ok(lines == 25 && good == lines, "%zu of %zu digests", good, lines);
    aq_buf_release(&text);
}

static void test_digest_check(void)
{
    struct json *v = json_parse("{\"a\": [1.5, \"x\"]}", 17, "f", NULL);
    struct jref root = jref_root(v, "f");
    struct aq_err err = {0};
    tap_ok(json_check_digest(&root, &err) < 0 && err.code == AQ_EINPUT, "a digest is asked for");
    json_add_digest(v);
    tap_ok(json_check_digest(&root, &err) == 0, "added and found right");
    json_set(v, "a", json_new_int(1));
    tap_ok(json_check_digest(&root, &err) < 0 && strstr(err.msg, "the file was changed"),
           "a changed document: %s", err.msg);
    json_free(v);
}

int main(void)
{
    test_refusals();
    test_conformance();
    test_what_cjson_takes();
    test_round_trips();
    test_refs();
    test_building();
    test_digests();
    test_digest_check();
    return tap_done();
}
