/*
 * From caption files to the content of tokens.safetensors. The files are the sizes of one data
 * set: each is a prefix of the next, so that only the last one is tokenized and the others are
 * compared with it, line by line, in one pass over all of them.
 */
#ifndef AQ_TEXT_DATASET_H
#define AQ_TEXT_DATASET_H

#include "base/err.h"
#include "text/tokenizer.h"
#include "text/tokens.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { DATASET_MAX_SAMPLES = 10000000 };

struct dataset_size {
    const char *name, *path;
};

struct dataset {
    const struct dataset_size *sizes; /* in rising order */
    size_t count;
    int64_t seq_len; /* longer captions lose their end */
    bool max_length; /* padding rule, recorded for the readers */
    int64_t limit;   /* captions taken at most; 0: all */
    /* Called for every sample of the last size, if not NULL. */
    void (*each)(void *context, int64_t sample, const char *text, size_t len, const int32_t *ids,
                 size_t count);
    void *context;
};

/* Caller releases out with tokens_release. */
int dataset_tokenize(struct tokens *out, const struct dataset *d, struct tokenizer *t,
                     struct aq_err *err) AQ_MUST_CHECK;

#endif
