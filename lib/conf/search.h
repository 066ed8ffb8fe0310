/* Where the configuration tree is. */
#ifndef AQ_CONF_SEARCH_H
#define AQ_CONF_SEARCH_H

#include "base/err.h"

/*
 * The first of: `given` (the value of --config-dir, or NULL), $AQ_CONF, ./conf, the installed tree.
 * One that was named must be a directory, else AQ_EUSAGE. Caller frees.
 */
char *conf_find(const char *given, struct aq_err *err);

/*
 * Where a path of the configuration is: "~" as the home directory; a relative one that is missing
 * in the start directory and there among the installed data is that one. Caller frees.
 */
char *conf_data_path(const char *path);

#endif
