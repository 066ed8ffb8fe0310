#include "report/escape.h"
#include "base/err.h"
#include "base/utf8.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Marks that reorder or hide the text around them, and code points that are not characters. */
static bool is_hidden(uint32_t c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0xad || c == 0x061c || c == 0x180e ||
           (c >= 0x200b && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) ||
           (c >= 0x2060 && c <= 0x206f) || c == 0xfeff || (c >= 0xfff0 && c <= 0xfffb) ||
           (c & 0xfffe) == 0xfffe || (c >= 0xe0000 && c <= 0xe0fff);
}

/* Copies text; `special` gives the replacement of an ASCII character, or NULL to keep it. */
static void escape(struct aq_buf *out, const char *text, const char *(*special)(char c))
{
    const unsigned char *p = (const unsigned char *)text;
    size_t left = strlen(text);
    for (;;) {
        size_t plain = 0; /* nearly all text is kept, a run at a time */
        while (plain < left && p[plain] >= 0x20 && p[plain] < 0x7f && !special((char)p[plain]))
            plain++;
        aq_buf_add(out, p, plain);
        p += plain;
        left -= plain;
        if (left == 0)
            return;
        uint32_t c;
        int n = aq_utf8_decode(p, left, &c);
        const char *other = n == 1 && c >= 0x20 && c < 0x7f ? special((char)c) : NULL;
        if (n <= 0) {
            n = 1;
            aq_buf_addf(out, "\\x%02x", p[0]);
        } else if (is_hidden(c)) {
            aq_buf_addf(out, c < 0x80 ? "\\x%02x" : "\\u{%04x}", (unsigned)c);
        } else if (other) {
            aq_buf_adds(out, other);
        } else {
            aq_buf_add(out, p, (size_t)n);
        }
        p += n;
        left -= (size_t)n;
    }
}

static const char *html(char c)
{
    switch (c) {
    case '&':
        return "&amp;";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '"':
        return "&quot;";
    case '\'':
        return "&#39;";
    default:
        return NULL;
    }
}

static const char *cell(char c)
{
    switch (c) {
    case '|':
        return "\\|";
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '&':
        return "&amp;";
    case '`':
        return "\\`";
    case '[':
        return "\\[";
    case ']':
        return "\\]";
    case '*':
        return "\\*";
    case '\\':
        return "\\\\";
    default:
        return NULL;
    }
}

static const char *code(char c)
{
    return c == '`' ? "'" : NULL; /* a code span cannot hold its own mark */
}

static const char *nothing(char c)
{
    (void)c;
    return NULL;
}

void escape_plain(struct aq_buf *out, const char *text)
{
    escape(out, text, nothing);
}

void escape_html(struct aq_buf *out, const char *text)
{
    escape(out, text, html);
}

void escape_cell(struct aq_buf *out, const char *text)
{
    escape(out, text, cell);
}

void escape_code(struct aq_buf *out, const char *text)
{
    escape(out, text, code);
}

static const char *quoted(char c)
{
    return c == '"' ? "\"\"" : NULL;
}

void escape_csv(struct aq_buf *out, const char *text)
{
    if (!strpbrk(text, ",\"")) { /* control characters are escaped: no line ends inside */
        escape(out, text, nothing);
        return;
    }
    aq_buf_addc(out, '"');
    escape(out, text, quoted);
    aq_buf_addc(out, '"');
}
