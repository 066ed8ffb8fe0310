/*
 * Classes of code points as the pre-tokenizers of Hugging Face tokenizers tell them apart, whatever
 * version of Unicode the system has.
 */
#ifndef AQ_TEXT_UNICODE_H
#define AQ_TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum char_class {
    CHAR_LETTER,  /* general categories Lu Ll Lt Lm Lo */
    CHAR_NUMBER,  /* Nd Nl No */
    CHAR_NEWLINE, /* CR and LF; they are spaces too */
    CHAR_SPACE,   /* other characters with the property White_Space */
    CHAR_OTHER,   /* marks, punctuation, symbols, controls, private use, unassigned */
};

enum char_class char_class_of(uint32_t c);
/* A number to the pre-tokenizer Digits, which knows a newer Unicode than the patterns. */
bool char_is_digit(uint32_t c);
/* The property White_Space. */
bool char_is_space(uint32_t c);
/* What Python's str.strip() removes: White_Space and the separators U+001C to U+001F. */
bool char_is_strippable(uint32_t c);

/* Bytes at the start of a text, or before its end, whose characters are all `is`. Valid UTF-8. */
size_t chars_leading(const char *text, size_t len, bool (*is)(uint32_t c));
size_t chars_trailing(const char *text, size_t len, bool (*is)(uint32_t c));

#endif
