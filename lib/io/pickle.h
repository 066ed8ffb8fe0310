/*
 * Writing a JSON tree as a Python pickle (protocol 2): dicts, lists, strings, floats, ints,
 * booleans and None, nothing else, so that even the strictest loader takes it.
 */
#ifndef AQ_IO_PICKLE_H
#define AQ_IO_PICKLE_H

#include "base/buf.h"
#include "io/json.h"

void pickle_write(struct aq_buf *out, const struct json *v);

/* An archive that torch.load(weights_only=True) opens as this value. */
void torch_archive(struct aq_buf *out, const struct json *v);

#endif
