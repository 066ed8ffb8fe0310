/* lib/io/json: what is refused, what is kept, how it is written. */
#include "tap.h"

#include "io/json.h"

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
    static const char *const bad[] = {
        "", " ", "{", "[1,]", "{\"a\":1,}", "[01]", "[1.]", "[.5]", "[+1]", "[1e]", "[NaN]", "[Infinity]", "[-]",
        "{a:1}", "{'a':1}", "[\"\t\"]", "[\"\\x\"]", "[\"\\u12g4\"]", "[\"\\ud800\"]", "[\"\\udc00\"]", "[1] 2",
        "\xef\xbb\xbf{}", "[\"\xff\"]", "nul", "tru", "[1 2]", "{\"a\" 1}", "{\"a\":}", "[,1]", "{,}", "[1e400]",
        "// c\n1", "[\"a", "\v1",
    };
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

static void test_round_trips(void)
{
    round_trip("{\"a\": 8, \"b\": 8.0, \"c\": 1e3}", "{\"a\": 8, \"b\": 8.0, \"c\": 1000.0}");
    round_trip("[9007199254740993, -9223372036854775808]", "[9007199254740993, -9223372036854775808]");
    round_trip("[0.1000000000000000000000000000000000000000000000000000000000000000000000001]", "[0.1]");
    round_trip("[\"\\u00e9\\ud83d\\ude00\\n\\\"\\\\/\"]", "[\"\\u00e9\\ud83d\\ude00\\n\\\"\\\\/\"]");
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
    tap_ok(jref_double(&second, "sum", &d, &err) < 0, "a string is no number");
    tap_same(err.msg, "s.json: groups[1].sum: expected a number, found a string", "path in the message");
    tap_ok(jref_int(&root, "n", 0, 10, &n, &err) < 0, "3.5 is no integer");
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
    tap_same(aq_buf_str(&out), "{\n  \"i\": 9223372036854775807,\n  \"l\": [\n    null\n  ],\n  \"s\": \"y\"\n}\n",
             "pretty");
    json_add_double(o, "bad", 0.0 / 0.0);
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

int main(void)
{
    test_refusals();
    test_round_trips();
    test_refs();
    test_building();
    return tap_done();
}
