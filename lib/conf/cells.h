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

#define CELLS_SCHEMA "aq.cells/2"

/* conf_dir: whose presets give the labels. Files whose bytes would not change are left alone, but
   for cells.mk, whose time says when this was. */
int cells_write(const char *dir, const char *conf_dir, struct aq_err *err) AQ_MUST_CHECK;

#endif
