/*
 * The digest of a JSON document: of what it says, not of how it is laid out, so that a document
 * that jq printed again keeps it. SHA-256 over the tokens in document order, with nothing between
 * them:
 *
 *     { } [ ]          themselves
 *     true false null  "t" "f" "z"
 *     a number         "n", then the double (8 bytes, little endian)
 *     a string, a key  "s" or "k", then its length in bytes (8 bytes, little endian), its UTF-8
 */
#ifndef AQ_IO_JSON_DIGEST_H
#define AQ_IO_JSON_DIGEST_H

#include "base/sha256.h"
#include "io/json.h"

/* A member of the root with the key `except` is left out. */
void json_digest(const struct json *root, const char *except, char out[AQ_SHA256_HEX]);

/* Adds the digest as the last member "digest". */
void json_add_digest(struct json *root);
/* AQ_EINPUT if it is missing, is not what the document says, or the root is not an object. */
int json_check_digest(const struct jref *root, struct aq_err *err) AQ_MUST_CHECK;

#endif
