/*
 * A configuration value as YAML files and overrides make it: like JSON, but mapping keys have
 * types (-1 is not "-1"), integers have no limit, infinities exist, and every value knows the
 * place that set it. Nodes live in an arena and are never freed one by one; strings are shared
 * between copies.
 */
#ifndef AQ_IO_NODE_H
#define AQ_IO_NODE_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "io/json.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum node_type {
    NODE_NULL,
    NODE_BOOL,
    NODE_INT,
    NODE_FLOAT,
    NODE_STRING,
    NODE_LIST,
    NODE_MAP,
};

/* Nesting of a value, wherever it comes from. Everything that walks a tree may recurse. */
enum { NODE_MAX_DEPTH = 128 };

/* Where a value was set: a line of a file, or the n-th override (file is NULL). */
struct place {
    const char *file;
    int line;
};

/* The class of an error about it: AQ_EINPUT for a file, AQ_EUSAGE for what was typed. */
int place_class(struct place place);
/* "conf/x.yaml:3" or "override 2", in the arena. */
const char *place_text(struct aq_arena *a, struct place place);

struct node_entry {
    const struct node *key; /* NULL in a list */
    struct node *value;
};

struct node {
    enum node_type type;
    struct place place;
    struct node *up; /* the list or map that holds it; NULL at a root */
    union {
        bool b;
        double f;
        struct {
            const char *s;
            char quote; /* of a string typed in an override: its quote character, else 0 */
        };
        struct {
            int64_t i;
            const char *wide; /* digits of an integer beyond 64 bits, else NULL */
        };
        struct {
            struct node_entry *items; /* in order */
            size_t count, cap;
            uint32_t *index; /* hash table over a large map, else NULL */
        };
    };
};

struct node *node_new(struct aq_arena *a, enum node_type type, struct place place);
struct node *node_bool(struct aq_arena *a, bool b, struct place place);
struct node *node_int(struct aq_arena *a, int64_t i, struct place place);
struct node *node_float(struct aq_arena *a, double f, struct place place);
struct node *node_string(struct aq_arena *a, const char *s, struct place place); /* s is kept */
/* Plain decimal digits with an optional minus; any length. digits is kept if it is long. */
struct node *node_int_text(struct aq_arena *a, const char *digits, struct place place);

/* Deep, with the places of the original; belongs to nothing yet. */
struct node *node_copy(struct aq_arena *a, const struct node *v);
/* Python's ==: 8 equals 8.0 and true equals 1; order of keys does not matter. */
bool node_equal(const struct node *a, const struct node *b);
size_t node_depth(const struct node *v); /* 0 for a scalar */

/* ---- maps and lists ---- */

/* The value under a key of the same type, or NULL. */
struct node *node_find(const struct node *map, const struct node *key);
struct node *node_get(const struct node *map, const char *key);
/* Follows string keys: node_at(root, "hydra", "run", NULL). NULL if a step is missing. */
struct node *node_at(const struct node *root, ...) __attribute__((sentinel));
/* Sets or replaces; a new key goes to the end. The key is kept. */
void node_put(struct aq_arena *a, struct node *map, const struct node *key, struct node *value);
void node_put_text(struct aq_arena *a, struct node *map, const char *key, struct node *value);
bool node_drop(struct node *map, const struct node *key); /* false if absent */
void node_push(struct aq_arena *a, struct node *list, struct node *value);
bool node_is_container(const struct node *v);
bool node_is_number(const struct node *v);  /* of an integer, a float or a boolean */
double node_number(const struct node *v);   /* its value */
bool node_is_missing(const struct node *v); /* ???, a value that must be given */

/* ---- text ---- */

const char *node_type_name(const struct node *v); /* "a list", "an integer", ... */
/* What Python's str() gives; used for keys, messages and text around interpolations. */
void node_print(struct aq_buf *out, const struct node *v);
/* "dataset.size", "hardware.device_indices[0]": the path of a value from its root. */
const char *node_path(struct aq_arena *a, const struct node *v);
/* A key as text, in the arena. */
const char *node_key_text(struct aq_arena *a, const struct node *key);

/* JSON with string keys. An infinity, a NaN or two keys that become one is an error, named:
   AQ_EUSAGE if an override set it, else AQ_EINPUT. */
struct json *node_to_json(const struct node *v, struct aq_err *err);

#endif
