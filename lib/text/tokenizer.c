#include "base/mem.h"
#include "base/utf8.h"
#include "text/normalize.h"
#include "text/tokenizer_impl.h"
#include "text/unicode.h"

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

/* ---- normalizing ---- */

enum { MAX_GROWTH = 16 }; /* of a text by all steps; a blank becomes three bytes */

static void replace_all(struct aq_buf *out, const char *text, size_t len, const char *from,
                        const char *to)
{
    size_t n = strlen(from);
    aq_buf_reset(out);
    for (const char *p; (p = memmem(text, len, from, n)) != NULL;) {
        aq_buf_add(out, text, (size_t)(p - text));
        aq_buf_adds(out, to);
        len -= (size_t)(p - text) + n;
        text = p + n;
    }
    aq_buf_add(out, text, len);
}

int tokenizer_normalize(struct tokenizer *t, const char **text, size_t *len, struct aq_err *err)
{
    int next = 0; /* buffer to write to: not the one that *text is in */
    size_t most = MAX_GROWTH * *len + MAX_GROWTH * ADDED_MAX_BYTES;
    for (size_t i = 0; i < t->normal_count; i++) {
        const struct normal_step *step = &t->normals[i];
        struct aq_buf *out = &t->text[next];
        if (*len == 0 || (step->kind == NORMAL_NFC && nfc_is_trivial(*text, *len)))
            continue;
        if (step->kind == NORMAL_NFC) {
            if (nfc_normalize(out, *text, *len, err) < 0)
                return -1;
        } else if (step->kind == NORMAL_PREPEND) {
            aq_buf_reset(out);
            aq_buf_adds(out, step->to);
            aq_buf_add(out, *text, *len);
        } else {
            replace_all(out, *text, *len, step->from, step->to);
        }
        if (out->len > most)
            return aq_err_set(err, AQ_EINPUT,
                              "the normalizer makes a text of %zu bytes more than %d times as long",
                              *len, MAX_GROWTH);
        *text = aq_buf_str(out);
        *len = out->len;
        next ^= 1;
    }
    return 0;
}

/* ---- one word ---- */

/* The word in the vocabulary's own spelling. */
static void spell(struct tokenizer *t, const char *word, size_t len)
{
    aq_buf_reset(&t->spelling);
    for (size_t i = 0; i < len && t->byte_level; i++) {
        char symbol[4];
        int n = aq_utf8_encode(byte_to_char((unsigned char)word[i]), symbol);
        aq_buf_add(&t->spelling, symbol, (size_t)n);
    }
    if (!t->byte_level)
        aq_buf_add(&t->spelling, word, len);
}

/* Bytes of the character at a place, 1 in a byte-level vocabulary, and its id, -1 if it has none.
 */
static size_t first_symbol(const struct tokenizer *t, const char *s, size_t len, int32_t *id)
{
    uint32_t c = 0;
    int n = 1;
    if (t->byte_level) {
        *id = t->byte_id[(unsigned char)*s];
    } else {
        n = aq_utf8_decode((const unsigned char *)s, len, &c);
        n = n > 0 ? n : 1;
        *id = (int32_t)vocab_id(&t->vocab, s, (size_t)n);
    }
    return (size_t)n;
}

/* All bytes of a character as ids of their own; false if one of them has none. */
static bool fall_back(const struct tokenizer *t, const char *s, size_t n, struct ids *out)
{
    if (t->byte_level)
        return false;
    for (size_t i = 0; i < n; i++)
        if (t->byte_id[(unsigned char)s[i]] < 0)
            return false;
    for (size_t i = 0; i < n; i++)
        ids_push(out, t->byte_id[(unsigned char)s[i]]);
    return true;
}

static int fail_symbol(const struct tokenizer *t, const char *s, size_t n, struct aq_err *err)
{
    if (t->byte_level)
        return aq_err_set(err, AQ_EINPUT, "byte 0x%02x has no symbol in the vocabulary",
                          (unsigned char)*s);
    return aq_err_set(err, AQ_EINPUT,
                      "'%s' has no symbol in the vocabulary, which has no unknown token either",
                      aq_show_n(s, n));
}

/*
 * The symbols before any merge. An unknown one waits for the next known one (or the end), so that
 * neighbours can be fused; characters that fall back to bytes do not end the wait, as in Hugging
 * Face tokenizers.
 */
static int add_symbols(struct tokenizer *t, const char *word, size_t len, struct ids *out,
                       struct aq_err *err)
{
    bool unknown = false;
    for (size_t at = 0, n; at < len; at += n) {
        int32_t id;
        n = first_symbol(t, word + at, len - at, &id);
        if (id >= 0) {
            if (unknown)
                ids_push(out, t->unk_id);
            unknown = false;
            ids_push(out, id);
        } else if (!fall_back(t, word + at, n, out)) {
            if (t->unk_id < 0)
                return fail_symbol(t, word + at, n, err);
            if (unknown && !t->fuse_unk)
                ids_push(out, t->unk_id);
            unknown = true;
        }
    }
    if (unknown)
        ids_push(out, t->unk_id);
    return 0;
}

static int encode_word(struct tokenizer *t, const char *word, size_t len, struct ids *out,
                       struct aq_err *err)
{
    if (t->ignore_merges) {
        spell(t, word, len);
        int64_t id = vocab_id(&t->vocab, aq_buf_str(&t->spelling), t->spelling.len);
        if (id >= 0) {
            ids_push(out, (int32_t)id);
            return 0;
        }
    }
    size_t from = out->count;
    ids_reserve(out, len);
    if (add_symbols(t, word, len, out, err) < 0)
        return -1;
    out->count = from + bpe_merge(&t->bpe, out->items + from, out->count - from);
    return 0;
}

/* ---- from a text to words ---- */

static int encode_split(struct tokenizer *t, size_t step, const char *text, size_t len, size_t stop,
                        struct ids *out, struct aq_err *err)
{
    if (step == t->split_count)
        return len ? encode_word(t, text, len, out, err) : 0;
    for (size_t at = 0; at < len && out->count < stop;) {
        size_t end = split_end(t->splits[step], text, len, at);
        if (encode_split(t, step + 1, text + at, end - at, stop, out, err) < 0)
            return -1;
        at = end;
    }
    return 0;
}

/* A stretch without added tokens, normalized. `first`: at the very start of the text. */
static int encode_piece(struct tokenizer *t, const char *text, size_t len, bool first, size_t stop,
                        struct ids *out, struct aq_err *err)
{
    if (len == 0)
        return 0;
    if (t->metaspace != META_NONE) {
        struct aq_buf *b = &t->piece;
        replace_all(b, text, len, " ", BLANK_MARK);
        bool add = t->metaspace == META_ALWAYS || (t->metaspace == META_FIRST && first);
        size_t n = strlen(BLANK_MARK);
        if (add && !(b->len >= n && memcmp(b->data, BLANK_MARK, n) == 0)) {
            aq_buf_reserve(b, n);
            memmove(b->data + n, b->data, b->len + 1);
            memcpy(b->data, BLANK_MARK, n);
            b->len += n;
        }
        text = b->data;
        len = b->len;
    }
    return encode_split(t, 0, text, len, stop, out, err);
}

/* Where tokens are looked for: in the text itself, then in each normalized stretch of it. */
static int encode_around(struct tokenizer *t, bool normalized, const char *text, size_t len,
                         bool first, size_t stop, struct ids *out, struct aq_err *err);

static int encode_stretch(struct tokenizer *t, bool normalized, const char *text, size_t len,
                          bool first, size_t stop, struct ids *out, struct aq_err *err)
{
    if (normalized)
        return encode_piece(t, text, len, first, stop, out, err);
    if (tokenizer_normalize(t, &text, &len, err) < 0)
        return -1;
    if (t->normalized.count == 0)
        return encode_piece(t, text, len, first, stop, out, err);
    return encode_around(t, true, text, len, first, stop, out, err);
}

static int encode_around(struct tokenizer *t, bool normalized, const char *text, size_t len,
                         bool first, size_t stop, struct ids *out, struct aq_err *err)
{
    const struct added *added = normalized ? &t->normalized : &t->added;
    const struct added_token *a = NULL;
    size_t done = 0, from = 0, at = 0;
    do {
        a = added_search(added, text, len, from, &at);
        size_t start = a ? at : len, end = a ? at + a->len : len;
        from = end;
        if (a && a->lstrip)
            start -= chars_trailing(text, start, char_is_space);
        if (a && a->rstrip)
            end += chars_leading(text + end, len - end, char_is_space);
        if (done < start && encode_stretch(t, normalized, text + done, start - done,
                                           first && done == 0, stop, out, err) < 0)
            return -1;
        if (a)
            ids_push(out, a->id);
        done = end;
    } while (a && out->count < stop);
    return 0;
}

int tokenizer_encode(struct tokenizer *t, const char *text, size_t len, size_t enough,
                     struct ids *out, struct aq_err *err)
{
    size_t bad = aq_utf8_check(text, len);
    if (bad < len)
        return aq_err_set(err, AQ_EINPUT, "not valid UTF-8 at byte %zu", bad + 1);
    return encode_around(t, false, text, len, true, out->count + enough, out, err);
}

/* ---- what else one may ask ---- */

const char *tokenizer_digest(const struct tokenizer *t)
{
    return t->digest;
}

const char *tokenizer_files_digest(const struct tokenizer *t)
{
    return t->files_digest;
}

int32_t tokenizer_pad_id(const struct tokenizer *t)
{
    return t->pad_id;
}

const struct tokenizer_specials *tokenizer_specials(const struct tokenizer *t)
{
    return &t->specials;
}

const char *tokenizer_bos(const struct tokenizer *t)
{
    return t->bos ? t->bos : "";
}

const char *tokenizer_eos(const struct tokenizer *t)
{
    return t->eos ? t->eos : "";
}

const char *tokenizer_chat_template(const struct tokenizer *t)
{
    return t->chat_template;
}

static bool added_piece(const struct added *added, int32_t id, struct aq_buf *out)
{
    for (size_t i = 0; i < added->count; i++)
        if (added->items[i].id == id) {
            aq_buf_adds(out, added->items[i].text);
            return true;
        }
    return false;
}

static void bytes_of_symbol(const char *symbol, struct aq_buf *out)
{
    const unsigned char *s = (const unsigned char *)symbol;
    for (size_t n = strlen(symbol); n;) {
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

void tokenizer_piece(const struct tokenizer *t, int32_t id, struct aq_buf *out)
{
    if (added_piece(&t->added, id, out) || added_piece(&t->normalized, id, out))
        return;
    if (id < 0 || (uint32_t)id >= t->vocab.count || !t->vocab.symbols[id])
        return;
    if (t->byte_level) {
        bytes_of_symbol(t->vocab.symbols[id], out);
        return;
    }
    for (int b = 0; b < 256; b++)
        if (t->byte_id[b] == id) {
            aq_buf_addc(out, (char)b);
            return;
        }
    for (const char *s = t->vocab.symbols[id]; *s;) {
        bool mark = strncmp(s, BLANK_MARK, strlen(BLANK_MARK)) == 0;
        aq_buf_addc(out, mark ? ' ' : *s);
        s += mark ? strlen(BLANK_MARK) : 1;
    }
}

void tokenizer_free(struct tokenizer *t)
{
    if (!t)
        return;
    vocab_release(&t->vocab);
    bpe_release(&t->bpe);
    added_release(&t->added);
    added_release(&t->normalized);
    for (size_t i = 0; i < t->normal_count; i++) {
        free(t->normals[i].from);
        free(t->normals[i].to);
    }
    aq_buf_release(&t->text[0]);
    aq_buf_release(&t->text[1]);
    aq_buf_release(&t->piece);
    aq_buf_release(&t->spelling);
    free(t->bos);
    free(t->eos);
    free(t->chat_template);
    free(t);
}
