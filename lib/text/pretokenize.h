/*
 * How a text is split into words: an enumeration of the ways that published tokenizers use, each a
 * procedure that gives what the pattern beside it gives (ordered alternatives, leftmost, greedy).
 * The pieces cover the text without gaps.
 */
#ifndef AQ_TEXT_PRETOKENIZE_H
#define AQ_TEXT_PRETOKENIZE_H

#include <stddef.h>

/* "Metaspace" and its like write a blank as this character, U+2581. */
#define BLANK_MARK "\xe2\x96\x81"

enum split {
    SPLIT_QWEN,        /* Qwen2, Qwen3 */
    SPLIT_LLAMA3,      /* the same with up to three digits together: Llama 3, SmolLM3, OLMo2 */
    SPLIT_GPT2,        /* ByteLevel's own: GPT-2, StarCoder, SmolLM2, Granite 3 */
    SPLIT_DIGITS,      /* Digits: runs of numbers and runs of anything else */
    SPLIT_DIGIT,       /* Digits with individual_digits */
    SPLIT_AFTER_BLANK, /* a piece ends with each U+0020: Gemma */
    SPLIT_AT_MARK,     /* a piece begins at each U+2581: Metaspace with split */
};

/* The pattern of the first three; others have none. */
extern const char *const split_patterns[3];

/* End of the piece that begins at `at` < len. text is valid UTF-8. */
size_t split_end(enum split split, const char *text, size_t len, size_t at);

#endif
