#include "text/pretokenize.h"
#include "base/utf8.h"
#include "text/unicode.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define QWEN_TAIL "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define QWEN_HEAD "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"

const char *const split_patterns[3] = {
    [SPLIT_QWEN] = QWEN_HEAD "\\p{N}" QWEN_TAIL,
    [SPLIT_LLAMA3] = QWEN_HEAD "\\p{N}{1,3}" QWEN_TAIL,
    [SPLIT_GPT2] =
        "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
};

/* A place in the text with the character that is there. */
struct text_place {
    const unsigned char *s;
    size_t len, at, width; /* width 0: at the end */
    enum char_class class;
};

static void look(struct text_place *c)
{
    uint32_t code = 0;
    int n = aq_utf8_decode(c->s + c->at, c->len - c->at, &code);
    c->width = n > 0 ? (size_t)n : 0;
    c->class = char_class_of(code);
}

static void step(struct text_place *c)
{
    c->at += c->width;
    look(c);
}

static void skip(struct text_place *c, enum char_class class)
{
    while (c->width && c->class == class)
        step(c);
}

static bool is_space(const struct text_place *c)
{
    return c->class == CHAR_SPACE || c->class == CHAR_NEWLINE;
}

/* Length of "'s", "'re" and so on at p; 0 if there is none. */
static size_t contraction(const unsigned char *p, size_t n, bool any_case)
{
    if (n < 2 || p[0] != '\'')
        return 0;
    unsigned fold = any_case ? 0x20 : 0;
    unsigned a = p[1] | fold, b = n > 2 ? p[2] | fold : 0;
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return 2;
    if (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l'))
        return 3;
    if (any_case && n > 2 && p[1] == 0xc5 && p[2] == 0xbf)
        return 3; /* U+017F, the long s, is an s to a match that ignores case */
    return 0;
}

/* A run of spaces, at its start. With `lines`, it goes up to its last line end if it has one. */
static size_t space_end(struct text_place *c, bool lines)
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
    if (newline_end && lines)
        return newline_end;
    if (c->width == 0 || count == 1)
        return c->at;
    return last; /* the last one belongs to what follows */
}

static size_t qwen_end(struct text_place c, int digits)
{
    size_t n = contraction(c.s + c.at, c.len - c.at, true);
    if (n)
        return c.at + n;
    look(&c);
    struct text_place next = c;
    step(&next);
    if (c.class == CHAR_LETTER || (c.class != CHAR_NUMBER && c.class != CHAR_NEWLINE &&
                                   next.width && next.class == CHAR_LETTER)) {
        skip(&next, CHAR_LETTER);
        return next.at;
    }
    if (c.class == CHAR_NUMBER) {
        while (--digits && next.width && next.class == CHAR_NUMBER)
            step(&next);
        return next.at;
    }
    if (c.class == CHAR_OTHER || (c.s[c.at] == ' ' && next.width && next.class == CHAR_OTHER)) {
        skip(&next, CHAR_OTHER);
        skip(&next, CHAR_NEWLINE);
        return next.at;
    }
    return space_end(&c, true);
}

static size_t gpt2_end(struct text_place c)
{
    size_t n = contraction(c.s + c.at, c.len - c.at, false);
    if (n)
        return c.at + n;
    look(&c);
    struct text_place word = c;
    if (c.s[c.at] == ' ')
        step(&word);
    if (word.width && !is_space(&word)) {
        skip(&word, word.class);
        return word.at;
    }
    return space_end(&c, false);
}

static size_t digits_end(const struct text_place *c, bool individual)
{
    size_t at = c->at;
    bool first = false;
    uint32_t code = 0;
    for (int n; (n = aq_utf8_decode(c->s + at, c->len - at, &code)) > 0; at += (size_t)n) {
        bool digit = char_is_digit(code);
        if (at == c->at)
            first = digit;
        else if (digit != first || (first && individual))
            break;
    }
    return at;
}

/* Where the next mark after `at` is, or the end. */
static size_t next_mark(const char *text, size_t len, size_t at)
{
    const char *p =
        at + 1 < len ? memmem(text + at + 1, len - at - 1, BLANK_MARK, strlen(BLANK_MARK)) : NULL;
    return p ? (size_t)(p - text) : len;
}

size_t split_end(enum split split, const char *text, size_t len, size_t at)
{
    struct text_place c = {.s = (const unsigned char *)text, .len = len, .at = at};
    const char *blank;
    switch (split) {
    case SPLIT_QWEN:
        return qwen_end(c, 1);
    case SPLIT_LLAMA3:
        return qwen_end(c, 3);
    case SPLIT_GPT2:
        return gpt2_end(c);
    case SPLIT_DIGITS:
    case SPLIT_DIGIT:
        return digits_end(&c, split == SPLIT_DIGIT);
    case SPLIT_AFTER_BLANK:
        blank = memchr(text + at, ' ', len - at);
        return blank ? (size_t)(blank + 1 - text) : len;
    case SPLIT_AT_MARK:
        return next_mark(text, len, at);
    }
    return len;
}
