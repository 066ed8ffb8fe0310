/*
 * Writing a JSON tree for Python's torch: dicts, lists, strings, floats, ints, booleans and None,
 * nothing else, so that even the strictest loader takes it.
 */
#ifndef AQ_IO_PICKLE_H
#define AQ_IO_PICKLE_H

#include "base/buf.h"
#include "io/json.h"

/* An archive that torch.load(weights_only=True) opens as this value. */
void torch_archive(struct aq_buf *out, const struct json *v);

#endif
