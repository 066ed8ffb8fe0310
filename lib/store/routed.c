#include "store/routed.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

static int by_number(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

struct routed routed_of(const int32_t *counts, int64_t experts)
{
    struct routed r = {.experts = experts};
    int32_t *sorted = xmalloc((size_t)experts * sizeof *sorted);
    memcpy(sorted, counts, (size_t)experts * sizeof *sorted);
    qsort(sorted, (size_t)experts, sizeof *sorted, by_number);
    while (r.unseen < experts && sorted[r.unseen] == 0)
        r.unseen++;
    r.least = sorted[0];
    r.median = sorted[experts / 2];
    r.most = sorted[experts - 1];
    free(sorted);
    return r;
}

bool routed_partly(const struct routed *r)
{
    return 10 * r->unseen > r->experts;
}

void routed_write(const struct routed *r, struct json *object, const char *key)
{
    struct json *v = json_add_object(object, key);
    json_add_int(v, "experts", r->experts);
    json_add_int(v, "unseen", r->unseen);
    json_add_int(v, "least", r->least);
    json_add_int(v, "median", r->median);
    json_add_int(v, "most", r->most);
}

int routed_read(const struct jref *object, const char *key, struct routed *out, struct aq_err *err)
{
    enum { MOST_EXPERTS = 65536 };
    struct jref at;
    struct routed r;
    *out = (struct routed){0};
    if (!jref_has(object, key, &at))
        return 0;
    if (jref_is(&at, JSON_OBJECT, err) < 0 ||
        jref_int(&at, "experts", 1, MOST_EXPERTS, &r.experts, err) < 0 ||
        jref_int(&at, "unseen", 0, r.experts, &r.unseen, err) < 0 ||
        jref_int(&at, "least", 0, INT32_MAX, &r.least, err) < 0 ||
        jref_int(&at, "median", r.least, INT32_MAX, &r.median, err) < 0 ||
        jref_int(&at, "most", r.median, INT32_MAX, &r.most, err) < 0)
        return -1;
    if ((r.least == 0) != (r.unseen > 0))
        return jref_fail(&at, err, "'least' and 'unseen' contradict each other");
    *out = r;
    return 0;
}
