#include "store/store_parts.h"

#include <stdint.h>
#include <string.h>

const struct store_part_kind store_part_kinds[STORE_PARTS] = {
    [STORE_SUMS] = {"s", ST_F64, sizeof(double), false},
    [STORE_DOTS] = {"d", ST_F64, sizeof(double), true},
    [STORE_FIRSTS] = {"f", ST_F64, sizeof(double), true},
    [STORE_CLIP] = {"clip", ST_F32, sizeof(float), false},
};

bool store_of_gradients(const struct json *identity)
{
    const char *method = json_find_string(identity, "method");
    return !method || strcmp(method, "kl_div") != 0;
}
