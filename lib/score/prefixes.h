/* The data-set sizes of a call: how many of the first samples each of them has. */
#ifndef AQ_SCORE_PREFIXES_H
#define AQ_SCORE_PREFIXES_H

#include "base/err.h"
#include "text/tokens.h"

#include <stddef.h>
#include <stdint.h>

enum { MAX_PREFIXES = 64 };

struct prefixes {
    int64_t items[MAX_PREFIXES]; /* rising */
    size_t count;
};

/*
 * From --prefix ("16,128,512": whole numbers, rising, else AQ_EUSAGE), or with NULL the sizes that
 * the tokens name, which may be none. Those that are larger than the data set are left out with a
 * warning; AQ_EUSAGE if all are.
 */
int prefixes_parse(struct prefixes *p, const char *text, const struct tokens *tokens,
                   struct aq_err *err) AQ_MUST_CHECK;

#endif
