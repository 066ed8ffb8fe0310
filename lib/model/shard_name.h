/*
 * File names that come out of an index or a product: plain names inside one directory, so that no
 * file elsewhere can be named by a downloaded file.
 */
#ifndef AQ_MODEL_SHARD_NAME_H
#define AQ_MODEL_SHARD_NAME_H

#include <stdbool.h>

bool shard_name_is_plain(const char *name);

#endif
