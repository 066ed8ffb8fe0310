/* Backends in shared objects, found by name. Private to backend.c. */
#ifndef AQ_BACKEND_PLUGIN_H
#define AQ_BACKEND_PLUGIN_H

#include "backend/backend.h"

/*
 * The file of a plugin: in $AQ_BACKEND_PATH alone if that is set; else next to the program, in
 * ../lib, in libexec. Caller frees.
 */
char *plugin_find(const char *file, struct aq_err *err);

/*
 * The table of "aq-backend-<name>.so", which stays loaded until the process ends. Whatever is wrong
 * with the file is AQ_EBACKEND with the reason, also where the file ends the program while it is
 * being loaded.
 */
const struct backend_ops *plugin_load(const char *name, struct aq_err *err);

#endif
