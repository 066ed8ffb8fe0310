/*
 * Overrides: what follows the options on the command line, in Hydra's grammar.
 *
 *     group=option   a.b=value   +a.b=value   ++a.b=value   ~a.b   ~a.b=value group@package=option
 *
 * The type of a value follows from its spelling (8 is an integer, 8.0 a float, null, true, text),
 * with lists, mappings, quotes, and functions; several values separated by commas, choice(),
 * range() and glob() are sweeps.
 */
#ifndef AQ_CONF_OVERRIDE_H
#define AQ_CONF_OVERRIDE_H

#include "base/arena.h"
#include "io/node.h"

#include <stdbool.h>

enum {
    OVERRIDE_MAX_COUNT = 10000,
    OVERRIDE_MAX_LENGTH = 64 * 1024,
};

enum override_kind { OVERRIDE_SET, OVERRIDE_ADD, OVERRIDE_FORCE, OVERRIDE_DELETE };

enum sweep_kind {
    SWEEP_SIMPLE, /* a,b,c */
    SWEEP_CHOICE, /* choice(a,b,c) */
    SWEEP_RANGE,
    SWEEP_INTERVAL,
    SWEEP_GLOB,
};

struct sweep {
    enum sweep_kind kind;
    struct node *items;               /* a list: of the choices */
    struct node *start, *stop, *step; /* numbers: range and interval (without step) */
    struct node *include, *exclude;   /* lists of patterns: glob */
};

/* An element or a sweep: exactly one of the two is set. */
struct value {
    struct node *node;
    struct sweep *sweep;
};

struct override {
    enum override_kind kind;
    const char *key;     /* "dataset.size", "quant_pair", "hydra/launcher" */
    const char *package; /* after @, or NULL */
    bool has_value;      /* false only for ~key */
    struct value value;
    const char *text; /* as typed */
    int number;       /* from 1, in the order of the command line */
};

/* text is kept. Errors are AQ_EUSAGE. */
int override_parse(struct aq_arena *a, const char *text, int number, struct override *out,
                   struct aq_err *err) AQ_MUST_CHECK;

bool override_of_hydra(const struct override *o); /* its key begins with hydra. or hydra/ */

/* "+group@package": the key with its prefix, as typed. */
const char *override_key_element(struct aq_arena *a, const struct override *o);

/* A value in the spelling that reads back as the same value. */
void override_value_text(struct aq_buf *out, const struct node *v);

/*
 * Calls of functions in values: args are positional, names[i] is NULL for them. Private to the
 * parser.
 */
struct function_call {
    const char *name;
    const char **names;
    struct value *args;
    size_t count, cap;
};
int override_call(struct aq_arena *a, const struct function_call *call, struct value *out,
                  struct aq_err *err) AQ_MUST_CHECK;

#endif
