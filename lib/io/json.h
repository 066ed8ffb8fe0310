/*
 * JSON, strictly: what the grammar of RFC 8259 does not allow is refused, and so are duplicate
 * keys, \u0000, and numbers beyond a double. The tree is cJSON's, but nobody outside json*.c sees
 * that: the parser is our own (json_parse.c says why), and the wrappers below look keys up exactly
 * and never print NaN.
 *
 * Objects keep their order. Integers and floats are different types, as in Python.
 */
#ifndef AQ_IO_JSON_H
#define AQ_IO_JSON_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json;

enum json_type { JSON_NULL, JSON_BOOL, JSON_INT, JSON_FLOAT, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

/* ---- reading ---- */

enum { JSON_MAX_DEPTH = 200 };

/* name is for messages: "lm.json:3:14: ...". Errors are AQ_EINPUT. Caller frees with json_free. */
struct json *json_parse(const char *text, size_t len, const char *name, struct aq_err *err);
/* A file, or "-" for standard input. */
struct json *json_read(const char *path, struct aq_err *err);
/* The same with a limit of its own: a config.json is small, and a tree takes 20 times its text. */
struct json *json_read_max(const char *path, size_t max, struct aq_err *err);
enum { JSON_CONFIG_MAX = 16 << 20 };
void json_free(struct json *v); /* a root only; NULL is fine */

enum json_type json_type(const struct json *v);
const char *json_type_name(enum json_type t); /* "an object", "a string", ... */

/* Children of an array or object, in order; O(1) each. The key is NULL in an array. */
struct json *json_first(const struct json *v);
struct json *json_next(const struct json *v);
const char *json_key(const struct json *v);
size_t json_size(const struct json *v);                            /* O(n) */
struct json *json_get(const struct json *object, const char *key); /* NULL if absent; O(n) */
struct json *json_at(const struct json *array, size_t index);      /* NULL if absent; O(n) */

/* Members that are optional in every way: NULL or NAN unless `object` is an object and has it. */
const struct json *json_find(const struct json *object, const char *key);
const char *json_find_string(const struct json *object, const char *key);
double json_find_number(const struct json *object, const char *key);
struct json *json_find_first(const struct json *object,
                             const char *key); /* of an array's elements */

/* Values without ceremony. The type must be right: asserted. */
bool json_bool(const struct json *v);
const char *json_string(const struct json *v);     /* borrowed */
double json_number(const struct json *v);          /* of an int or a float */
bool json_int(const struct json *v, int64_t *out); /* false: not an int, or beyond 64 bits */
const char *json_wide_int(const struct json *v);   /* digits of an int beyond 64 bits, else NULL */

/*
 * A place in a document, for typed reading with messages such as
 * "scores.json: groups[3].sum: expected a number, found a string". Refs live on the stack and
 * point at their parents, which must stay alive.
 */
struct jref {
    const struct json *v;
    const struct jref *up;
    const char *name; /* file name at the root, else key or NULL */
    size_t index;     /* in an array */
};

struct jref jref_root(const struct json *v, const char *file);
struct jref jref_child(const struct jref *parent, const struct json *child, size_t index);
/* Text of the place: "scores.json: groups[3].sum". Ring of static buffers, for messages. */
const char *jref_show(const struct jref *r);
/* -1 with AQ_EINPUT and "<place>: <text>". */
int jref_fail(const struct jref *r, struct aq_err *err, const char *fmt, ...) AQ_PRINTF(3, 4);
#ifdef __clang_analyzer__ /* as in base/err.h */
#define jref_fail(...) ((void)(jref_fail)(__VA_ARGS__), -1)
#endif

/* Is the value itself of this type? (A whole number also fits JSON_FLOAT.) -1 with a message. */
int jref_is(const struct jref *r, enum json_type type, struct aq_err *err) AQ_MUST_CHECK;

/* The value itself as a number. */
int jref_number(const struct jref *r, double *out, struct aq_err *err) AQ_MUST_CHECK;

/* Required members of an object; -1 with a message if absent or of another type. */
int jref_get(const struct jref *object, const char *key, enum json_type type, struct jref *out,
             struct aq_err *err) AQ_MUST_CHECK;
int jref_string(const struct jref *object, const char *key, const char **out,
                struct aq_err *err) AQ_MUST_CHECK;
int jref_int(const struct jref *object, const char *key, int64_t min, int64_t max, int64_t *out,
             struct aq_err *err) AQ_MUST_CHECK;
int jref_double(const struct jref *object, const char *key, double *out,
                struct aq_err *err) AQ_MUST_CHECK;
int jref_bool(const struct jref *object, const char *key, bool *out,
              struct aq_err *err) AQ_MUST_CHECK;
/* Optional members: *out stays as it is unless the member is present and not null. */
int jref_maybe_string(const struct jref *object, const char *key, const char **out,
                      struct aq_err *err) AQ_MUST_CHECK;
int jref_maybe_int(const struct jref *object, const char *key, int64_t min, int64_t max,
                   int64_t *out, struct aq_err *err) AQ_MUST_CHECK;
int jref_maybe_double(const struct jref *object, const char *key, double *out,
                      struct aq_err *err) AQ_MUST_CHECK;
int jref_maybe_bool(const struct jref *object, const char *key, bool *out,
                    struct aq_err *err) AQ_MUST_CHECK;
/* True if present and not null. */
bool jref_has(const struct jref *object, const char *key, struct jref *out);

/* ---- building ---- */

struct json *json_new_object(void);
struct json *json_new_array(void);
struct json *json_new_null(void);
struct json *json_new_bool(bool b);
struct json *json_new_int(int64_t n);
struct json *json_new_double(double x);
struct json *json_new_string(const char *s);
struct json *json_copy(const struct json *v);
bool json_equal(const struct json *a, const struct json *b); /* order of keys ignored; 8 != 8.0 */

/* The parent takes the child over. The key must be new. Return the child. */
struct json *json_add(struct json *object, const char *key, struct json *child);
struct json *json_push(struct json *array, struct json *child);
/* Set or replace in place; remove returns false if absent. */
void json_set(struct json *object, const char *key, struct json *child);
bool json_remove(struct json *object, const char *key);

void json_add_null(struct json *object, const char *key);
void json_add_bool(struct json *object, const char *key, bool b);
void json_add_int(struct json *object, const char *key, int64_t n);
void json_add_double(struct json *object, const char *key, double x);
/* null where x is infinite or no number. */
void json_add_finite(struct json *object, const char *key, double x);
void json_add_string(struct json *object, const char *key, const char *s);
struct json *json_add_object(struct json *object, const char *key);
struct json *json_add_array(struct json *object, const char *key);

/* ---- writing ---- */

enum {
    JSON_COMPACT = 1, /* one line: {"a": 1, "b": [2, 3]} */
    JSON_SORT_KEYS = 2,
    JSON_NEWLINE = 4, /* at the end */
};

/* Non-ASCII is escaped; floats by aq_fmt_double. NaN and infinity: -1, AQ_ERUN, names the key. */
int json_write(struct aq_buf *out, const struct json *v, unsigned flags,
               struct aq_err *err) AQ_MUST_CHECK;
/* Pretty, with a final newline, to a file (NULL or "-": stdout), atomically. */
int json_write_file(const char *path, const struct json *v, struct aq_err *err) AQ_MUST_CHECK;
/* One string with its quotes, escaped as above. */
void json_write_string(struct aq_buf *out, const char *s);

#endif
