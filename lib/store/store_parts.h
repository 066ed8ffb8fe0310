/*
 * The numbers that a store keeps of a row: arrays [groups, samples], in the order in which they
 * are written and in which a cell's check covers them.
 */
#ifndef AQ_STORE_STORE_PARTS_H
#define AQ_STORE_STORE_PARTS_H

#include "io/json.h"
#include "io/safetensors.h"

#include <stdbool.h>
#include <stddef.h>

enum store_part {
    STORE_SUMS,   /* the score: a sum over tokens and outputs, of squares or divergences */
    STORE_DOTS,   /* the second score, in dot form: outputs are added up before they are squared */
    STORE_FIRSTS, /* what the first row of each sample adds to STORE_SUMS */
    STORE_CLIP,   /* activation elements beyond the last code */
    STORE_PARTS
};

struct store_part_kind {
    const char *name; /* of the tensors: "<name>/<treatment id>/<prefix>" */
    enum st_dtype dtype;
    size_t size;   /* of an element */
    bool gradient; /* kept by gradient scores alone */
};
extern const struct store_part_kind store_part_kinds[STORE_PARTS];

/* The method of a store's identity is gradient scoring. */
bool store_of_gradients(const struct json *identity);

#endif
