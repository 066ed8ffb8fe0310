/* Classes of code points as the pre-tokenizer of Qwen2 and Qwen3 tells them apart. */
#ifndef AQ_TEXT_UNICODE_H
#define AQ_TEXT_UNICODE_H

#include <stdbool.h>
#include <stdint.h>

enum char_class {
    CHAR_LETTER,  /* general categories Lu Ll Lt Lm Lo */
    CHAR_NUMBER,  /* Nd Nl No */
    CHAR_NEWLINE, /* CR and LF; they are spaces too */
    CHAR_SPACE,   /* other characters with the property White_Space */
    CHAR_OTHER,   /* marks, punctuation, symbols, controls, private use, unassigned */
};

enum char_class char_class_of(uint32_t c);
/* What Python's str.strip() removes: White_Space and the separators U+001C to U+001F. */
bool char_is_strippable(uint32_t c);

#endif
