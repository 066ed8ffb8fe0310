#include "score/prefixes.h"

#include "base/fmt.h"
#include "base/mem.h"
#include "base/msg.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void of_tokens(struct prefixes *p, const struct tokens *t)
{
    for (size_t i = 0; i < t->size_count && p->count < MAX_PREFIXES; i++)
        if (p->count == 0 || t->sizes[i].samples > p->items[p->count - 1])
            p->items[p->count++] = t->sizes[i].samples;
}

static int add(struct prefixes *p, const char *word, struct aq_err *err)
{
    int64_t n;
    if (!aq_parse_i64(word, &n) || n < 1)
        return aq_err_set(err, AQ_EUSAGE, "--prefix: '%s' is not a positive number", aq_show(word));
    if (p->count && n <= p->items[p->count - 1])
        return aq_err_set(err, AQ_EUSAGE, "--prefix: %" PRId64 " does not come after %" PRId64, n,
                          p->items[p->count - 1]);
    if (p->count == MAX_PREFIXES)
        return aq_err_set(err, AQ_EUSAGE, "--prefix: more than %d numbers", MAX_PREFIXES);
    p->items[p->count++] = n;
    return 0;
}

/* A data set may be shorter than the sizes asked of it: those that it has are used. */
static int leave_out(struct prefixes *p, int64_t samples, struct aq_err *err)
{
    while (p->count && p->items[p->count - 1] > samples) {
        int64_t n = p->items[p->count - 1];
        if (p->count == 1)
            return aq_err_set(err, AQ_EUSAGE,
                              "--prefix: %" PRId64 ", but there are only %" PRId64 " samples", n,
                              samples);
        aq_warn("--prefix: %" PRId64 " is left out, there are only %" PRId64 " samples", n,
                samples);
        p->count--;
    }
    return 0;
}

int prefixes_parse(struct prefixes *p, const char *text, const struct tokens *tokens,
                   struct aq_err *err)
{
    *p = (struct prefixes){.count = 0};
    if (!text) {
        of_tokens(p, tokens);
        return 0;
    }
    char *copy = xstrdup(text), *rest = copy, *word;
    int status = 0;
    while (status == 0 && (word = strsep(&rest, ",")))
        status = add(p, word, err);
    free(copy);
    return status < 0 ? -1 : leave_out(p, tokens->samples, err);
}
