#include "io/json.h"
#include "base/file.h"
#include "base/fmt.h"
#include "base/mem.h"
#include "base/msg.h"
#include "io/json_tree.h"

#include <assert.h>
#include <cjson/cJSON.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILE = 1 << 30 };

static cJSON *item(const struct json *v)
{
    return (cJSON *)v;
}

static struct json *wrap(cJSON *c)
{
    if (!c) {
        aq_msg_line("out of memory");
        exit(AQ_ERUN);
    }
    return (struct json *)c;
}

/* ---- reading ---- */

struct json *json_read(const char *path, struct aq_err *err)
{
    return json_read_max(path, MAX_FILE, err);
}

struct json *json_read_max(const char *path, size_t max, struct aq_err *err)
{
    struct aq_buf text = AQ_BUF_INIT;
    struct json *v = NULL;
    const char *name = strcmp(path, "-") == 0 ? "standard input" : path;
    if (aq_read_file(path, max, &text, err) == 0)
        v = json_parse(aq_buf_str(&text), text.len, name, err);
    aq_buf_release(&text);
    return v;
}

void json_free(struct json *v)
{
    cJSON_Delete(item(v));
}

enum json_type json_type(const struct json *v)
{
    switch (item(v)->type & 0xff) {
    case cJSON_True:
    case cJSON_False:
        return JSON_BOOL;
    case cJSON_Number:
        return item(v)->type & JSON_INT_BIT ? JSON_INT : JSON_FLOAT;
    case cJSON_String:
        return JSON_STRING;
    case cJSON_Array:
        return JSON_ARRAY;
    case cJSON_Object:
        return JSON_OBJECT;
    default:
        return JSON_NULL;
    }
}

const char *json_type_name(enum json_type t)
{
    static const char *const names[] = {"null",     "a boolean", "an integer", "a number",
                                        "a string", "a list",    "an object"};
    return names[t];
}

struct json *json_first(const struct json *v)
{
    return (struct json *)item(v)->child;
}

struct json *json_next(const struct json *v)
{
    return (struct json *)item(v)->next;
}

const char *json_key(const struct json *v)
{
    return item(v)->string;
}

size_t json_size(const struct json *v)
{
    size_t n = 0;
    for (const cJSON *c = item(v)->child; c; c = c->next)
        n++;
    return n;
}

struct json *json_get(const struct json *object, const char *key)
{
    for (cJSON *c = item(object)->child; c; c = c->next)
        if (c->string && strcmp(c->string, key) == 0)
            return (struct json *)c;
    return NULL;
}

const struct json *json_find(const struct json *object, const char *key)
{
    return object && json_type(object) == JSON_OBJECT ? json_get(object, key) : NULL;
}

const char *json_find_string(const struct json *object, const char *key)
{
    const struct json *v = json_find(object, key);
    return v && json_type(v) == JSON_STRING ? json_string(v) : NULL;
}

double json_find_number(const struct json *object, const char *key)
{
    const struct json *v = json_find(object, key);
    return v && (json_type(v) == JSON_INT || json_type(v) == JSON_FLOAT) ? json_number(v) : NAN;
}

struct json *json_find_first(const struct json *object, const char *key)
{
    const struct json *v = json_find(object, key);
    return v && json_type(v) == JSON_ARRAY ? json_first(v) : NULL;
}

struct json *json_at(const struct json *array, size_t index)
{
    cJSON *c = item(array)->child;
    while (c && index--)
        c = c->next;
    return (struct json *)c;
}

bool json_bool(const struct json *v)
{
    assert(json_type(v) == JSON_BOOL);
    return cJSON_IsTrue(item(v));
}

const char *json_string(const struct json *v)
{
    assert(json_type(v) == JSON_STRING);
    return item(v)->valuestring;
}

double json_number(const struct json *v)
{
    assert(json_type(v) == JSON_INT || json_type(v) == JSON_FLOAT);
    return item(v)->valuedouble;
}

bool json_int(const struct json *v, int64_t *out)
{
    if (json_type(v) != JSON_INT)
        return false;
    if (item(v)->type & JSON_TEXT_BIT)
        return aq_parse_i64(item(v)->valuestring, out);
    *out = (int64_t)item(v)->valuedouble;
    return true;
}

const char *json_wide_int(const struct json *v)
{
    int64_t n;
    bool wide = json_type(v) == JSON_INT && (item(v)->type & JSON_TEXT_BIT) && !json_int(v, &n);
    return wide ? item(v)->valuestring : NULL;
}

/* ---- places ---- */

struct jref jref_root(const struct json *v, const char *file)
{
    return (struct jref){.v = v, .name = strcmp(file, "-") == 0 ? "standard input" : file};
}

struct jref jref_child(const struct jref *parent, const struct json *child, size_t index)
{
    return (struct jref){.v = child, .up = parent, .name = json_key(child), .index = index};
}

static void add_place(struct aq_buf *out, const struct jref *r)
{
    if (!r->up) {
        aq_buf_adds(out, aq_show(r->name));
        return;
    }
    add_place(out, r->up);
    if (!r->up->up)
        aq_buf_adds(out, ": ");
    if (r->name)
        aq_buf_addf(out, "%s%s", r->up->up ? "." : "", aq_show(r->name));
    else
        aq_buf_addf(out, "[%zu]", r->index);
}

const char *jref_show(const struct jref *r)
{
    enum { RING = 4, CAP = 600 };
    static _Thread_local char ring[RING][CAP];
    static _Thread_local int next;
    char *text = ring[next];
    next = (next + 1) % RING;
    struct aq_buf b = AQ_BUF_INIT;
    add_place(&b, r);
    (void)snprintf(text, CAP, "%s", aq_buf_str(&b));
    aq_buf_release(&b);
    return text;
}

int(jref_fail)(const struct jref *r, struct aq_err *err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    aq_err_vset(err, AQ_EINPUT, fmt, ap);
    va_end(ap);
    return aq_err_prefix(err, "%s", jref_show(r));
}

int jref_is(const struct jref *r, enum json_type type, struct aq_err *err)
{
    enum json_type found = json_type(r->v);
    if (found == type || (type == JSON_FLOAT && found == JSON_INT))
        return 0;
    return jref_fail(r, err, "expected %s, found %s", json_type_name(type), json_type_name(found));
}

int jref_get(const struct jref *object, const char *key, enum json_type type, struct jref *out,
             struct aq_err *err)
{
    if (jref_is(object, JSON_OBJECT, err) < 0)
        return -1;
    const struct json *v = json_get(object->v, key);
    if (!v)
        return jref_fail(object, err, "key '%s' is missing", key);
    *out = jref_child(object, v, 0);
    return jref_is(out, type, err);
}

int jref_string(const struct jref *object, const char *key, const char **out, struct aq_err *err)
{
    struct jref r;
    if (jref_get(object, key, JSON_STRING, &r, err) < 0)
        return -1;
    *out = json_string(r.v);
    return 0;
}

int jref_int(const struct jref *object, const char *key, int64_t min, int64_t max, int64_t *out,
             struct aq_err *err)
{
    struct jref r;
    if (jref_get(object, key, JSON_INT, &r, err) < 0)
        return -1;
    if (!json_int(r.v, out) || *out < min || *out > max)
        return jref_fail(&r, err, "expected an integer from %" PRId64 " to %" PRId64, min, max);
    return 0;
}

int jref_number(const struct jref *r, double *out, struct aq_err *err)
{
    if (jref_is(r, JSON_FLOAT, err) < 0)
        return -1;
    *out = json_number(r->v);
    return 0;
}

int jref_double(const struct jref *object, const char *key, double *out, struct aq_err *err)
{
    struct jref r;
    return jref_get(object, key, JSON_FLOAT, &r, err) < 0 ? -1 : jref_number(&r, out, err);
}

int jref_bool(const struct jref *object, const char *key, bool *out, struct aq_err *err)
{
    struct jref r;
    if (jref_get(object, key, JSON_BOOL, &r, err) < 0)
        return -1;
    *out = json_bool(r.v);
    return 0;
}

bool jref_has(const struct jref *object, const char *key, struct jref *out)
{
    if (json_type(object->v) != JSON_OBJECT)
        return false;
    const struct json *v = json_get(object->v, key);
    if (!v || json_type(v) == JSON_NULL)
        return false;
    *out = jref_child(object, v, 0);
    return true;
}

int jref_maybe_string(const struct jref *object, const char *key, const char **out,
                      struct aq_err *err)
{
    struct jref r;
    return jref_has(object, key, &r) ? jref_string(object, key, out, err) : 0;
}

int jref_maybe_int(const struct jref *object, const char *key, int64_t min, int64_t max,
                   int64_t *out, struct aq_err *err)
{
    struct jref r;
    return jref_has(object, key, &r) ? jref_int(object, key, min, max, out, err) : 0;
}

int jref_maybe_double(const struct jref *object, const char *key, double *out, struct aq_err *err)
{
    struct jref r;
    return jref_has(object, key, &r) ? jref_number(&r, out, err) : 0;
}

int jref_maybe_bool(const struct jref *object, const char *key, bool *out, struct aq_err *err)
{
    struct jref r;
    return jref_has(object, key, &r) ? jref_bool(object, key, out, err) : 0;
}

/* ---- building ---- */

struct json *json_new_object(void)
{
    return wrap(cJSON_CreateObject());
}

struct json *json_new_array(void)
{
    return wrap(cJSON_CreateArray());
}

struct json *json_new_null(void)
{
    return wrap(cJSON_CreateNull());
}

struct json *json_new_bool(bool b)
{
    return wrap(cJSON_CreateBool(b));
}

struct json *json_new_int(int64_t n)
{
    cJSON *c = item(wrap(cJSON_CreateNumber((double)n)));
    c->type |= JSON_INT_BIT;
    if (n > (INT64_C(1) << 53) || n < -(INT64_C(1) << 53)) {
        c->valuestring = xasprintf("%" PRId64, n);
        c->type |= JSON_TEXT_BIT;
    }
    return (struct json *)c;
}

struct json *json_new_double(double x)
{
    return wrap(cJSON_CreateNumber(x));
}

struct json *json_new_string(const char *s)
{
    return wrap(cJSON_CreateString(s));
}

struct json *json_copy(const struct json *v)
{
    return wrap(cJSON_Duplicate(item(v), 1));
}

static bool equal_objects(const struct json *a, const struct json *b)
{
    if (json_size(a) != json_size(b))
        return false;
    for (const struct json *x = json_first(a); x; x = json_next(x)) {
        const struct json *y = json_get(b, json_key(x));
        if (!y || !json_equal(x, y))
            return false;
    }
    return true;
}

static bool equal_arrays(const struct json *a, const struct json *b)
{
    const struct json *x = json_first(a), *y = json_first(b);
    for (; x && y; x = json_next(x), y = json_next(y))
        if (!json_equal(x, y))
            return false;
    return !x && !y;
}

bool json_equal(const struct json *a, const struct json *b)
{
    enum json_type t = json_type(a);
    if (t != json_type(b))
        return false;
    switch (t) {
    case JSON_NULL:
        return true;
    case JSON_BOOL:
        return json_bool(a) == json_bool(b);
    case JSON_INT:
    case JSON_FLOAT:
        if ((item(a)->type & JSON_TEXT_BIT) && (item(b)->type & JSON_TEXT_BIT))
            return strcmp(item(a)->valuestring, item(b)->valuestring) == 0;
        return item(a)->valuedouble == item(b)->valuedouble;
    case JSON_STRING:
        return strcmp(json_string(a), json_string(b)) == 0;
    case JSON_ARRAY:
        return equal_arrays(a, b);
    case JSON_OBJECT:
        return equal_objects(a, b);
    }
    return false;
}

struct json *json_add(struct json *object, const char *key, struct json *child)
{
    if (!cJSON_AddItemToObject(item(object), key, item(child)))
        (void)wrap(NULL);
    return child;
}

struct json *json_push(struct json *array, struct json *child)
{
    if (!cJSON_AddItemToArray(item(array), item(child)))
        (void)wrap(NULL);
    return child;
}

void json_set(struct json *object, const char *key, struct json *child)
{
    if (json_get(object, key))
        (void)cJSON_ReplaceItemInObjectCaseSensitive(item(object), key, item(child));
    else
        json_add(object, key, child);
}

bool json_remove(struct json *object, const char *key)
{
    struct json *v = json_get(object, key);
    if (!v)
        return false;
    cJSON_Delete(cJSON_DetachItemViaPointer(item(object), item(v)));
    return true;
}

void json_add_null(struct json *object, const char *key)
{
    json_add(object, key, json_new_null());
}

void json_add_bool(struct json *object, const char *key, bool b)
{
    json_add(object, key, json_new_bool(b));
}

void json_add_int(struct json *object, const char *key, int64_t n)
{
    json_add(object, key, json_new_int(n));
}

void json_add_double(struct json *object, const char *key, double x)
{
    json_add(object, key, json_new_double(x));
}

void json_add_finite(struct json *object, const char *key, double x)
{
    json_add(object, key, isfinite(x) ? json_new_double(x) : json_new_null());
}

void json_add_string(struct json *object, const char *key, const char *s)
{
    json_add(object, key, json_new_string(s));
}

struct json *json_add_object(struct json *object, const char *key)
{
    return json_add(object, key, json_new_object());
}

struct json *json_add_array(struct json *object, const char *key)
{
    return json_add(object, key, json_new_array());
}
