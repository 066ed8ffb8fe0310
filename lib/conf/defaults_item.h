/* The items of one file's defaults list, as written. Private to lib/conf. */
#ifndef AQ_CONF_DEFAULTS_ITEM_H
#define AQ_CONF_DEFAULTS_ITEM_H

#include "conf/source.h"

/* Takes the list out of f->tree and fills f->defaults. */
int conf_read_defaults(struct aq_arena *a, struct conf_file *f, struct aq_err *err) AQ_MUST_CHECK;

#endif
