/* The strict grammar check that runs before cJSON sees a text. Private to io/json.c and tests. */
#ifndef AQ_IO_JSON_CHECK_H
#define AQ_IO_JSON_CHECK_H

#include "base/err.h"

#include <stddef.h>

/* Numbers of a document in order of appearance: what cJSON's tree cannot say about them. */
struct json_numbers {
    unsigned char *kind; /* enum json_number_kind */
    size_t count, cap;
    size_t *wide; /* offset, length pairs of the JSON_WIDE ones */
    size_t wide_count, wide_cap;
};

enum json_number_kind {
    JSON_N_FLOAT,
    JSON_N_INT,  /* exact in a double */
    JSON_N_WIDE, /* an integer that is not, or any number too long for cJSON: its text is kept */
};

int json_check(const char *text, size_t len, const char *name, struct json_numbers *numbers,
               struct aq_err *err) AQ_MUST_CHECK;
void json_numbers_release(struct json_numbers *n);

#endif
