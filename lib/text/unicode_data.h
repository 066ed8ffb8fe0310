/*
 * Tables of Unicode, by code point, sorted; read through unicode.h and normalize.h. They are those
 * of Hugging Face tokenizers and not of the system, so that the ids of a text are the same
 * everywhere.
 */
#ifndef AQ_TEXT_UNICODE_DATA_H
#define AQ_TEXT_UNICODE_DATA_H

#include <stdint.h>

enum {
    UNICODE_LETTERS = 677,
    UNICODE_NUMBERS = 144,
    UNICODE_DIGITS = 2,
    UNICODE_CLASSES = 334,
    UNICODE_DECOMPOSITIONS = 2060,
    UNICODE_POINTS = 3404,
    UNICODE_PAIRS = 940,
};

struct unicode_range {
    uint32_t first, last;
};

/* The canonical combining class, as a rank: 1 is the lowest class that reorders. */
struct unicode_class {
    uint32_t first, last;
    uint8_t class;
};

/* The full canonical decomposition: unicode_points[at] to [at + count - 1]. */
struct unicode_decomposition {
    uint32_t code;
    uint16_t at;
    uint8_t count;
};

struct unicode_pair {
    uint32_t first, second, composed;
};

extern const struct unicode_range unicode_letters[], unicode_numbers[];
extern const struct unicode_range unicode_digits[]; /* numbers to the Digits pre-tokenizer alone */
extern const struct unicode_class unicode_classes[];
extern const struct unicode_decomposition unicode_decompositions[]; /* without Hangul syllables */
extern const uint32_t unicode_points[];
extern const struct unicode_pair unicode_pairs[];

#endif
