#include "text/captions.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "text/unicode.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 1 << 16 };

int captions_open(struct captions *c, const char *path, struct aq_err *err)
{
    bool standard = strcmp(path, "-") == 0;
    struct stat st;
    *c = (struct captions){.fd = standard ? STDIN_FILENO : aq_open_input(path, &st, err)};
    if (c->fd < 0)
        return -1;
    c->path = xstrdup(standard ? "standard input" : path);
    c->block = xmalloc(BLOCK);
    return 0;
}

void captions_close(struct captions *c)
{
    if (c->fd > STDIN_FILENO)
        (void)close(c->fd);
    free(c->path);
    free(c->block);
    aq_buf_release(&c->text);
    *c = (struct captions){.fd = -1};
}

/* 1: there are bytes at c->at; 0: end; -1: error. */
static int fill(struct captions *c, struct aq_err *err)
{
    while (c->at == c->len && !c->ended) {
        ssize_t n = aq_read_some(c->fd, c->block, BLOCK);
        if (n < 0)
            return aq_err_sys(err, AQ_ERUN, "cannot read '%s'", aq_show(c->path));
        c->ended = n == 0;
        c->at = 0;
        c->len = (size_t)n;
    }
    return c->at < c->len;
}

static size_t find_line_end(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n && p[i] != '\n' && p[i] != '\r')
        i++;
    return i;
}

/* The next raw line into c->text: 1, or 0 if there is none. */
static int read_line(struct captions *c, struct aq_err *err)
{
    bool any = false;
    aq_buf_reset(&c->text);
    for (;;) {
        int r = fill(c, err);
        if (r < 0)
            return -1;
        if (r == 0)
            return any;
        if (c->after_cr && c->block[c->at] == '\n')
            c->at++;
        c->after_cr = false;
        if (c->at == c->len)
            continue;
        if (!any)
            c->line++;
        any = true;
        size_t n = find_line_end(c->block + c->at, c->len - c->at);
        if (c->text.len + n > CAPTIONS_MAX_LINE)
            return aq_err_set(err, AQ_EINPUT, "%s:%" PRIu64 ": longer than %d bytes",
                              aq_show(c->path), c->line, CAPTIONS_MAX_LINE);
        aq_buf_add(&c->text, c->block + c->at, n);
        c->at += n;
        if (c->at < c->len) {
            c->after_cr = c->block[c->at++] == '\r';
            return 1;
        }
    }
}

int captions_next(struct captions *c, const char **text, size_t *len, struct aq_err *err)
{
    int r;
    while ((r = read_line(c, err)) > 0) {
        const char *s = aq_buf_str(&c->text);
        size_t bad = aq_utf8_check(s, c->text.len);
        if (bad < c->text.len)
            return aq_err_set(err, AQ_EINPUT, "%s:%" PRIu64 ":%zu: not valid UTF-8 (byte 0x%02x)",
                              aq_show(c->path), c->line, bad + 1, (unsigned char)s[bad]);
        size_t n = c->text.len - chars_trailing(s, c->text.len, char_is_strippable);
        size_t skip = chars_leading(s, n, char_is_strippable);
        if (n > skip) {
            *text = s + skip;
            *len = n - skip;
            return 1;
        }
    }
    return r;
}
