/*
 * Rows of a table for other programs, as TSV or CSV. What is missing is an empty field. Control
 * characters in texts are escaped, so that a row is always one line.
 */
#ifndef AQ_REPORT_FIELDS_H
#define AQ_REPORT_FIELDS_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>

struct fields {
    struct aq_buf *out;
    char separator; /* '\t', or ',' for CSV */
    bool open;      /* the row has begun */
};

void fields_names(struct fields *f, const char *const *names, size_t count); /* the first row */
void fields_text(struct fields *f, const char *text);                        /* NULL: missing */
void fields_number(struct fields *f, double x);                              /* NAN: missing */
void fields_count(struct fields *f, size_t n);
void fields_end(struct fields *f);

#endif
