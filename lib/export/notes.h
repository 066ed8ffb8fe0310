/* The two pages beside an export: README.md says what loads it, CHECK.md what runs where. */
#ifndef AQ_EXPORT_NOTES_H
#define AQ_EXPORT_NOTES_H

#include "base/buf.h"
#include "export/plan.h"
#include "quant/sharing.h"

/* name: of the directory or file, without its path. */
void notes_readme(const struct export_plan *p, const char *name, struct aq_buf *out);
void notes_check(const struct export_plan *p, const struct sharing *sharing, struct aq_buf *out);

#endif
