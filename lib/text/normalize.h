/*
 * Unicode normalization form C as Hugging Face tokenizers has it, in time linear in the text also
 * for hostile runs of marks.
 */
#ifndef AQ_TEXT_NORMALIZE_H
#define AQ_TEXT_NORMALIZE_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

/* True if the text is certainly NFC already: no code point from U+0300 on. */
bool nfc_is_trivial(const char *text, size_t len);
/* Replaces out's content. text is valid UTF-8. */
int nfc_normalize(struct aq_buf *out, const char *text, size_t len,
                  struct aq_err *err) AQ_MUST_CHECK;

#endif
