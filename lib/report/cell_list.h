/* cells.json: every cell of a sweep, with the reasons of those that cannot be had. */
#ifndef AQ_REPORT_CELL_LIST_H
#define AQ_REPORT_CELL_LIST_H

#include "io/json.h"

#include <stdbool.h>
#include <stddef.h>

/* Texts are borrowed from the document. */
struct cell_entry {
    const char *pair, *granularity, *size;
    const char *dir;    /* NULL: not said */
    const char *reason; /* why it is left out; NULL: it is not */
    /* What the list's engine makes of it ("near") and why it is not exact; NULL: not said. */
    const char *verdict, *verdict_reason;
};

struct cell_list {
    struct json *root;
    const char *engine; /* whose verdicts these are; NULL: not said */
    struct cell_entry *items;
    size_t count;
};

int cell_list_read(struct cell_list *l, const char *path, struct aq_err *err) AQ_MUST_CHECK;
void cell_list_release(struct cell_list *l);
/* Where the report of a cell is, as seen from the directory of the sweep; caller frees. NULL: its
   names are not those of options, and no link is made of them. */
char *cell_entry_link(const struct cell_entry *e);
/* The cell in whose directory a file is; NULL: none. */
const struct cell_entry *cell_list_find(const struct cell_list *l, const char *path);

#endif
