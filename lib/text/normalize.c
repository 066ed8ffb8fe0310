#include "text/normalize.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "text/unicode_data.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Syllables of Hangul are computed: 19 leading, 21 vowels, 28 trailing (the first is none). */
enum {
    SYLLABLE = 0xac00,
    LEAD = 0x1100,
    VOWEL = 0x1161,
    TRAIL = 0x11a7,
    LEADS = 19,
    VOWELS = 21,
    TRAILS = 28,
    SYLLABLES = LEADS * VOWELS * TRAILS,
    MOST_POINTS = 4, /* of one character under canonical decomposition */
};

bool nfc_is_trivial(const char *text, size_t len)
{
    /* U+0300 is CC 80 */
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] >= 0xcc)
            return false;
    return true;
}

static int class_of(uint32_t c)
{
    size_t lo = 0, hi = c < 0x300 ? 0 : UNICODE_CLASSES;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const struct unicode_class *k = &unicode_classes[mid];
        if (c > k->last)
            lo = mid + 1;
        else if (c < k->first)
            hi = mid;
        else
            return k->class;
    }
    return 0;
}

/*
 * Stable sort of a run of marks by combining class, by counting: exchanging neighbours would take
 * hours on a megabyte of marks.
 */
static void sort_run(uint32_t *run, size_t n, uint32_t *spare)
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

static void order_marks(uint32_t *c, size_t n, uint32_t *spare)
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

static const struct unicode_decomposition *find_decomposition(uint32_t c)
{
    size_t lo = 0, hi = c < 0xc0 ? 0 : UNICODE_DECOMPOSITIONS;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (unicode_decompositions[mid].code == c)
            return &unicode_decompositions[mid];
        if (unicode_decompositions[mid].code < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

/* Up to MOST_POINTS code points; their number. */
static size_t decompose_char(uint32_t *to, uint32_t c)
{
    if (c >= SYLLABLE && c < SYLLABLE + SYLLABLES) {
        uint32_t k = c - SYLLABLE;
        to[0] = LEAD + k / (VOWELS * TRAILS);
        to[1] = VOWEL + k / TRAILS % VOWELS;
        to[2] = TRAIL + k % TRAILS;
        return k % TRAILS ? 3 : 2;
    }
    const struct unicode_decomposition *d = find_decomposition(c);
    if (!d) {
        to[0] = c;
        return 1;
    }
    memcpy(to, unicode_points + d->at, d->count * sizeof *to);
    return d->count;
}

static size_t decompose(uint32_t *to, const char *text, size_t len)
{
    size_t n = 0;
    for (size_t at = 0; at < len;) {
        uint32_t c = 0;
        int used = aq_utf8_decode((const unsigned char *)text + at, len - at, &c);
        if (used <= 0)
            break; /* the text was checked before */
        at += (size_t)used;
        n += decompose_char(to + n, c);
    }
    return n;
}

/* What two code points compose to; 0 if they do not. */
static uint32_t compose_pair(uint32_t a, uint32_t b)
{
    if (a >= LEAD && a < LEAD + LEADS && b >= VOWEL && b < VOWEL + VOWELS)
        return SYLLABLE + ((a - LEAD) * VOWELS + (b - VOWEL)) * TRAILS;
    if (a >= SYLLABLE && a < SYLLABLE + SYLLABLES && (a - SYLLABLE) % TRAILS == 0 && b > TRAIL &&
        b < TRAIL + TRAILS)
        return a + (b - TRAIL);
    size_t lo = 0, hi = b < 0x300 ? 0 : UNICODE_PAIRS;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const struct unicode_pair *p = &unicode_pairs[mid];
        if (p->first == a && p->second == b)
            return p->composed;
        if (p->first < a || (p->first == a && p->second < b))
            lo = mid + 1;
        else
            hi = mid;
    }
    return 0;
}

/*
 * In place; the new number of code points. A code point joins the last starter unless one between
 * them has a class that is 0 or not below its own.
 */
static size_t compose(uint32_t *c, size_t n)
{
    size_t count = 0, starter = SIZE_MAX;
    for (size_t i = 0; i < n; i++) {
        int class = class_of(c[i]);
        bool next = count == starter + 1;
        if (starter != SIZE_MAX && (next || class_of(c[count - 1]) < class)) {
            uint32_t joined = compose_pair(c[starter], c[i]);
            if (joined) {
                c[starter] = joined;
                continue;
            }
        }
        if (class == 0)
            starter = count;
        c[count++] = c[i];
    }
    return count;
}

int nfc_normalize(struct aq_buf *out, const char *text, size_t len, struct aq_err *err)
{
    aq_buf_reset(out);
    size_t room = MOST_POINTS * len + 1;
    size_t bytes = 2 * room * sizeof(uint32_t); /* the code points, and the sort's spare */
    uint32_t *points = malloc(bytes);
    if (!points)
        return aq_err_set(err, AQ_ERUN, "cannot get %.1f MB to normalize a line",
                          (double)bytes / 1e6);
    size_t n = decompose(points, text, len);
    order_marks(points, n, points + room);
    n = compose(points, n);
    aq_buf_reserve(out, 4 * n);
    for (size_t i = 0; i < n; i++)
        out->len += (size_t)aq_utf8_encode(points[i], out->data + out->len);
    out->data[out->len] = '\0';
    free(points);
    return 0;
}
