/*
 * tokenizer.json, and after a zero byte a text to encode: what loads must encode in a moment, into
 * ids that exist, the same ones twice.
 */
#include "base/utf8.h"
#include "text/tokenizer.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_text(struct tokenizer *t, const char *text, size_t len)
{
    struct ids ids = {.items = NULL};
    struct aq_buf pieces = AQ_BUF_INIT;
    struct aq_err err = {0};
    int r = tokenizer_encode(t, text, len, SIZE_MAX / 2, &ids, &err);
    bool valid = aq_utf8_check(text, len) == len;
    if ((r == 0 && (!valid || (len && !ids.count))) ||
        (r < 0 && valid && !strstr(err.msg, "has no symbol") && !strstr(err.msg, "normalizer")))
        abort();
    size_t count = ids.count;
    if (r == 0 && (tokenizer_encode(t, text, len, SIZE_MAX / 2 - count, &ids, &err) < 0 ||
                   ids.count != 2 * count ||
                   (count && memcmp(ids.items, ids.items + count, count * sizeof *ids.items) != 0)))
        abort();
    for (size_t i = 0; i < count; i++)
        tokenizer_piece(t, ids.items[i], &pieces);
    aq_buf_release(&pieces);
    ids_release(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char config[] = "{\"pad_token\": {\"content\": \"<|im_start|>\"}}";
    struct aq_err err = {0};
    size_t json = size ? strnlen((const char *)data, size) : 0;
    /* of odd length: with a configuration of its own */
    struct tokenizer *t = tokenizer_parse((const char *)data, json, "fuzz",
                                          json % 2 ? config : NULL, sizeof config - 1, &err);
    if (!t) {
        if (err.code != AQ_EINPUT || !err.msg[0] || strchr(err.msg, '\n'))
            abort();
        return 0;
    }
    check_text(t, "hello, caf\xc3\xa9 <|endoftext|>", 27);
    if (json < size)
        check_text(t, (const char *)data + json + 1, size - json - 1);
    tokenizer_free(t);
    return 0;
}
