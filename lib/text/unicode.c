#include "text/unicode.h"
#include "base/utf8.h"
#include "text/unicode_data.h"

static bool in_ranges(const struct unicode_range *r, size_t count, uint32_t c)
{
    size_t lo = 0, hi = count;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (c > r[mid].last)
            lo = mid + 1;
        else if (c < r[mid].first)
            hi = mid;
        else
            return true;
    }
    return false;
}

static bool is_wide_space(uint32_t c)
{
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

static enum char_class ascii_class(uint32_t c)
{
    if ((c | 0x20) >= 'a' && (c | 0x20) <= 'z')
        return CHAR_LETTER;
    if (c >= '0' && c <= '9')
        return CHAR_NUMBER;
    if (c == '\r' || c == '\n')
        return CHAR_NEWLINE;
    return c == ' ' || (c >= '\t' && c <= '\r') ? CHAR_SPACE : CHAR_OTHER;
}

enum char_class char_class_of(uint32_t c)
{
    if (c < 0x80)
        return ascii_class(c);
    if (in_ranges(unicode_letters, UNICODE_LETTERS, c))
        return CHAR_LETTER;
    if (is_wide_space(c))
        return CHAR_SPACE;
    return in_ranges(unicode_numbers, UNICODE_NUMBERS, c) ? CHAR_NUMBER : CHAR_OTHER;
}

bool char_is_digit(uint32_t c)
{
    if (c < 0x80)
        return c >= '0' && c <= '9';
    return in_ranges(unicode_numbers, UNICODE_NUMBERS, c) ||
           in_ranges(unicode_digits, UNICODE_DIGITS, c);
}

bool char_is_space(uint32_t c)
{
    return c < 0x80 ? c == ' ' || (c >= '\t' && c <= '\r') : is_wide_space(c);
}

bool char_is_strippable(uint32_t c)
{
    return char_is_space(c) || (c >= 0x1c && c <= 0x1f);
}

size_t chars_leading(const char *text, size_t len, bool (*is)(uint32_t c))
{
    const unsigned char *s = (const unsigned char *)text;
    size_t at = 0;
    uint32_t c = 0;
    for (int n; (n = aq_utf8_decode(s + at, len - at, &c)) > 0 && is(c);)
        at += (size_t)n;
    return at;
}

size_t chars_trailing(const char *text, size_t len, bool (*is)(uint32_t c))
{
    const unsigned char *s = (const unsigned char *)text;
    size_t left = len;
    while (left) {
        size_t from = left - 1;
        uint32_t c = 0;
        while (from && (s[from] & 0xc0) == 0x80)
            from--;
        if (aq_utf8_decode(s + from, left - from, &c) <= 0 || !is(c))
            break;
        left = from;
    }
    return len - left;
}
