/* YAML to a tree: scalars, keys, aliases, merges, limits, places in messages. */
#include "base/mem.h"
#include "io/yaml.h"
#include "tap.h"

#include <stdlib.h>

static void gives(const char *yaml, const char *expected)
{
    struct aq_err err = {0};
    struct json *v = yaml_parse(yaml, strlen(yaml), "t.yaml", &err);
    struct aq_buf out = AQ_BUF_INIT;
    if (v && json_write(&out, v, JSON_COMPACT, &err) == 0)
        tap_same(aq_buf_str(&out), expected, expected);
    else
        tap_ok(0, "%s (%s)", expected, err.msg);
    json_free(v);
    aq_buf_release(&out);
}

static void refuses_bytes(const char *yaml, size_t len, const char *message)
{
    struct aq_err err = {0};
    struct json *v = yaml_parse(yaml, len, "t.yaml", &err);
    tap_ok(!v && err.code == AQ_EINPUT && strstr(err.msg, message), "refuses: %s", message);
    if (v || !strstr(err.msg, message))
        printf("# found: %s\n", err.msg);
    json_free(v);
}

static void refuses(const char *yaml, const char *message)
{
    refuses_bytes(yaml, strlen(yaml), message);
}

static void structures(void)
{
    gives("", "{}");
    gives("# only a comment\n", "{}");
    gives("---\n...\n", "{}");
    gives("a: 1\nb: [x, 2.5, null]\n", "{\"a\": 1, \"b\": [\"x\", 2.5, null]}");
    gives("-1: a\n\"-2\": b\n1.5: c\ntrue: d\n",
          "{\"-1\": \"a\", \"-2\": \"b\", \"1.5\": \"c\", \"true\": \"d\"}");
    gives("a: &x {p: 1}\nb: *x\n", "{\"a\": {\"p\": 1}, \"b\": {\"p\": 1}}");
    gives("a: &x {p: 1, q: 2}\nb:\n  q: 3\n  <<: *x\n",
          "{\"a\": {\"p\": 1, \"q\": 2}, \"b\": {\"p\": 1, \"q\": 3}}");
    gives(
        "a: &x {p: 1}\nb: &y {p: 2, r: 3}\nc: {<<: [*x, *y], s: 4}\n",
        "{\"a\": {\"p\": 1}, \"b\": {\"p\": 2, \"r\": 3}, \"c\": {\"p\": 1, \"r\": 3, \"s\": 4}}");
    gives("\xef\xbb\xbf"
          "a: 1\r\nb: 2\r\n",
          "{\"a\": 1, \"b\": 2}");
    gives("a: !!str 5\nb: !!int \"5\"\nc: !!float 5\nd: ! 5\n",
          "{\"a\": \"5\", \"b\": 5, \"c\": 5.0, \"d\": \"5\"}");
    gives("a: 123456789012345678901234567890\n", "{\"a\": 123456789012345678901234567890}");
}

static void refusals(void)
{
    refuses("a: 1\nb:\n  c: 1\n  c: 2\n", "t.yaml:4:3: duplicate key 'c', first set in line 3");
    refuses("a:\n\tb: 1\n", "t.yaml:2:");
    refuses("a: 'x\n", "t.yaml:2:1: ");
    refuses("a: [1, 2\nb: 3\n", "t.yaml:2:");
    refuses_bytes("a: 1\0b\n", 7, "t.yaml:1:5: ");
    refuses("a: 1\nb: \xff\n", "t.yaml:2:4: invalid UTF-8");
    refuses("a: \"\\0\"\n", "t.yaml:1:4: a string must not contain NUL");
    refuses("a: *b\n", "t.yaml:1:4: undefined alias");
    refuses("a: &a [1, *a]\n", "t.yaml:1:11: this alias contains itself");
    refuses("a: 1\n---\nb: 2\n", "t.yaml:2:1: expected one document, found a second");
    refuses("a: !!python/object:os.system x\n", "this tag is not supported");
    refuses("a: !!binary aGk=\n", "this tag is not supported");
    refuses("a: !foo x\n", "this tag is not supported");
    refuses("a: !!int x\n", "this is not a number");
    refuses("a: 0x_\n", "this is not a number");
    refuses("a: =\n", "a plain '=' or '<<' has no meaning here");
    refuses("? [1]\n: 2\n", "a mapping key must be a plain value");
    refuses("~: 2\n", "a mapping key must not be null");
    refuses("-1: a\n'-1': b\n", "t.yaml: two keys become '-1' in JSON");
    refuses("a: .inf\n", "t.yaml: a: infinity cannot be written as JSON");
    refuses("\xff\xfe"
            "a\0",
            "invalid UTF-8");
    refuses("<<: 3\n", "'<<' takes a mapping or a list of mappings");
}

static char *repeated(const char *piece, size_t times)
{
    struct aq_buf b = AQ_BUF_INIT;
    for (size_t i = 0; i < times; i++)
        aq_buf_adds(&b, piece);
    return aq_buf_detach(&b);
}

static void refuses_repeated(const char *piece, size_t times, const char *message)
{
    char *text = repeated(piece, times);
    refuses(text, message);
    free(text);
}

static void limits(void)
{
    refuses_repeated("[", 100000, "nested too deeply (limit 128)");
    refuses_repeated("- ", 500000, "nested too deeply (limit 128)");
    struct aq_err err = {0};
    char *open = repeated("[", NODE_MAX_DEPTH), *close = repeated("]", NODE_MAX_DEPTH);
    char *text = xasprintf("%s%s", open, close);
    struct json *v = yaml_parse(text, strlen(text), "t.yaml", &err);
    tap_ok(v != NULL, "128 levels are accepted");
    json_free(v);
    free(text);
    text = xasprintf("[%s%s]", open, close);
    refuses(text, "nested too deeply (limit 128)");
    free(text);
    free(open);
    free(close);

    struct aq_buf bomb = AQ_BUF_INIT;
    aq_buf_adds(&bomb, "a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for (int i = 1; i < 10; i++) {
        aq_buf_addf(&bomb, "a%d: &a%d [", i, i);
        for (int j = 0; j < 9; j++)
            aq_buf_addf(&bomb, "%s*a%d", j ? ", " : "", i - 1);
        aq_buf_adds(&bomb, "]\n");
    }
    refuses(bomb.data, "too many nodes after expanding aliases");
    aq_buf_reset(&bomb);
    aq_buf_adds(&bomb, "a0: &a0 {k: 1}\n");
    for (int i = 1; i < 200; i++)
        aq_buf_addf(&bomb, "a%d: &a%d {x: *a%d}\n", i, i, i - 1);
    refuses(bomb.data, "nested too deeply (limit 128)");
    aq_buf_release(&bomb);
}

int main(void)
{
    structures();
    refusals();
    limits();
    return tap_done();
}
