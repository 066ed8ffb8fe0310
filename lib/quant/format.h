/*
 * Formats: named quantizer configurations, one file each, conf/format/NAME.yaml:
 *
 *     modelopt: ["0.40", "0.47"]      # versions with a preset of this name; absent in our own
 *     quant_cfg: {"*weight_quantizer": {...}, "*input_quantizer": {...}}
 *     algorithm: max                  # a name, a mapping with `method`, or null: no calibration
 */
#ifndef AQ_QUANT_FORMAT_H
#define AQ_QUANT_FORMAT_H

#include "base/arena.h"
#include "base/err.h"
#include "base/names.h"
#include "io/json.h"

#include <stdbool.h>
#include <stddef.h>

enum { FORMAT_LABEL = 80 };

/* The error for a name that has no file in a directory of options: nearest match and list. -1. */
int format_unknown(const char *dir, const char *what, const char *name, struct aq_err *err);

/*
 * The file as an object, checked. An unknown name is AQ_EUSAGE with the nearest match and the
 * list; contents are AQ_EINPUT. Caller frees.
 */
struct json *format_load(const char *conf_dir, const char *name, struct aq_err *err);

/* Shape and types of {"quant_cfg", "algorithm"}, wherever it is found. */
int format_check(const struct jref *format, struct aq_err *err) AQ_MUST_CHECK;

/* All formats of a configuration tree, in the order of their names; a file is read when it is first
   needed, and once, since a sweep compares hundreds of cells with them. Starts as {.conf_dir = d}.
 */
struct format_shelf {
    const char *conf_dir; /* borrowed */
    bool listed;
    struct aq_arena arena;
    struct aq_names names;
    struct json **files; /* [names.count]; NULL: not read yet */
};

void format_shelf_release(struct format_shelf *s);

/*
 * ModelOpt's name for a candidate: the preset whose quant_cfg and algorithm equal those of
 * `format` as values, else CUSTOM_<index>.
 */
int format_label(struct format_shelf *shelf, const struct json *format, int index,
                 char label[FORMAT_LABEL], struct aq_err *err) AQ_MUST_CHECK;

#endif
