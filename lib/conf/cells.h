/*
 * The cells of a sweep, from the runs that aq-resolve -m --dir left in a directory: each
 * quant.json, cells.json for the tools (aq.cells/2), cells.mk for make. Only here is decided what
 * is supported.
 *
 * cells.mk holds lists of words, nothing else, and every word is made of the letters of
 * check_is_name, "/", ":" and ",": make expands what it includes, and recipes are shell text.
 */
#ifndef AQ_CONF_CELLS_H
#define AQ_CONF_CELLS_H

#include "base/err.h"

#include <stdbool.h>

#define CELLS_SCHEMA "aq.cells/2"

struct cells_request {
    const char *dir, *conf_dir; /* conf_dir: whose presets give the labels, and engines the rules */
    const char *engine;         /* "vllm:sm90": what it makes of each cell is written down */
    bool servable;              /* a cell that it does not serve as it is scored is unsupported */
};

/* Files whose bytes would not change are left alone, but for cells.mk, whose time says when this
   was. */
int cells_write(const struct cells_request *q, struct aq_err *err) AQ_MUST_CHECK;

/*
 * Names of the pairs in conf/quant_pair, one a line, that have a cell which the engine serves as it
 * is scored, among these granularities (separated by commas).
 */
struct aq_buf;
int cells_served_pairs(const char *conf_dir, const char *engine, const char *granularities,
                       struct aq_buf *out, struct aq_err *err) AQ_MUST_CHECK;

#endif
