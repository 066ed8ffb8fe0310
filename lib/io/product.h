/*
 * What all our JSON products share: the schema tag as the first key, and a provenance block of
 * tool, result version and input digests (no dates, hosts, paths or thread counts, so that equal
 * inputs give equal bytes).
 */
#ifndef AQ_IO_PRODUCT_H
#define AQ_IO_PRODUCT_H

#include "io/json.h"

/* {"schema": "aq.<name>/<version>"} */
struct json *product_new(const char *schema);
/* Adds "provenance": {"tool", "result_version", "inputs": {}}; returns the inputs object. */
struct json *product_add_provenance(struct json *root, const char *tool, int result_version);
/* The schema must be exactly this one; else AQ_EINPUT, saying what the file is instead. */
int product_check(const struct jref *root, const char *schema, struct aq_err *err) AQ_MUST_CHECK;
/* Read a file and check it in one. Caller frees. */
struct json *product_read(const char *path, const char *schema, struct aq_err *err);

#endif
