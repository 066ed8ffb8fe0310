/*
 * Any bytes through the tiny tokenizer: the pieces of the ids are the text in NFC, and both merge
 * loops agree. Run in the root of the repository.
 */
#include "base/mem.h"
#include "base/utf8.h"
#include "text/normalize.h"
#include "text/tokenizer_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct tokenizer *tiny(void)
{
    static struct tokenizer *t;
    struct aq_err err = {0};
    if (!t && !(t = tokenizer_open("tests/data/tiny-tokenizer", &err))) {
        (void)fprintf(stderr, "%s\n", err.msg);
        exit(1);
    }
    return t;
}

/* Added tokens are cut out before NFC, so they are left out of this comparison. */
static void check_round_trip(struct tokenizer *t, const char *text, size_t len)
{
    struct ids ids = {.items = NULL};
    struct aq_buf pieces = AQ_BUF_INIT, nfc = AQ_BUF_INIT;
    size_t at;
    if (tokenizer_encode(t, text, len, SIZE_MAX / 2, &ids, NULL) < 0)
        abort();
    for (size_t i = 0; i < ids.count; i++)
        tokenizer_piece(t, ids.items[i], &pieces);
    if (nfc_normalize(&nfc, text, len, NULL) < 0)
        abort();
    if (!added_search(&t->added, text, len, 0, &at) &&
        (nfc.len != pieces.len || (nfc.len && memcmp(nfc.data, pieces.data, nfc.len) != 0)))
        abort();
    aq_buf_release(&nfc);
    aq_buf_release(&pieces);
    ids_release(&ids);
}

static void check_merges(struct tokenizer *t, const unsigned char *bytes, size_t n)
{
    int32_t *a = xcalloc(2 * n, sizeof *a), *b = a + n;
    for (size_t i = 0; i < n; i++)
        a[i] = b[i] = t->byte_id[bytes[i]];
    size_t scan = bpe_merge(&t->bpe, a, n), heap = bpe_merge_long(&t->bpe, b, n);
    if (scan != heap || memcmp(a, b, scan * sizeof *a) != 0)
        abort();
    free(a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tokenizer *t = tiny();
    struct ids ids = {.items = NULL};
    const char *text = (const char *)data;
    if (size == 0)
        return 0;
    check_merges(t, data, size);
    if (aq_utf8_check(text, size) == size)
        check_round_trip(t, text, size);
    else if (tokenizer_encode(t, text, size, 100, &ids, NULL) == 0)
        abort();
    ids_release(&ids);
    return 0;
}
