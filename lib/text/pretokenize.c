#include "text/pretokenize.h"
#include "base/utf8.h"
#include "text/unicode.h"

#include <stdbool.h>
#include <stdint.h>

/* A place in the text with the character that is there. */
struct cursor {
    const unsigned char *s;
    size_t len, at, width; /* width 0: at the end */
    enum char_class class;
};

static void look(struct cursor *c)
{
    uint32_t code = 0;
    int n = aq_utf8_decode(c->s + c->at, c->len - c->at, &code);
    c->width = n > 0 ? (size_t)n : 0;
    c->class = char_class_of(code);
}

static void step(struct cursor *c)
{
    c->at += c->width;
    look(c);
}

static void skip(struct cursor *c, enum char_class class)
{
    while (c->width && c->class == class)
        step(c);
}

static bool is_space(const struct cursor *c)
{
    return c->class == CHAR_SPACE || c->class == CHAR_NEWLINE;
}

/* Length of "'s", "'re" and so on at p; 0 if there is none. */
static size_t contraction(const unsigned char *p, size_t n)
{
    if (n < 2 || p[0] != '\'')
        return 0;
    unsigned a = p[1] | 0x20U, b = n > 2 ? p[2] | 0x20U : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return 2;
    if (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l'))
        return 3;
    if (n > 2 && p[1] == 0xc5 && p[2] == 0xbf)
        return 3; /* U+017F, the long s, is an s to a match that ignores case */
    return 0;
}

/* A run of spaces, at its start. */
static size_t space_end(struct cursor *c)
{
    size_t newline_end = 0, last = c->at, count = 0;
    while (c->width && is_space(c)) {
        bool newline = c->class == CHAR_NEWLINE;
        last = c->at;
        count++;
        step(c);
        if (newline)
            newline_end = c->at;
    }
    if (newline_end)
        return newline_end;
    if (c->width == 0 || count == 1)
        return c->at;
    return last; /* the last one belongs to what follows */
}

size_t pretoken_end(const char *text, size_t len, size_t at)
{
    struct cursor c = {.s = (const unsigned char *)text, .len = len, .at = at};
    size_t n = contraction(c.s + at, len - at);
    if (n)
        return at + n;
    look(&c);
    struct cursor next = c;
    step(&next);
    if (c.class == CHAR_LETTER || (c.class != CHAR_NUMBER && c.class != CHAR_NEWLINE &&
                                   next.width && next.class == CHAR_LETTER)) {
        skip(&next, CHAR_LETTER);
        return next.at;
    }
    if (c.class == CHAR_NUMBER)
        return next.at;
    if (c.class == CHAR_OTHER || (c.s[at] == ' ' && next.width && next.class == CHAR_OTHER)) {
        skip(&next, CHAR_OTHER);
        skip(&next, CHAR_NEWLINE);
        return next.at;
    }
    return space_end(&c);
}
