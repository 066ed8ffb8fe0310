/*
 * YAML files to a tree. libyaml reads the events; depth, size and number of nodes are capped as
 * they arrive (libyaml itself has no such limits), aliases are expanded within a budget, and every
 * error is one line "file:line:column: text". Scalars follow PyYAML and OmegaConf: `yes` is true,
 * `010` is eight, `1e3` is a float, dates are strings.
 */
#ifndef AQ_IO_YAML_H
#define AQ_IO_YAML_H

#include "base/buf.h"
#include "base/err.h"
#include "io/json.h"
#include "io/node.h"

enum {
    YAML_MAX_BYTES = 16 << 20,
    YAML_MAX_NODES = 1000000, /* after expansion of aliases and merges */
    YAML_MAX_EXPANSION = 100, /* nodes per byte of input, also after expansion */
    YAML_MAX_ANCHORS = 10000,
    YAML_MAX_DIGITS = 4300, /* of one integer, as Python has it */
};

/*
 * One document. An empty one is an empty mapping. The nodes live in the arena and point at `name`,
 * which must live as long. NULL with AQ_EINPUT (or AQ_ERUN if a file cannot be read).
 */
struct node *yaml_parse_node(struct aq_arena *a, const char *text, size_t len, const char *name,
                             struct aq_err *err);

/* The same as JSON: keys become strings (-1 becomes "-1"). Caller frees with json_free. */
struct json *yaml_parse(const char *text, size_t len, const char *name, struct aq_err *err);
/* A file, or "-" for standard input. */
struct json *yaml_read(const char *path, struct aq_err *err);

/*
 * A plain scalar by its looks: null, boolean, integer, float, else a string. NULL for the few
 * texts that look like a number but are none (0x_).
 */
struct node *yaml_resolve_plain(struct aq_arena *a, const char *text, struct place place);

/* True if PyYAML would not read this plain text back as a string. */
bool yaml_is_typed_plain(const char *text);

/* Block style, byte for byte as OmegaConf.to_yaml writes it. */
void yaml_write(struct aq_buf *out, const struct node *v);

#endif
