#include "io/json_digest.h"

#include <string.h>

static void take_u64(struct aq_sha256 *h, uint64_t v)
{
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(v >> (8 * i));
    aq_sha256_add(h, bytes, sizeof bytes);
}

static void take_text(struct aq_sha256 *h, char token, const char *text)
{
    size_t n = strlen(text);
    aq_sha256_add(h, &token, 1);
    take_u64(h, n);
    aq_sha256_add(h, text, n);
}

static void take_number(struct aq_sha256 *h, double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    aq_sha256_add(h, "n", 1);
    take_u64(h, bits);
}

static void take_value(struct aq_sha256 *h, const struct json *v, const char *except)
{
    bool object = false;
    switch (json_type(v)) {
    case JSON_NULL:
        aq_sha256_add(h, "z", 1);
        break;
    case JSON_BOOL:
        aq_sha256_add(h, json_bool(v) ? "t" : "f", 1);
        break;
    case JSON_INT:
        take_number(h, json_number(v) + 0.0); /* an integer has no negative zero */
        break;
    case JSON_FLOAT:
        take_number(h, json_number(v));
        break;
    case JSON_STRING:
        take_text(h, 's', json_string(v));
        break;
    case JSON_OBJECT:
        object = true;
        /* fall through */
    case JSON_ARRAY:
        aq_sha256_add(h, object ? "{" : "[", 1);
        for (const struct json *c = json_first(v); c; c = json_next(c)) {
            if (object && except && strcmp(json_key(c), except) == 0)
                continue;
            if (object)
                take_text(h, 'k', json_key(c));
            take_value(h, c, NULL);
        }
        aq_sha256_add(h, object ? "}" : "]", 1);
        break;
    }
}

void json_digest(const struct json *root, const char *except, char out[AQ_SHA256_HEX])
{
    struct aq_sha256 h;
    aq_sha256_init(&h);
    take_value(&h, root, except);
    aq_sha256_hex(&h, out);
}

void json_add_digest(struct json *root)
{
    char hex[AQ_SHA256_HEX];
    json_digest(root, "digest", hex);
    json_set(root, "digest", json_new_string(hex));
}

int json_check_digest(const struct jref *root, struct aq_err *err)
{
    char hex[AQ_SHA256_HEX];
    const char *digest;
    if (jref_string(root, "digest", &digest, err) < 0)
        return -1;
    json_digest(root->v, "digest", hex);
    if (strcmp(hex, digest) != 0)
        return jref_fail(root, err, "the file was changed: its digest is %.16s, expected %.16s",
                         hex, aq_show(digest));
    return 0;
}
