/* The dtypes of the format; private to the reader and the writer. */
#ifndef AQ_IO_SAFETENSORS_DTYPE_H
#define AQ_IO_SAFETENSORS_DTYPE_H

#include "io/safetensors.h"

struct st_dtype_info {
    const char *name;
    enum st_dtype dtype;
    unsigned bits;
    int order; /* of the reference's writer: higher comes first in the data */
};

extern const struct st_dtype_info st_dtypes[];
extern const size_t st_dtype_count;

/* NULL if the format does not know the name. */
const struct st_dtype_info *st_dtype_named(const char *name);
const struct st_dtype_info *st_dtype_info(enum st_dtype t); /* not for ST_OTHER */
/* False on overflow. Factors are checked also when a later one is 0, as the reference does. */
bool st_count_elements(const uint64_t *shape, int rank, uint64_t *out);

#endif
