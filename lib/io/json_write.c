#include "base/file.h"
#include "base/fmt.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "io/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct json_writer {
    struct aq_buf *out;
    unsigned flags;
    int depth;
    struct aq_err *err;
};

static void add_escaped(struct aq_buf *out, uint32_t c)
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    const char *short_form = c && c < 0x80 ? strchr(from, (int)c) : NULL;
    if (short_form)
        aq_buf_addf(out, "\\%c", to[short_form - from]);
    else if (c >= 0x10000)
        aq_buf_addf(out, "\\u%04x\\u%04x", (unsigned)(0xd800 + ((c - 0x10000) >> 10)),
                    (unsigned)(0xdc00 + ((c - 0x10000) & 0x3ff)));
    else
        aq_buf_addf(out, "\\u%04x", (unsigned)c);
}

void json_write_string(struct aq_buf *out, const char *s)
{
    const unsigned char *p = (const unsigned char *)s;
    size_t left = strlen(s);
    aq_buf_addc(out, '"');
    while (left) {
        size_t plain = 0;
        while (plain < left && p[plain] >= 0x20 && p[plain] < 0x7f && p[plain] != '"' &&
               p[plain] != '\\')
            plain++;
        aq_buf_add(out, p, plain);
        p += plain;
        left -= plain;
        if (!left)
            break;
        uint32_t c;
        int n = aq_utf8_decode(p, left, &c);
        if (n <= 0) { /* names from a command line may be any bytes */
            c = 0xfffd;
            n = 1;
        }
        if (c == 0x7f)
            aq_buf_addc(out, 0x7f);
        else
            add_escaped(out, c);
        p += n;
        left -= (size_t)n;
    }
    aq_buf_addc(out, '"');
}

static void new_line(struct json_writer *w)
{
    if (w->flags & JSON_COMPACT)
        return;
    aq_buf_addc(w->out, '\n');
    for (int i = 0; i < w->depth; i++)
        aq_buf_adds(w->out, "  ");
}

static int by_key(const void *a, const void *b)
{
    return strcmp(json_key(*(const struct json *const *)a),
                  json_key(*(const struct json *const *)b));
}

static const struct json **children(const struct json *v, size_t n, bool sorted)
{
    const struct json **list = xcalloc(n, sizeof(const struct json *));
    size_t i = 0;
    for (const struct json *c = json_first(v); c; c = json_next(c))
        list[i++] = c;
    if (sorted)
        qsort(list, n, sizeof(const struct json *), by_key);
    return list;
}

static int write_value(struct json_writer *w, const struct json *v);

static int write_container(struct json_writer *w, const struct json *v, bool object)
{
    size_t n = json_size(v);
    if (n == 0) {
        aq_buf_adds(w->out, object ? "{}" : "[]");
        return 0;
    }
    const struct json **list = children(v, n, object && (w->flags & JSON_SORT_KEYS));
    int r = 0;
    aq_buf_addc(w->out, object ? '{' : '[');
    w->depth++;
    for (size_t i = 0; i < n && r == 0; i++) {
        if (i)
            aq_buf_adds(w->out, w->flags & JSON_COMPACT ? ", " : ",");
        new_line(w);
        if (object) {
            json_write_string(w->out, json_key(list[i]));
            aq_buf_adds(w->out, ": ");
        }
        r = write_value(w, list[i]);
        if (r < 0 && object)
            aq_err_prefix(w->err, "%s", aq_show(json_key(list[i])));
    }
    w->depth--;
    if (r == 0) {
        new_line(w);
        aq_buf_addc(w->out, object ? '}' : ']');
    }
    free(list);
    return r;
}

static int write_float(struct json_writer *w, double x)
{
    char text[AQ_FMT_MAX];
    if (!isfinite(x))
        return aq_err_set(w->err, AQ_ERUN, "the value %s cannot be written",
                          aq_fmt_double(x, text));
    aq_buf_adds(w->out, aq_fmt_double(x, text));
    return 0;
}

static void write_int(struct json_writer *w, const struct json *v)
{
    int64_t n;
    if (json_int(v, &n))
        aq_buf_addf(w->out, "%" PRId64, n);
    else
        aq_buf_adds(w->out, json_wide_int(v));
}

static int write_value(struct json_writer *w, const struct json *v)
{
    switch (json_type(v)) {
    case JSON_NULL:
        aq_buf_adds(w->out, "null");
        return 0;
    case JSON_BOOL:
        aq_buf_adds(w->out, json_bool(v) ? "true" : "false");
        return 0;
    case JSON_INT:
        write_int(w, v);
        return 0;
    case JSON_FLOAT:
        return write_float(w, json_number(v));
    case JSON_STRING:
        json_write_string(w->out, json_string(v));
        return 0;
    case JSON_ARRAY:
        return write_container(w, v, false);
    case JSON_OBJECT:
        return write_container(w, v, true);
    }
    return 0;
}

int json_write(struct aq_buf *out, const struct json *v, unsigned flags, struct aq_err *err)
{
    struct json_writer w = {.out = out, .flags = flags, .err = err};
    if (write_value(&w, v) < 0)
        return -1;
    if (flags & JSON_NEWLINE)
        aq_buf_addc(out, '\n');
    return 0;
}

int json_write_file(const char *path, const struct json *v, struct aq_err *err)
{
    struct aq_buf text = AQ_BUF_INIT;
    int r = json_write(&text, v, JSON_NEWLINE, err);
    if (r == 0)
        r = aq_write_file(path, text.data, text.len, err);
    aq_buf_release(&text);
    return r;
}
