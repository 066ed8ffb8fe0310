#include "io/pickle.h"
#include "io/zip.h"

#include <stdint.h>
#include <string.h>

/* Opcodes, by the names of Python's pickletools. */
enum {
    OP_PROTO = 0x80,
    OP_STOP = '.',
    OP_NONE = 'N',
    OP_NEWTRUE = 0x88,
    OP_NEWFALSE = 0x89,
    OP_BININT = 'J',
    OP_LONG1 = 0x8a,
    OP_BINFLOAT = 'G',
    OP_BINUNICODE = 'X',
    OP_EMPTY_DICT = '}',
    OP_EMPTY_LIST = ']',
    OP_MARK = '(',
    OP_SETITEMS = 'u',
    OP_APPENDS = 'e',
};

static void add_op(struct aq_buf *out, int op)
{
    aq_buf_addc(out, (char)op);
}

static void add_le(struct aq_buf *out, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        aq_buf_addc(out, (char)(v >> (8 * i) & 0xff));
}

static void add_int(struct aq_buf *out, int64_t n)
{
    if (n >= INT32_MIN && n <= INT32_MAX) {
        add_op(out, OP_BININT);
        add_le(out, (uint64_t)n, 4);
    } else {
        add_op(out, OP_LONG1);
        aq_buf_addc(out, 8);
        add_le(out, (uint64_t)n, 8);
    }
}

static void add_float(struct aq_buf *out, double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    add_op(out, OP_BINFLOAT);
    for (int i = 7; i >= 0; i--)
        aq_buf_addc(out, (char)(bits >> (8 * i) & 0xff));
}

static void add_string(struct aq_buf *out, const char *s)
{
    size_t n = strlen(s);
    add_op(out, OP_BINUNICODE);
    add_le(out, n, 4);
    aq_buf_add(out, s, n);
}

static void add_value(struct aq_buf *out, const struct json *v);

static void add_children(struct aq_buf *out, const struct json *v, int empty, int fill)
{
    add_op(out, empty);
    if (!json_first(v))
        return;
    add_op(out, OP_MARK);
    for (const struct json *c = json_first(v); c; c = json_next(c)) {
        if (json_key(c))
            add_string(out, json_key(c));
        add_value(out, c);
    }
    add_op(out, fill);
}

static void add_value(struct aq_buf *out, const struct json *v)
{
    int64_t n;
    switch (json_type(v)) {
    case JSON_NULL:
        add_op(out, OP_NONE);
        break;
    case JSON_BOOL:
        add_op(out, json_bool(v) ? OP_NEWTRUE : OP_NEWFALSE);
        break;
    case JSON_INT:
        if (json_int(v, &n))
            add_int(out, n);
        else /* beyond 64 bits */
            add_float(out, json_number(v));
        break;
    case JSON_FLOAT:
        add_float(out, json_number(v));
        break;
    case JSON_STRING:
        add_string(out, json_string(v));
        break;
    case JSON_ARRAY:
        add_children(out, v, OP_EMPTY_LIST, OP_APPENDS);
        break;
    case JSON_OBJECT:
        add_children(out, v, OP_EMPTY_DICT, OP_SETITEMS);
        break;
    }
}

/* Protocol 2. */
static void write_pickle(struct aq_buf *out, const struct json *v)
{
    add_op(out, OP_PROTO);
    aq_buf_addc(out, 2);
    add_value(out, v);
    add_op(out, OP_STOP);
}

void torch_archive(struct aq_buf *out, const struct json *v)
{
    struct aq_buf data = AQ_BUF_INIT;
    struct zip_writer z = ZIP_WRITER_INIT;
    write_pickle(&data, v);
    zip_add(&z, "archive/data.pkl", data.data, data.len);
    zip_add(&z, "archive/byteorder", "little", 6);
    zip_add(&z, "archive/version", "3\n", 2);
    zip_finish(&z, out);
    aq_buf_release(&data);
}
