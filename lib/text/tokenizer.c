#include "base/mem.h"
#include "base/utf8.h"
#include "text/normalize.h"
#include "text/pretokenize.h"
#include "text/tokenizer_impl.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* ---- bytes as characters ---- */

static bool is_printable(unsigned c)
{
    return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xac) || c >= 0xae;
}

/* The 68 others, in ascending order, begin at U+0100. */
uint32_t byte_to_char(unsigned char byte)
{
    if (is_printable(byte))
        return byte;
    uint32_t n = 0x100;
    for (unsigned c = 0; c < byte; c++)
        n += !is_printable(c);
    return n;
}

int char_to_byte(uint32_t c)
{
    for (int b = 0; b < 256; b++)
        if (byte_to_char((unsigned char)b) == c)
            return b;
    return -1;
}

/* ---- encoding ---- */

/* A stretch of text without added tokens. */
static int encode_plain(struct tokenizer *t, const char *text, size_t len, size_t stop,
                        struct ids *out, struct aq_err *err)
{
    if (!nfc_is_trivial(text, len)) {
        if (nfc_normalize(&t->normalized, text, len, err) < 0)
            return -1;
        text = aq_buf_str(&t->normalized);
        len = t->normalized.len;
    }
    for (size_t at = 0; at < len && out->count < stop;) {
        size_t end = pretoken_end(text, len, at);
        bpe_encode(&t->bpe, (const unsigned char *)text + at, end - at, out);
        at = end;
    }
    return 0;
}

int tokenizer_encode(struct tokenizer *t, const char *text, size_t len, size_t enough,
                     struct ids *out, struct aq_err *err)
{
    size_t stop = out->count + enough;
    size_t bad = aq_utf8_check(text, len);
    if (bad < len)
        return aq_err_set(err, AQ_EINPUT, "not valid UTF-8 at byte %zu", bad + 1);
    for (size_t at = 0; at < len && out->count < stop;) {
        size_t end = len;
        const struct added_token *a = added_search(&t->added, text, len, at, &end);
        if (encode_plain(t, text + at, end - at, stop, out, err) < 0)
            return -1;
        if (a) {
            ids_reserve(out, 1);
            out->items[out->count++] = a->id;
            end += a->len;
        }
        at = end;
    }
    return 0;
}

const char *tokenizer_digest(const struct tokenizer *t)
{
    return t->digest;
}

int32_t tokenizer_pad_id(const struct tokenizer *t)
{
    return t->pad_id;
}

void tokenizer_piece(const struct tokenizer *t, int32_t id, struct aq_buf *out)
{
    for (size_t i = 0; i < t->added.count; i++)
        if (t->added.items[i].id == id) {
            aq_buf_adds(out, t->added.items[i].text);
            return;
        }
    if (id < 0 || (uint32_t)id >= t->vocab.count)
        return;
    const unsigned char *s = (const unsigned char *)t->vocab.symbols[id];
    for (size_t n = strlen((const char *)s); n;) {
        uint32_t c = 0;
        int used = aq_utf8_decode(s, n, &c);
        int byte = used > 0 ? char_to_byte(c) : -1;
        if (byte < 0)
            return;
        aq_buf_addc(out, (char)byte);
        s += used;
        n -= (size_t)used;
    }
}

void tokenizer_free(struct tokenizer *t)
{
    if (!t)
        return;
    vocab_release(&t->vocab);
    bpe_release(&t->bpe);
    added_release(&t->added);
    aq_buf_release(&t->normalized);
    free(t);
}
