/*
 * Caption files: UTF-8 text, one caption a line. Lines end at LF, CRLF or a lone CR; each is
 * stripped on both sides of what Python's str.strip() removes (a byte-order mark is not white
 * space and stays); empty lines are skipped; order is kept. Read as a stream, so that a file may be
 * of any size and may be a pipe.
 */
#ifndef AQ_TEXT_CAPTIONS_H
#define AQ_TEXT_CAPTIONS_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CAPTIONS_MAX_LINE = 16 << 20 };

struct captions {
    char *path;
    int fd;
    char *block; /* bytes read ahead */
    size_t at, len;
    bool after_cr; /* an LF here belongs to the line end before it */
    bool ended;
    uint64_t line; /* of the last caption, from 1 */
    struct aq_buf text;
};

/* "-" is standard input. */
int captions_open(struct captions *c, const char *path, struct aq_err *err) AQ_MUST_CHECK;
void captions_close(struct captions *c);
/*
 * The next caption: 1 and its text (borrowed until the next call), 0 at the end, -1 on error.
 * Invalid UTF-8 and overlong lines are AQ_EINPUT with file and line.
 */
int captions_next(struct captions *c, const char **text, size_t *len,
                  struct aq_err *err) AQ_MUST_CHECK;

#endif
