#include "base/suggest.h"
#include "base/err.h"
#include "base/mem.h"

#include <string.h>

enum { LONGEST = 96 };

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/*
 * Edit distance in which two neighbours that changed places count once (hepl, help). Long words
 * are never a slip of one another.
 */
static size_t distance(const char *a, const char *b)
{
    size_t la = strlen(a), lb = strlen(b);
    if (la > LONGEST || lb > LONGEST)
        return SIZE_MAX;
    size_t rows[3][LONGEST + 1]; /* of the last three lengths of a, in turn */
    for (size_t j = 0; j <= lb; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= la; i++) {
        size_t *row = rows[i % 3], *above = rows[(i + 2) % 3];
        const size_t *before = rows[(i + 1) % 3];
        row[0] = i;
        for (size_t j = 1; j <= lb; j++) {
            size_t best = above[j - 1] + (a[i - 1] != b[j - 1]);
            best = least(best, least(above[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = least(best, before[j - 2] + 1);
            row[j] = best;
        }
    }
    return rows[la % 3][lb];
}

const char *aq_nearest(const char *word, const char *const *names, size_t count)
{
    const char *best = NULL;
    size_t limit = strlen(word) / 3 + 2;
    for (size_t i = 0; i < count; i++) {
        size_t d = distance(word, names[i]);
        if (d < limit) {
            limit = d;
            best = names[i];
        }
    }
    return best;
}

void aq_join_names(struct aq_buf *out, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (i)
            aq_buf_adds(out, ", ");
        aq_buf_adds(out, aq_show(names[i]));
    }
}
