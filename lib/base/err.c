#include "base/err.h"
#include "base/utf8.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int aq_err_vset(struct aq_err *err, int code, const char *fmt, va_list ap)
{
    if (!err)
        return -1;
    err->code = code;
    err->hint[0] = '\0';
    if (vsnprintf(err->msg, sizeof err->msg, fmt, ap) < 0)
        err->msg[0] = '\0';
    return -1;
}

int(aq_err_set)(struct aq_err *err, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    aq_err_vset(err, code, fmt, ap);
    va_end(ap);
    return -1;
}

int(aq_err_sys)(struct aq_err *err, int code, const char *fmt, ...)
{
    int saved = errno;
    va_list ap;
    va_start(ap, fmt);
    aq_err_vset(err, code, fmt, ap);
    va_end(ap);
    if (err) {
        size_t n = strlen(err->msg);
        (void)snprintf(err->msg + n, sizeof err->msg - n, ": %s", strerror(saved));
    }
    return -1;
}

int(aq_err_prefix)(struct aq_err *err, const char *fmt, ...)
{
    if (!err)
        return -1;
    char old[sizeof err->msg];
    memcpy(old, err->msg, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n + 3 < sizeof err->msg) {
        size_t room = sizeof err->msg - (size_t)n;
        (void)snprintf(err->msg + n, room, ": %.*s", (int)(room - 3), old);
    }
    return -1;
}

int aq_err_hint(struct aq_err *err, const char *fmt, ...)
{
    if (!err)
        return -1;
    va_list ap;
    va_start(ap, fmt);
    if (vsnprintf(err->hint, sizeof err->hint, fmt, ap) < 0)
        err->hint[0] = '\0';
    va_end(ap);
    return -1;
}

/* Marks that reorder or hide the text around them. */
static int is_disguise(uint32_t c)
{
    return c == 0x061c || (c >= 0x200b && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) ||
           (c >= 0x2060 && c <= 0x206f) || c == 0xfeff || (c >= 0xfff9 && c <= 0xfffb);
}

static size_t show_one(char *out, size_t cap, const unsigned char *s, size_t left, size_t *used)
{
    uint32_t c;
    int n = aq_utf8_decode(s, left, &c);
    char piece[16];
    if (n <= 0) {
        n = 1;
        (void)snprintf(piece, sizeof piece, "\\x%02x", s[0]);
    } else if (c < 0x20 || c == 0x7f) {
        (void)snprintf(piece, sizeof piece,
                       c == '\n'   ? "\\n"
                       : c == '\t' ? "\\t"
                       : c == '\r' ? "\\r"
                                   : "\\x%02x",
                       (unsigned)c);
    } else if ((c >= 0x80 && c < 0xa0) || is_disguise(c)) {
        (void)snprintf(piece, sizeof piece, "\\u{%04x}", (unsigned)c);
    } else {
        memcpy(piece, s, (size_t)n);
        piece[n] = '\0';
    }
    size_t len = strlen(piece);
    if (len >= cap)
        return 0;
    memcpy(out, piece, len + 1);
    *used = (size_t)n;
    return len;
}

const char *aq_show_n(const char *text, unsigned long len)
{
    enum { RING = 8, CAP = 240 };
    static _Thread_local char ring[RING][CAP];
    static _Thread_local int next;
    char *out = ring[next];
    next = (next + 1) % RING;
    size_t at = 0;
    size_t i = 0;
    out[0] = '\0';
    while (i < len) {
        size_t used = 0;
        size_t n =
            show_one(out + at, CAP - 4 - at, (const unsigned char *)text + i, len - i, &used);
        if (n == 0) {
            memcpy(out + at, "...", 4);
            break;
        }
        at += n;
        i += used;
    }
    return out;
}

const char *aq_show(const char *text)
{
    return text ? aq_show_n(text, strlen(text)) : "(null)";
}
