/*
 * From the files of a data set to the content of tokens.safetensors. The files are the sizes of one
 * data set: each is a prefix of the next, so that only the last one is tokenized and the others are
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

enum dataset_format { DATASET_AUTO, DATASET_TEXT, DATASET_JSONL };

struct dataset_size {
    const char *name, *path;
};

struct dataset {
    const struct dataset_size *sizes; /* in rising order */
    size_t count;
    enum dataset_format format;
    int64_t seq_len; /* longer samples lose their end */
    bool max_length; /* padding rule, recorded for the readers */
    int64_t limit;   /* samples taken at most; 0: all */
    /* > 0: long text becomes samples of up to `window` ids, one begins `stride` ids after the one
       before it (0: where that one ends). seq_len is at least `window`. */
    int64_t window, stride;
    bool no_special; /* nothing around a text, whatever the tokenizer's post-processor says */
    int32_t pad_id;  /* -1: the tokenizer's */
    /* Called for every sample of the last size, if not NULL. */
    void (*each)(void *context, int64_t sample, const char *text, size_t len, const int32_t *ids,
                 size_t count);
    void *context;
};

/* t may be NULL for ready-made ids. Caller releases out with tokens_release. */
int dataset_tokenize(struct tokens *out, const struct dataset *d, struct tokenizer *t,
                     struct aq_err *err) AQ_MUST_CHECK;

#endif
