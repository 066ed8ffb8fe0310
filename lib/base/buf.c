#include "base/buf.h"
#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void aq_buf_release(struct aq_buf *b)
{
    free(b->data);
    *b = (struct aq_buf)AQ_BUF_INIT;
}

void aq_buf_reset(struct aq_buf *b)
{
    b->len = 0;
    if (b->data)
        b->data[0] = '\0';
}

void aq_buf_reserve(struct aq_buf *b, size_t more)
{
    size_t need = b->len + more + 1;
    if (need <= b->cap)
        return;
    size_t cap = b->cap ? b->cap : 64;
    while (cap < need)
        cap += cap / 2;
    b->data = xrealloc(b->data, cap);
    b->cap = cap;
    b->data[b->len] = '\0';
}

void aq_buf_add(struct aq_buf *b, const void *bytes, size_t n)
{
    aq_buf_reserve(b, n);
    if (n)
        memcpy(b->data + b->len, bytes, n);
    b->len += n;
    b->data[b->len] = '\0';
}

void aq_buf_adds(struct aq_buf *b, const char *s)
{
    aq_buf_add(b, s, strlen(s));
}

void aq_buf_addc(struct aq_buf *b, char c)
{
    aq_buf_add(b, &c, 1);
}

void aq_buf_addf(struct aq_buf *b, const char *fmt, ...)
{
    enum { USUAL = 80 }; /* longer text is formatted once more */
    va_list ap, again;
    aq_buf_reserve(b, USUAL);
    size_t room = b->cap - b->len;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(b->data + b->len, room, fmt, ap);
    va_end(ap);
    if (n > 0 && (size_t)n >= room) {
        aq_buf_reserve(b, (size_t)n);
        (void)vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
    }
    va_end(again);
    b->len += n > 0 ? (size_t)n : 0;
    b->data[b->len] = '\0';
}

char *aq_buf_detach(struct aq_buf *b)
{
    aq_buf_reserve(b, 0);
    char *p = b->data;
    *b = (struct aq_buf)AQ_BUF_INIT;
    return p;
}

const char *aq_buf_str(const struct aq_buf *b)
{
    return b->data ? b->data : "";
}
