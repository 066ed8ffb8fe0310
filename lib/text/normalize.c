#include "text/normalize.h"
#include "base/mem.h"
#include "base/utf8.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

bool nfc_is_trivial(const char *text, size_t len)
{
    /* U+0300 is CC 80 */
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] >= 0xcc)
            return false;
    return true;
}

static int class_of(utf8proc_int32_t c)
{
    return c < 0x300 ? 0 : utf8proc_get_property(c)->combining_class;
}

/*
 * Stable sort of a run of marks by combining class, by counting: utf8proc's own sort exchanges
 * neighbours, which takes hours on a megabyte of marks.
 */
static void sort_run(utf8proc_int32_t *run, size_t n, utf8proc_int32_t *spare)
{
    size_t start[257] = {0};
    for (size_t i = 0; i < n; i++)
        start[class_of(run[i]) + 1]++;
    for (size_t k = 1; k < 257; k++)
        start[k] += start[k - 1];
    for (size_t i = 0; i < n; i++)
        spare[start[class_of(run[i])]++] = run[i];
    memcpy(run, spare, n * sizeof *run);
}

static void order_marks(utf8proc_int32_t *c, size_t n, utf8proc_int32_t *spare)
{
    for (size_t i = 0; i < n;) {
        size_t from = i;
        while (i < n && class_of(c[i]) != 0)
            i++;
        if (i - from > 1)
            sort_run(c + from, i - from, spare);
        i += i == from;
    }
}

/* Characters grow to at most 4 code points under canonical decomposition. */
static size_t decompose(utf8proc_int32_t *to, size_t room, const char *text, size_t len)
{
    size_t n = 0;
    int last = 0;
    for (size_t at = 0; at < len;) {
        uint32_t c = 0;
        int used = aq_utf8_decode((const unsigned char *)text + at, len - at, &c);
        if (used <= 0)
            break; /* the text was checked before */
        at += (size_t)used;
        utf8proc_ssize_t k =
            utf8proc_decompose_char((utf8proc_int32_t)c, to + n, (utf8proc_ssize_t)(room - n),
                                    UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &last);
        n += (size_t)k;
    }
    return n;
}

int nfc_normalize(struct aq_buf *out, const char *text, size_t len, struct aq_err *err)
{
    aq_buf_reset(out);
    size_t room = 4 * len + 4;
    /* two arrays: the code points, one byte more for the library's NUL, and the sort's spare */
    size_t bytes = (2 * room + 1) * sizeof(utf8proc_int32_t);
    utf8proc_int32_t *points = malloc(bytes);
    if (!points)
        return aq_err_set(err, AQ_ERUN, "cannot get %.1f MB to normalize a line",
                          (double)bytes / 1e6);
    size_t n = decompose(points, room, text, len);
    order_marks(points, n, points + room + 1);
    utf8proc_ssize_t size =
        utf8proc_reencode(points, (utf8proc_ssize_t)n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    int r = 0;
    if (size < 0)
        r = aq_err_set(err, AQ_ERUN, "cannot normalize a line: %s", utf8proc_errmsg(size));
    else
        aq_buf_add(out, points, (size_t)size);
    free(points);
    return r;
}
