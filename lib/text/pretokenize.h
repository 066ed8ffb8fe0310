/*
 * The split of Qwen2 and Qwen3 text into pre-tokens, as a procedure that gives what this pattern
 * gives (ordered alternatives, leftmost, greedy):
 *
 *   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*
 *   |\s*[\r\n]+|\s+(?!\S)|\s+
 *
 * The pre-tokens cover the text without gaps.
 */
#ifndef AQ_TEXT_PRETOKENIZE_H
#define AQ_TEXT_PRETOKENIZE_H

#include <stddef.h>

#define PRETOKEN_PATTERN                                                                           \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+"      \
    "[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* End of the pre-token that begins at `at` < len. text is valid UTF-8. */
size_t pretoken_end(const char *text, size_t len, size_t at);

#endif
