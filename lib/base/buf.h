/* A growing byte buffer, always with a NUL after its last byte. Start with AQ_BUF_INIT. */
#ifndef AQ_BASE_BUF_H
#define AQ_BASE_BUF_H

#include "base/err.h"

#include <stddef.h>

struct aq_buf {
    char *data; /* never NULL once something was added */
    size_t len, cap;
};

#define AQ_BUF_INIT                                                                                \
    {                                                                                              \
        NULL, 0, 0                                                                                 \
    }

void aq_buf_release(struct aq_buf *b);
void aq_buf_reset(struct aq_buf *b);                /* length 0, memory kept */
void aq_buf_reserve(struct aq_buf *b, size_t more); /* room for more bytes and the NUL */
void aq_buf_add(struct aq_buf *b, const void *bytes, size_t n);
void aq_buf_adds(struct aq_buf *b, const char *s);
void aq_buf_addc(struct aq_buf *b, char c);
void aq_buf_addf(struct aq_buf *b, const char *fmt, ...) AQ_PRINTF(2, 3);
char *aq_buf_detach(struct aq_buf *b);          /* caller frees; never NULL */
const char *aq_buf_str(const struct aq_buf *b); /* "" if empty */

#endif
